package rpc

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/grpcserver"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
)

// The actions of the rule map. The socket's peers get them by [admin] read and write.
const (
	Read  = "local.read"
	Write = "local.write"
)

// target names what a call is about, for the audit.
func target(req any) string {
	switch r := req.(type) {
	case *mcproxyv1.PutRouteRequest:
		return r.GetSpec().GetListener() + "/" + r.GetSpec().GetHostname()
	case *mcproxyv1.SwapRequest:
		names := make([]string, 0, len(r.GetItems()))
		for _, it := range r.GetItems() {
			if d := it.GetDefinition(); d != nil {
				names = append(names, d.GetListener()+"/"+d.GetHostname())
			} else {
				names = append(names, refText(it.GetRoute()))
			}
		}
		return strings.Join(names, " ")
	case *mcproxyv1.HoldRequest:
		names := make([]string, 0, len(r.GetItems()))
		for _, it := range r.GetItems() {
			names = append(names, refText(it.GetRoute()))
		}
		return strings.Join(names, " ")
	case *mcproxyv1.ReleaseRequest:
		names := make([]string, 0, len(r.GetRoutes()))
		for _, it := range r.GetRoutes() {
			names = append(names, refText(it))
		}
		return strings.Join(names, " ")
	case *mcproxyv1.DrainBackendRequest:
		return fmt.Sprintf("%d %s", r.GetId(), r.GetAddr())
	case *mcproxyv1.SetBackendRequest:
		return fmt.Sprintf("%d %s", r.GetId(), r.GetAddr())
	case *mcproxyv1.ApplyRequest:
		return r.GetOwner()
	case interface{ GetId() int64 }:
		return fmt.Sprint(r.GetId())
	}
	return ""
}

func refText(r *mcproxyv1.RouteRef) string {
	if r.GetId() != 0 {
		return fmt.Sprint(r.GetId())
	}
	return r.GetListener() + "/" + r.GetHostname()
}

// Rules returns the rule of every method.
func Rules() auth.Map {
	m := auth.Map{}
	read := func(service string, methods ...string) {
		for _, name := range methods {
			m["/mcproxy.v1."+service+"/"+name] = auth.Policy(Read)
		}
	}
	write := func(service string, methods ...string) {
		for _, name := range methods {
			m["/mcproxy.v1."+service+"/"+name] = auth.Policy(Write).Audited(target)
		}
	}
	read("RouteService", "ListRoutes", "GetRoute", "WatchRoutes")
	write("RouteService", "PutRoute", "DeleteRoute", "SetBackend", "DrainBackend", "Swap", "Hold", "Release")
	// A renewal every 30 s changes nothing that an audit is about.
	m["/mcproxy.v1.RouteService/RenewLease"] = auth.Policy(Write)
	read("CertificateService", "ListCertificates", "CheckCertificate")
	write("CertificateService", "ReloadCertificates")
	read("TrafficService", "ListConnections", "Explain")
	write("TrafficService", "KillConnections")
	read("AdminService", "GetStatus", "Export")
	write("AdminService", "Apply", "Reload")
	for k, r := range m {
		// A gated swap waits as long as its caller says.
		if strings.HasSuffix(k, "/Swap") {
			m[k] = r.Within(-1)
		}
	}
	return m
}

// Decider judges every call by the action of its rule: a peer that may write may read.
func Decider() grpcserver.Interceptor {
	decide := func(ctx context.Context, method string) error {
		call := auth.CallFrom(ctx)
		if call == nil || call.Rule.Access != auth.AccessPolicy {
			return nil
		}
		c := auth.From(ctx)
		allow := c.HasRole(Write) || call.Rule.Action == Read && c.HasRole(Read)
		return auth.Decide(ctx, call.Rule.Action, method, allow, "[admin] of the configuration names who may")
	}
	return grpcserver.Interceptor{
		Unary: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := decide(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return next(ctx, req)
		},
		Stream: func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := decide(ss.Context(), info.FullMethod); err != nil {
				return err
			}
			return next(srv, ss)
		},
	}
}
