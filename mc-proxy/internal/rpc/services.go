package rpc

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/gateway"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mc-proxy/internal/certs"
	"metacircular.net/mc-proxy/internal/control"
	"metacircular.net/mc-proxy/internal/ingress"
	"metacircular.net/mc-proxy/internal/traffic"
)

// Services are the parts the contract is served from.
type Services struct {
	Control      *control.Control
	Ingress      *ingress.Server
	Certs        *certs.Store
	Conns        *traffic.Table
	Version      string
	DrainTimeout time.Duration
	Now          func() time.Time
	// Reload reads the configuration again and returns what changed and what needs a restart.
	Reload func(ctx context.Context) (changes, restart []string, err error)
	// State is starting, serving or draining.
	State func() string
	// Problems are those of the process, beside the ones of routes.
	Problems func() []*mcproxyv1.Problem
}

// Register registers the services.
func (s *Services) Register(r grpc.ServiceRegistrar) {
	mcproxyv1.RegisterRouteServiceServer(r, &routes{s: s})
	mcproxyv1.RegisterCertificateServiceServer(r, &certificates{s: s})
	mcproxyv1.RegisterTrafficServiceServer(r, &trafficService{s: s})
	mcproxyv1.RegisterAdminServiceServer(r, &admin{s: s})
}

// REST returns the generated handlers.
func REST() []gateway.Register {
	return []gateway.Register{mcproxyv1.RegisterRouteServiceHandler, mcproxyv1.RegisterCertificateServiceHandler,
		mcproxyv1.RegisterTrafficServiceHandler, mcproxyv1.RegisterAdminServiceHandler}
}
