// Package catalog is the truth about zones while the server runs: what is served, and how it changes.
//
// Reads take the current view without a lock. A write is one change set for each zone it touches: check
// owners, build the new zone, compile it as a whole, commit rows and journal, write the snapshot file, swap
// the view, answer. So an acknowledged change is on disk and visible to the next query. The view and the
// snapshot file come first in life: they are served before the database opens, and without it.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"

	"metacircular.net/mcns/internal/policy"
	"metacircular.net/mcns/internal/snapshot"
	"metacircular.net/mcns/internal/store"
	"metacircular.net/mcns/internal/zone"
)

// Config describes a Catalog.
type Config struct {
	Snapshot string // file
	Platform string // canonical domain of the platform, "" = none
	Clock    clock.Clock
	Log      *slog.Logger
}

// Catalog holds the zones. Safe for concurrent use.
type Catalog struct {
	cfg  Config
	now  func() time.Time
	log  *slog.Logger
	view atomic.Pointer[zone.View]
	book atomic.Pointer[policy.Book]
	down atomic.Pointer[fault.Error] // why there is no database
	at   atomic.Int64                // unix seconds of the snapshot file

	mu   sync.Mutex // one write at a time; guards db and gone
	db   *db.DB
	gone map[string]uint32
}

// New reads the snapshot file, so that there is something to serve. found reports whether there was one;
// a damaged one (both generations) is logged and counts as none served, but as found.
func New(cfg Config) (c *Catalog, found bool) {
	c = &Catalog{cfg: cfg, now: clock.Or(cfg.Clock).Now, log: log.Or(cfg.Log), gone: map[string]uint32{}}
	c.view.Store(zone.NewView())
	c.book.Store(&policy.Book{Platform: cfg.Platform})
	c.down.Store(fault.New(fault.Unavailable, "the database is not open yet").WithReason("STARTING").WithRetry(time.Second))
	s, err := snapshot.Read(cfg.Snapshot)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, false
	case err != nil:
		c.log.Error("the snapshot cannot be served", log.Err(err))
		return c, true
	}
	var zs []*zone.Compiled
	for _, z := range s.Zones {
		cz, _, err := zone.Compile(z)
		if err != nil {
			c.log.Error("a zone of the snapshot cannot be served", "zone", z.Name, log.Err(err))
			continue
		}
		zs = append(zs, cz)
	}
	c.view.Store(zone.NewView(zs...))
	c.at.Store(s.Time.Unix())
	for name, serial := range s.Gone {
		c.gone[name] = serial
	}
	return c, true
}

// View returns what is served.
func (c *Catalog) View() *zone.View { return c.view.Load() }

// Book returns the grants of the moment.
func (c *Catalog) Book() *policy.Book { return c.book.Load() }

// SnapshotTime returns when the served state was written.
func (c *Catalog) SnapshotTime() time.Time {
	if t := c.at.Load(); t > 0 {
		return time.Unix(t, 0).UTC()
	}
	return time.Time{}
}

// Down returns why changes are impossible, nil if they are possible.
func (c *Catalog) Down() error {
	if f := c.down.Load(); f != nil {
		return f
	}
	return nil
}

// Degrade says why there is no database; what is served goes on being served.
func (c *Catalog) Degrade(cause error) {
	f := fault.From(cause)
	next := f.Next
	if next == "" {
		next = "mcns doctor"
	}
	c.down.Store(fault.New(fault.Unavailable, "names are answered, but nothing can be changed: %s", cause.Error()).
		WithReason("NO_DATABASE").WithNext("%s", next))
}

