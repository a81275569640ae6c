package rpc

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/page"

	mcnsv1 "metacircular.net/mcns/api/mcns/v1"
	"metacircular.net/mcns/internal/catalog"
	"metacircular.net/mcns/internal/zone"
)

// maxImport bounds a zone file.
const maxImport = 256 << 20

type zones struct {
	mcnsv1.UnimplementedZoneServiceServer
	*Server
}

// ListZones lists the zones the caller may read something of.
func (s *zones) ListZones(ctx context.Context, r *mcnsv1.ListZonesRequest) (*mcnsv1.ListZonesResponse, error) {
	p, err := page.Parse(r.GetPageSize(), r.GetPageToken(), "zones")
	if err != nil {
		return nil, err
	}
	if err := s.decideZone(ctx, "read", ""); err != nil {
		return nil, err
	}
	c := auth.From(ctx)
	var all []*zone.Compiled
	s.Catalog.View().All(func(z *zone.Compiled) {
		if z.Apex > p.After(0) && (c.HasRole(auth.RoleAdmin) || s.Catalog.Book().Any(principal(c), "read", z.Apex).Allow) {
			all = append(all, z)
		}
	})
	slices.SortFunc(all, func(a, b *zone.Compiled) int { return strings.Compare(a.Apex, b.Apex) })
	rows, next := page.Next(p, all, func(z *zone.Compiled) []string { return []string{z.Apex} })
	res := &mcnsv1.ListZonesResponse{NextPageToken: next}
	for _, z := range rows {
		res.Zones = append(res.Zones, zoneOf(z))
	}
	return res, nil
}

// readable authorises reading a zone and returns it.
func (s *Server) readable(ctx context.Context, name string) (*zone.Compiled, error) {
	apex, err := parseZone(name)
	if err != nil {
		return nil, err
	}
	if err := s.decideZone(ctx, "read", apex); err != nil {
		return nil, err
	}
	return s.Catalog.Zone(apex)
}

// GetZone implements the contract.
func (s *zones) GetZone(ctx context.Context, r *mcnsv1.GetZoneRequest) (*mcnsv1.GetZoneResponse, error) {
	z, err := s.readable(ctx, r.GetZone())
	if err != nil {
		return nil, err
	}
	return &mcnsv1.GetZoneResponse{Zone: zoneOf(z)}, nil
}

// CheckZone implements the contract.
func (s *zones) CheckZone(ctx context.Context, r *mcnsv1.CheckZoneRequest) (*mcnsv1.CheckZoneResponse, error) {
	z, err := s.readable(ctx, r.GetZone())
	if err != nil {
		return nil, err
	}
	_, warnings, err := zone.Compile(z.Zone)
	if err != nil {
		return nil, err
	}
	return &mcnsv1.CheckZoneResponse{Warnings: warningsOf(warnings)}, nil
}

