package grpcserver

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"runtime"
	rdebug "runtime/debug"
	"time"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
)

// ownRules are the rows every service has.
func (s *Server) ownRules() auth.Map {
	status := auth.Authenticated()
	status.AnyLocal = true
	m := auth.Map{
		"/grpc.health.v1.Health/Check":                                   auth.Public(),
		"/grpc.health.v1.Health/Watch":                                   auth.Public(),
		"/grpc.health.v1.Health/List":                                    auth.Public(),
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      auth.Roles(auth.RoleAdmin),
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": auth.Roles(auth.RoleAdmin),
		"HTTP GET /healthz":                                              auth.Public(),
		"HTTP GET /readyz":                                               auth.Public(),
		"HTTP GET /v1/status":                                            status,
		"HTTP GET /debug/":                                               auth.Roles(auth.RoleAdmin),
		"HTTP GET /debug/pprof/*":                                        auth.Local().Within(2 * time.Minute),
	}
	if s.conf.OpenAPI != nil {
		m["HTTP GET /openapi.json"] = auth.Public()
	}
	return m
}

func (s *Server) ownRoutes(r chi.Router) {
	r.Get("/healthz", func(w http.ResponseWriter, r *http.Request) {
		s.word(w, s.health.Alive(r.Context()) == nil, "ok", "failing")
	})
	r.Get("/readyz", func(w http.ResponseWriter, _ *http.Request) { s.word(w, s.health.Ready(), "ready", "not ready") })
	r.Get("/v1/status", func(w http.ResponseWriter, r *http.Request) { writeJSON(w, s.health.Report(r.Context())) })
	r.Get("/debug/", s.debug)
	r.Get("/debug/pprof/*", func(w http.ResponseWriter, r *http.Request) {
		switch name := chi.URLParam(r, "*"); name {
		case "":
			pprof.Index(w, r)
		case "profile":
			pprof.Profile(w, r)
		case "trace":
			pprof.Trace(w, r)
		default:
			pprof.Handler(name).ServeHTTP(w, r)
		}
	})
	if s.conf.OpenAPI != nil {
		r.Get("/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(s.conf.OpenAPI)
		})
	}
}

func (s *Server) word(w http.ResponseWriter, good bool, yes, no string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if !good {
		w.WriteHeader(http.StatusServiceUnavailable)
		yes = no
	}
	_, _ = w.Write([]byte(yes + "\n"))
}

// debug shows what an administrator asks first when something is odd. No secret is among it.
func (s *Server) debug(w http.ResponseWriter, r *http.Request) {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	doc := map[string]any{
		"service": s.conf.Service, "goroutines": runtime.NumGoroutine(), "heap_bytes": mem.HeapAlloc,
		"http_addr": s.HTTPAddr(), "grpc_addr": s.GRPCAddr(), "socket": s.SocketPath(), "rules": len(s.rules),
		"draining": s.draining.Load(), "status": s.health.Report(r.Context()),
	}
	if bi, ok := rdebug.ReadBuildInfo(); ok {
		doc["go"], doc["module"] = bi.GoVersion, bi.Main.Path
	}
	if s.conf.Verifier != nil {
		doc["auth"] = s.conf.Verifier.Report()
	}
	writeJSON(w, doc)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client may be gone
}

func isHealth(method string) bool {
	return method == "/grpc.health.v1.Health/Check" || method == "/grpc.health.v1.Health/Watch" || method == "/grpc.health.v1.Health/List"
}

func newTrailer() *metadata.MD { return &metadata.MD{} }

// healthService answers grpc.health.v1: SERVING means that the service takes work.
type healthService struct{ s *Server }

func (h healthService) state() grpc_health_v1.HealthCheckResponse_ServingStatus {
	if h.s.health.Ready() {
		return grpc_health_v1.HealthCheckResponse_SERVING
	}
	return grpc_health_v1.HealthCheckResponse_NOT_SERVING
}

func (h healthService) knows(name string) bool {
	if name == "" || name == h.s.conf.Service {
		return true
	}
	_, ok := h.s.inproc.GetServiceInfo()[name]
	return ok
}

// Check implements grpc.health.v1.
func (h healthService) Check(_ context.Context, req *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if !h.knows(req.GetService()) {
		return nil, fault.New(fault.NotFound, "no service of that name here")
	}
	return &grpc_health_v1.HealthCheckResponse{Status: h.state()}, nil
}

// List implements grpc.health.v1.
func (h healthService) List(context.Context, *grpc_health_v1.HealthListRequest) (*grpc_health_v1.HealthListResponse, error) {
	return &grpc_health_v1.HealthListResponse{Statuses: map[string]*grpc_health_v1.HealthCheckResponse{
		h.s.conf.Service: {Status: h.state()}}}, nil
}

// Watch implements grpc.health.v1.
func (h healthService) Watch(req *grpc_health_v1.HealthCheckRequest, stream grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	changed, stop := h.s.health.Changed()
	defer stop()
	last := grpc_health_v1.HealthCheckResponse_UNKNOWN
	for {
		now := h.state()
		if !h.knows(req.GetService()) {
			now = grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN
		}
		if now != last {
			if err := stream.Send(&grpc_health_v1.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}

var _ grpc_health_v1.HealthServer = healthService{}
