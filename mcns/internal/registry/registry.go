package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"

	"metacircular.net/mcns/internal/catalog"
	"metacircular.net/mcns/internal/policy"
	"metacircular.net/mcns/internal/store"
	"metacircular.net/mcns/internal/zone"
)

// sweepEvery is how often lapsed leases are looked for.
const sweepEvery = 5 * time.Second

// Config describes a Registry.
type Config struct {
	Catalog *catalog.Catalog
	TTL     uint32
	Lease   time.Duration
	Clock   clock.Clock
	Log     *slog.Logger
}

// Registry keeps the sets. Safe for concurrent use.
type Registry struct {
	cfg Config
	now func() time.Time
	log *slog.Logger

	mu   sync.Mutex // one change at a time; guards sets
	sets map[id]*Set
}

type id struct{ zone, owner string }

// New returns an empty registry.
func New(cfg Config) *Registry {
	if cfg.TTL == 0 {
		cfg.TTL = 60
	}
	if cfg.Lease <= 0 {
		cfg.Lease = 90 * time.Second
	}
	return &Registry{cfg: cfg, now: clock.Or(cfg.Clock).Now, log: log.Or(cfg.Log), sets: map[id]*Set{}}
}

// Load reads the sets from the database; each gets a full fresh term.
func (r *Registry) Load(ctx context.Context, d *db.DB) error {
	var rows []store.Registration
	if err := d.Read(ctx, func(v *db.View) (err error) {
		rows, err = store.Registrations(v)
		return err
	}); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, row := range rows {
		s := &Set{}
		if err := json.Unmarshal([]byte(row.Body), s); err != nil {
			return fmt.Errorf("registration of %s: %w", row.Owner, err)
		}
		s.Zone, s.Owner, s.Epoch, s.Generation, s.Lease, s.Keep = row.Zone, row.Owner, row.Epoch, row.Generation, row.Lease, row.OnExpiry == "keep"
		s.expires = r.now().Add(s.Lease)
		r.sets[id{s.Zone, s.Owner}] = s
	}
	return nil
}

// Outcome is what a Sync did.
type Outcome struct {
	Changed   bool
	Serial    uint32
	Expires   time.Time
	Conflicts []Conflict
}

func stale(s *Set, epoch, generation uint64) error {
	return fault.New(fault.Conflict, "%s has stated epoch %d, generation %d; this is epoch %d, generation %d", s.Owner, s.Epoch, s.Generation, epoch, generation).
		WithReason("STALE_GENERATION").WithNext("state the set anew with a greater generation")
}

