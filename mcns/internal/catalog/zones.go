package catalog

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/miekg/dns"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"

	"metacircular.net/mcns/internal/store"
	"metacircular.net/mcns/internal/zone"
)

// NewZone is a request to make a zone.
type NewZone struct {
	Name                         string   // canonical
	NameServers                  []string // canonical
	Addresses                    []netip.Addr
	RName                        string // canonical, "" = hostmaster.<zone>
	DefaultTTL                   uint32
	Actor, Source, Reason, Owner string
}

// CreateZone makes a zone. Exists if there is one of that name.
func (c *Catalog) CreateZone(ctx context.Context, n NewZone) (*zone.Zone, []zone.Warning, error) {
	if err := c.Down(); err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if have := c.view.Load().Get(n.Name); have != nil {
		return have.Zone, nil, fault.New(fault.Exists, "zone %s is there already, serial %d", zone.Plain(n.Name), have.SOA.Serial).
			WithNext("mcns zone show %s", zone.Plain(n.Name))
	}
	now := c.now()
	z := &zone.Zone{Name: n.Name, MName: n.NameServers[0], RName: n.RName, Refresh: zone.DefaultRefresh, Retry: zone.DefaultRetry,
		Expire: zone.DefaultExpire, Minimum: zone.DefaultMinimum, DefaultTTL: n.DefaultTTL, Changed: now,
		Serial: zone.NextSerial(c.gone[n.Name], now)}
	if z.RName == "" {
		z.RName = "hostmaster." + n.Name
		if n.Name == "." {
			z.RName = "hostmaster."
		}
	}
	if z.DefaultTTL == 0 {
		z.DefaultTTL = zone.DefaultTTL
	}
	add := func(name string, t uint16, text string) {
		z.Records = append(z.Records, zone.Record{Name: name, Type: t, TTL: z.DefaultTTL, Text: text, Owner: n.Owner, Changed: now})
	}
	for _, ns := range n.NameServers {
		add(n.Name, dns.TypeNS, ns)
		if !zone.Below(ns, n.Name) {
			continue
		}
		for _, a := range n.Addresses {
			if a.Is4() {
				add(ns, dns.TypeA, a.String())
			} else {
				add(ns, dns.TypeAAAA, a.String())
			}
		}
	}
	cz, warnings, err := zone.Compile(z)
	if err != nil {
		return nil, nil, err
	}
	set := store.ChangeSet{Group: newGroup(), Time: now, Actor: n.Actor, Source: n.Source, Reason: n.Reason, Zone: z.Name,
		Serial: z.Serial, Changes: diff(z.With(nil), z)}
	var id int64
	ids := make([]int64, len(z.Records))
	if err := c.db.Write(ctx, func(tx *db.Tx) (err error) {
		z.ID = 0
		if id, err = store.PutZone(tx, z); err != nil {
			return err
		}
		for i, r := range z.Records {
			r.ID = 0
			if ids[i], err = store.PutRecord(tx, id, r); err != nil {
				return err
			}
		}
		_, err = store.PutChangeSet(tx, set)
		return err
	}); err != nil {
		return nil, nil, fmt.Errorf("create zone: %w", err)
	}
	z.ID = id
	for i := range z.Records {
		z.Records[i].ID = ids[i]
	}
	delete(c.gone, z.Name)
	if err := c.publish(c.view.Load().With(cz)); err != nil {
		c.log.Error("the snapshot file could not be written; the zone is committed and served", log.Err(err))
	}
	return z, warnings, nil
}

// DeleteZone removes a zone and says how many records went with it.
func (c *Catalog) DeleteZone(ctx context.Context, name, actor, source, reason string) (int, error) {
	if err := c.Down(); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cz := c.view.Load().Get(name)
	if cz == nil {
		return 0, noZone(name)
	}
	z := cz.Zone
	set := store.ChangeSet{Group: newGroup(), Time: c.now(), Actor: actor, Source: source, Reason: reason, Zone: name,
		SerialFrom: z.Serial, Serial: z.Serial, Changes: diff(z, z.With(nil))}
	if err := c.db.Write(ctx, func(tx *db.Tx) error {
		if err := store.DeleteZone(tx, z.ID); err != nil {
			return err
		}
		_, err := store.PutChangeSet(tx, set)
		return err
	}); err != nil {
		return 0, fmt.Errorf("delete zone: %w", err)
	}
	c.gone[name] = z.Serial
	if err := c.publish(c.view.Load().Without(name)); err != nil {
		c.log.Error("the snapshot file could not be written; the zone is gone", log.Err(err))
	}
	return len(z.Records), nil
}

// Zone returns a served zone, or NotFound.
func (c *Catalog) Zone(name string) (*zone.Compiled, error) {
	if cz := c.view.Load().Get(name); cz != nil {
		return cz, nil
	}
	return nil, noZone(name)
}

// Changes lists change sets before an id, newest first.
func (c *Catalog) Changes(ctx context.Context, zoneName string, before int64, limit int) (out []store.ChangeSet, err error) {
	d, err := c.Database()
	if err != nil {
		return nil, err
	}
	err = d.Read(ctx, func(v *db.View) error {
		out, err = store.ChangeSets(v, zoneName, before, limit)
		return err
	})
	return out, err
}

// Change returns one change set.
func (c *Catalog) Change(ctx context.Context, id int64) (out store.ChangeSet, err error) {
	d, err := c.Database()
	if err != nil {
		return out, err
	}
	err = d.Read(ctx, func(v *db.View) error {
		out, err = store.GetChangeSet(v, id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return out, fault.New(fault.NotFound, "there is no change %d", id).WithNext("mcns changes")
	}
	return out, err
}

// Replace returns the operations that make an owner's records of a zone exactly these. Equal records of
// other owners stay theirs.
func Replace(z *zone.Zone, want []zone.Record, owner string) []Op {
	sets := map[zone.Key][]zone.Record{}
	var order []zone.Key
	for _, r := range want {
		if sets[r.Key()] == nil {
			order = append(order, r.Key())
		}
		sets[r.Key()] = append(sets[r.Key()], r)
	}
	var ops []Op
	gone := map[zone.Key]bool{}
	for _, r := range z.Records {
		if r.Owner == owner && sets[r.Key()] == nil && !gone[r.Key()] {
			gone[r.Key()] = true
			ops = append(ops, Op{Kind: Set, Zone: z.Name, Name: r.Name, Type: r.Type, Owner: owner})
		}
	}
	for _, k := range order {
		op := Op{Kind: Set, Zone: z.Name, Name: k.Name, Type: k.Type, Owner: owner, TTL: sets[k][0].TTL}
		for _, r := range sets[k] {
			op.Texts = append(op.Texts, r.Text)
		}
		ops = append(ops, op)
	}
	return ops
}
