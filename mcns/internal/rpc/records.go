package rpc

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/page"

	mcnsv1 "metacircular.net/mcns/api/mcns/v1"
	"metacircular.net/mcns/internal/catalog"
	"metacircular.net/mcns/internal/store"
	"metacircular.net/mcns/internal/zone"
)

type recordService struct {
	mcnsv1.UnimplementedRecordServiceServer
	*Server
}

// ListRecords lists what the caller may read of a zone, by name and type.
func (s *recordService) ListRecords(ctx context.Context, r *mcnsv1.ListRecordsRequest) (*mcnsv1.ListRecordsResponse, error) {
	p, err := page.Parse(r.GetPageSize(), r.GetPageToken(), "records", r.GetZone(), r.GetName(), r.GetType(), r.GetOwner(), r.GetValue())
	if err != nil {
		return nil, err
	}
	z, err := s.readable(ctx, r.GetZone())
	if err != nil {
		return nil, err
	}
	var name string
	var t uint16
	if r.GetName() != "" {
		if name, err = zone.Absolute(r.GetName(), z.Apex); err != nil {
			return nil, err
		}
	}
	if r.GetType() != "" {
		if t, err = zone.ParseType(r.GetType()); err != nil {
			return nil, err
		}
	}
	c := auth.From(ctx)
	var rows []zone.Record
	for _, rec := range z.Zone.Records {
		if name != "" && rec.Name != name || t != 0 && rec.Type != t || r.GetOwner() != "" && rec.Owner != r.GetOwner() ||
			!strings.Contains(rec.Text, r.GetValue()) || !s.visible(c, z.Apex, rec.Name, rec.Type) {
			continue
		}
		rows = append(rows, rec)
	}
	zone.Sort(rows)
	if !p.First() { // go on after the last id seen
		after, err := strconv.ParseInt(p.After(0), 10, 64)
		if err != nil {
			return nil, fault.Field1("page_token", "is not a token of this list")
		}
		if i := slices.IndexFunc(rows, func(rec zone.Record) bool { return rec.ID == after }); i >= 0 {
			rows = rows[i+1:]
		} else {
			return nil, fault.New(fault.Conflict, "the list changed while it was read").WithNext("ask for the first page again")
		}
	}
	rows, next := page.Next(p, rows, func(rec zone.Record) []string { return []string{strconv.FormatInt(rec.ID, 10)} })
	res := &mcnsv1.ListRecordsResponse{NextPageToken: next, Serial: z.SOA.Serial}
	for _, rec := range rows {
		res.Records = append(res.Records, recordOf(z.Apex, rec))
	}
	return res, nil
}

// find returns a record of a zone by id; the decision for op on its name is recorded first.
func (s *Server) find(ctx context.Context, op, zoneName, id string) (*zone.Compiled, zone.Record, error) {
	apex, err := parseZone(zoneName)
	if err != nil {
		return nil, zone.Record{}, err
	}
	n, err := parseID("id", id)
	if err != nil {
		return nil, zone.Record{}, err
	}
	z := s.Catalog.View().Get(apex)
	if z != nil {
		for _, rec := range z.Zone.Records {
			if rec.ID == n {
				return z, rec, s.decide(ctx, op, apex, rec.Name, rec.Type)
			}
		}
	}
	if err := s.decideZone(ctx, op, apex); err != nil {
		return nil, zone.Record{}, err
	}
	if z == nil {
		_, err := s.Catalog.Zone(apex)
		return nil, zone.Record{}, err
	}
	return nil, zone.Record{}, fault.New(fault.NotFound, "there is no record %d in %s", n, zone.Plain(apex)).WithNext("mcns record list %s", zone.Plain(apex))
}

// GetRecord implements the contract.
func (s *recordService) GetRecord(ctx context.Context, r *mcnsv1.GetRecordRequest) (*mcnsv1.GetRecordResponse, error) {
	z, rec, err := s.find(ctx, "read", r.GetZone(), r.GetId())
	if err != nil {
		return nil, err
	}
	return &mcnsv1.GetRecordResponse{Record: recordOf(z.Apex, rec)}, nil
}

// place parses and authorises (zone, name, type).
func (s *Server) place(ctx context.Context, op, zoneName, name, typeName string) (apex, abs string, t uint16, err error) {
	if apex, err = parseZone(zoneName); err != nil {
		return "", "", 0, err
	}
	if abs, err = zone.Absolute(name, apex); err != nil {
		return "", "", 0, err
	}
	if t, err = zone.ParseType(typeName); err != nil {
		return "", "", 0, err
	}
	return apex, abs, t, s.decide(ctx, op, apex, abs, t)
}

func (s *Server) write(ctx context.Context, reason, apex string, serial *uint32, ops ...catalog.Op) (*catalog.Result, error) {
	w := catalog.Write{Actor: auth.From(ctx).String(), Source: source(ctx), Reason: reason, Ops: ops}
	if serial != nil {
		w.Expected = map[string]uint32{apex: *serial}
	}
	return s.Catalog.Apply(ctx, w)
}

