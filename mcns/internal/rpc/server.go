// Package rpc implements the mcns.v1 contract on the catalog, the registry and the resolver. It authorises:
// admin may do all, everyone else needs a grant.
package rpc

import (
	"context"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/gateway"

	mcnsv1 "metacircular.net/mcns/api/mcns/v1"
	"metacircular.net/mcns/internal/catalog"
	"metacircular.net/mcns/internal/forward"
	"metacircular.net/mcns/internal/policy"
	"metacircular.net/mcns/internal/registry"
	"metacircular.net/mcns/internal/serve"
	"metacircular.net/mcns/internal/zone"
)

// Server holds what the methods work on.
type Server struct {
	Catalog   *catalog.Catalog
	Registry  *registry.Registry
	Resolver  *forward.Resolver
	Handler   *serve.Handler
	Listeners *serve.Listeners
	Platform  string // canonical domain, "" = none
	Since     time.Time
	Now       func() time.Time
}

// Register hands the services over.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	mcnsv1.RegisterZoneServiceServer(r, &zones{Server: s})
	mcnsv1.RegisterRecordServiceServer(r, &recordService{Server: s})
	mcnsv1.RegisterChangeServiceServer(r, &changes{Server: s})
	mcnsv1.RegisterAccessServiceServer(r, &access{Server: s})
	mcnsv1.RegisterRegistryServiceServer(r, &services{Server: s})
	mcnsv1.RegisterResolverServiceServer(r, &resolver{Server: s})
	mcnsv1.RegisterAdminServiceServer(r, &admin{Server: s})
}

// REST lists the generated handlers.
func REST() []gateway.Register {
	return []gateway.Register{mcnsv1.RegisterZoneServiceHandler, mcnsv1.RegisterRecordServiceHandler, mcnsv1.RegisterChangeServiceHandler,
		mcnsv1.RegisterAccessServiceHandler, mcnsv1.RegisterRegistryServiceHandler, mcnsv1.RegisterResolverServiceHandler, mcnsv1.RegisterAdminServiceHandler}
}

// Rules has one rule for every method.
func Rules() auth.Map {
	write := func(op string) auth.Rule { return auth.Policy(op).Audited(target) }
	return auth.Map{
		mcnsv1.ZoneService_ListZones_FullMethodName:  auth.Policy("read"),
		mcnsv1.ZoneService_GetZone_FullMethodName:    auth.Policy("read"),
		mcnsv1.ZoneService_CreateZone_FullMethodName: write("create"),
		mcnsv1.ZoneService_UpdateZone_FullMethodName: write("update"),
		mcnsv1.ZoneService_DeleteZone_FullMethodName: write("delete").Privileged(),
		mcnsv1.ZoneService_CheckZone_FullMethodName:  auth.Policy("read"),
		mcnsv1.ZoneService_ImportZone_FullMethodName: write("update").Within(5 * time.Minute),
		mcnsv1.ZoneService_ExportZone_FullMethodName: auth.Policy("read"),

		mcnsv1.RecordService_ListRecords_FullMethodName:  auth.Policy("read"),
		mcnsv1.RecordService_GetRecord_FullMethodName:    auth.Policy("read"),
		mcnsv1.RecordService_CreateRecord_FullMethodName: write("create"),
		mcnsv1.RecordService_UpdateRecord_FullMethodName: write("update"),
		mcnsv1.RecordService_DeleteRecord_FullMethodName: write("delete"),
		mcnsv1.RecordService_SetRRset_FullMethodName:     write("update"),
		mcnsv1.RecordService_ApplyChanges_FullMethodName: write("update"),

		mcnsv1.ChangeService_ListChanges_FullMethodName: auth.Policy("read"),
		mcnsv1.ChangeService_GetChange_FullMethodName:   auth.Policy("read"),

		mcnsv1.AccessService_ListGrants_FullMethodName:     auth.Roles(auth.RoleAdmin),
		mcnsv1.AccessService_CreateGrant_FullMethodName:    auth.Roles(auth.RoleAdmin).Privileged().Audited(target),
		mcnsv1.AccessService_DeleteGrant_FullMethodName:    auth.Roles(auth.RoleAdmin).Privileged().Audited(target),
		mcnsv1.AccessService_DeleteGrantsOf_FullMethodName: auth.Roles(auth.RoleAdmin).Privileged().Audited(target),
		mcnsv1.AccessService_TestGrant_FullMethodName:      auth.Roles(auth.RoleAdmin),

		mcnsv1.RegistryService_Sync_FullMethodName:          write("sync"),
		mcnsv1.RegistryService_Renew_FullMethodName:         auth.Policy("sync"),
		mcnsv1.RegistryService_Deregister_FullMethodName:    write("sync"),
		mcnsv1.RegistryService_ListInstances_FullMethodName: auth.Policy("read"),

		mcnsv1.ResolverService_ListUpstreams_FullMethodName: auth.Roles(auth.RoleAdmin),
		mcnsv1.ResolverService_FlushCache_FullMethodName:    auth.Roles(auth.RoleAdmin).Audited(target),

		mcnsv1.AdminService_Health_FullMethodName:    auth.Public(),
		mcnsv1.AdminService_GetStatus_FullMethodName: auth.Authenticated(),
		mcnsv1.AdminService_Explain_FullMethodName:   auth.Roles(auth.RoleAdmin),
	}
}

