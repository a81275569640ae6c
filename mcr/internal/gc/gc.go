package gc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"
	"metacircular.net/mcr/internal/cas"
	"metacircular.net/mcr/internal/store"
)

// Config says when what dies.
type Config struct {
	Store         *store.Store
	Blobs         *cas.Store
	Every         time.Duration // between runs
	Grace         time.Duration // life of a lease
	UntaggedAfter time.Duration // life of an untagged manifest after its last tag, pull or push
	Trash         time.Duration // how long deletions can be undone
	UploadIdle    time.Duration // life of an upload nobody writes to
	Log           *slog.Logger
	Clock         clock.Clock
}

// Collector runs collections, one at a time. Safe for concurrent use.
type Collector struct {
	Config

	mu      sync.Mutex
	running bool
	want    chan store.GCRun // a run that was begun by hand, waiting for the worker
}

// New returns a collector.
func New(cfg Config) (*Collector, error) {
	if cfg.Store == nil || cfg.Blobs == nil {
		return nil, errors.New("gc: Store and Blobs are needed")
	}
	for _, d := range []time.Duration{cfg.Every, cfg.Grace, cfg.UntaggedAfter, cfg.Trash, cfg.UploadIdle} {
		if d <= 0 {
			return nil, errors.New("gc: every duration must be positive")
		}
	}
	cfg.Log, cfg.Clock = log.Or(cfg.Log), clock.Or(cfg.Clock)
	return &Collector{Config: cfg, want: make(chan store.GCRun, 1)}, nil
}

// Run collects at each interval and when asked, until ctx ends; it is made for run.Background.
func (c *Collector) Run(ctx context.Context) error {
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-c.want:
			c.finish(ctx, r)
		case <-tick.C:
			r, err := c.begin(ctx)
			if fault.Is(err, fault.Conflict) {
				continue
			}
			if err != nil {
				c.Log.Error("collection did not begin", log.Err(err))
				continue
			}
			c.finish(ctx, r)
		}
	}
}

// Start begins a run in the worker and returns it; Conflict if one is running.
func (c *Collector) Start(ctx context.Context) (store.GCRun, error) {
	r, err := c.begin(ctx)
	if err == nil {
		c.want <- r // never full: begin admits one run at a time
	}
	return r, err
}

func (c *Collector) begin(ctx context.Context) (store.GCRun, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running {
		return store.GCRun{}, fault.New(fault.Conflict, "a collection is running").WithReason("GC_RUNNING").WithNext("mcr gc status")
	}
	r, err := c.Store.BeginGC(ctx)
	if err != nil {
		return r, err
	}
	c.running = true
	return r, nil
}

func (c *Collector) finish(ctx context.Context, r store.GCRun) {
	err := c.Collect(ctx, &r)
	r.Ended, r.State = c.Clock.Now().UTC(), "done"
	if errors.Is(err, context.Canceled) {
		r.State = "cancelled"
	} else if err != nil {
		r.State, r.Error = "failed", err.Error()
		c.Log.Error("collection failed", log.Err(err))
	}
	// The record is worth a moment after the end of ctx.
	if err := c.Store.SaveGC(context.WithoutCancel(ctx), r); err != nil {
		c.Log.Error("record collection", log.Err(err))
	}
	c.mu.Lock()
	c.running = false
	c.mu.Unlock()
	c.Log.Info("collection", "state", r.State, "blobs", r.BlobsRemoved, "bytes", r.BytesFreed, "manifests", r.ManifestsExpired)
}

