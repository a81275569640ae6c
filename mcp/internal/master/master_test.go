package master_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli/clitest"
	"metacircular.net/mcdsl/cli/hostmap"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/grpcserver"
	"metacircular.net/mcdsl/mctest"
	"metacircular.net/mcdsl/tlsutil"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
	"metacircular.net/mcp/internal/dialin"
	"metacircular.net/mcp/internal/master"
)

// freePort finds a port for the agents' door.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// agent is a node's agent as far as the master sees it: its own server behind its own verifier, and NodeLocal.
type agent struct {
	mcpv1.UnimplementedServicesServer
	mcpv1.UnimplementedNodeLocalServer
	name string
}

func (a *agent) Inventory(context.Context, *mcpv1.InventoryRequest) (*mcpv1.InventoryResponse, error) {
	return &mcpv1.InventoryResponse{Node: &mcpv1.NodeStatus{Name: a.name, Version: "1.0"},
		Services: []*mcpv1.Service{{Name: "wiki", Desired: mcpv1.Desired_DESIRED_RUNNING, State: mcpv1.State_STATE_HEALTHY, Generation: 3}}}, nil
}

func (a *agent) GetService(context.Context, *mcpv1.GetServiceRequest) (*mcpv1.GetServiceResponse, error) {
	return &mcpv1.GetServiceResponse{Service: &mcpv1.Service{Name: "wiki", Node: a.name, Desired: mcpv1.Desired_DESIRED_RUNNING,
		State: mcpv1.State_STATE_HEALTHY, Generation: 3}}, nil
}

func (a *agent) Restart(req *mcpv1.RestartRequest, out grpc.ServerStreamingServer[mcpv1.RestartResponse]) error {
	c := auth.From(out.Context())
	if req.GetIdempotencyKey() == "conflict" {
		return fault.New(fault.Conflict, "operation 7 is in progress").WithReason("OP_IN_PROGRESS").WithNext("mcp op watch 7")
	}
	for _, step := range []string{"stop", "start"} {
		ev := &mcpv1.OpEvent{Event: &mcpv1.OpEvent_Step{Step: &mcpv1.Step{Name: step, Detail: "by " + c.Name}}}
		if err := out.Send(&mcpv1.RestartResponse{Event: ev}); err != nil {
			return err
		}
	}
	return nil
}

// start runs the agent's own server, whose verifier accepts this node's audience alone, and dials the master.
func (a *agent) start(t *testing.T, idp *mctest.MCIAS, ca *mctest.CA, addr, certName string) *dialin.Dialer {
	t.Helper()
	leaf := ca.Leaf(t, certName)
	cert, err := tlsutil.NewCertificate(tlsutil.Config{CertFile: leaf.CertFile, KeyFile: leaf.KeyFile, Roots: ca.Roots(t), Client: true})
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addr)
	d, err := dialin.New(dialin.Config{Addr: net.JoinHostPort("mcp.mc.localhost", port), Hosts: hostmap.Open(""), Roots: ca.Roots(t), Cert: cert, Local: a})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := grpcserver.New(grpcserver.Config{Service: "mcp-agent", Verifier: verifier(t, idp, a.name),
		Rules: auth.Map{mcpv1.Services_Restart_FullMethodName: auth.Roles(auth.RoleAdmin),
			mcpv1.Services_GetService_FullMethodName: auth.Roles(auth.RoleAdmin)},
		Register: func(r grpc.ServiceRegistrar) { registerSome(r, a) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := srv.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.Register(ctx, nil, srv.InProcess()); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = d.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = srv.Stop(context.Background())
	})
	return d
}

// verifier accepts the audience of one node; the agent follows MCIAS under the node's account.
func verifier(t *testing.T, idp *mctest.MCIAS, node string) *auth.Verifier {
	t.Helper()
	v, err := auth.New(auth.Config{Service: master.Audience(node), Issuer: idp.Issuer, Source: auth.Watch(idp.Conn(t), idp.Key(t, "node-"+node))})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Stop(context.Background()) })
	mctest.Eventually(t, "the node's verifier has keys", v.Live)
	return v
}

// registerSome registers the two methods the test's agent offers, so that its rules are complete.
func registerSome(r grpc.ServiceRegistrar, a *agent) {
	desc := grpc.ServiceDesc{ServiceName: mcpv1.Services_ServiceDesc.ServiceName, HandlerType: (*mcpv1.ServicesServer)(nil)}
	for _, s := range mcpv1.Services_ServiceDesc.Streams {
		if s.StreamName == "Restart" {
			desc.Streams = append(desc.Streams, s)
		}
	}
	for _, m := range mcpv1.Services_ServiceDesc.Methods {
		if m.MethodName == "GetService" {
			desc.Methods = append(desc.Methods, m)
		}
	}
	r.RegisterService(&desc, a)
}

func serve(t *testing.T) (*clitest.Server, string) {
	t.Helper()
	addr := freePort(t)
	return clitest.Serve(t, master.Service(), clitest.Options{Config: "[nodes]\nlisten_addr = \"" + addr + "\"\n"}), addr
}

// socket is a connection to the master's Unix socket, where the test's user counts as root.
func socket(t *testing.T, srv *clitest.Server) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+srv.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func register(t *testing.T, srv *clitest.Server, name string) {
	t.Helper()
	resp, err := mcpv1.NewNodesClient(socket(t, srv)).RegisterNode(t.Context(), &mcpv1.RegisterNodeRequest{Name: name})
	if err != nil || !resp.GetCreated() {
		t.Fatalf("RegisterNode = %v, %v, want it created\n%s", resp, err, srv.Log)
	}
}

