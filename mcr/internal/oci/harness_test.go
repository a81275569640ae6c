package oci_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/grpcserver"
	"metacircular.net/mcdsl/mctest"
	"metacircular.net/mcr/internal/oci"
	"metacircular.net/mcr/internal/policy"
	"metacircular.net/mcr/internal/rpc"
	"metacircular.net/mcr/internal/service"
	"metacircular.net/mcr/internal/store"
)

const host = "mcr.mc.localhost"

// registry is a whole registry behind TLS with a fake MCIAS.
type registry struct {
	*service.Parts
	ip   string // where it listens
	ca   *mctest.CA
	idp  *mctest.MCIAS
	addr string // host:port under the certificate's name
	web  *http.Client
	dir  string
}

// option changes the configuration.
type option func(*service.Config)

// outside returns an address of this machine that is not loopback, or "". Docker takes what resolves to loopback
// for insecure and would not look at the certificate.
func outside() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	return ""
}

func start(t *testing.T, opts ...option) *registry {
	t.Helper()
	return startAt(t, nil, t.TempDir(), opts...)
}

func startAt(t *testing.T, c clock.Clock, dir string, opts ...option) *registry {
	t.Helper()
	return startOn(t, "127.0.0.1", c, dir, opts...)
}

func startOn(t *testing.T, ip string, c clock.Clock, dir string, opts ...option) *registry {
	t.Helper()
	ca := mctest.NewCA(t)
	r := &registry{ip: ip, ca: ca, idp: mctest.NewMCIAS(t, ca), dir: dir}
	cfg := service.Config{
		MCIAS:    config.MCIAS{ServerURL: r.idp.Issuer, ServiceName: "mcr"},
		Registry: service.Registry{MaxManifest: 4 << 20},
		Storage:  service.Storage{Root: dir},
		Limits:   service.Limits{UploadsPerSubject: 64, UploadsTotal: 256, UploadIdle: config.Duration(24 * time.Hour), RequestsAtOnce: 64},
		GC: service.GC{Every: config.Duration(time.Hour), Grace: config.Duration(24 * time.Hour),
			UntaggedAfter: config.Duration(720 * time.Hour), Trash: config.Duration(168 * time.Hour)},
		Disk:   service.Disk{Warn: 0.999, Refuse: 1, Floor: 1},
		Verify: service.Verify{Every: config.Duration(720 * time.Hour), Rate: 1 << 30},
		Policy: []policy.Rule{
			{Name: "ci", Effect: "allow", Subjects: []string{"system:ci"}, Actions: []string{"pull", "push", "tag", "delete"}, Repositories: []string{"**"}},
			{Name: "readers", Effect: "allow", Subjects: []string{"user:rita"}, Actions: []string{"pull"}, Repositories: []string{"lib/**"}},
		},
	}
	for _, o := range opts {
		o(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	ctx := context.WithoutCancel(t.Context())
	d, err := db.Open(ctx, db.Config{Path: filepath.Join(dir, "mcr.db"), Service: "mcr", Migrations: store.Migrations(), Clock: c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	if r.Parts, err = service.NewParts(ctx, cfg, d, logger, c); err != nil {
		t.Fatal(err)
	}
	rules, err := auth.Merge(oci.Rules(), rpc.Rules())
	if err != nil {
		t.Fatal(err)
	}
	srv, err := grpcserver.New(grpcserver.Config{Service: "mcr", Rules: rules, Verifier: r.idp.Verifier(t, "mcr"),
		Register: func(s grpc.ServiceRegistrar) { r.RPC.Register(s) }, REST: service.REST(), Routes: r.Registry.Routes,
		RefuseRoute: r.Registry.Refuse, HTTPAddr: net.JoinHostPort(ip, "0"), GRPCAddr: "127.0.0.1:0", GetCertificate: ca.Certificate(t, host), Log: logger})
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := srv.Stop(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stop: %v", err)
		}
		_ = r.Blobs.Close()
	})
	_, port, _ := net.SplitHostPort(srv.HTTPAddr())
	r.addr = net.JoinHostPort(host, port)
	// Both names resolve to loopback whatever the machine's resolver says.
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		name, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		to := "127.0.0.1"
		if name == host {
			to = ip
		}
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(to, port))
	}
	tr := &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	r.web = &http.Client{Transport: tr}
	r.idp.Realm(func(user, secret string) (mctest.Claims, error) {
		if secret != "pw-"+user {
			return nil, errors.New("wrong")
		}
		if user == "ci" {
			return mctest.System("ci"), nil
		}
		return mctest.Human(user, "user"), nil
	})
	return r
}
