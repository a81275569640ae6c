package command_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
)

func durationOf(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// drained reads a drain to its end and returns how much was cut.
func drained(t *testing.T, stream grpc.ServerStreamingClient[mcproxyv1.DrainBackendResponse]) int64 {
	t.Helper()
	for {
		ev, err := stream.Recv()
		if err != nil {
			t.Fatalf("drain: %v", err)
		}
		if ev.GetDone() {
			return ev.GetCut()
		}
	}
}

// poller asks every 2 ms until it is stopped, and counts.
type poller struct {
	asked  atomic.Int64
	failed atomic.Int64
	last   atomic.Value
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

// poll asks over HTTP/1 and HTTP/2. An L4 stream lives as long as its ends want, so a request of its own needs a
// connection of its own; on L7 connections are kept, and the requests on them move.
func (p *proxy) poll(keep bool, url string) *poller {
	ctx, cancel := context.WithCancel(context.Background())
	q := &poller{stop: cancel}
	for _, h2 := range []bool{false, true} {
		c := p.http(h2)
		c.Transport.(*http.Transport).DisableKeepAlives = !keep
		q.wg.Go(func() {
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				q.asked.Add(1)
				resp, err := c.Get(url)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if err == nil && resp.StatusCode != http.StatusOK {
						err = errors.New(resp.Status)
					}
				}
				if err != nil {
					q.failed.Add(1)
					q.last.Store(fmt.Sprintf("%s: %v", url, err))
				}
			}
		})
	}
	return q
}

func (q *poller) end(t *testing.T) {
	t.Helper()
	q.stop()
	q.wg.Wait()
	if q.failed.Load() > 0 {
		t.Errorf("%d of %d requests failed, last %v", q.failed.Load(), q.asked.Load(), q.last.Load())
	}
	if q.asked.Load() == 0 {
		t.Error("no request was made")
	}
}

func TestSwapUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	p.cert("x.test.pem", "x.test")
	seven := p.put(l7("x.test", p.backend(says("0"))))
	four := p.put(l4("y.test", p.tlsBackend("y.test", says("0"))))
	kept, fresh, streams := p.poll(true, "https://x.test/"), p.poll(false, "https://x.test/"), p.poll(false, "https://y.test/")
	for i := 1; i <= 10; i++ {
		// A new instance beside the old; the old one is stopped only after its drain.
		a, b := p.backend(says(fmt.Sprint(i))), p.tlsBackend("y.test", says(fmt.Sprint(i)))
		done, err := p.swap(t.Context(), &mcproxyv1.SwapRequest{Owner: "mcp", IdempotencyKey: fmt.Sprint("op", i), WaitHealthy: durationOf(5 * time.Second),
			Items: []*mcproxyv1.SwapItem{swapItem(seven.GetId(), seven.GetRevision(), a), swapItem(four.GetId(), four.GetRevision(), b)}})
		if err != nil {
			t.Fatal(err)
		}
		seven, four = done.GetRoutes()[0], done.GetRoutes()[1]
		if seven.GetLastOp() != fmt.Sprint("op", i) || len(done.GetDraining()) != 2 {
			t.Fatalf("committed = %v", done)
		}
		for _, d := range done.GetDraining() {
			stream, err := p.routes().DrainBackend(t.Context(), &mcproxyv1.DrainBackendRequest{Id: d.GetRouteId(), Addr: d.GetAddr(), Owner: "mcp"})
			if err != nil {
				t.Fatal(err)
			}
			if cut := drained(t, stream); cut != 0 {
				t.Errorf("swap %d cut %d", i, cut)
			}
		}
		if _, body := get(t, p.http(true), "https://x.test/"); body != fmt.Sprint(i) {
			t.Errorf("after swap %d the answer is %q", i, body)
		}
	}
	for _, q := range []*poller{kept, fresh, streams} {
		q.end(t)
	}
}

