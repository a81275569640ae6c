package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"metacircular.net/mcp/internal/engine"
	"metacircular.net/mcp/internal/spec"
	"metacircular.net/mcp/internal/store"
)

// How often the whole is looked at beside events, and how repairs back off.
const (
	relistEvery = 30 * time.Second
	namesEvery  = 60 * time.Second
	namesRetry  = 2 * time.Second
	firstRetry  = time.Second
	lastRetry   = 5 * time.Minute
	quietReset  = 10 * time.Minute
)

// backoff spaces the repairs of one service.
type backoff struct {
	wait  time.Duration
	after time.Time // no repair before
	last  time.Time
}

func stopGrace(s *spec.Service, component string) time.Duration {
	for _, c := range s.Components {
		if c.Name == component {
			return c.Stop.Grace.Std()
		}
	}
	return 10 * time.Second
}

// Recover decides what a former process left unfinished: forward when traffic was switched, back when not.
func (d *Deployer) Recover(ctx context.Context) error {
	ops, err := d.cfg.Store.LiveOps(ctx)
	if err != nil {
		return err
	}
	for _, op := range ops {
		if err := d.recover(ctx, op); err != nil {
			return fmt.Errorf("decide operation %s on %s: %w", op.ID, op.Service, err)
		}
	}
	return nil
}

func (d *Deployer) recover(ctx context.Context, op store.Op) error {
	sv, err := d.cfg.Store.Service(ctx, op.Service)
	if err != nil {
		// The last thing an undeployment does is to forget the service.
		return d.cfg.Store.End(ctx, op.ID, store.OpSucceeded, "", d.cfg.Now())
	}
	interrupted := func() error {
		return d.cfg.Store.End(ctx, op.ID, store.OpFailed, `{"message":"the agent was interrupted; nothing was switched","next":"run the command again"}`, d.cfg.Now())
	}
	switch op.Kind {
	case "undeploy":
		d.run(op, func(ctx context.Context, o *operation) error { return o.undeploy(ctx, sv, false) })
		return nil
	case "deploy", "rollback":
	default:
		return interrupted() // reconciling does what was wanted
	}
	if op.Generation == 0 {
		return interrupted()
	}
	g, err := d.cfg.Store.Generation(ctx, op.Service, op.Generation)
	if err != nil {
		return interrupted()
	}
	s, err := spec.FromCanonical([]byte(g.Spec))
	if err != nil {
		return err
	}
	forward := sv.Current == g.N
	if !forward {
		targets, err := d.targets(ctx, s, g.Slot)
		if err != nil {
			return err
		}
		if len(targets) > 0 {
			if forward, err = d.cfg.Router.Switched(ctx, op.ID, targets); err != nil {
				// Undecided: both generations stay until MC-Proxy, which may itself have to be started first, can say.
				d.cfg.Log.Warn("MC-Proxy cannot be asked yet whether it switched", "op", op.ID, "service", op.Service, "err", err)
				return nil
			}
		} else if cutoverOf(s) == inPlace {
			forward, _ = d.runs(ctx, g, s)
		}
	}
	if forward {
		var old *store.Generation
		if sv.Current != 0 && sv.Current != g.N {
			if og, err := d.cfg.Store.Generation(ctx, op.Service, sv.Current); err == nil {
				old = &og
			}
		} else if sv.Previous != 0 {
			if og, err := d.cfg.Store.Generation(ctx, op.Service, sv.Previous); err == nil {
				old = &og
			}
		}
		d.run(op, func(ctx context.Context, o *operation) error {
			o.row.Generation = g.N
			return o.finish(ctx, s, g, old)
		})
		return nil
	}
	if err := d.removeGeneration(ctx, op.Service, g.N); err != nil {
		return err
	}
	if err := d.cfg.Store.SetGenerationState(ctx, op.Service, g.N, "failed"); err != nil {
		return err
	}
	if cutoverOf(s) == held && sv.Current != 0 {
		if targets, err := d.targets(ctx, s, g.Slot); err == nil {
			_ = d.cfg.Router.Release(ctx, op.ID, targets)
		}
	}
	if sv.Current == 0 {
		if err := d.forget(ctx, s); err != nil {
			return err
		}
	}
	return interrupted()
}

// Run reconciles until ctx ends: what should run is made to run, what is ours and should not is removed.
func (d *Deployer) Run(ctx context.Context) error {
	events := make(chan engine.Event, 256)
	for kind, e := range d.cfg.Engines {
		ch, err := e.Events(ctx)
		if err != nil {
			d.cfg.Log.Warn("engine events", "engine", kind, "err", err)
			continue
		}
		d.work.Go(func() {
			for ev := range ch {
				select {
				case events <- ev:
				default: // the next look at everything finds it
				}
			}
		})
	}
	relist, names := time.NewTicker(relistEvery), time.NewTimer(namesRetry)
	defer relist.Stop()
	defer names.Stop()
	wake := time.NewTimer(0)
	defer wake.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.ctx.Done():
			return nil
		case ev := <-events:
			if ev.Kind != "die" {
				continue
			}
		case <-relist.C:
		case <-wake.C:
		case <-names.C:
			// A renewal once a minute; what could not be published is tried again soon.
			after := namesEvery
			if hosts, err := d.Hosts(ctx); err == nil {
				if err := d.cfg.Names.Sync(ctx, hosts); err != nil {
					d.cfg.Log.Warn("publish names", "err", err)
					after = namesRetry
				}
			}
			names.Reset(after)
			d.renew(ctx)
			continue
		}
		next, err := d.reconcile(ctx)
		if err != nil && !errors.Is(err, context.Canceled) {
			d.cfg.Log.Error("reconcile", "err", err)
		}
		if next > 0 {
			wake.Reset(next)
		}
	}
}