// target says what a request is about, for audit: zone and name, never a value.
func target(req any) string {
	var parts []string
	if r, ok := req.(interface{ GetZone() string }); ok && r.GetZone() != "" {
		parts = append(parts, r.GetZone())
	}
	if r, ok := req.(interface{ GetName() string }); ok && r.GetName() != "" {
		parts = append(parts, r.GetName())
	}
	if r, ok := req.(interface{ GetId() string }); ok && r.GetId() != "" {
		parts = append(parts, "#"+r.GetId())
	}
	if r, ok := req.(interface{ GetPrincipal() string }); ok {
		parts = append(parts, r.GetPrincipal())
	}
	if r, ok := req.(interface{ GetGrant() *mcnsv1.Grant }); ok {
		parts = append(parts, r.GetGrant().GetPrincipal(), r.GetGrant().GetZone(), r.GetGrant().GetNameGlob())
	}
	return strings.Join(parts, " ")
}

// principal is what grants call the caller.
func principal(c auth.Caller) string {
	switch c.Kind {
	case auth.System:
		return "account:" + c.Name
	case auth.Human:
		return "user:" + c.Name
	}
	return ""
}

// owner is what the caller's records belong to: all administrators are one operator.
func owner(c auth.Caller) string {
	if c.HasRole(auth.RoleAdmin) {
		return "operator"
	}
	return principal(c)
}

func source(ctx context.Context) string {
	switch call := auth.CallFrom(ctx); {
	case call == nil:
		return "api"
	case call.Transport == auth.OverUnix:
		return "socket"
	}
	return "api"
}

// decide asks policy for an op on a name and records the answer.
func (s *Server) decide(ctx context.Context, op, apex, name string, t uint16) error {
	c := auth.From(ctx)
	if c.HasRole(auth.RoleAdmin) {
		return auth.Decide(ctx, op, zone.Plain(name), true, "role admin")
	}
	v := s.Catalog.Book().Decide(policy.Request{Principal: principal(c), Op: op, Zone: apex, Name: name, Type: t})
	return auth.Decide(ctx, op, zone.Plain(name), v.Allow, v.Why)
}

// decideZone asks whether the caller may do op somewhere in the zone ("" = in any).
func (s *Server) decideZone(ctx context.Context, op, apex string) error {
	c := auth.From(ctx)
	if c.HasRole(auth.RoleAdmin) {
		return auth.Decide(ctx, op, zone.Plain(apex), true, "role admin")
	}
	v := s.Catalog.Book().Any(principal(c), op, apex)
	return auth.Decide(ctx, op, zone.Plain(apex), v.Allow, v.Why)
}

// decideAdmin lets administrators only.
func decideAdmin(ctx context.Context, op, what string) error {
	return auth.Decide(ctx, op, what, auth.From(ctx).HasRole(auth.RoleAdmin), "this needs the role admin")
}

// visible reports whether the caller may read a name, without recording: for rows of a list.
func (s *Server) visible(c auth.Caller, apex, name string, t uint16) bool {
	return c.HasRole(auth.RoleAdmin) ||
		s.Catalog.Book().Decide(policy.Request{Principal: principal(c), Op: "read", Zone: apex, Name: name, Type: t}).Allow
}

func parseZone(name string) (string, error) {
	if strings.TrimSpace(name) == "" {
		return "", fault.Field1("zone", "is empty")
	}
	z, err := zone.Canonical(name)
	if err != nil {
		return "", fault.Field1("zone", "%q is no domain name", name)
	}
	return z, nil
}

func parseID(what, s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		return 0, fault.Field1(what, "%q is no id", s)
	}
	return n, nil
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func warningsOf(ws []zone.Warning) []*mcnsv1.Warning {
	var out []*mcnsv1.Warning
	for _, w := range ws {
		out = append(out, &mcnsv1.Warning{Code: w.Code, Name: w.Name, Type: w.Type, Text: w.Text})
	}
	return out
}

func zoneOf(c *zone.Compiled) *mcnsv1.Zone {
	z := c.Zone
	return &mcnsv1.Zone{Name: zone.Plain(z.Name), Serial: z.Serial, Mname: zone.Plain(z.MName), Rname: zone.Plain(z.RName), Refresh: z.Refresh,
		Retry: z.Retry, Expire: z.Expire, Minimum: z.Minimum, DefaultTtl: z.DefaultTTL, Records: uint32(c.Count), ChangedAt: stamp(z.Changed)} //nolint:gosec // bounded
}

func recordOf(apex string, r zone.Record) *mcnsv1.Record {
	return &mcnsv1.Record{Id: strconv.FormatInt(r.ID, 10), Zone: zone.Plain(apex), Name: zone.Relative(r.Name, apex), Type: zone.TypeName(r.Type),
		Ttl: r.TTL, Value: r.Text, Owner: r.Owner, Note: r.Note, ChangedAt: stamp(r.Changed)}
}
