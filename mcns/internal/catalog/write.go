package catalog

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	"github.com/miekg/dns"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"

	"metacircular.net/mcns/internal/store"
	"metacircular.net/mcns/internal/zone"
)

// Limits of one write.
const (
	MaxOps     = 100_000
	MaxRecords = 1_000_000 // in a zone
	maxReason  = 500
)

// Kind is what an operation does.
type Kind int

// The operations.
const (
	Add    Kind = iota // add one value
	Remove             // remove one value of the owner, or with no text all of the owner's of the set
	Set                // make the owner's values of the set exactly these
	Change             // give the record ID another value, TTL or note
	Delete             // remove the record ID
)

// Op is one operation on a zone.
type Op struct {
	Kind                        Kind
	Zone                        string // canonical
	Name                        string // canonical
	Type                        uint16
	TTL                         uint32 // 0 = that of the set, or the zone's default
	Texts                       []string
	Note                        string
	ID                          int64
	Owner                       string // whose record it is or becomes
	Take                        bool   // may touch another's record; authorised by the caller
	KeepTTL, KeepText, KeepNote bool   // for Change: absent fields stay
}

// Write is a request to change zones, all or nothing.
type Write struct {
	Actor, Source, Reason string
	Ops                   []Op
	Expected              map[string]uint32           // serials the caller saw
	Edit                  map[string]func(*zone.Zone) // changes of SOA values, by zone
	DryRun                bool
	// Also runs in the same transaction, after the rows: the registry keeps its set with its records.
	Also func(tx *db.Tx) error
}

// Result is what a write did.
type Result struct {
	Sets     []store.ChangeSet // one per zone that changed
	Warnings []zone.Warning
	Records  []zone.Record // those added or changed, with ids
}

func newGroup() string { return rand.Text() }