func TestCompareAndSwap(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	a, b := p.put(l4("a.test", "127.0.0.1:1")), p.put(l4("b.test", "127.0.0.1:2"))
	ctx := t.Context()
	// One stale revision of two changes neither.
	_, err := p.swap(ctx, &mcproxyv1.SwapRequest{Owner: "mcp", Items: []*mcproxyv1.SwapItem{
		swapItem(a.GetId(), a.GetRevision(), "127.0.0.1:3"), swapItem(b.GetId(), b.GetRevision()+7, "127.0.0.1:4")}})
	if status.Code(err) != codes.Aborted {
		t.Errorf("stale swap = %v, want ABORTED", err)
	}
	if got, _ := p.routes().GetRoute(ctx, &mcproxyv1.GetRouteRequest{Id: a.GetId()}); got.GetRoute().GetRevision() != a.GetRevision() {
		t.Error("the other route of a refused swap changed")
	}
	// Two race on one revision: exactly one wins, and its retry gets the same answer.
	var won atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			req := &mcproxyv1.SwapRequest{Owner: "mcp", IdempotencyKey: fmt.Sprint("race", i), Items: []*mcproxyv1.SwapItem{swapItem(a.GetId(), a.GetRevision(), fmt.Sprint("127.0.0.1:1", i))}}
			first, err := p.swap(ctx, req)
			if err != nil {
				if status.Code(err) != codes.Aborted {
					t.Errorf("loser = %v", err)
				}
				return
			}
			won.Add(1)
			again, err := p.swap(ctx, req)
			if err != nil || again.GetGeneration() != first.GetGeneration() {
				t.Errorf("retry = %v, %v, want generation %d", again, err, first.GetGeneration())
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d won", won.Load())
	}
	// The command line says conflict.
	if code, out := p.run("route", "swap", "b.test", "--owner", "mcp", "--if-revision", "99", "--backend", "127.0.0.1:5"); code != 3 {
		t.Errorf("stale revision = exit %d: %s", code, out)
	}
	if code, out := p.run("route", "put", "b.test", "--backend", "127.0.0.1:5"); code == 0 || !strings.Contains(out, "belongs to mcp") {
		t.Errorf("foreign owner = %d %s", code, out)
	}
	// A sick backend changes nothing and says why.
	_, err = p.swap(ctx, &mcproxyv1.SwapRequest{Owner: "mcp", WaitHealthy: durationOf(100 * time.Millisecond), Items: []*mcproxyv1.SwapItem{swapItem(b.GetId(), b.GetRevision(), "127.0.0.1:9")}})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "refused") {
		t.Errorf("sick backend = %v", err)
	}
	// Writing what is there is no write.
	resp, err := p.routes().PutRoute(ctx, &mcproxyv1.PutRouteRequest{Spec: l4("b.test", "127.0.0.1:2")})
	if err != nil || resp.GetChanged() || resp.GetRoute().GetRevision() != b.GetRevision() {
		t.Errorf("equal put = %v, %v", resp, err)
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	p.cert("h.test.pem", "h.test")
	r := p.put(l7("h.test", p.backend(says("old"))))
	ctx := t.Context()
	load := p.poll(true, "https://h.test/")
	stream, err := p.routes().Hold(ctx, &mcproxyv1.HoldRequest{Owner: "mcp", IdempotencyKey: "hold1", Items: []*mcproxyv1.HoldItem{{Route: &mcproxyv1.RouteRef{Id: r.GetId()}}}})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || len(first.GetRoutes()) != 1 {
		t.Fatalf("hold = %v, %v", first, err)
	}
	held := first.GetRoutes()[0]
	for {
		ev, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if ev.GetQuiet() {
			break
		}
	}
	if got, _ := p.routes().GetRoute(ctx, &mcproxyv1.GetRouteRequest{Id: r.GetId()}); got.GetRoute().GetState() != mcproxyv1.RouteState_ROUTE_STATE_HELD || got.GetRoute().GetBackends()[0].GetInFlight() != 0 {
		t.Errorf("held route = %v", got.GetRoute())
	}
	if _, err := p.swap(ctx, &mcproxyv1.SwapRequest{Owner: "mcp", ReleaseHold: true, Items: []*mcproxyv1.SwapItem{swapItem(r.GetId(), held.GetRevision(), p.backend(says("new")))}}); err != nil {
		t.Fatal(err)
	}
	if _, body := get(t, p.http(true), "https://h.test/"); body != "new" {
		t.Errorf("after release = %q", body)
	}
	load.end(t)

	// A hold whose owner dies ends by itself, and fences him.
	stream, err = p.routes().Hold(ctx, &mcproxyv1.HoldRequest{Owner: "mcp", IdempotencyKey: "hold2", Ttl: durationOf(50 * time.Millisecond), Items: []*mcproxyv1.HoldItem{{Route: &mcproxyv1.RouteRef{Id: r.GetId()}}}})
	if err != nil {
		t.Fatal(err)
	}
	first, err = stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if code, body := get(t, p.http(false), "https://h.test/"); code != 200 {
		t.Errorf("request during a lapsing hold = %d %q", code, body)
	}
	_, err = p.swap(ctx, &mcproxyv1.SwapRequest{Owner: "mcp", Items: []*mcproxyv1.SwapItem{swapItem(r.GetId(), first.GetRoutes()[0].GetRevision(), "127.0.0.1:1")}})
	if status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), "lapsed") {
		t.Errorf("late swap = %v, want ABORTED that says lapsed", err)
	}
	// A waiter leaves at its bound with 503.
	_, err = p.routes().Hold(ctx, &mcproxyv1.HoldRequest{Owner: "mcp", MaxWait: durationOf(30 * time.Millisecond), Items: []*mcproxyv1.HoldItem{{Route: &mcproxyv1.RouteRef{Id: r.GetId()}}}})
	if err != nil {
		t.Fatal(err)
	}
	for {
		if got, _ := p.routes().GetRoute(ctx, &mcproxyv1.GetRouteRequest{Id: r.GetId()}); got.GetRoute().GetHold() != nil {
			break
		}
	}
	if code, _ := get(t, p.http(false), "https://h.test/"); code != http.StatusServiceUnavailable {
		t.Errorf("over max_wait = %d, want 503", code)
	}
	p.must("route", "release", "h.test")
}

