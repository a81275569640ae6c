package rpc

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/page"

	mcnsv1 "metacircular.net/mcns/api/mcns/v1"
	"metacircular.net/mcns/internal/policy"
	"metacircular.net/mcns/internal/store"
	"metacircular.net/mcns/internal/zone"
)

type access struct {
	mcnsv1.UnimplementedAccessServiceServer
	*Server
}

func grantOf(g policy.Grant) *mcnsv1.Grant {
	return &mcnsv1.Grant{Id: strconv.FormatInt(g.ID, 10), Principal: g.Principal, Zone: zone.Plain(g.Zone), NameGlob: g.Glob, Types: g.Types, Ops: g.Ops}
}

// ListGrants implements the contract.
func (s *access) ListGrants(_ context.Context, r *mcnsv1.ListGrantsRequest) (*mcnsv1.ListGrantsResponse, error) {
	p, err := page.Parse(r.GetPageSize(), r.GetPageToken(), "grants", r.GetPrincipal(), r.GetZone())
	if err != nil {
		return nil, err
	}
	apex := ""
	if r.GetZone() != "" {
		if apex, err = parseZone(r.GetZone()); err != nil {
			return nil, err
		}
	}
	after, _ := strconv.ParseInt(cmp.Or(p.After(0), "0"), 10, 64) // our own token
	var rows []policy.Grant
	for _, g := range s.Catalog.Book().Grants {
		if g.ID > after && (r.GetPrincipal() == "" || g.Principal == r.GetPrincipal()) && (apex == "" || g.Zone == apex) {
			rows = append(rows, g)
		}
	}
	rows, next := page.Next(p, rows, func(g policy.Grant) []string { return []string{strconv.FormatInt(g.ID, 10)} })
	res := &mcnsv1.ListGrantsResponse{NextPageToken: next}
	for _, g := range rows {
		res.Grants = append(res.Grants, grantOf(g))
	}
	return res, nil
}

// CreateGrant implements the contract.
func (s *access) CreateGrant(ctx context.Context, r *mcnsv1.CreateGrantRequest) (*mcnsv1.CreateGrantResponse, error) {
	in := r.GetGrant()
	g, err := policy.Grant{Principal: in.GetPrincipal(), Zone: in.GetZone(), Glob: in.GetNameGlob(),
		Types: slices.Clone(in.GetTypes()), Ops: slices.Clone(in.GetOps())}.Normal()
	if err != nil {
		return nil, err
	}
	var created bool
	if err := s.Catalog.ChangeGrants(ctx, func(tx *db.Tx) (err error) {
		g.ID, created, err = store.PutGrant(tx, g)
		return err
	}); err != nil {
		return nil, err
	}
	return &mcnsv1.CreateGrantResponse{Grant: grantOf(g), Created: created}, nil
}

// DeleteGrant implements the contract.
func (s *access) DeleteGrant(ctx context.Context, r *mcnsv1.DeleteGrantRequest) (*mcnsv1.DeleteGrantResponse, error) {
	id, err := parseID("id", r.GetId())
	if err != nil {
		return nil, err
	}
	var n int64
	if err := s.Catalog.ChangeGrants(ctx, func(tx *db.Tx) (err error) {
		n, err = store.DeleteGrant(tx, id)
		return err
	}); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fault.New(fault.NotFound, "there is no grant %d", id).WithNext("mcns grant list")
	}
	return &mcnsv1.DeleteGrantResponse{}, nil
}

// DeleteGrantsOf implements the contract.
func (s *access) DeleteGrantsOf(ctx context.Context, r *mcnsv1.DeleteGrantsOfRequest) (*mcnsv1.DeleteGrantsOfResponse, error) {
	if !strings.Contains(r.GetPrincipal(), ":") {
		return nil, fault.Field1("principal", "%q is not account:NAME or user:NAME", r.GetPrincipal())
	}
	var n int64
	if err := s.Catalog.ChangeGrants(ctx, func(tx *db.Tx) (err error) {
		n, err = store.DeleteGrantsOf(tx, r.GetPrincipal())
		return err
	}); err != nil {
		return nil, err
	}
	return &mcnsv1.DeleteGrantsOfResponse{Deleted: uint32(n)}, nil //nolint:gosec // a count
}

// TestGrant implements the contract.
func (s *access) TestGrant(_ context.Context, r *mcnsv1.TestGrantRequest) (*mcnsv1.TestGrantResponse, error) {
	apex, err := parseZone(r.GetZone())
	if err != nil {
		return nil, err
	}
	name, err := zone.Absolute(r.GetName(), apex)
	if err != nil {
		return nil, err
	}
	var t uint16
	if r.GetType() != "" {
		if t, err = zone.ParseType(r.GetType()); err != nil {
			return nil, err
		}
	}
	v := s.Catalog.Book().Decide(policy.Request{Principal: r.GetPrincipal(), Op: r.GetOp(), Zone: apex, Name: name, Type: t})
	res := &mcnsv1.TestGrantResponse{Allowed: v.Allow, Why: v.Why}
	if v.Allow {
		res.Grant = grantOf(v.Grant)
	}
	return res, nil
}