// Apply makes a write. Nothing changed = no change set.
func (c *Catalog) Apply(ctx context.Context, w Write) (*Result, error) {
	if err := c.Down(); err != nil {
		return nil, err
	}
	if len(w.Ops) > MaxOps {
		return nil, fault.Field1("changes", "are over %d", MaxOps)
	}
	if len(w.Reason) > maxReason {
		return nil, fault.Field1("reason", "is over %d characters", maxReason)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.apply(ctx, w)
}

// draft is one zone on its way to its next state.
type draft struct {
	old, next *zone.Zone
	records   []zone.Record
	byID      map[int64]int // index in records
	ttl       map[zone.Key]uint32
	touched   bool
}

func (c *Catalog) draft(drafts map[string]*draft, name string) (*draft, error) {
	if d := drafts[name]; d != nil {
		return d, nil
	}
	cz := c.view.Load().Get(name)
	if cz == nil {
		return nil, noZone(name)
	}
	d := &draft{old: cz.Zone, records: slices.Clone(cz.Zone.Records)}
	d.index()
	drafts[name] = d
	return d, nil
}

func noZone(name string) error {
	return fault.New(fault.NotFound, "there is no zone %s", zone.Plain(name)).WithNext("mcns zone list")
}

func (d *draft) index() {
	d.byID, d.ttl = map[int64]int{}, map[zone.Key]uint32{}
	for i, r := range d.records {
		d.byID[r.ID] = i
		d.ttl[r.Key()] = r.TTL
	}
}

func (c *Catalog) apply(ctx context.Context, w Write) (*Result, error) {
	drafts := map[string]*draft{}
	for name, serial := range w.Expected {
		d, err := c.draft(drafts, name)
		if err != nil {
			return nil, err
		}
		if d.old.Serial != serial {
			return nil, fault.New(fault.Conflict, "zone %s is at serial %d, you expected %d", zone.Plain(name), d.old.Serial, serial).
				WithReason("STALE_SERIAL").WithNext("mcns changes %s", zone.Plain(name))
		}
	}
	for i, op := range w.Ops {
		d, err := c.draft(drafts, op.Zone)
		if err == nil {
			err = d.do(op)
		}
		if err != nil {
			if len(w.Ops) > 1 {
				return nil, fmt.Errorf("change %d: %w", i+1, err)
			}
			return nil, err
		}
	}
	for name := range w.Edit {
		if _, err := c.draft(drafts, name); err != nil {
			return nil, err
		}
	}
	res := &Result{}
	group, now := newGroup(), c.now()
	var compiled []*zone.Compiled
	var changed []*draft
	for _, name := range sortedKeys(drafts) {
		d := drafts[name]
		next := d.old.With(d.records)
		if edit := w.Edit[name]; edit != nil {
			edit(next)
		}
		set := store.ChangeSet{Group: group, Time: now, Actor: w.Actor, Source: w.Source, Reason: w.Reason, Zone: name,
			SerialFrom: d.old.Serial, Changes: diff(d.old, next)}
		if len(set.Changes) == 0 && !metaChanged(d.old, next) {
			continue
		}
		if len(next.Records) > MaxRecords {
			return nil, fault.New(fault.Exhausted, "a zone has at most %d records", MaxRecords)
		}
		next.Serial, next.Changed = zone.NextSerial(d.old.Serial, now), now
		if len(set.Changes) == 0 {
			next.Serial = d.old.Serial // a note is no answer: nothing to announce
		}
		set.Serial = next.Serial
		cz, warnings, err := zone.Compile(next)
		if err != nil {
			return nil, err
		}
		d.next = next
		res.Warnings = append(res.Warnings, concerning(warnings, set.Changes)...)
		res.Sets = append(res.Sets, set)
		compiled, changed = append(compiled, cz), append(changed, d)
	}
	if w.DryRun {
		return res, nil
	}
	if len(changed) == 0 && w.Also == nil {
		return res, nil
	}
	var ids []map[int]int64
	err := c.db.Write(ctx, func(tx *db.Tx) error {
		ids = make([]map[int]int64, len(changed)) // the function may run twice
		for i, d := range changed {
			var err error
			if ids[i], err = d.persist(tx); err != nil {
				return err
			}
			if res.Sets[i].ID, err = store.PutChangeSet(tx, res.Sets[i]); err != nil {
				return err
			}
		}
		if w.Also != nil {
			return w.Also(tx)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, d := range changed {
		for idx, id := range ids[i] {
			d.next.Records[idx].ID = id
			res.Records = append(res.Records, d.next.Records[idx])
		}
	}
	slices.SortFunc(res.Records, func(a, b zone.Record) int { return int(a.ID - b.ID) })
	if len(changed) > 0 {
		if err := c.publish(c.view.Load().With(compiled...)); err != nil {
			c.log.Error("the snapshot file could not be written; the change is committed and served", log.Err(err))
		}
	}
	return res, nil
}

func sortedKeys(m map[string]*draft) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// diff lists what went and what came, in order; the SOA is not in it.
func diff(old, next *zone.Zone) []store.Change {
	type k struct {
		name, text string
		t          uint16
		ttl        uint32
	}
	count := map[k]int{}
	for _, r := range next.Records {
		count[k{r.Name, r.Text, r.Type, r.TTL}]++
	}
	var out []store.Change
	line := func(op string, r zone.Record) {
		out = append(out, store.Change{Op: op, Name: r.Name, Type: r.Type, TTL: r.TTL, Text: r.Text, Owner: r.Owner})
	}
	olds, nexts := slices.Clone(old.Records), slices.Clone(next.Records)
	zone.Sort(olds)
	zone.Sort(nexts)
	had := map[k]bool{}
	for _, r := range olds {
		key := k{r.Name, r.Text, r.Type, r.TTL}
		had[key] = true
		if count[key] == 0 {
			line("-", r)
		}
	}
	for _, r := range nexts {
		if !had[k{r.Name, r.Text, r.Type, r.TTL}] {
			line("+", r)
		}
	}
	a, b := *old.SOA(), *next.SOA()
	a.Serial, b.Serial = 0, 0
	if a != b {
		out = append(out, store.Change{Op: "-", Name: old.Name, Type: dns.TypeSOA, TTL: old.DefaultTTL, Text: zone.Text(old.SOA()), Owner: "mcns"},
			store.Change{Op: "+", Name: old.Name, Type: dns.TypeSOA, TTL: next.DefaultTTL, Text: zone.Text(next.SOA()), Owner: "mcns"})
	}
	return out
}

// metaChanged reports changes of notes or owners, which no query can see.
func metaChanged(old, next *zone.Zone) bool {
	have := map[int64]zone.Record{}
	for _, r := range old.Records {
		have[r.ID] = r
	}
	for _, r := range next.Records {
		if o, ok := have[r.ID]; ok && (o.Note != r.Note || o.Owner != r.Owner) {
			return true
		}
	}
	return false
}

// persist writes the rows that differ and returns the ids of new or changed records by index.
func (d *draft) persist(tx *db.Tx) (map[int]int64, error) {
	if _, err := store.PutZone(tx, d.next); err != nil {
		return nil, err
	}
	old := map[int64]zone.Record{}
	for _, r := range d.old.Records {
		old[r.ID] = r
	}
	keep := map[int64]bool{}
	for _, r := range d.next.Records {
		keep[r.ID] = true
	}
	for id := range old {
		if !keep[id] {
			if err := store.DeleteRecord(tx, id); err != nil {
				return nil, err
			}
		}
	}
	ids := map[int]int64{}
	for i, r := range d.next.Records {
		o, ok := old[r.ID]
		if ok && r.ID != 0 && o.Text == r.Text && o.TTL == r.TTL && o.Note == r.Note && o.Owner == r.Owner {
			continue
		}
		r.Changed = d.next.Changed
		d.next.Records[i].Changed = r.Changed
		id, err := store.PutRecord(tx, d.next.ID, r)
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	return ids, nil
}

// concerning keeps the warnings about names that a write touches; `zone check` shows all.
func concerning(ws []zone.Warning, changes []store.Change) []zone.Warning {
	touched := map[string]bool{}
	for _, c := range changes {
		touched[zone.Plain(c.Name)] = true
	}
	return slices.DeleteFunc(ws, func(w zone.Warning) bool { return !touched[w.Name] })
}
