package mctest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/grpcserver"
)

// admitted is what a call of the matrix ends with when every check let it through. No handler runs.
const admitted = "MATRIX_ADMITTED"

// who are the callers of the matrix.
type who struct {
	name   string
	token  string
	socket bool
}

// Matrix asks every method of a server, as nobody, guest, user, admin, system account and local administrator,
// over gRPC and over REST, and compares the verdict with the rule and with each other. The handlers are never
// reached, so a server whose methods destroy things may be asked. c is the service's own configuration; addresses,
// certificate and verifier are the matrix's.
//
// Hand-written routes are asked only as callers whom the rule refuses: nothing else stands before their handlers.
func Matrix(t *testing.T, c grpcserver.Config) {
	t.Helper()
	ca := NewCA(t)
	idp := NewMCIAS(t, ca)
	host := c.Service + ".mc.localhost"
	c.Verifier = idp.Verifier(t, c.Service)
	c.HTTPAddr, c.GRPCAddr, c.Socket = "127.0.0.1:0", "127.0.0.1:0", filepath.Join(t.TempDir(), "m.sock")
	c.GetCertificate, c.HostNames = ca.Certificate(t, host), []string{host}
	c.LocalAdmins = []uint32{uint32(os.Geteuid())}
	c.Sealed, c.Audit = nil, nil
	stop := fault.New(fault.Unavailable, "admitted").WithReason(admitted)
	c.Extra = append([]grpcserver.Interceptor{{
		Unary: func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) { return nil, stop },
		Stream: func(_ any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return stop
		},
	}}, c.Extra...)
	srv, err := grpcserver.New(c)
	if err != nil {
		t.Fatalf("matrix: %v", err)
	}
	if err := srv.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := srv.Stop(ctx); err != nil {
			t.Errorf("matrix: stop: %v", err)
		}
	})
	m := &matrix{t: t, srv: srv, host: host}
	m.connect(ca)
	token := func(cl Claims) string { return idp.Token(cl.For(c.Service)) }
	callers := []who{{name: "none"}, {name: "guest", token: token(Human("g", auth.RoleGuest))}, {name: "user", token: token(Human("u", auth.RoleUser))},
		{name: "admin", token: token(Human("a", auth.RoleAdmin))}, {name: "system", token: token(System("s", "core"))}, {name: "local", socket: true}}
	for _, key := range slices.Sorted(maps.Keys(srv.Rules())) {
		rule := srv.Rules()[key]
		for _, w := range callers {
			want := verdict(rule, w.name)
			if route, ok := strings.CutPrefix(key, "HTTP "); ok {
				if !want {
					m.route(key, route, w)
				}
				continue
			}
			if got, why := m.grpc(key, w); got != want {
				t.Errorf("%s as %s over gRPC: admitted = %v (%s), the rule says %v", key, w.name, got, why, want)
			}
			if verb, path, ok := restOf(key); ok {
				if got, why := m.rest(verb, path, w); got != want {
					t.Errorf("%s as %s over REST (%s %s): admitted = %v (%s), the rule says %v", key, w.name, verb, path, got, why, want)
				}
			}
		}
	}
}

// verdict is the rule read once more, independently of the code that enforces it.
func verdict(r auth.Rule, who string) bool {
	switch r.Access {
	case auth.AccessPublic:
		return true
	case auth.AccessAuthenticated, auth.AccessPolicy:
		return who != "none"
	case auth.AccessLocal:
		return who == "local"
	case auth.AccessRoles:
		return who == "local" || who != "system" && slices.Contains(r.RoleNames, who)
	}
	return false
}

type matrix struct {
	t        *testing.T
	srv      *grpcserver.Server
	host     string
	tls      *grpc.ClientConn
	unix     *grpc.ClientConn
	web      *http.Client
	webLocal *http.Client
}