// Sync takes an owner's full set.
func (r *Registry) Sync(ctx context.Context, s *Set, reason string) (Outcome, error) {
	if err := s.normal(); err != nil {
		return Outcome{}, err
	}
	if s.Lease <= 0 {
		s.Lease = r.cfg.Lease
	}
	s.Lease = min(max(s.Lease, 10*time.Second), 24*time.Hour).Truncate(time.Second)
	if _, err := r.cfg.Catalog.Zone(s.Zone); err != nil {
		return Outcome{}, err
	}
	body, err := s.body()
	if err != nil {
		return Outcome{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := id{s.Zone, s.Owner}
	if old := r.sets[key]; old != nil {
		if s.Epoch < old.Epoch || s.Epoch == old.Epoch && s.Generation < old.Generation {
			return Outcome{}, stale(old, s.Epoch, s.Generation)
		}
		if s.Epoch == old.Epoch && s.Generation == old.Generation {
			was, err := old.body()
			if err != nil {
				return Outcome{}, err
			}
			if was != body {
				return Outcome{}, stale(old, s.Epoch, s.Generation)
			}
		}
	}
	s.expires = r.now().Add(s.Lease)
	expiry := "remove"
	if s.Keep {
		expiry = "keep"
	}
	next := r.with(key, s)
	res, conflicts, err := r.publish(ctx, s.Zone, next, s.Owner, reason, func(tx *db.Tx) error {
		return store.PutRegistration(tx, store.Registration{Zone: s.Zone, Owner: s.Owner, Epoch: s.Epoch, Generation: s.Generation,
			Lease: s.Lease, OnExpiry: expiry, Body: body})
	})
	if err != nil {
		return Outcome{}, err
	}
	r.sets = next
	out := Outcome{Changed: len(res.Sets) > 0, Expires: s.expires, Conflicts: conflicts[s.Owner]}
	if cz, err := r.cfg.Catalog.Zone(s.Zone); err == nil {
		out.Serial = cz.SOA.Serial
	}
	return out, nil
}

// with returns the sets with one replaced, or removed if s is nil.
func (r *Registry) with(key id, s *Set) map[id]*Set {
	next := make(map[id]*Set, len(r.sets)+1)
	for k, v := range r.sets {
		next[k] = v
	}
	if s == nil {
		delete(next, key)
	} else {
		next[key] = s
	}
	return next
}

// Renew extends an owner's lease. It writes nothing.
func (r *Registry) Renew(zoneName, owner string, epoch, generation uint64) (time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sets[id{zoneName, owner}]
	if s == nil {
		return time.Time{}, fault.New(fault.NotFound, "nothing of %s is registered in %s", owner, zone.Plain(zoneName)).WithReason("NO_SET").
			WithNext("state the set with Sync")
	}
	if epoch != s.Epoch || generation != s.Generation {
		return time.Time{}, stale(s, epoch, generation)
	}
	s.expires = r.now().Add(s.Lease)
	return s.expires, nil
}

// Deregister removes an owner's set with its names and says how many records went.
func (r *Registry) Deregister(ctx context.Context, zoneName, owner, actor, reason string) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.remove(ctx, id{zoneName, owner}, actor, reason)
}

func (r *Registry) remove(ctx context.Context, key id, actor, reason string) (int, error) {
	if r.sets[key] == nil {
		return 0, fault.New(fault.NotFound, "nothing of %s is registered in %s", key.owner, zone.Plain(key.zone)).WithReason("NO_SET")
	}
	next := r.with(key, nil)
	res, _, err := r.publish(ctx, key.zone, next, actor, reason, func(tx *db.Tx) error {
		return store.DeleteRegistration(tx, key.zone, key.owner)
	})
	if err != nil {
		return 0, err
	}
	r.sets = next
	n := 0
	for _, s := range res.Sets {
		for _, c := range s.Changes {
			if c.Op == "-" && c.Owner == ownerName(key.owner) {
				n++
			}
		}
	}
	return n, nil
}

// List returns copies of the sets, by zone and owner.
func (r *Registry) List() []Set {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Set
	for _, s := range r.sets {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Set) int { return strings.Compare(a.Zone+" "+a.Owner, b.Zone+" "+b.Owner) })
	return out
}

// Run removes lapsed sets until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			r.Sweep(ctx)
		}
	}
}

// Sweep removes sets whose lease lapsed a whole lease ago, unless they are to be kept.
func (r *Registry) Sweep(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, s := range r.sets {
		if s.Keep || r.now().Before(s.expires.Add(s.Lease)) {
			continue
		}
		if _, err := r.remove(ctx, key, "mcns", "lease lapsed"); err != nil {
			r.log.Warn("a lapsed registration could not be removed", "owner", key.owner, log.Err(err))
			continue
		}
		r.log.Info("lease lapsed: names removed", "owner", key.owner, "zone", key.zone)
	}
}

func ownerName(owner string) string { return "registry:" + owner }