func (s *Server) serial(apex string) uint32 {
	if z := s.Catalog.View().Get(apex); z != nil {
		return z.SOA.Serial
	}
	return 0
}

// CreateRecord implements the contract.
func (s *recordService) CreateRecord(ctx context.Context, r *mcnsv1.CreateRecordRequest) (*mcnsv1.CreateRecordResponse, error) {
	apex, name, t, err := s.place(ctx, "create", r.GetZone(), r.GetName(), r.GetType())
	if err != nil {
		return nil, err
	}
	res, err := s.write(ctx, r.GetReason(), apex, r.ExpectedSerial, catalog.Op{Kind: catalog.Add, Zone: apex, Name: name, Type: t,
		TTL: r.GetTtl(), Texts: []string{r.GetValue()}, Note: r.GetNote(), Owner: owner(auth.From(ctx))})
	if err != nil {
		return nil, err
	}
	out := &mcnsv1.CreateRecordResponse{Serial: s.serial(apex), Warnings: warningsOf(res.Warnings)}
	for _, rec := range res.Records { // ids grow: the new one is last
		out.Record = recordOf(apex, rec)
	}
	return out, nil
}

// takes authorises taking over another's record.
func (s *Server) takes(ctx context.Context, take bool, apex string, rec zone.Record) error {
	if !take {
		return nil
	}
	return s.decide(ctx, "take", apex, rec.Name, rec.Type)
}