func (m *matrix) connect(ca *CA) {
	m.t.Helper()
	_, port, _ := net.SplitHostPort(m.srv.GRPCAddr())
	var err error
	if m.tls, err = auth.Dial(auth.DialConfig{Target: net.JoinHostPort(m.host, port), Roots: ca.Roots(m.t)}); err != nil {
		m.t.Fatal(err)
	}
	if m.unix, err = grpc.NewClient("unix:"+m.srv.SocketPath(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		m.t.Fatal(err)
	}
	remote := ca.Roots(m.t).Transport(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", m.srv.HTTPAddr())
	})
	local := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", m.srv.SocketPath())
	}}
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	m.web = &http.Client{Transport: remote, CheckRedirect: noRedirect, Timeout: 10 * time.Second}
	m.webLocal = &http.Client{Transport: local, CheckRedirect: noRedirect, Timeout: 10 * time.Second}
	m.t.Cleanup(func() {
		_, _ = m.tls.Close(), m.unix.Close()
		remote.CloseIdleConnections()
		local.CloseIdleConnections()
	})
}

// grpc sends an empty message, which every proto3 request can be.
func (m *matrix) grpc(method string, w who) (bool, string) {
	ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
	defer cancel()
	conn := m.tls
	if w.socket {
		conn = m.unix
	}
	if w.token != "" {
		ctx = auth.WithToken(ctx, w.token)
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err == nil {
		_ = s.SendMsg(&emptypb.Empty{}) // the answer says more than this error
		_ = s.CloseSend()
		err = s.RecvMsg(&emptypb.Empty{})
	}
	return fault.HasReason(err, admitted), fmt.Sprint(err)
}

func (m *matrix) rest(verb, path string, w who) (bool, string) {
	_, body := m.http(verb, path, w)
	return strings.Contains(body, admitted), body
}

// route asks a hand-written route as somebody whom the rule refuses.
func (m *matrix) route(key, route string, w who) {
	verb, pattern, _ := strings.Cut(route, " ")
	code, _ := m.http(verb, fill.ReplaceAllString(pattern, "x"), w)
	if code != http.StatusUnauthorized && code != http.StatusForbidden && code/100 != 3 {
		m.t.Errorf("%s as %s: status %d, the rule refuses", key, w.name, code)
	}
}

func (m *matrix) http(verb, path string, w who) (int, string) {
	var body io.Reader = http.NoBody
	if verb != http.MethodGet && verb != http.MethodDelete {
		body = bytes.NewReader([]byte("{}"))
	}
	client, base := m.web, "https://"+m.host
	if w.socket {
		client, base = m.webLocal, "http://"+m.host
	}
	r, err := http.NewRequestWithContext(m.t.Context(), verb, base+path, body)
	if err != nil {
		m.t.Fatal(err)
	}
	if body != http.NoBody {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if w.token != "" {
		r.Header.Set("Authorization", "Bearer "+w.token)
	}
	resp, err := client.Do(r)
	if err != nil {
		m.t.Fatalf("%s %s: %v", verb, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		m.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

var fill = regexp.MustCompile(`\{[^}]*\}|\*`)

// restOf returns the HTTP rule of a method in the contract.
func restOf(method string) (verb, path string, ok bool) {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return "", "", false
	}
	sd, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return "", "", false
	}
	md := sd.Methods().ByName(protoreflect.Name(name))
	if md == nil || !proto.HasExtension(md.Options(), annotations.E_Http) {
		return "", "", false
	}
	rule, _ := proto.GetExtension(md.Options(), annotations.E_Http).(*annotations.HttpRule)
	switch p := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		verb, path = http.MethodGet, p.Get
	case *annotations.HttpRule_Post:
		verb, path = http.MethodPost, p.Post
	case *annotations.HttpRule_Put:
		verb, path = http.MethodPut, p.Put
	case *annotations.HttpRule_Patch:
		verb, path = http.MethodPatch, p.Patch
	case *annotations.HttpRule_Delete:
		verb, path = http.MethodDelete, p.Delete
	default:
		return "", "", false
	}
	return verb, fillPath(md.Input(), path), true
}

// fillPath puts a value of the right type in place of each path variable.
func fillPath(in protoreflect.MessageDescriptor, path string) string {
	return fill.ReplaceAllStringFunc(path, func(v string) string {
		name, _, _ := strings.Cut(strings.Trim(v, "{}"), "=")
		md := in
		for part := range strings.SplitSeq(name, ".") {
			f := md.Fields().ByName(protoreflect.Name(part))
			if f == nil {
				break
			}
			switch f.Kind() {
			case protoreflect.MessageKind:
				md = f.Message()
			case protoreflect.StringKind, protoreflect.BytesKind:
			default:
				return "1"
			}
		}
		return "x"
	})
}
