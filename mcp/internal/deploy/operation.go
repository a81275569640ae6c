package deploy

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcp/internal/spec"
	"metacircular.net/mcp/internal/store"
)

// Request is who asks for an operation, and why.
type Request struct {
	Key      string // idempotency
	Operator string
	Reason   string
	PlanID   string
}

// OpError is what an operation's end says to its operator.
type OpError struct {
	Message   string   `json:"message"`
	Next      string   `json:"next"`
	Component string   `json:"component"`
	Tail      []string `json:"tail"`
}

// operation is one in flight.
type operation struct {
	d    *Deployer
	row  store.Op
	hub  *hub
	next int64

	mu        sync.Mutex // guards committed
	committed bool       // past the point of no return
}

// start writes an operation down and runs fn on its own. The operation ends as fn's error says.
func (d *Deployer) start(ctx context.Context, kind, service string, gen int64, req Request, fn func(ctx context.Context, o *operation) error) (store.Op, bool, error) {
	if d.ctx.Err() != nil {
		return store.Op{}, false, fault.New(fault.Unavailable, "the agent is stopping").WithReason("DRAINING")
	}
	row := store.Op{ID: strings.ToLower(rand.Text()[:16]), Key: req.Key, Kind: kind, Service: service, Generation: gen, PlanID: req.PlanID,
		Operator: req.Operator, Reason: req.Reason, Started: d.cfg.Now()}
	row, joined, err := d.begin(ctx, row)
	if err != nil || joined {
		return row, joined, err
	}
	row.State = store.OpRunning
	d.run(row, fn)
	return row, false, nil
}

// begin writes the row. An operation that is live, and only drains and stops the old generation any more, is waited for;
// one that has not switched yet is a Conflict.
func (d *Deployer) begin(ctx context.Context, row store.Op) (store.Op, bool, error) {
	for {
		got, joined, err := d.cfg.Store.Begin(ctx, row)
		if !fault.HasReason(err, "IN_PROGRESS") {
			return got, joined, err
		}
		ops, lerr := d.cfg.Store.LiveOps(ctx)
		if lerr != nil {
			return got, false, lerr
		}
		i := slices.IndexFunc(ops, func(op store.Op) bool { return op.Service == row.Service })
		if i >= 0 && ops[i].State != store.OpLive {
			return got, false, err
		}
		if i < 0 {
			continue // it ended between the two looks
		}
		if d.hub(ops[i].ID, false) == nil {
			return got, false, err // nobody carries it out yet: it is to be decided first
		}
		if err := d.Follow(ctx, ops[i].ID, false, func(Progress) error { return nil }); err != nil {
			return got, false, err
		}
	}
}

// run carries an operation out in a goroutine of its own.
func (d *Deployer) run(row store.Op, fn func(ctx context.Context, o *operation) error) {
	o := &operation{d: d, row: row, hub: d.hub(row.ID, true)}
	octx, cancel := context.WithCancelCause(d.ctx)
	o.hub.setCancel(func() bool { return o.cancel(cancel) })
	d.work.Go(func() {
		defer cancel(nil)
		select {
		case d.slots <- struct{}{}:
			defer func() { <-d.slots }()
		case <-d.ctx.Done():
			return
		}
		steps, err := d.cfg.Store.Steps(d.ctx, row.ID)
		if err != nil {
			d.cfg.Log.Error("read journal", "op", row.ID, "err", err)
			return
		}
		o.next = int64(len(steps)) + 1
		err = fn(octx, o)
		if errors.Is(context.Cause(octx), errCancelled) && err != nil {
			err = errCancelled
		}
		if d.ctx.Err() != nil {
			return // stopped in the middle: the next start decides
		}
		o.end(err)
	})
}

func (o *operation) end(err error) {
	d := o.d
	state, text := store.OpSucceeded, ""
	if err != nil {
		state = store.OpFailed
		if errors.Is(err, errCancelled) {
			state = store.OpCancelled
		}
		e := OpError{Message: fault.Text(err)}
		if f := fault.From(err); f != nil && f.Next != "" {
			e.Message, e.Next = strings.TrimSuffix(strings.Split(fault.Text(err), "\n  next:")[0], "\n"), f.Next
		}
		if u, ok := asUnhealthy(err); ok {
			e.Message, e.Component, e.Tail, e.Next = u.cause, u.component, u.tail, "mcp logs "+o.row.Service
		}
		data, merr := json.Marshal(e)
		if merr == nil {
			text = string(data)
		}
		d.cfg.Log.Error("operation failed", "op", o.row.ID, "kind", o.row.Kind, "service", o.row.Service, "err", err)
	}
	if err := d.cfg.Store.End(d.ctx, o.row.ID, state, text, d.cfg.Now()); err != nil {
		d.cfg.Log.Error("end operation", "op", o.row.ID, "err", err)
	}
	o.row.State, o.row.Error, o.row.Ended = state, text, d.cfg.Now()
	severity := 1
	if state == store.OpFailed {
		severity = 3
	}
	d.event(d.ctx, o.row.Service, o.row.Kind+"."+state, severity, o.row.ID, "%s by %s", o.row.Kind, o.row.Operator)
	row := o.row
	o.hub.say(Progress{End: &row})
	d.dropHub(o.row.ID)
}

