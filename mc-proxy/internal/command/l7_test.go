package command_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
)

func TestL7HeadersAndHosts(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	p.cert("a.test.pem", "a.test", "b.test") // one certificate for both: fronting would be possible
	p.cert("b.test.pem", "a.test", "b.test")
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s|%s|%s|%s|%s|%s", r.Host, r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"),
			r.Header.Get("X-Real-Ip"), r.Header.Get("Forwarded"), r.Header.Get("X-Forwarded-Evil"))
	})
	p.put(l7("a.test", p.backend(echo)))
	p.put(l7("b.test", p.backend(says("b"))))
	for _, h2 := range []bool{false, true} {
		c := p.http(h2)
		req, _ := http.NewRequest(http.MethodGet, "https://a.test/x", nil)
		for _, h := range []string{"X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Forwarded-Evil"} {
			req.Header.Set(h, "203.0.113.9")
		}
		if !h2 {
			req.Header.Set("Connection", "X-Forwarded-For, X-Real-IP")
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := "a.test|127.0.0.1|https|127.0.0.1||"; string(body) != want {
			t.Errorf("h2 %v: the backend saw %q, want %q", h2, body, want)
		}
		// Another route's name on this connection.
		req, _ = http.NewRequest(http.MethodGet, "https://a.test/x", nil)
		req.Host = "b.test"
		resp, err = c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("h2 %v: fronted request = %d, want 421", h2, resp.StatusCode)
		}
	}
}

func TestL7OverTLSBackendAndDown(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	p.cert("s.test.pem", "s.test")
	s := l7("s.test", p.tlsBackend("s.test", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) })))
	s.BackendTls = true
	r := p.put(s)
	if code, body := get(t, p.http(true), "https://s.test/"); code != 200 || body != "HTTP/2.0" {
		t.Errorf("TLS backend = %d %q", code, body)
	}
	s.BackendName = "other.test"
	p.put(s)
	if code, _ := get(t, p.http(true), "https://s.test/"); code != http.StatusBadGateway {
		t.Errorf("backend with another name = %d, want 502", code)
	}
	if _, err := p.swap(t.Context(), &mcproxyv1.SwapRequest{Items: []*mcproxyv1.SwapItem{{Route: &mcproxyv1.RouteRef{Id: r.GetId()},
		Change: &mcproxyv1.SwapItem_Backends{Backends: &mcproxyv1.Backends{}}}}, Owner: "mcp"}); err != nil {
		t.Fatal(err)
	}
	if code, _ := get(t, p.http(true), "https://s.test/"); code != http.StatusServiceUnavailable {
		t.Errorf("no backend = %d, want 503", code)
	}
}

func TestWebSocketAndKill(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	p.cert("w.test.pem", "w.test")
	backend := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, rw)
	})
	s := l7("w.test", p.backend(backend))
	s.Proto = mcproxyv1.BackendProto_BACKEND_PROTO_H2C // an upgrade goes over HTTP/1 all the same
	r := p.put(s)
	c, err := tls.Dial("tcp", p.https, p.tlsConfig("w.test", "http/1.1"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: w.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade = %v, %v", resp, err)
	}
	for _, msg := range []string{"x", strings.Repeat("y", 1<<20)} {
		go func() { _, _ = io.WriteString(c, msg) }()
		got := make([]byte, len(msg))
		if _, err := io.ReadFull(br, got); err != nil || string(got) != msg {
			t.Fatalf("echo of %d bytes: %v", len(msg), err)
		}
	}
	if got, err := p.routes().GetRoute(t.Context(), &mcproxyv1.GetRouteRequest{Id: r.GetId()}); err != nil || got.GetRoute().GetBackends()[0].GetInFlight() != 1 {
		t.Errorf("the tunnel is not in flight: %v %v", got, err)
	}
	// A drain does not see an end of its own; its deadline cuts.
	stream, err := p.routes().DrainBackend(t.Context(), &mcproxyv1.DrainBackendRequest{Id: r.GetId(), Addr: s.GetBackends()[0].GetAddr(), Deadline: durationOf(200 * time.Millisecond), Owner: "mcp"})
	if err != nil {
		t.Fatal(err)
	}
	if cut := drained(t, stream); cut != 1 {
		t.Errorf("cut %d, want 1", cut)
	}
	if _, err := br.ReadByte(); err == nil {
		t.Error("the tunnel outlived the drain")
	}
}

func TestSSEFirstEvent(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	p.cert("e.test.pem", "e.test")
	release := make(chan struct{})
	p.put(l7("e.test", p.backend(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: one\n\n")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "data: two\n\n")
	}))))
	for _, h2 := range []bool{false, true} {
		resp, err := p.http(h2).Get("https://e.test/")
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(resp.Body)
		if line, err := br.ReadString('\n'); err != nil || line != "data: one\n" {
			t.Errorf("h2 %v: first event %q, %v", h2, line, err)
		}
		if h2 {
			close(release)
			if rest, err := io.ReadAll(br); err != nil || !strings.Contains(string(rest), "two") {
				t.Errorf("rest = %q, %v", rest, err)
			}
		}
		resp.Body.Close()
	}
}

