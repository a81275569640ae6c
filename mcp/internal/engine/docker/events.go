package docker

import (
	"context"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"metacircular.net/mcp/internal/engine"
)

// Events reports starts and deaths until ctx ends. When the stream breaks it is opened again from where it broke.
func (e *Engine) Events(ctx context.Context) (<-chan engine.Event, error) {
	since := time.Now()
	if _, err := e.api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return nil, away(err, "watch the engine")
	}
	ch := make(chan engine.Event, 256)
	go func() {
		defer close(ch)
		for ctx.Err() == nil {
			since = e.stream(ctx, since, ch)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	return ch, nil
}

// stream passes on events of one connection, and returns the time up to which there can be no gap.
func (e *Engine) stream(ctx context.Context, since time.Time, ch chan<- engine.Event) time.Time {
	f := client.Filters{}.Add("type", "container").Add("event", "start", "die")
	res := e.api.Events(ctx, client.EventsListOptions{Since: unix(since), Filters: f})
	for {
		select {
		case <-ctx.Done():
			return since
		case <-res.Err:
			return since
		case m := <-res.Messages:
			if m.Actor.ID == "" {
				continue
			}
			since = time.Unix(0, m.TimeNano)
			kind := "start"
			if m.Action == events.ActionDie {
				kind = "die"
			}
			select {
			case ch <- engine.Event{ID: m.Actor.ID, Kind: kind, Labels: m.Actor.Attributes}:
			default: // a hint lost: whoever does not keep up lists again
			}
		}
	}
}

// unix writes a time the way the API wants it: seconds with a fraction.
func unix(t time.Time) string {
	return strconv.FormatInt(t.Unix(), 10) + "." + pad(t.Nanosecond())
}

func pad(ns int) string {
	s := strconv.Itoa(ns)
	for len(s) < 9 {
		s = "0" + s
	}
	return s
}