func restart(t *testing.T, conn *grpc.ClientConn, key string) ([]string, error) {
	t.Helper()
	in, err := mcpv1.NewServicesClient(conn).Restart(t.Context(), &mcpv1.RestartRequest{Service: "wiki", IdempotencyKey: key})
	if err != nil {
		return nil, err
	}
	var steps []string
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return steps, nil
		}
		if err != nil {
			return steps, err
		}
		s := m.GetEvent().GetStep()
		steps = append(steps, s.GetName()+" "+s.GetDetail())
	}
}

func TestCallsGoOnToTheNodeAsTheirCaller(t *testing.T) {
	srv, addr := serve(t)
	register(t, srv, "a")
	a := &agent{name: "a"}
	d := a.start(t, srv.IDP, srv.CA, addr, "a.node.mc.localhost")
	mctest.Eventually(t, "the agent is connected", d.Connected)
	admin := srv.Conn(t, srv.IDP.Token(mctest.Human("alice", "admin").For("mcp")))
	services := mcpv1.NewServicesClient(admin)
	mctest.Eventually(t, "the master has the inventory", func() bool {
		resp, err := services.ListServices(t.Context(), &mcpv1.ListServicesRequest{})
		return err == nil && len(resp.GetServices()) == 1 && resp.GetServices()[0].GetState() == mcpv1.State_STATE_HEALTHY
	})

	steps, err := restart(t, admin, "")
	if err != nil || strings.Join(steps, ", ") != "stop by alice, start by alice" {
		t.Errorf("restart = %q, %v, want both steps done in alice's name\n%s", steps, err, srv.Log)
	}
	_, err = restart(t, admin, "conflict")
	if f := fault.From(err); !fault.HasReason(err, "OP_IN_PROGRESS") || f.Next != "mcp op watch 7" {
		t.Errorf("a refusal of the node = %v, want its reason and next step kept", err)
	}
	if _, err := restart(t, srv.Conn(t, srv.IDP.Token(mctest.Human("bob", "user").For("mcp"))), ""); !fault.Is(err, fault.Denied) {
		t.Errorf("restart by a user without the role = %v, want Denied", err)
	}
	if _, err := restart(t, srv.Conn(t, srv.IDP.Token(mctest.Human("alice", "admin").For("mcp/a"))), ""); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("restart at the master with a token for the node = %v, want Unauthenticated", err)
	}
	if _, err := restart(t, socket(t, srv), ""); !fault.HasReason(err, "NO_TOKEN") {
		t.Errorf("restart by a local administrator = %v, want NO_TOKEN: the master has no identity to lend", err)
	}
}

func TestOnlyKnownNodesComeIn(t *testing.T) {
	srv, addr := serve(t)
	register(t, srv, "a")
	for name, cert := range map[string]string{"an unknown node": "b.node.mc.localhost", "a service's certificate": "mcr.mc.localhost", "another domain": "a.node.other.localhost"} {
		(&agent{name: "a"}).start(t, srv.IDP, srv.CA, addr, cert)
		mctest.Eventually(t, name+" is refused", func() bool { return strings.Contains(srv.Log.String(), "agent refused") })
	}
	resp, err := mcpv1.NewInsightClient(srv.Conn(t, srv.IDP.Token(mctest.Human("alice", "admin").For("mcp")))).Status(t.Context(), &mcpv1.StatusRequest{})
	if err != nil || resp.GetHealthy() || len(resp.GetServices()) != 0 {
		t.Errorf("status = %v, %v, want unhealthy and no services", resp, err)
	}
}

func TestTheNewestConnectionOfANodeCounts(t *testing.T) {
	srv, addr := serve(t)
	register(t, srv, "a")
	first := (&agent{name: "a"}).start(t, srv.IDP, srv.CA, addr, "a.node.mc.localhost")
	mctest.Eventually(t, "the first is connected", first.Connected)
	second := (&agent{name: "a"}).start(t, srv.IDP, srv.CA, addr, "a.node.mc.localhost")
	mctest.Eventually(t, "the second is connected", second.Connected)
	mctest.Eventually(t, "the first was closed", func() bool { return strings.Contains(srv.Log.String(), "node disconnected") })
}

func TestPages(t *testing.T) {
	srv, addr := serve(t)
	register(t, srv, "a")
	d := (&agent{name: "a"}).start(t, srv.IDP, srv.CA, addr, "a.node.mc.localhost")
	mctest.Eventually(t, "the agent is connected", d.Connected)
	srv.OP.SignedIn("alice", mctest.Human("alice", "admin"))
	c := srv.Browser(t)
	for path, want := range map[string]string{"/": "1 services, all as they should be.", "/services/wiki": "Generation 3 on node a is healthy.", "/nodes": "1 of 1 nodes are ready."} {
		res, err := c.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("GET %s = %d, want %q in it:\n%s\n%s", path, res.StatusCode, want, body, srv.Log)
		}
	}
}

// TestForeignMetadataStaysOutside: what marks a call as local inside a process is not passed on to the node.
func TestForeignMetadataStaysOutside(t *testing.T) {
	srv, addr := serve(t)
	register(t, srv, "a")
	d := (&agent{name: "a"}).start(t, srv.IDP, srv.CA, addr, "a.node.mc.localhost")
	mctest.Eventually(t, "the agent is connected", d.Connected)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "mc-local", "0:root:")
	in, err := mcpv1.NewServicesClient(srv.Conn(t, "")).Restart(ctx, &mcpv1.RestartRequest{Service: "wiki"})
	if err == nil {
		_, err = in.Recv()
	}
	if !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a call that claims to be local = %v, want Unauthenticated", err)
	}
}