// Collect goes through every step once and counts in r.
func (c *Collector) Collect(ctx context.Context, r *store.GCRun) error {
	now := c.Clock.Now()
	wait, err := c.clockGuard(ctx, now)
	if err != nil {
		return err
	}
	if now.Before(wait) {
		return fmt.Errorf("the clock jumped or the data was restored: nothing is swept before %s", wait.UTC().Format(time.RFC3339))
	}
	op := store.NewID()
	steps := []struct {
		stage string
		run   func() error
	}{
		{"trash", func() error {
			return repeat(ctx, func() (bool, error) {
				n, more, err := c.Store.ExpireTrash(ctx, now.Add(-c.Trash))
				r.ManifestsExpired += n
				return more, err
			})
		}},
		{"manifests", func() error {
			return repeat(ctx, func() (bool, error) {
				_, more, err := c.Store.TrashUntagged(ctx, now.Add(-c.UntaggedAfter), now.Add(-c.Grace), op)
				return more, err
			})
		}},
		{"links", func() error {
			return repeat(ctx, func() (bool, error) {
				n, more, err := c.Store.DropLinks(ctx, now.Add(-c.Grace))
				r.LinksRemoved += n
				return more, err
			})
		}},
		{"blobs", func() error { return c.blobs(ctx, r) }},
		{"uploads", func() error { return c.uploads(ctx, r, now) }},
		{"orphans", func() error { return c.orphans(ctx, r, now) }},
		{"events", func() error { return errors.Join(c.Store.TrimEvents(ctx), c.Store.ExpirePins(ctx)) }},
	}
	for _, s := range steps {
		r.Stage = s.stage
		if err := c.Store.SaveGC(ctx, *r); err != nil {
			return err
		}
		if err := s.run(); err != nil {
			return fmt.Errorf("%s: %w", s.stage, err)
		}
	}
	return nil
}

// repeat runs a step until it has no more to do; between two transactions others get their turn.
func repeat(ctx context.Context, step func() (more bool, err error)) error {
	for {
		more, err := step()
		if err != nil || !more {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func (c *Collector) blobs(ctx context.Context, r *store.GCRun) error {
	after := ""
	return repeat(ctx, func() (bool, error) {
		list, more, err := c.Store.Unlinked(ctx, after)
		if err != nil {
			return false, err
		}
		for _, b := range list {
			after = b.Digest.String()
			gone, err := c.remove(ctx, b.Digest)
			if err != nil {
				return false, err
			}
			if gone {
				r.BlobsRemoved++
				r.BytesFreed += b.Size
			}
		}
		return more, nil
	})
}

// remove forgets a blob and unlinks its file, unless somebody linked it meanwhile.
func (c *Collector) remove(ctx context.Context, d digest.Digest) (bool, error) {
	unlock := c.Blobs.Lock(d)
	defer unlock()
	gone, err := c.Store.ForgetBlob(ctx, d)
	if err != nil || !gone {
		return false, err
	}
	return true, c.Blobs.Remove(d)
}

func (c *Collector) uploads(ctx context.Context, r *store.GCRun, now time.Time) error {
	return repeat(ctx, func() (bool, error) {
		idle, err := c.Store.IdleUploads(ctx, now.Add(-c.UploadIdle), 100)
		if err != nil {
			return false, err
		}
		for _, u := range idle {
			if _, err := c.Store.CloseUpload(ctx, u.ID); err != nil {
				return false, err
			}
			if err := c.Blobs.DiscardUpload(u.ID); err != nil {
				return false, err
			}
			r.UploadsExpired++
		}
		return len(idle) == 100, nil
	})
}

// orphans removes files that no row names: what a crash left. Only old ones, and again under the lock, since a
// file is placed just before its row.
func (c *Collector) orphans(ctx context.Context, r *store.GCRun, now time.Time) error {
	err := c.Blobs.Walk(func(f cas.Found) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if now.Sub(f.Time) < c.Grace {
			return nil
		}
		if has, err := c.Store.HasBlobRow(ctx, f.Digest); err != nil || has {
			return err
		}
		unlock := c.Blobs.Lock(f.Digest)
		defer unlock()
		if has, err := c.Store.HasBlobRow(ctx, f.Digest); err != nil || has {
			return err
		}
		r.OrphansRemoved++
		r.BytesFreed += f.Size
		return c.Blobs.Remove(f.Digest)
	})
	if err != nil {
		return err
	}
	files, err := c.Blobs.UploadFiles()
	if err != nil {
		return err
	}
	for id, at := range files {
		if now.Sub(at) < c.UploadIdle {
			continue
		}
		_, err := c.Store.Upload(ctx, id)
		if err == nil {
			continue
		}
		if !fault.Is(err, fault.NotFound) {
			return err
		}
		r.OrphansRemoved++
		if err := c.Blobs.DiscardUpload(id); err != nil {
			return err
		}
	}
	return nil
}