// Attach makes the database the truth: its zones are compiled and served. A zone that was served under a
// higher serial than the database knows (the database was restored) goes on above it.
func (c *Catalog) Attach(ctx context.Context, d *db.DB) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var zones []*zone.Zone
	var grants []policy.Grant
	if err := d.Read(ctx, func(v *db.View) (err error) {
		if zones, err = store.Zones(v); err != nil {
			return err
		}
		grants, err = store.Grants(v)
		return err
	}); err != nil {
		return err
	}
	served := c.view.Load()
	var compiled []*zone.Compiled
	for _, z := range zones {
		if old := served.Get(z.Name); old != nil && (zone.Newer(old.SOA.Serial, z.Serial) || old.SOA.Serial == z.Serial && !same(old.Zone, z)) {
			if err := c.lift(ctx, d, z, old.SOA.Serial); err != nil {
				return err
			}
		}
		cz, _, err := zone.Compile(z)
		if err != nil {
			return fmt.Errorf("zone %s in the database: %w", zone.Plain(z.Name), err)
		}
		compiled = append(compiled, cz)
	}
	next := zone.NewView(compiled...)
	served.All(func(old *zone.Compiled) {
		if next.Get(old.Apex) == nil {
			c.gone[old.Apex] = old.SOA.Serial
		}
	})
	c.db = d
	if err := c.publish(next); err != nil {
		c.log.Error("the snapshot file could not be written", log.Err(err))
	}
	c.book.Store(&policy.Book{Grants: grants, Platform: c.cfg.Platform})
	c.down.Store(nil)
	return nil
}

// lift gives a zone a serial above one that was served before.
func (c *Catalog) lift(ctx context.Context, d *db.DB, z *zone.Zone, above uint32) error {
	from := z.Serial
	z.Serial, z.Changed = zone.NextSerial(above, c.now()), c.now()
	c.log.Warn("zone was served under a higher serial than the database has; going on above it", "zone", z.Name, "serial", z.Serial)
	return d.Write(ctx, func(tx *db.Tx) error {
		if _, err := store.PutZone(tx, z); err != nil {
			return err
		}
		_, err := store.PutChangeSet(tx, store.ChangeSet{Group: newGroup(), Time: c.now(), Actor: "mcns", Source: "start",
			Reason: "served serial was higher than the database's", Zone: z.Name, SerialFrom: from, Serial: z.Serial})
		return err
	})
}

func same(a, b *zone.Zone) bool {
	if len(a.Records) != len(b.Records) || *a.With(nil).SOA() != *b.With(nil).SOA() {
		return false
	}
	type k struct {
		name, text string
		t          uint16
		ttl        uint32
	}
	have := map[k]bool{}
	for _, r := range a.Records {
		have[k{r.Name, r.Text, r.Type, r.TTL}] = true
	}
	for _, r := range b.Records {
		if !have[k{r.Name, r.Text, r.Type, r.TTL}] {
			return false
		}
	}
	return true
}

// publish writes the snapshot file and swaps the view. The mutex is held. The file comes first: after a
// kill nothing older than what was served can appear. If it cannot be written (disk full) the commit
// stands and is served all the same; the next change writes the file again.
func (c *Catalog) publish(v *zone.View) error {
	err := c.save(v)
	c.view.Store(v)
	return err
}

// save writes the snapshot file of a view. The mutex is held.
func (c *Catalog) save(v *zone.View) error {
	s := &snapshot.State{Time: c.now().UTC(), Gone: c.gone}
	v.All(func(z *zone.Compiled) { s.Zones = append(s.Zones, z.Zone) })
	if err := snapshot.Write(c.cfg.Snapshot, s); err != nil {
		return err
	}
	c.at.Store(s.Time.Unix())
	return nil
}

// Database returns the open database, or why there is none.
func (c *Catalog) Database() (*db.DB, error) {
	if err := c.Down(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.db, nil
}

// ChangeGrants runs a write on the grants and takes the new book into use.
func (c *Catalog) ChangeGrants(ctx context.Context, fn func(tx *db.Tx) error) error {
	if err := c.Down(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var grants []policy.Grant
	if err := c.db.Write(ctx, func(tx *db.Tx) (err error) {
		if err = fn(tx); err != nil {
			return err
		}
		grants, err = store.Grants(tx)
		return err
	}); err != nil {
		return err
	}
	c.book.Store(&policy.Book{Grants: grants, Platform: c.cfg.Platform})
	return nil
}