// UpdateRecord implements the contract.
func (s *recordService) UpdateRecord(ctx context.Context, r *mcnsv1.UpdateRecordRequest) (*mcnsv1.UpdateRecordResponse, error) {
	z, rec, err := s.find(ctx, "update", r.GetZone(), r.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.takes(ctx, r.GetTake(), z.Apex, rec); err != nil {
		return nil, err
	}
	res, err := s.write(ctx, r.GetReason(), z.Apex, r.ExpectedSerial, catalog.Op{Kind: catalog.Change, Zone: z.Apex, ID: rec.ID, TTL: r.GetTtl(),
		Texts: []string{r.GetValue()}, Note: r.GetNote(), Owner: owner(auth.From(ctx)), Take: r.GetTake(),
		KeepTTL: r.Ttl == nil, KeepText: r.Value == nil, KeepNote: r.Note == nil})
	if err != nil {
		return nil, err
	}
	out := &mcnsv1.UpdateRecordResponse{Serial: s.serial(z.Apex), Warnings: warningsOf(res.Warnings)}
	if after, err := s.Catalog.Zone(z.Apex); err == nil {
		for _, x := range after.Zone.Records {
			if x.ID == rec.ID {
				out.Record = recordOf(z.Apex, x)
			}
		}
	}
	return out, nil
}

// DeleteRecord implements the contract.
func (s *recordService) DeleteRecord(ctx context.Context, r *mcnsv1.DeleteRecordRequest) (*mcnsv1.DeleteRecordResponse, error) {
	z, rec, err := s.find(ctx, "delete", r.GetZone(), r.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.takes(ctx, r.GetTake(), z.Apex, rec); err != nil {
		return nil, err
	}
	if _, err := s.write(ctx, r.GetReason(), z.Apex, r.ExpectedSerial, catalog.Op{Kind: catalog.Delete, Zone: z.Apex, ID: rec.ID,
		Owner: owner(auth.From(ctx)), Take: r.GetTake()}); err != nil {
		return nil, err
	}
	return &mcnsv1.DeleteRecordResponse{Serial: s.serial(z.Apex)}, nil
}

// SetRRset implements the contract.
func (s *recordService) SetRRset(ctx context.Context, r *mcnsv1.SetRRsetRequest) (*mcnsv1.SetRRsetResponse, error) {
	apex, name, t, err := s.place(ctx, "update", r.GetZone(), r.GetName(), r.GetType())
	if err != nil {
		return nil, err
	}
	res, err := s.write(ctx, r.GetReason(), apex, r.ExpectedSerial, catalog.Op{Kind: catalog.Set, Zone: apex, Name: name, Type: t,
		TTL: r.GetTtl(), Texts: r.GetValues(), Owner: owner(auth.From(ctx))})
	if err != nil {
		return nil, err
	}
	out := &mcnsv1.SetRRsetResponse{Serial: s.serial(apex), Warnings: warningsOf(res.Warnings)}
	if z := s.Catalog.View().Get(apex); z != nil {
		for _, rec := range z.Zone.Records {
			if rec.Name == name && rec.Type == t {
				out.Records = append(out.Records, recordOf(apex, rec))
			}
		}
	}
	return out, nil
}

// ApplyChanges implements the contract: every change is authorised before anything is done.
func (s *recordService) ApplyChanges(ctx context.Context, r *mcnsv1.ApplyChangesRequest) (*mcnsv1.ApplyChangesResponse, error) {
	if len(r.GetChanges()) == 0 {
		return nil, fault.Field1("changes", "is empty")
	}
	w := catalog.Write{Actor: auth.From(ctx).String(), Source: source(ctx), Reason: r.GetReason(), DryRun: r.GetDryRun(), Expected: map[string]uint32{}}
	for i, c := range r.GetChanges() {
		kind, op, ok := catalog.Add, "create", true
		switch c.GetOp() {
		case mcnsv1.Change_OP_ADD:
		case mcnsv1.Change_OP_REMOVE:
			kind, op = catalog.Remove, "delete"
		case mcnsv1.Change_OP_SET:
			kind, op = catalog.Set, "update"
		default:
			ok = false
		}
		if !ok {
			return nil, fault.Field1(fmt.Sprintf("changes[%d].op", i), "is not given")
		}
		apex, name, t, err := s.place(ctx, op, c.GetZone(), c.GetName(), c.GetType())
		if err != nil {
			return nil, fmt.Errorf("change %d: %w", i+1, err)
		}
		w.Ops = append(w.Ops, catalog.Op{Kind: kind, Zone: apex, Name: name, Type: t, TTL: c.GetTtl(), Texts: c.GetValues(), Owner: owner(auth.From(ctx))})
	}
	for _, e := range r.GetExpectedSerials() {
		apex, err := parseZone(e.GetZone())
		if err != nil {
			return nil, err
		}
		w.Expected[apex] = e.GetSerial()
	}
	res, err := s.Catalog.Apply(ctx, w)
	if err != nil {
		return nil, err
	}
	out := &mcnsv1.ApplyChangesResponse{Warnings: warningsOf(res.Warnings)}
	for _, set := range res.Sets {
		out.ChangeSets = append(out.ChangeSets, changeSetOf(set, true))
	}
	return out, nil
}

func diffLines(set store.ChangeSet) []string {
	var out []string
	for _, c := range set.Changes {
		out = append(out, fmt.Sprintf("%s %s %d %s %s", c.Op, zone.Relative(c.Name, set.Zone), c.TTL, zone.TypeName(c.Type), c.Text))
	}
	return out
}

func changeSetOf(c store.ChangeSet, withDiff bool) *mcnsv1.ChangeSet {
	out := &mcnsv1.ChangeSet{GroupId: c.Group, Zone: zone.Plain(c.Zone), Time: stamp(c.Time), Actor: c.Actor, Source: c.Source,
		Reason: c.Reason, SerialFrom: c.SerialFrom, SerialTo: c.Serial}
	if c.ID > 0 {
		out.Id = strconv.FormatInt(c.ID, 10)
	}
	if withDiff {
		out.Diff = diffLines(c)
	}
	return out
}

type changes struct {
	mcnsv1.UnimplementedChangeServiceServer
	*Server
}

// ListChanges lists change sets, newest first. Whoever reads only part of a zone sees that it changed, not what.
func (s *changes) ListChanges(ctx context.Context, r *mcnsv1.ListChangesRequest) (*mcnsv1.ListChangesResponse, error) {
	p, err := page.Parse(r.GetPageSize(), r.GetPageToken(), "changes", r.GetZone())
	if err != nil {
		return nil, err
	}
	apex := ""
	if r.GetZone() != "" {
		if apex, err = parseZone(r.GetZone()); err != nil {
			return nil, err
		}
		if err := s.decideZone(ctx, "read", apex); err != nil {
			return nil, err
		}
	} else if err := decideAdmin(ctx, "read", "all changes"); err != nil {
		return nil, err
	}
	before := int64(0)
	if !p.First() {
		if before, err = strconv.ParseInt(p.After(0), 10, 64); err != nil {
			return nil, fault.Field1("page_token", "is not a token of this list")
		}
	}
	sets, err := s.Catalog.Changes(ctx, apex, before, p.Limit())
	if err != nil {
		return nil, err
	}
	sets, next := page.Next(p, sets, func(c store.ChangeSet) []string { return []string{strconv.FormatInt(c.ID, 10)} })
	res := &mcnsv1.ListChangesResponse{NextPageToken: next}
	for _, c := range sets {
		res.Changes = append(res.Changes, changeSetOf(c, false))
	}
	return res, nil
}

// GetChange shows one change set with its diff: administrators only, since it may name what a grant hides.
func (s *changes) GetChange(ctx context.Context, r *mcnsv1.GetChangeRequest) (*mcnsv1.GetChangeResponse, error) {
	if err := decideAdmin(ctx, "read", "change "+r.GetId()); err != nil {
		return nil, err
	}
	id, err := parseID("id", r.GetId())
	if err != nil {
		return nil, err
	}
	c, err := s.Catalog.Change(ctx, id)
	if err != nil {
		return nil, err
	}
	return &mcnsv1.GetChangeResponse{Change: changeSetOf(c, true)}, nil
}