// publish makes the zone's registry records those of these sets.
func (r *Registry) publish(ctx context.Context, zoneName string, sets map[id]*Set, actor, reason string, also func(*db.Tx) error) (*catalog.Result, map[string][]Conflict, error) {
	cz, err := r.cfg.Catalog.Zone(zoneName)
	if err != nil {
		return nil, nil, err
	}
	healthy := map[string]bool{}
	for k, s := range sets {
		if k.zone == zoneName {
			for _, in := range s.Instances {
				healthy[in.Service] = healthy[in.Service] || in.Healthy
			}
		}
	}
	current := map[string]map[zone.Key]bool{} // sets of records each owner has now
	for _, rec := range cz.Zone.Records {
		if o, ok := strings.CutPrefix(rec.Owner, "registry:"); ok {
			if current[o] == nil {
				current[o] = map[zone.Key]bool{}
			}
			current[o][rec.Key()] = true
		}
	}
	conflicts := map[string][]Conflict{}
	var ops []catalog.Op
	var owners []string
	for k := range sets {
		if k.zone == zoneName {
			owners = append(owners, k.owner)
		}
	}
	for o := range current {
		if sets[id{zoneName, o}] == nil {
			owners = append(owners, o)
		}
	}
	slices.Sort(owners)
	book := r.cfg.Catalog.Book()
	for _, owner := range owners {
		want := wanted{}
		if s := sets[id{zoneName, owner}]; s != nil {
			want, conflicts[owner] = s.records(func(name string) *Conflict { return judge(book, cz, s, name) }, func(svc string) bool { return healthy[svc] })
		}
		ops = append(ops, setOps(zoneName, owner, want, current[owner], r.cfg.TTL)...)
	}
	// Removals first: a name that changes its kind must not collide with itself.
	slices.SortStableFunc(ops, func(a, b catalog.Op) int { return min(len(a.Texts), 1) - min(len(b.Texts), 1) })
	res, err := r.cfg.Catalog.Apply(ctx, catalog.Write{Actor: actor, Source: "registry", Reason: reason, Ops: ops, Also: also})
	return res, conflicts, err
}

func setOps(zoneName, owner string, want wanted, have map[zone.Key]bool, ttl uint32) []catalog.Op {
	var ops []catalog.Op
	for k, texts := range want {
		op := catalog.Op{Kind: catalog.Set, Zone: zoneName, Name: k.Name, Type: k.Type, TTL: ttl, Owner: ownerName(owner)}
		for t := range texts {
			op.Texts = append(op.Texts, t)
		}
		slices.Sort(op.Texts)
		ops = append(ops, op)
	}
	for k := range have {
		if want[k] == nil {
			ops = append(ops, catalog.Op{Kind: catalog.Set, Zone: zoneName, Name: k.Name, Type: k.Type, Owner: ownerName(owner)})
		}
	}
	return ops
}

// judge says why a set may not publish a name, nil if it may: the grant, and a CNAME or delegation of
// somebody else in the way. The account node-NAME always has NAME.node: an agent has its own node.
func judge(book *policy.Book, cz *zone.Compiled, s *Set, name string) *Conflict {
	own := false
	if n, ok := strings.CutPrefix(s.Principal, "account:node-"); ok {
		own = zone.Relative(name, s.Zone) == n+".node"
	}
	if s.Principal != "" && !own {
		if v := book.Decide(policy.Request{Principal: s.Principal, Op: "sync", Zone: s.Zone, Name: name}); !v.Allow {
			return &Conflict{Name: zone.Plain(name), Reason: "NOT_GRANTED", Text: v.Why}
		}
	}
	for p := name; p != "" && zone.Below(p, cz.Apex); p = zone.Parent(p) {
		n := cz.Nodes[p]
		if n == nil {
			continue
		}
		for _, t := range []uint16{dns.TypeCNAME, dns.TypeNS, dns.TypeDNAME} {
			inWay := len(n.Sets[t]) > 0 && (p != cz.Apex || t == dns.TypeDNAME) && (t != dns.TypeCNAME || p == name)
			if inWay && !(t == dns.TypeDNAME && p == name) {
				return &Conflict{Name: zone.Plain(name), Type: zone.TypeName(t), Owner: ownerOf(cz, p, t), Reason: "FOREIGN_OWNER",
					Text: "there is a " + zone.TypeName(t) + " record at " + zone.Plain(p)}
			}
		}
	}
	return nil
}

func ownerOf(cz *zone.Compiled, name string, t uint16) string {
	for _, r := range cz.Zone.Records {
		if r.Name == name && r.Type == t {
			return r.Owner
		}
	}
	return ""
}
