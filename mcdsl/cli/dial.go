package cli

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/grpcserver"
	"metacircular.net/mcdsl/tlsutil"
)

const (
	callTimeout = 60 * time.Second // of a unary call that brings no deadline of its own
	maxMessage  = 16 << 20
)

// target is where a service is reached in this run.
type target struct {
	service string
	socket  string // set = the Unix socket, nothing else
	addr    string // host:port
	host    string // the name its certificate must bear
	p       *Platform
}

// find decides how to reach a service. --addr speaks of the binary's own service; "local" means the Unix socket
// of any.
func (e *Env) find(service string) (*target, error) {
	p, err := e.Platform()
	if err != nil {
		return nil, err
	}
	t := &target{service: service, p: p}
	addr := e.Addr
	switch {
	case addr == "local":
		t.socket = p.Socket(service)
		return t, nil
	case addr != "" && service != e.Service:
		addr = ""
	case strings.HasPrefix(addr, "unix:"):
		t.socket = strings.TrimPrefix(strings.TrimPrefix(addr, "unix:"), "//")
		return t, nil
	}
	if addr == "" {
		if addr, err = p.Addr(service); err != nil {
			return nil, err
		}
	}
	if t.addr, err = hostPort(addr, p.GRPCPort); err != nil {
		return nil, err
	}
	if t.host, _, err = net.SplitHostPort(t.addr); err != nil {
		return nil, fault.New(fault.Invalid, "--addr %s is not host:port", addr).Wrap(err)
	}
	return t, nil
}

// hostPort reads host, host:port, or an https URL, whose gRPC port follows from its own.
func hostPort(addr, port string) (string, error) {
	if port == "" {
		port = defaultGRPCPort
	}
	if strings.Contains(addr, "://") {
		u, err := url.Parse(addr)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" {
			return "", fault.New(fault.Invalid, "--addr %s: use https://HOST[:PORT] or HOST:PORT", addr)
		}
		return net.JoinHostPort(u.Hostname(), grpcPort(u.Port())), nil
	}
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr, nil
	}
	if strings.ContainsAny(addr, " /") {
		return "", fault.New(fault.Invalid, "--addr %s: use HOST:PORT, unix:/PATH or local", addr)
	}
	return net.JoinHostPort(strings.Trim(addr, "[]"), port), nil
}

// Dial connects to a service as the logged-in user: gRPC with TLS and a token for that service alone, or, with
// --addr local, its Unix socket. Failures of calls come back as faults. The caller closes the connection.
func (e *Env) Dial(ctx context.Context, service string) (*grpc.ClientConn, error) {
	t, err := e.find(service)
	if err != nil {
		return nil, err
	}
	if t.socket != "" {
		return e.dialSocket(t)
	}
	// Asked for at once, so that "not logged in" is said before "cannot reach".
	if _, err := e.Token(ctx, service); err != nil {
		return nil, err
	}
	return e.dialTLS(t, func(ctx context.Context, refused string) (string, error) { return e.token(ctx, service, refused) })
}

// DialLocal connects to the service's Unix socket, where root and the local admins are believed.
func (e *Env) DialLocal(service string) (*grpc.ClientConn, error) {
	p, err := e.Platform()
	if err != nil {
		return nil, err
	}
	t := &target{service: service, p: p, socket: p.Socket(service)}
	if s, ok := strings.CutPrefix(e.Addr, "unix:"); ok && service == e.Service {
		t.socket = strings.TrimPrefix(s, "//")
	}
	return e.dialSocket(t)
}

// dialPublic connects without a token.
func (e *Env) dialPublic(_ context.Context, service string) (*grpc.ClientConn, error) {
	t, err := e.find(service)
	if err != nil {
		return nil, err
	}
	if t.socket != "" {
		return e.dialSocket(t)
	}
	return e.dialTLS(t, nil)
}

// DialPublic connects without a token, for calls whose credential is in the request or that are public.
func (e *Env) DialPublic(ctx context.Context, service string) (*grpc.ClientConn, error) {
	return e.dialPublic(ctx, service)
}

// DialToken connects to addr (host:port) with tokens for an audience that is no plain service name, e.g. "mcp/<node>".
func (e *Env) DialToken(ctx context.Context, addr, audience string) (*grpc.ClientConn, error) {
	p, err := e.Platform()
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s is not host:port", addr).Wrap(err)
	}
	if _, err := e.Token(ctx, audience); err != nil {
		return nil, err
	}
	t := &target{service: audience, p: p, addr: addr, host: host}
	return e.dialTLS(t, func(ctx context.Context, refused string) (string, error) { return e.token(ctx, audience, refused) })
}

func (e *Env) dialSocket(t *target) (*grpc.ClientConn, error) {
	t.socket = grpcserver.SocketFor(t.socket)
	if _, err := os.Stat(t.socket); err != nil {
		return nil, fault.New(fault.Unavailable, "%s does not run here: no socket at %s", t.service, t.socket).
			WithNext("start it, or name its platform with --root DIR").Wrap(err)
	}
	x := &exchange{target: t}
	return grpc.NewClient("passthrough:///"+t.service,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", t.socket)
		}),
		// The kernel vouches for both ends of a Unix socket.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithUnaryInterceptor(x.unary), grpc.WithStreamInterceptor(x.stream))
}