// reconcile looks at every service once, in boot order, and returns when a postponed repair is due.
func (d *Deployer) reconcile(ctx context.Context) (next time.Duration, err error) {
	services, err := d.cfg.Store.Services(ctx)
	if err != nil {
		return 0, err
	}
	live, err := d.cfg.Store.LiveOps(ctx)
	if err != nil {
		return 0, err
	}
	busy := map[string]bool{}
	for _, op := range live {
		busy[op.Service] = true
		if d.hub(op.ID, false) == nil {
			if err := d.recover(ctx, op); err != nil {
				d.cfg.Log.Error("decide an interrupted operation", "op", op.ID, "err", err)
			}
			next = firstRetry
		}
	}
	sortBoot(services)
	for _, sv := range services {
		if busy[sv.Name] || sv.Current == 0 || sv.Desired != "running" {
			continue
		}
		g, s, err := d.current(ctx, sv.Name)
		if err != nil {
			return next, err
		}
		whole, err := d.runs(ctx, g, s)
		if err != nil {
			return next, err
		}
		if whole || s.Repair != "auto" {
			continue
		}
		if wait := d.due(sv.Name); wait > 0 {
			if next == 0 || wait < next {
				next = wait
			}
			continue
		}
		d.event(ctx, sv.Name, "repair", 2, "", "generation %d does not run whole; it is made anew", g.N)
		_, _, err = d.start(ctx, "repair", sv.Name, g.N, Request{Operator: "agent"}, func(ctx context.Context, o *operation) error {
			return o.step(ctx, "start", func(ctx context.Context) (string, error) {
				if err := d.removeGeneration(ctx, sv.Name, g.N); err != nil {
					return "", err
				}
				return d.startGeneration(ctx, g, s, o.row.ID)
			})
		})
		if err != nil {
			return next, err
		}
		if s.Core {
			// Core waits for core: the next look comes when this one is done.
			return firstRetry, nil
		}
	}
	return next, nil
}

// renew keeps the certificates of L7 hosts fresh: Ensure leaves alone what is good for another third of its life. One
// that cannot be renewed now is tried again at the next minute; the old one serves on.
func (d *Deployer) renew(ctx context.Context) {
	services, err := d.cfg.Store.Services(ctx)
	if err != nil {
		return
	}
	for _, sv := range services {
		if sv.Current == 0 || sv.Core {
			continue
		}
		_, s, err := d.current(ctx, sv.Name)
		if err != nil {
			continue
		}
		for _, c := range s.Components {
			for _, r := range c.Routes {
				if r.Mode != "l7" {
					continue
				}
				if _, err := d.cfg.Issuer.Ensure(ctx, r.Host); err != nil && ctx.Err() == nil {
					d.cfg.Log.Warn("renew certificate", "host", r.Host, "err", err)
				}
			}
		}
	}
}

// due spaces repairs: 0 means now, and counts as one.
func (d *Deployer) due(service string) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.cfg.Now()
	b := d.back[service]
	if b == nil || now.Sub(b.last) > quietReset {
		b = &backoff{wait: firstRetry}
		d.back[service] = b
	}
	if wait := b.after.Sub(now); wait > 0 {
		return wait
	}
	b.last, b.after = now, now.Add(b.wait)
	b.wait = min(2*b.wait, lastRetry)
	return 0
}

// runs reports whether every component of a generation has its one running container.
func (d *Deployer) runs(ctx context.Context, g store.Generation, s *spec.Service) (bool, error) {
	list, err := d.containers(ctx, s.Name)
	if err != nil {
		return false, err
	}
	running := map[string]bool{}
	for _, p := range list {
		if p.generation() == g.N && p.State == engine.Running {
			running[p.component()] = true
		}
	}
	for _, c := range s.Components {
		if !running[c.Name] {
			return false, nil
		}
	}
	return true, nil
}

// bootOrder is the core's (platform.md section 8); apps follow.
var bootOrder = []string{"mcns", "mc-proxy", "mcias", "metacrypt", "mcr", "mcp", "mcat"}

func sortBoot(services []store.Service) {
	rank := func(sv store.Service) int {
		for i, n := range bootOrder {
			if sv.Core && sv.Name == n {
				return i
			}
		}
		return len(bootOrder)
	}
	for i := 1; i < len(services); i++ {
		for j := i; j > 0 && rank(services[j]) < rank(services[j-1]); j-- {
			services[j], services[j-1] = services[j-1], services[j]
		}
	}
}