// calls is a gRPC service with every shape of call, made by hand.
type calls struct{}

func (calls) desc() *grpc.ServiceDesc {
	recv := func(dec func(any) error) (*wrapperspb.StringValue, error) {
		in := new(wrapperspb.StringValue)
		return in, dec(in)
	}
	return &grpc.ServiceDesc{ServiceName: "test.Calls", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in, err := recv(dec)
			if err != nil {
				return nil, err
			}
			_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", in.GetValue()))
			if in.GetValue() == "fail" { // an answer of trailers alone
				return nil, status.Error(codes.AlreadyExists, "seen fail")
			}
			return wrapperspb.String("re: " + in.GetValue()), nil
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "Echo", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			for {
				in := new(wrapperspb.StringValue)
				if err := s.RecvMsg(in); err != nil {
					if errors.Is(err, io.EOF) {
						s.SetTrailer(metadata.Pairs("x-trailer", "end"))
						return nil
					}
					return err
				}
				if err := s.SendMsg(in); err != nil {
					return err
				}
			}
		}}}}
}

func TestGRPCThroughL7(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	p.cert("g.test.pem", "g.test")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	srv.RegisterService(calls{}.desc(), calls{})
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(srv.Stop)
	p.put(l7("g.test", ln.Addr().String()))
	cc, err := grpc.NewClient("passthrough:///g.test", grpc.WithTransportCredentials(credentials.NewTLS(p.tlsConfig("g.test", "h2"))),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", p.https)
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	for range 50 {
		var trailer metadata.MD
		out := new(wrapperspb.StringValue)
		if err := cc.Invoke(t.Context(), "/test.Calls/Unary", wrapperspb.String("hello"), out, grpc.Trailer(&trailer)); err != nil || out.GetValue() != "re: hello" {
			t.Fatalf("unary = %v, %v", out, err)
		}
		if got := trailer.Get("x-trailer"); len(got) != 1 || got[0] != "hello" {
			t.Fatalf("trailer = %v", trailer)
		}
		err := cc.Invoke(t.Context(), "/test.Calls/Unary", wrapperspb.String("fail"), out)
		if st := status.Convert(err); st.Code() != codes.AlreadyExists || st.Message() != "seen fail" {
			t.Fatalf("trailers-only = %v", err)
		}
		stream, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Calls/Echo")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []string{"a", strings.Repeat("b", 100<<10)} {
			if err := stream.SendMsg(wrapperspb.String(m)); err != nil {
				t.Fatal(err)
			}
			if err := stream.RecvMsg(out); err != nil || out.GetValue() != m {
				t.Fatalf("echo: %v", err)
			}
		}
		_ = stream.CloseSend()
		if err := stream.RecvMsg(out); !errors.Is(err, io.EOF) || len(stream.Trailer().Get("x-trailer")) != 1 {
			t.Fatalf("end = %v, %v", err, stream.Trailer())
		}
	}
	srv.Stop()
	err = cc.Invoke(t.Context(), "/test.Calls/Unary", wrapperspb.String("x"), new(wrapperspb.StringValue))
	if status.Code(err) != codes.Unavailable {
		t.Errorf("no backend = %v, want UNAVAILABLE", err)
	}
}

func TestRedirectAndPlain(t *testing.T) {
	t.Parallel()
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, backend, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "pki "+r.URL.Path) }))
	p := newProxy(t, fmt.Sprintf("plain = [{ host = \"m.test\", prefix = \"/pki/\", backend = %q }]\n", backend.Addr())).start()
	p.put(l4("m.test", "127.0.0.1:1"))
	c := p.http(false)
	if code, body := get(t, c, "http://m.test/pki/root.pem"); code != 200 || body != "pki /pki/root.pem" {
		t.Errorf("plain = %d %q", code, body)
	}
	for _, path := range []string{"/pki/../secret", "/pki/%2e%2e/secret", "/pki/a%2f..%2fb"} {
		req, _ := http.NewRequest(http.MethodGet, "http://m.test/", nil)
		req.URL.Opaque = path
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Errorf("%s reached the backend", path)
		}
	}
	resp, err := c.Get("http://m.test/a%20b?q=1")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	_, port, _ := net.SplitHostPort(p.https)
	if want := "https://m.test:" + port + "/a%20b?q=1"; resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Location") != want {
		t.Errorf("redirect = %d %q, want 308 %q", resp.StatusCode, resp.Header.Get("Location"), want)
	}
	if code, _ := get(t, c, "http://unknown.test/"); code != http.StatusNotFound {
		t.Errorf("unknown host = %d, want 404", code)
	}
}