func (e *Env) dialTLS(t *target, token func(ctx context.Context, refused string) (string, error)) (*grpc.ClientConn, error) {
	roots, err := e.roots(t.p)
	if err != nil {
		return nil, err
	}
	x := &exchange{target: t, token: token}
	return grpc.NewClient("passthrough:///"+t.addr,
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return t.p.Hosts.DialContext(ctx, "tcp", addr)
		}),
		grpc.WithTransportCredentials(roots.Credentials(t.host)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithUnaryInterceptor(x.unary), grpc.WithStreamInterceptor(x.stream))
}

func (e *Env) roots(p *Platform) (*tlsutil.Roots, error) {
	if p.CAFile == "" {
		return nil, fault.New(fault.Invalid, "no root certificate is known to check the service with").
			WithNext("name it with --ca FILE, or the platform with --root DIR")
	}
	if _, err := os.Stat(p.CAFile); err != nil {
		return nil, fault.New(fault.Invalid, "root certificate %s", p.CAFile).Wrap(err).WithNext("name it with --ca FILE")
	}
	r, err := tlsutil.NewRoots(tlsutil.RootsConfig{File: p.CAFile})
	if err != nil {
		return nil, fault.New(fault.Invalid, "root certificate").Wrap(err)
	}
	return r, nil
}

// exchange adds the token to calls, renews it once when it is refused, and makes faults of failures.
type exchange struct {
	*target
	token func(ctx context.Context, refused string) (string, error) // nil = none
}

func (x *exchange) authorize(ctx context.Context, refused string) (context.Context, string, error) {
	if x.token == nil {
		return ctx, "", nil
	}
	tok, err := x.token(ctx, refused)
	if err != nil {
		return ctx, "", err
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+tok), tok, nil
}

func (x *exchange) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	actx, tok, err := x.authorize(ctx, "")
	if err != nil {
		return err
	}
	err = invoke(actx, method, req, reply, cc, opts...)
	if tok != "" && status.Code(err) == codes.Unauthenticated && !fault.HasReason(err, "STEP_UP_REQUIRED") {
		// Revoked or replaced since it was kept: one new token, one more try.
		if actx, _, rerr := x.authorize(ctx, tok); rerr == nil {
			err = invoke(actx, method, req, reply, cc, opts...)
		}
	}
	return x.explain(err)
}

func (x *exchange) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	actx, _, err := x.authorize(ctx, "")
	if err != nil {
		return nil, err
	}
	s, err := open(actx, desc, cc, method, opts...)
	return s, x.explain(err)
}

// explain turns what gRPC says of a broken connection into a sentence; other failures stay as they are.
func (x *exchange) explain(err error) error {
	st, ok := status.FromError(err)
	if err == nil || !ok || st.Code() != codes.Unavailable || len(st.Details()) > 0 {
		return err
	}
	where := x.addr
	if x.socket != "" {
		where = x.socket
	}
	msg := st.Message()
	why := msg
	for _, known := range []struct{ has, say string }{
		{"connection refused", "connection refused"},
		{"no such host", "no such name"},
		{"i/o timeout", "no answer"},
		{"deadline exceeded", "no answer"},
		{"permission denied", "permission denied"},
		{"unknown authority", "its certificate is not from this platform's root"},
		{"certificate is valid for", "its certificate is for another name"},
		{"certificate has expired", "its certificate has expired, or this machine's clock is wrong"},
		{"internal error", "it has no certificate yet"},
		{"EOF", "it hung up"},
		{"connection reset", "it hung up"},
	} {
		if strings.Contains(msg, known.has) {
			why = known.say
			break
		}
	}
	next := "mcp status"
	if x.service == "mcp" || strings.HasPrefix(x.service, "mcp/") {
		next = "mcp doctor"
	}
	return fault.New(fault.Unavailable, "cannot reach %s at %s: %s", x.service, where, why).WithReason("UNREACHABLE").WithNext("%s", next)
}

// HTTP returns a client for a service's REST and the base URL to use with it; token adds the user's bearer.
func (e *Env) HTTP(ctx context.Context, service string, token bool) (*http.Client, string, error) {
	t, err := e.find(service)
	if err != nil {
		return nil, "", err
	}
	if t.socket != "" {
		return socketClient(grpcserver.SocketFor(t.socket)), "http://" + service, nil
	}
	base, err := t.p.URL(service)
	if err != nil {
		return nil, "", err
	}
	if strings.HasPrefix(e.Addr, "https://") && service == e.Service {
		base = strings.TrimSuffix(e.Addr, "/")
	}
	roots, err := e.roots(t.p)
	if err != nil {
		return nil, "", err
	}
	var rt http.RoundTripper = roots.Transport(t.p.Hosts.DialContext)
	if token {
		tok, err := e.Token(ctx, service)
		if err != nil {
			return nil, "", err
		}
		rt = bearer{rt, tok}
	}
	return &http.Client{Transport: rt, Timeout: callTimeout}, base, nil
}

func socketClient(path string) *http.Client {
	return &http.Client{Timeout: callTimeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}}}
}

type bearer struct {
	next  http.RoundTripper
	token string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}
