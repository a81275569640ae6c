package deploy

import (
	"context"
	"sync"

	"metacircular.net/mcp/internal/store"
)

// Progress is one message of a running operation. Exactly one field is set.
type Progress struct {
	Step *store.Step
	Live *store.Op
	End  *store.Op
}

// hub keeps what one operation has said, for whoever comes late, and wakes who waits.
type hub struct {
	mu   sync.Mutex // guards what is below
	said []Progress
	more chan struct{} // closed and replaced at each message
	done bool
	end  func() bool // cancels the operation; false when it is too late
}

func newHub() *hub { return &hub{more: make(chan struct{})} }

func (h *hub) setCancel(end func() bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end = end
}

func (h *hub) tryCancel() bool {
	h.mu.Lock()
	end := h.end
	h.mu.Unlock()
	return end != nil && end()
}

func (h *hub) say(p Progress) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = append(h.said, p)
	h.done = h.done || p.End != nil
	close(h.more)
	h.more = make(chan struct{})
}

// follow calls fn with each message until the operation ended, fn returned false, or ctx ended.
func (h *hub) follow(ctx context.Context, fn func(Progress) (bool, error)) error {
	for i := 0; ; {
		h.mu.Lock()
		pending, more, done := h.said[i:], h.more, h.done
		h.mu.Unlock()
		for _, p := range pending {
			i++
			if on, err := fn(p); err != nil || !on {
				return err
			}
		}
		if len(pending) > 0 {
			continue
		}
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		}
	}
}

// hub returns the hub of an operation, making it for one that runs.
func (d *Deployer) hub(op string, create bool) *hub {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.hubs[op]
	if h == nil && create {
		h = newHub()
		d.hubs[op] = h
	}
	return h
}

func (d *Deployer) dropHub(op string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.hubs, op)
}

// Follow replays an operation's steps and goes on with it until it ends, or is live when untilLive.
func (d *Deployer) Follow(ctx context.Context, id string, untilLive bool, fn func(Progress) error) error {
	if h := d.hub(id, false); h != nil {
		return h.follow(ctx, func(p Progress) (bool, error) {
			if err := fn(p); err != nil {
				return false, err
			}
			return !(untilLive && p.Live != nil), nil
		})
	}
	op, err := d.cfg.Store.Op(ctx, id)
	if err != nil {
		return err
	}
	steps, err := d.cfg.Store.Steps(ctx, id)
	if err != nil {
		return err
	}
	for i := range steps {
		if err := fn(Progress{Step: &steps[i]}); err != nil {
			return err
		}
	}
	return fn(Progress{End: &op})
}
