package service_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/cli/clitest"
	"metacircular.net/mcdsl/grpcserver"
	"metacircular.net/mcdsl/mctest"

	mcnsv1 "metacircular.net/mcns/api/mcns/v1"
	"metacircular.net/mcns/internal/catalog"
	"metacircular.net/mcns/internal/forward"
	"metacircular.net/mcns/internal/registry"
	"metacircular.net/mcns/internal/rpc"
	"metacircular.net/mcns/internal/serve"
	"metacircular.net/mcns/internal/service"
)

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

type server struct {
	*clitest.Server
	t   *testing.T
	dns string
}

func start(t *testing.T) *server {
	t.Helper()
	at := freePort(t)
	dir := t.TempDir()
	s := clitest.Serve(t, service.New(), clitest.Options{Config: fmt.Sprintf("[database]\npath = %q\n[dns]\nlisten = [%q]\n[registry]\nzone = \"mc.test\"\n", filepath.Join(dir, "mcns.db"), at)})
	return &server{Server: s, t: t, dns: at}
}

func (s *server) as(c mctest.Claims) *grpc.ClientConn {
	return s.Conn(s.t, s.IDP.Token(c.For("mcns")))
}

func (s *server) ask(name string, typ uint16) *dns.Msg {
	s.t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	r, _, err := new(dns.Client).Exchange(m, s.dns)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// run runs a command line against the server over its socket.
func (s *server) run(args ...string) (int, string) {
	e := s.Env()
	e.Addr = "local"
	out := &clitest.Log{}
	e.Out, e.Err = out, out
	return cli.Run(context.Background(), service.New(), e, args), out.String()
}

// The way of MCP's `up`: zone and grants through the socket, then Sync with the node's token.
func TestZoneThroughTheSocketThenSync(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, args := range [][]string{
		{"zone", "create", "mc.test", "--ns", "mcns.mc.test"},
		{"grant", "add", "account:node-a", "mc.test", "*", "read", "sync"},
		{"grant", "add", "account:node-a", "mc.test", "mcias", "read", "sync"},
	} {
		if code, out := s.run(args...); code != 0 {
			t.Fatalf("%v: %d\n%s", args, code, out)
		}
	}
	node := s.as(mctest.System("node-a"))
	reg := mcnsv1.NewRegistryServiceClient(node)
	req := &mcnsv1.SyncRequest{Zone: "mc.test", Epoch: 1, Generation: 1, OnExpiry: mcnsv1.OnExpiry_ON_EXPIRY_KEEP,
		Nodes: []*mcnsv1.Node{{Name: "a", Addresses: []string{"10.0.0.1"}}}}
	for _, svc := range []string{"mcias", "blog", "metacrypt"} {
		req.Instances = append(req.Instances, &mcnsv1.Instance{Service: svc, Instance: "a", Node: "a", Healthy: true,
			Ports: []*mcnsv1.Port{{Name: "https", Port: 443, HttpsRecord: true, Alpn: []string{"h2"}}}})
	}
	res, err := reg.Sync(t.Context(), req)
	if err != nil || !res.GetChanged() || len(res.GetConflicts()) != 1 || res.GetConflicts()[0].GetName() != "metacrypt.mc.test" {
		t.Fatalf("Sync = %v, %v", res, err)
	}
	if m := s.ask("blog.mc.test.", dns.TypeA); len(m.Answer) != 1 || !strings.HasSuffix(m.Answer[0].String(), "10.0.0.1") || !m.Authoritative {
		t.Errorf("blog: %v", m)
	}
	if m := s.ask("_https._tcp.mcias.mc.test.", dns.TypeSRV); len(m.Answer) != 1 || !strings.HasSuffix(m.Answer[0].String(), "443 a.node.mc.test.") {
		t.Errorf("SRV: %v", m)
	}
	if _, err := reg.Renew(t.Context(), &mcnsv1.RenewRequest{Zone: "mc.test", Epoch: 1, Generation: 1}); err != nil {
		t.Errorf("Renew: %v", err)
	}
	req.Generation = 0
	if _, err := reg.Sync(t.Context(), req); status.Code(err) != codes.Aborted {
		t.Errorf("older generation: %v", err)
	}
	if code, out := s.run("services"); code != 0 || !strings.Contains(out, "blog") {
		t.Errorf("services: %d\n%s", code, out)
	}
	if code, out := s.run("query", "blog.mc.test", "--json"); code != 0 || !strings.Contains(out, `"rcode":`) {
		t.Errorf("query: %d\n%s", code, out)
	}
	// A stranger sees and changes nothing; who may read one name does not read another.
	other := mcnsv1.NewRecordServiceClient(s.as(mctest.Human("bob", "user")))
	if _, err := other.CreateRecord(t.Context(), &mcnsv1.CreateRecordRequest{Zone: "mc.test", Name: "x", Type: "A", Value: "10.0.0.1"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("bob writes: %v", err)
	}
	if _, err := other.ListRecords(t.Context(), &mcnsv1.ListRecordsRequest{Zone: "mc.test"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("bob reads: %v", err)
	}
	list, err := mcnsv1.NewRecordServiceClient(node).ListRecords(t.Context(), &mcnsv1.ListRecordsRequest{Zone: "mc.test"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list.GetRecords() {
		if r.GetName() != "blog" && r.GetName() != "mcias" {
			t.Errorf("the node reads %s", r.GetName())
		}
	}
	// The node's own records are the registry's: the operator's commands say so.
	code, out := s.run("record", "list", "mc.test", "--name", "blog", "--type", "A", "--json")
	var doc struct{ Records []struct{ ID string } }
	if err := json.Unmarshal([]byte(out), &doc); code != 0 || err != nil || len(doc.Records) != 1 {
		t.Fatalf("record list: %d, %v\n%s", code, err, out)
	}
	if code, out := s.run("record", "rm", "mc.test", doc.Records[0].ID); code != 4 || !strings.Contains(out, "registry:node-a") {
		t.Errorf("removing the registry's record: %d\n%s", code, out)
	}
}

func TestRESTAndPages(t *testing.T) {
	t.Parallel()
	s := start(t)
	if code, out := s.run("zone", "create", "lab.test", "--ns", "ns.lab.test", "--address", "10.0.0.2"); code != 0 {
		t.Fatalf("%d\n%s", code, out)
	}
	token := s.IDP.Token(mctest.Human("alice", "admin").For("mcns"))
	client := s.Browser(t)
	do := func(method, path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	if code, out := do("POST", "/v1/zones/lab.test/records", `{"name":"www","type":"A","value":"10.0.0.3"}`); code != http.StatusOK || !strings.Contains(out, "10.0.0.3") {
		t.Errorf("create: %d %s", code, out)
	}
	if code, out := do("PUT", "/v1/zones/lab.test/rrsets/@/MX", `{"values":["10 www.lab.test."]}`); code != http.StatusOK {
		t.Errorf("set: %d %s", code, out)
	}
	if code, out := do("POST", "/v1/zones/lab.test/records", `{"name":"www","type":"A","value":"10.0.0.300"}`); code != http.StatusBadRequest || !strings.Contains(out, "value") {
		t.Errorf("bad value: %d %s", code, out)
	}
	if code, _ := do("POST", "/v1/zones/lab.test/records", `{"nam":"www"}`); code != http.StatusBadRequest {
		t.Errorf("unknown field: %d", code)
	}
	if code, out := do("POST", "/v1/changes:apply", `{"dryRun":true,"changes":[{"op":"OP_ADD","zone":"lab.test","name":"n","type":"TXT","values":["x"]}]}`); code != http.StatusOK || !strings.Contains(out, "+ n 300 TXT") {
		t.Errorf("dry run: %d %s", code, out)
	}
	if code, out := do("GET", "/v1/explain?name=www.lab.test", ""); code != http.StatusOK || !strings.Contains(out, "responsible") {
		t.Errorf("explain: %d %s", code, out)
	}
	if m := s.ask("lab.test.", dns.TypeMX); len(m.Answer) != 1 {
		t.Errorf("MX: %v", m)
	}
	if code, out := s.run("zone", "export", "lab.test"); code != 0 || !strings.Contains(out, "www.lab.test.\t300\tIN\tA\t10.0.0.3") {
		t.Errorf("export: %d\n%s", code, out)
	}
	if code, out := s.run("changes", "lab.test"); code != 0 || !strings.Contains(out, "alice") {
		t.Errorf("changes: %d\n%s", code, out)
	}
	if code, out := s.run("zone", "delete", "lab.test", "--confirm", "other"); code != 2 {
		t.Errorf("delete with the wrong name: %d\n%s", code, out)
	}
}

// Without the database names are answered, nothing is changed, and nothing overwrites what is served.
func TestDegraded(t *testing.T) {
	t.Parallel()
	at := freePort(t)
	dir := t.TempDir()
	conf := fmt.Sprintf("[database]\npath = %q\n[dns]\nlisten = [%q]\n", filepath.Join(dir, "mcns.db"), at)
	first := &server{Server: clitest.Serve(t, service.New(), clitest.Options{Config: conf}), t: t, dns: at}
	if code, out := first.run("zone", "create", "z.test", "--ns", "ns.z.test", "--address", "10.0.0.2"); code != 0 {
		t.Fatalf("%d\n%s", code, out)
	}
	if code := first.Stop(t); code != 0 {
		t.Fatalf("stopped with %d", code)
	}
	for name, damage := range map[string]func(path string) error{
		"gone":   os.Remove,
		"empty":  func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"zeroed": func(p string) error { return os.WriteFile(p, make([]byte, 1<<16), 0o600) },
	} {
		if err := damage(filepath.Join(dir, "mcns.db")); err != nil {
			t.Fatal(err)
		}
		s := &server{Server: clitest.Serve(t, service.New(), clitest.Options{Config: conf}), t: t, dns: at}
		if m := s.ask("ns.z.test.", dns.TypeA); len(m.Answer) != 1 {
			t.Errorf("%s: %v", name, m)
		}
		if code, out := s.run("record", "add", "z.test", "x", "A", "10.0.0.1"); code != 5 || !strings.Contains(out, "restore") {
			t.Errorf("%s: a change: %d\n%s", name, code, out)
		}
		if code, out := s.run("listeners"); code != 0 || !strings.Contains(out, "degraded") {
			t.Errorf("%s: listeners: %d\n%s", name, code, out)
		}
		if code := s.Stop(t); code != 0 {
			t.Errorf("%s: stopped with %d", name, code)
		}
	}
}

// Every rule, every kind of caller, every way in: one verdict.
func TestMatrix(t *testing.T) {
	t.Parallel()
	cat, _ := catalog.New(catalog.Config{Snapshot: filepath.Join(t.TempDir(), "s")})
	r := forward.New(forward.Config{})
	h := &serve.Handler{View: cat.View, Forward: r}
	l := serve.NewListeners(serve.Config{Handler: h})
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	srv := &rpc.Server{Catalog: cat, Registry: registry.New(registry.Config{Catalog: cat}), Resolver: r, Handler: h, Listeners: l, Platform: "mc.test.", Now: time.Now}
	mctest.Matrix(t, grpcserver.Config{Service: "mcns", Rules: rpc.Rules(), Register: srv.Register, REST: rpc.REST()})
}