// errCancelled is the cause of an operation its operator ended.
var errCancelled = fault.New(fault.Conflict, "cancelled by its operator").WithReason("OP_CANCELLED")

// cancel ends the operation unless traffic was switched or is being switched.
func (o *operation) cancel(end context.CancelCauseFunc) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.committed {
		return false
	}
	end(errCancelled)
	return true
}

// commitTo closes the door for cancelling: what follows cannot be undone.
func (o *operation) commitTo() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.committed = true
}

// Cancel undoes a running operation that has not switched traffic yet.
func (d *Deployer) Cancel(ctx context.Context, id string) (store.Op, error) {
	op, err := d.cfg.Store.Op(ctx, id)
	if err != nil {
		return op, err
	}
	h := d.hub(id, false)
	if h == nil || !h.tryCancel() {
		return op, fault.New(fault.Precondition, "operation %s has ended or switched traffic already", id).WithNext("mcp rollback %s", op.Service)
	}
	return op, d.Follow(ctx, id, false, func(p Progress) error {
		if p.End != nil {
			op = *p.End
		}
		return nil
	})
}

// step journals, acts, journals again.
func (o *operation) step(ctx context.Context, name string, act func(ctx context.Context) (detail string, err error)) error {
	st := store.Step{N: o.next, Name: name, State: "begun", At: o.d.cfg.Now()}
	o.next++
	if err := o.d.cfg.Store.PutStep(ctx, o.row.ID, st); err != nil {
		return err
	}
	o.hub.say(Progress{Step: &st})
	done := st
	detail, err := act(ctx)
	done.State, done.Detail, done.Seconds = "done", detail, o.d.cfg.Now().Sub(st.At).Seconds()
	if err != nil {
		done.State, done.Detail = "failed", firstLine(err)
	}
	if perr := o.d.cfg.Store.PutStep(ctx, o.row.ID, done); perr != nil && err == nil {
		err = perr
	}
	o.hub.say(Progress{Step: &done})
	return err
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	if len(line) > 300 {
		line = line[:300]
	}
	return line
}

// live notes that traffic goes to the new generation.
func (o *operation) live(ctx context.Context) error {
	o.row.State = store.OpLive
	if err := o.d.cfg.Store.SetOp(ctx, o.row.ID, store.OpLive, o.row.Generation); err != nil {
		return err
	}
	row := o.row
	o.hub.say(Progress{Live: &row})
	return nil
}

// Deploy applies a definition. A plan id that no longer fits is a Conflict. The returned op is empty when there is
// nothing to do.
func (d *Deployer) Deploy(ctx context.Context, s *spec.Service, req Request) (store.Op, *Plan, error) {
	p, err := d.Plan(ctx, s)
	if err != nil {
		return store.Op{}, nil, err
	}
	if req.PlanID != "" && req.PlanID != p.ID {
		return store.Op{}, p, fault.New(fault.Conflict, "the plan is stale: since it was made, %s moved to generation %d", s.Name, p.Generation).
			WithReason("STALE_PLAN").WithNext("mcp plan, then deploy its id")
	}
	if p.Empty {
		return store.Op{}, p, nil
	}
	op, err := d.deploy(ctx, "deploy", p, req)
	return op, p, err
}

func (d *Deployer) deploy(ctx context.Context, kind string, p *Plan, req Request) (store.Op, error) {
	req.PlanID = p.ID
	op, _, err := d.start(ctx, kind, p.Service, 0, req, func(ctx context.Context, o *operation) error { return o.deploy(ctx, p, req) })
	return op, err
}

// Rollback deploys an earlier generation's exact definition and digests; 0 is the previous one.
func (d *Deployer) Rollback(ctx context.Context, service string, n int64, req Request) (store.Op, *Plan, error) {
	sv, err := d.cfg.Store.Service(ctx, service)
	if err != nil {
		return store.Op{}, nil, err
	}
	if n == 0 {
		n = sv.Previous
	}
	if n == 0 {
		return store.Op{}, nil, fault.New(fault.Precondition, "%s has no previous generation", service).WithNext("mcp history %s", service)
	}
	g, err := d.cfg.Store.Generation(ctx, service, n)
	if err != nil {
		return store.Op{}, nil, err
	}
	s, err := spec.FromCanonical([]byte(g.Spec))
	if err != nil {
		return store.Op{}, nil, err
	}
	cur, err := d.cfg.Store.Generation(ctx, service, sv.Current)
	if err != nil {
		return store.Op{}, nil, err
	}
	p := &Plan{Service: service, Spec: s, Digests: g.Digests, Generation: sv.Current + 1, Interruption: interruption(s, true), now: &cur}
	if req.Reason == "" {
		req.Reason = fmt.Sprintf("rollback to generation %d", n)
	}
	op, err := d.deploy(ctx, "rollback", p, req)
	return op, p, err
}

// drainSlack is added to a drain's own deadline before the call is given up.
const drainSlack = 5 * time.Second