func TestFailover(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	p.cert("f.test.pem", "f.test")
	dead := freeAddr(t)
	p.put(l7("f.test", dead, p.backend(says("up"))))
	p.put(l4("f4.test", dead, p.tlsBackend("f4.test", says("up"))))
	for range 20 {
		for _, host := range []string{"f.test", "f4.test"} {
			if code, body := get(t, p.http(false), "https://"+host+"/"); code != 200 || body != "up" {
				t.Fatalf("%s = %d %q", host, code, body)
			}
		}
	}
}

func TestPersistsAndReloads(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	p.cert("c.test.pem", "c.test")
	p.put(l7("c.test", p.backend(says("c"))))
	before := p.must("export")
	if code := p.stop(); code != 0 {
		t.Fatalf("stop = %d", code)
	}
	p.start()
	if code, body := get(t, p.http(true), "https://c.test/"); code != 200 || body != "c" {
		t.Fatalf("after a restart = %d %q", code, body)
	}
	if after := p.must("export"); after != before {
		t.Errorf("export changed:\n%s\n%s", before, after)
	}
	p.file("routes.json", []byte(before))
	if out := p.must("apply", "--owner", "mcp", "--dry-run", "--prune", filepath.Join(p.dir, "mc-proxy", "routes.json")); !strings.Contains(out, "nothing to do") {
		t.Errorf("apply(export()) = %s", out)
	}
	// A new certificate is served without a connection lost; a broken one keeps the old.
	fingerprint := func() string {
		c := p.http(true)
		resp, err := c.Get("https://c.test/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return fmt.Sprintf("%x", resp.TLS.PeerCertificates[0].SerialNumber)
	}
	old := fingerprint()
	p.cert("c.test.pem", "c.test")
	p.must("cert", "reload")
	renewed := fingerprint()
	if renewed == old {
		t.Error("the new certificate is not served")
	}
	p.file("certs/c.test.pem", []byte("broken"))
	p.must("cert", "reload")
	if fingerprint() != renewed {
		t.Error("a broken file replaced the certificate")
	}
	if code, out := p.run("status"); code != 1 || !strings.Contains(out, "cert_error") {
		t.Errorf("status = %d %s", code, out)
	}
	// Another address is bound by reload, and the old goes.
	moved := freeAddr(t)
	cfg := string(p.read(filepath.Join(p.dir, "mc-proxy", "mc-proxy.toml")))
	p.file("mc-proxy.toml", []byte(strings.Replace(cfg, p.grpc, moved, 1)))
	if out := p.must("reload"); !strings.Contains(out, "listening on "+moved) {
		t.Errorf("reload = %s", out)
	}
	if c, err := net.Dial("tcp", moved); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if c, err := net.Dial("tcp", p.grpc); err == nil {
		c.Close()
		t.Error("the old address is still bound")
	}
	p.file("mc-proxy.toml", []byte(cfg+"\n[nonsense]\nx = 1\n"))
	if code, out := p.run("reload"); code != 2 {
		t.Errorf("reload of a bad file = %d %s", code, out)
	}
}

func TestServesWithoutItsDatabase(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	p.put(l4("d.test", p.tlsBackend("d.test", says("d"))))
	p.stop()
	file := filepath.Join(p.dir, "mc-proxy", "mc-proxy.db")
	data := p.read(file)
	for i := 0; i < len(data); i += 3 {
		data[i] ^= 0x5a
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ext := range []string{"-wal", "-shm"} {
		_ = os.Remove(file + ext)
	}
	p.start()
	if code, body := get(t, p.http(false), "https://d.test/"); code != 200 || body != "d" {
		t.Errorf("with a damaged database = %d %q", code, body)
	}
	if code, out := p.run("route", "put", "e.test", "--backend", "127.0.0.1:1"); code != 5 || !strings.Contains(out, "read-only") {
		t.Errorf("write = %d %s", code, out)
	}
}

func TestExplainAgrees(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "\n[[rule]]\naction = \"deny\"\nvalue = \"203.0.113.0/24\"\n").start()
	for _, n := range []string{"a.test", "b.test"} {
		p.cert(n+".pem", "a.test", "b.test", "*.w.test")
		p.put(l7(n, p.backend(says(n))))
	}
	w := l7("*.w.test", p.backend(says("w")))
	w.TlsCert = "a.test.pem"
	p.put(w)
	p.put(l4("four.test", p.tlsBackend("four.test", says("four"))))
	tr := mcproxyv1.NewTrafficServiceClient(p.client())
	names := []string{"a.test", "b.test", "x.w.test", "x.y.w.test", "w.test", "four.test", "nobody.test", "A.TEST"}
	for _, sni := range names {
		for _, host := range names {
			ex, err := tr.Explain(t.Context(), &mcproxyv1.ExplainRequest{Sni: sni, Host: host})
			if err != nil {
				t.Fatal(err)
			}
			sees, backend := reality(p, sni, host)
			if ex.GetClientSees() != sees {
				t.Errorf("sni %s host %s: explain says %q, the client sees %q", sni, host, ex.GetClientSees(), sees)
			}
			if ex.GetVerdict() == "pass" && backend == "" {
				t.Errorf("sni %s host %s: no backend answered", sni, host)
			}
		}
	}
	ex, err := tr.Explain(t.Context(), &mcproxyv1.ExplainRequest{Sni: "a.test", Ip: "203.0.113.7"})
	if err != nil || ex.GetVerdict() != "reject" || ex.GetReason() != "deny_cidr" {
		t.Errorf("denied source = %v, %v", ex, err)
	}
	if code, _ := p.run("explain", "--sni", "nobody.test"); code != 1 {
		t.Errorf("explain of a refusal = exit %d, want 1", code)
	}
}

// reality makes the request and says what the client saw, in explain's words.
func reality(p *proxy, sni, host string) (sees, body string) {
	c := p.http(false)
	tr := c.Transport.(*http.Transport)
	tr.DisableKeepAlives = true
	tr.TLSClientConfig.ServerName = strings.ToLower(sni)
	req, _ := http.NewRequest(http.MethodGet, "https://x.invalid/", nil)
	req.Host = host
	resp, err := c.Do(req)
	if err != nil {
		if strings.Contains(err.Error(), "unrecognized name") {
			return "alert unrecognized_name", ""
		}
		return err.Error(), ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusMisdirectedRequest {
		return "421", ""
	}
	return "the backend", string(b)
}

func TestFirewallResets(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "\n[[rule]]\naction = \"deny\"\nvalue = \"127.0.0.1\"\n").start()
	p.put(l4("a.test", "127.0.0.1:1"))
	c, err := net.Dial("tcp", p.https)
	if err == nil {
		defer c.Close()
		var n int
		if n, err = c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, io.EOF) {
			t.Errorf("denied client read %d, %v, want a reset", n, err)
		}
	}
}

func TestOwnListenerIsNoBackend(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	if code, out := p.run("route", "put", "a.test", "--backend", p.https); code != 2 || !strings.Contains(out, "own listeners") {
		t.Errorf("loop = %d %s", code, out)
	}
	p.cert("a.test.pem", "b.test")
	for _, args := range [][]string{
		{"route", "put", "a.test", "--mode", "l7", "--cert", "a.test.pem", "--backend", "127.0.0.1:1"},     // another name
		{"route", "put", "a.test", "--mode", "l7", "--cert", "absent.pem", "--backend", "127.0.0.1:1"},     // no file
		{"route", "put", "a.test", "--mode", "l7", "--cert", "../mc-proxy.db", "--backend", "127.0.0.1:1"}, // outside
		{"route", "put", "nowhere/a.test", "--backend", "127.0.0.1:1"},                                     // no listener
	} {
		if code, out := p.run(args...); code != 2 {
			t.Errorf("%s = %d %s", slices.Concat(args), code, out)
		}
	}
}