// CreateZone makes a zone: administrators only.
func (s *zones) CreateZone(ctx context.Context, r *mcnsv1.CreateZoneRequest) (*mcnsv1.CreateZoneResponse, error) {
	if err := decideAdmin(ctx, "create", r.GetName()); err != nil {
		return nil, err
	}
	name, err := parseZone(r.GetName())
	if err != nil {
		return nil, fault.Field1("name", "%q is no domain name", r.GetName())
	}
	n := catalog.NewZone{Name: name, DefaultTTL: r.GetDefaultTtl(), Actor: auth.From(ctx).String(), Source: source(ctx), Reason: r.GetReason(), Owner: "operator"}
	if n.DefaultTTL > zone.MaxTTL {
		return nil, fault.Field1("default_ttl", "must be at most %d", uint32(zone.MaxTTL))
	}
	for _, ns := range r.GetNameServers() {
		c, err := zone.Canonical(ns)
		if err != nil {
			return nil, fault.Field1("name_servers", "%q is no domain name", ns)
		}
		if !slices.Contains(n.NameServers, c) {
			n.NameServers = append(n.NameServers, c)
		}
	}
	if len(n.NameServers) == 0 {
		base := s.Platform
		if base == "" {
			base = name
		}
		n.NameServers = []string{"mcns." + base}
	}
	for _, a := range r.GetAddresses() {
		addr, err := netip.ParseAddr(a)
		if err != nil {
			return nil, fault.Field1("addresses", "%q is no address", a)
		}
		n.Addresses = append(n.Addresses, addr.Unmap())
	}
	if r.GetRname() != "" {
		if n.RName, err = zone.Canonical(strings.Replace(r.GetRname(), "@", ".", 1)); err != nil {
			return nil, fault.Field1("rname", "%q is no mailbox name", r.GetRname())
		}
	}
	_, warnings, err := s.Catalog.CreateZone(ctx, n)
	created := err == nil
	if err != nil && (!r.GetExistsOk() || !fault.Is(err, fault.Exists)) {
		return nil, err
	}
	z, err := s.Catalog.Zone(name)
	if err != nil {
		return nil, err
	}
	return &mcnsv1.CreateZoneResponse{Zone: zoneOf(z), Created: created, Warnings: warningsOf(warnings)}, nil
}

// UpdateZone changes SOA values: administrators only.
func (s *zones) UpdateZone(ctx context.Context, r *mcnsv1.UpdateZoneRequest) (*mcnsv1.UpdateZoneResponse, error) {
	if err := decideAdmin(ctx, "update", r.GetZone()); err != nil {
		return nil, err
	}
	name, err := parseZone(r.GetZone())
	if err != nil {
		return nil, err
	}
	var mname, rname string
	if r.Mname != nil {
		if mname, err = zone.Canonical(r.GetMname()); err != nil {
			return nil, fault.Field1("mname", "%q is no domain name", r.GetMname())
		}
	}
	if r.Rname != nil {
		if rname, err = zone.Canonical(strings.Replace(r.GetRname(), "@", ".", 1)); err != nil {
			return nil, fault.Field1("rname", "%q is no mailbox name", r.GetRname())
		}
	}
	for field, v := range map[string]uint32{"refresh": r.GetRefresh(), "retry": r.GetRetry(), "expire": r.GetExpire(), "minimum": r.GetMinimum(), "default_ttl": r.GetDefaultTtl()} {
		if v > zone.MaxTTL {
			return nil, fault.Field1(field, "must be at most %d", uint32(zone.MaxTTL))
		}
	}
	w := catalog.Write{Actor: auth.From(ctx).String(), Source: source(ctx), Reason: r.GetReason(), Edit: map[string]func(*zone.Zone){name: func(z *zone.Zone) {
		if mname != "" {
			z.MName = mname
		}
		if rname != "" {
			z.RName = rname
		}
		for p, v := range map[*uint32]*uint32{&z.Refresh: r.Refresh, &z.Retry: r.Retry, &z.Expire: r.Expire, &z.Minimum: r.Minimum, &z.DefaultTTL: r.DefaultTtl} {
			if v != nil {
				*p = *v
			}
		}
	}}}
	if r.ExpectedSerial != nil {
		w.Expected = map[string]uint32{name: r.GetExpectedSerial()}
	}
	if _, err := s.Catalog.Apply(ctx, w); err != nil {
		return nil, err
	}
	z, err := s.Catalog.Zone(name)
	if err != nil {
		return nil, err
	}
	return &mcnsv1.UpdateZoneResponse{Zone: zoneOf(z)}, nil
}

