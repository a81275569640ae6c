package gc

import (
	"context"
	"fmt"
	"time"
)

const (
	seenKey  = "gc_clock_seen"  // the last time a collection saw
	guardKey = "gc_clock_guard" // nothing is swept before this time

	// DeferKey in the store's bookkeeping makes the collector wait one grace: set by a restore.
	DeferKey = "gc_defer"

	// farAhead is how far the clock may be past the last time seen, beyond the ordinary interval, before it counts
	// as a jump: machines are switched off for weeks, so only nonsense is caught forwards.
	farAhead = 400 * 24 * time.Hour
)

// clockGuard returns the time before which nothing may be swept. It notices a clock that stands before the last
// time recorded, or absurdly far behind it.
func (c *Collector) clockGuard(ctx context.Context, now time.Time) (time.Time, error) {
	seen, err := c.metaTime(ctx, seenKey)
	if err != nil {
		return time.Time{}, err
	}
	until, err := c.metaTime(ctx, guardKey)
	if err != nil {
		return time.Time{}, err
	}
	restored, err := c.Store.Meta(ctx, DeferKey)
	if err != nil {
		return time.Time{}, err
	}
	jumped := restored != "" || !seen.IsZero() && (now.Before(seen.Add(-time.Minute)) || now.After(seen.Add(farAhead)))
	if jumped {
		until = now.Add(c.Grace)
		c.Log.Warn("the clock jumped or the data was restored; nothing is swept for one grace", "seen", seen, "now", now)
		if err := c.Store.SetMeta(ctx, guardKey, until.UTC().Format(time.RFC3339)); err != nil {
			return until, err
		}
		if err := c.Store.SetMeta(ctx, DeferKey, ""); err != nil {
			return until, err
		}
	}
	if until.After(now.Add(c.Grace)) { // set by a clock that was ahead: a grace from now is enough
		until = now.Add(c.Grace)
	}
	return until, c.Store.SetMeta(ctx, seenKey, now.UTC().Format(time.RFC3339))
}

func (c *Collector) metaTime(ctx context.Context, key string) (time.Time, error) {
	text, err := c.Store.Meta(ctx, key)
	if err != nil || text == "" {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", key, err)
	}
	return t, nil
}
