package oci

import (
	"context"
	"sync"
	"time"

	"metacircular.net/mcdsl/log"
	"metacircular.net/mcr/internal/store"
)

const (
	maxPulls   = 10_000 // distinct manifests noted between two flushes; more are not noted
	pullsEvery = time.Minute
)

// pulls gathers when manifests were pulled, so that a pull writes nothing.
type pulls struct {
	mu   sync.Mutex
	seen map[store.Pulled]time.Time
}

func (p *pulls) note(what store.Pulled, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = map[store.Pulled]time.Time{}
	}
	if _, ok := p.seen[what]; ok || len(p.seen) < maxPulls {
		p.seen[what] = at
	}
}

func (p *pulls) take() map[store.Pulled]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = nil
	return seen
}

// FlushPulls records gathered pulls each minute until ctx ends; it is made for run.Background.
func (g *Registry) FlushPulls(ctx context.Context) error {
	tick := time.NewTicker(pullsEvery)
	defer tick.Stop()
	for {
		var ended bool
		select {
		case <-ctx.Done():
			ended = true
		case <-tick.C:
		}
		if seen := g.pulls.take(); len(seen) > 0 {
			// The last flush happens after ctx has ended; the database is closed later.
			if err := g.Store.NotePulls(context.WithoutCancel(ctx), seen); err != nil {
				g.Log.Warn("note pulls", log.Err(err))
			}
		}
		if ended {
			return nil
		}
	}
}