// DeleteZone removes a zone: administrators only, with the name typed again.
func (s *zones) DeleteZone(ctx context.Context, r *mcnsv1.DeleteZoneRequest) (*mcnsv1.DeleteZoneResponse, error) {
	if err := decideAdmin(ctx, "delete", r.GetZone()); err != nil {
		return nil, err
	}
	name, err := parseZone(r.GetZone())
	if err != nil {
		return nil, err
	}
	if again, err := zone.Canonical(r.GetConfirm()); err != nil || again != name {
		return nil, fault.Field1("confirm", "must repeat the zone's name: all its records go")
	}
	n, err := s.Catalog.DeleteZone(ctx, name, auth.From(ctx).String(), source(ctx), r.GetReason())
	if err != nil {
		return nil, err
	}
	return &mcnsv1.DeleteZoneResponse{Records: uint32(n)}, nil //nolint:gosec // bounded
}

// ImportZone replaces the operator's records by those of a zone file: administrators only.
func (s *zones) ImportZone(stream grpc.ClientStreamingServer[mcnsv1.ImportZoneRequest, mcnsv1.ImportZoneResponse]) error {
	ctx := stream.Context()
	var first *mcnsv1.ImportZoneRequest
	var text strings.Builder
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if first == nil {
			first = m
			if err := decideAdmin(ctx, "update", m.GetZone()); err != nil {
				return err
			}
		}
		if text.Len()+len(m.GetText()) > maxImport {
			return fault.New(fault.Exhausted, "a zone file has at most %d bytes", maxImport)
		}
		text.Write(m.GetText())
	}
	if first == nil {
		return fault.Field1("zone", "is empty")
	}
	apex, err := parseZone(first.GetZone())
	if err != nil {
		return err
	}
	z, err := s.Catalog.Zone(apex)
	if err != nil {
		return err
	}
	imp, err := zone.ParseFile(strings.NewReader(text.String()), apex)
	if err != nil {
		return err
	}
	w := catalog.Write{Actor: auth.From(ctx).String(), Source: "import", Reason: first.GetReason(), DryRun: first.GetDryRun(),
		Ops: catalog.Replace(z.Zone, imp.Records, "operator")}
	if first.ExpectedSerial != nil {
		w.Expected = map[string]uint32{apex: first.GetExpectedSerial()}
	}
	res, err := s.Catalog.Apply(ctx, w)
	if err != nil {
		return err
	}
	out := &mcnsv1.ImportZoneResponse{Warnings: append(warningsOf(imp.Warnings), warningsOf(res.Warnings)...)}
	for _, set := range res.Sets {
		for _, c := range set.Changes {
			if c.Op == "+" {
				out.Added++
			} else {
				out.Removed++
			}
		}
		out.Diff = append(out.Diff, diffLines(set)...)
	}
	if z, err = s.Catalog.Zone(apex); err != nil {
		return err
	}
	out.Zone = zoneOf(z)
	return stream.SendAndClose(out)
}

// ExportZone writes the zone as a file. Who may read only some names gets only those.
func (s *zones) ExportZone(r *mcnsv1.ExportZoneRequest, stream grpc.ServerStreamingServer[mcnsv1.ExportZoneResponse]) error {
	z, err := s.readable(stream.Context(), r.GetZone())
	if err != nil {
		return err
	}
	c := auth.From(stream.Context())
	w := &exporter{stream: stream}
	if err := zone.WriteFile(w, z.Zone, func(rec zone.Record) bool { return s.visible(c, z.Apex, rec.Name, rec.Type) }); err != nil {
		return err
	}
	return w.flush()
}

// exporter sends text in pieces of 32 KiB.
type exporter struct {
	stream grpc.ServerStreamingServer[mcnsv1.ExportZoneResponse]
	buf    []byte
}

func (e *exporter) Write(p []byte) (int, error) {
	e.buf = append(e.buf, p...)
	if len(e.buf) >= 32<<10 {
		return len(p), e.flush()
	}
	return len(p), nil
}

func (e *exporter) flush() error {
	if len(e.buf) == 0 {
		return nil
	}
	err := e.stream.Send(&mcnsv1.ExportZoneResponse{Text: e.buf})
	e.buf = nil
	return err
}
