package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcp/internal/spec"
	"metacircular.net/mcp/internal/store"
)

// keepGenerations bounds the history.
const keepGenerations = 50

// deploy is the whole of a deployment. Everything before the switch is undone on failure.
func (o *operation) deploy(ctx context.Context, p *Plan, req Request) error {
	d, s := o.d, p.Spec
	mode := cutoverOf(s)
	g := store.Generation{Service: s.Name, Spec: string(s.Canonical()), SpecHash: s.Hash(), Digests: p.Digests, Operator: req.Operator, Reason: req.Reason, Created: d.cfg.Now()}
	if p.now != nil && mode == sideBySide {
		g.Slot = 1 - p.now.Slot
	}
	if err := o.step(ctx, "pull", func(ctx context.Context) (string, error) { return d.pull(ctx, s, p.Digests) }); err != nil {
		return err
	}
	var targets []Target
	err := o.step(ctx, "ports", func(ctx context.Context) (string, error) {
		if _, err := d.cfg.Store.ServiceUID(ctx, s.Name, s.Core); err != nil {
			return "", err
		}
		n, err := d.cfg.Store.AddGeneration(ctx, g)
		if err != nil {
			return "", err
		}
		g.N, o.row.Generation = n, n
		if err := d.cfg.Store.SetOp(ctx, o.row.ID, store.OpRunning, n); err != nil {
			return "", err
		}
		if targets, err2 := d.targets(ctx, s, g.Slot); err2 != nil {
			return "", err2
		} else if len(targets) > 0 {
			return "slot " + string("ab"[g.Slot]) + ", " + targets[0].Backend, nil
		}
		return "none routed", nil
	})
	if err != nil {
		return o.abandon(ctx, p, g, err)
	}
	if targets, err = d.targets(ctx, s, g.Slot); err != nil {
		return o.abandon(ctx, p, g, err)
	}
	if hosts := certHosts(targets); len(hosts) > 0 {
		err = o.step(ctx, "certs", func(ctx context.Context) (string, error) {
			for _, h := range hosts {
				if _, err := d.cfg.Issuer.Ensure(ctx, h); err != nil {
					return "", fmt.Errorf("certificate for %s: %w", h, err)
				}
			}
			return strings.Join(hosts, ", "), nil
		})
		if err != nil {
			return o.abandon(ctx, p, g, err)
		}
	}
	if err := o.replace(ctx, p, g, mode, targets); err != nil {
		return err
	}
	return o.finish(ctx, s, g, p.now)
}

func certHosts(targets []Target) []string {
	var out []string
	for _, t := range targets {
		if t.Mode == "l7" && !slices.Contains(out, t.Host) {
			out = append(out, t.Host)
		}
	}
	return out
}

// replace starts the new generation and moves traffic to it; on failure the old one serves as before.
func (o *operation) replace(ctx context.Context, p *Plan, g store.Generation, mode cutover, targets []Target) error {
	d, s := o.d, p.Spec
	var old []Target
	if p.now != nil {
		prev, err := spec.FromCanonical([]byte(p.now.Spec))
		if err != nil {
			return o.abandon(ctx, p, g, err)
		}
		if old, err = d.targets(ctx, prev, p.now.Slot); err != nil {
			return o.abandon(ctx, p, g, err)
		}
	}
	if p.now != nil && mode != sideBySide {
		err := o.step(ctx, "stop old", func(ctx context.Context) (string, error) {
			if mode == held {
				if err := d.cfg.Router.Hold(ctx, o.row.ID, old, holdLimit(s)); err != nil {
					return "", err
				}
			}
			return fmt.Sprintf("generation %d", p.now.N), d.stopGeneration(ctx, s.Name, p.now.N)
		})
		if err != nil {
			return o.restore(ctx, p, g, mode, old, err)
		}
	}
	err := o.step(ctx, "start", func(ctx context.Context) (string, error) {
		if err := d.cfg.Store.SetGenerationState(ctx, s.Name, g.N, "starting"); err != nil {
			return "", err
		}
		return d.startGeneration(ctx, g, s, o.row.ID)
	})
	if err != nil {
		return o.restore(ctx, p, g, mode, old, err)
	}
	if len(targets) == 0 && len(old) == 0 {
		return nil
	}
	o.commitTo()
	err = o.step(ctx, "switch", func(ctx context.Context) (string, error) {
		return switchDetail(targets), d.cfg.Router.Swap(ctx, o.row.ID, targets, missing(old, targets), mode == held)
	})
	if err != nil {
		// The call may have failed after it took effect: ask, never guess.
		if on, serr := d.cfg.Router.Switched(ctx, o.row.ID, targets); serr == nil && on {
			return nil
		}
		return o.restore(ctx, p, g, mode, old, err)
	}
	return nil
}

func switchDetail(targets []Target) string {
	var out []string
	for _, t := range targets {
		if !slices.Contains(out, t.Host) {
			out = append(out, t.Host)
		}
	}
	return strings.Join(out, ", ")
}

func holdLimit(s *spec.Service) time.Duration {
	limit := time.Duration(0)
	for i := range s.Components {
		limit = max(limit, s.Components[i].Hold.Std())
	}
	return limit
}

// missing are the old routes that the new set does not have.
func missing(old, now []Target) []Target {
	var out []Target
	for _, t := range old {
		if !slices.ContainsFunc(now, func(n Target) bool { return n.Listener == t.Listener && n.Host == t.Host }) {
			out = append(out, t)
		}
	}
	return out
}

// abandon undoes what a deployment made before anything was stopped.
func (o *operation) abandon(ctx context.Context, p *Plan, g store.Generation, cause error) error {
	d := o.d
	if d.ctx.Err() != nil {
		return cause
	}
	ctx = d.ctx // undoing goes on when the operation was cancelled
	undo := o.step(ctx, "undo", func(ctx context.Context) (string, error) {
		if g.N == 0 {
			return "nothing was made", nil
		}
		if err := d.removeGeneration(ctx, p.Service, g.N); err != nil {
			return "", err
		}
		if err := d.cfg.Store.SetGenerationState(ctx, p.Service, g.N, "failed"); err != nil {
			return "", err
		}
		if p.now == nil {
			return "nothing is left", d.forget(ctx, p.Spec)
		}
		return fmt.Sprintf("generation %d serves on", p.now.N), nil
	})
	return errors.Join(cause, undo)
}

// restore is abandon after the old generation was stopped: it is started again, then requests go on.
func (o *operation) restore(ctx context.Context, p *Plan, g store.Generation, mode cutover, old []Target, cause error) error {
	d := o.d
	if d.ctx.Err() != nil {
		return cause
	}
	ctx = d.ctx
	err := o.abandon(ctx, p, g, cause)
	if p.now == nil || mode == sideBySide {
		return err
	}
	back := o.step(ctx, "return", func(ctx context.Context) (string, error) {
		prev, err := spec.FromCanonical([]byte(p.now.Spec))
		if err != nil {
			return "", err
		}
		if err := d.removeGeneration(ctx, p.Service, p.now.N); err != nil {
			return "", err
		}
		if _, err := d.startGeneration(ctx, *p.now, prev, o.row.ID); err != nil {
			return "", err
		}
		if mode == held {
			if err := d.cfg.Router.Release(ctx, o.row.ID, old); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("generation %d runs again", p.now.N), nil
	})
	return errors.Join(err, back)
}

// finish goes forward only: the new generation is the current one, the old one goes.
func (o *operation) finish(ctx context.Context, s *spec.Service, g store.Generation, old *store.Generation) error {
	d := o.d
	o.commitTo()
	err := o.step(ctx, "commit", func(ctx context.Context) (string, error) {
		return fmt.Sprintf("generation %d", g.N), d.cfg.Store.Commit(ctx, s.Name, g.N, keepGenerations)
	})
	if err != nil {
		return err
	}
	o.row.Generation = g.N
	d.syncNames(ctx, o)
	if err := o.live(ctx); err != nil {
		return err
	}
	if old == nil {
		return nil
	}
	return o.step(ctx, "retire", func(ctx context.Context) (string, error) {
		prev, err := spec.FromCanonical([]byte(old.Spec))
		if err != nil {
			return "", err
		}
		if cutoverOf(s) == sideBySide {
			targets, err := d.targets(ctx, prev, old.Slot)
			if err != nil {
				return "", err
			}
			for _, t := range targets {
				dctx, cancel := context.WithTimeout(ctx, drainOf(prev)+drainSlack)
				if err := d.cfg.Router.Drain(dctx, t, drainOf(prev)); err != nil && ctx.Err() == nil {
					d.cfg.Log.Warn("drain", "host", t.Host, "backend", t.Backend, "err", err)
				}
				cancel()
			}
		}
		return fmt.Sprintf("generation %d", old.N), d.removeGenerationsBelow(ctx, s.Name, g.N)
	})
}

func drainOf(s *spec.Service) time.Duration {
	limit := time.Duration(0)
	for i := range s.Components {
		limit = max(limit, s.Components[i].Drain.Std())
	}
	return limit
}

// syncNames publishes the node's names. MCNS away is no failure of the deployment: names follow.
func (d *Deployer) syncNames(ctx context.Context, o *operation) {
	_ = o.step(ctx, "names", func(ctx context.Context) (string, error) {
		hosts, err := d.Hosts(ctx)
		if err != nil {
			return "", err
		}
		if err := d.cfg.Names.Sync(ctx, hosts); err != nil {
			d.event(ctx, o.row.Service, "names.pending", 2, o.row.ID, "%s", firstLine(err))
			return "", fmt.Errorf("pending, tried again every minute: %w", err)
		}
		return fmt.Sprintf("%d published", len(hosts)), nil
	})
}

// Hosts are all route hosts of current generations: the full set the node publishes.
func (d *Deployer) Hosts(ctx context.Context) ([]string, error) {
	all, err := d.cfg.Store.Services(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, sv := range all {
		if sv.Current == 0 || sv.Desired == "stopped" {
			continue
		}
		g, err := d.cfg.Store.Generation(ctx, sv.Name, sv.Current)
		if err != nil {
			return nil, err
		}
		s, err := spec.FromCanonical([]byte(g.Spec))
		if err != nil {
			return nil, err
		}
		for _, c := range s.Components {
			for _, r := range c.Routes {
				if !slices.Contains(out, r.Host) {
					out = append(out, r.Host)
				}
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

func (d *Deployer) pull(ctx context.Context, s *spec.Service, digests map[string]string) (string, error) {
	var out []string
	for i := range s.Components {
		c := &s.Components[i]
		digest := digests[c.Name]
		if !d.cfg.Images.Has(digest) {
			reg, there := d.cfg.Registry()
			if !there {
				return "", fault.New(fault.NotFound, "image %s is not on this node, and there is no registry yet", c.Image)
			}
			ref := c.Image
			if i := strings.LastIndexAny(ref, ":@"); i > 0 {
				ref = ref[:i]
			}
			got, err := reg.Pull(ctx, d.cfg.Images, ref+"@"+digest)
			if err != nil {
				return "", err
			}
			if got != digest {
				return "", fault.New(fault.Precondition, "the registry gave %s for %s", got, digest)
			}
		}
		out = append(out, c.Image+" "+digest[:19])
	}
	return strings.Join(out, ", "), nil
}

// startGeneration creates, starts and proves each component in order.
func (d *Deployer) startGeneration(ctx context.Context, g store.Generation, s *spec.Service, op string) (string, error) {
	var out []string
	for _, i := range startOrder(s) {
		c := &s.Components[i]
		e, id, err := d.create(ctx, g, s, c, op)
		if err != nil {
			return "", err
		}
		if err := e.Start(ctx, id); err != nil {
			return "", &unhealthy{component: c.Name, cause: firstLine(err), tail: d.tail(e, id)}
		}
		port := 0
		if p, ok := c.Port(c.Health.Port); ok {
			ports, err := d.ports(ctx, s.Name, c)
			if err != nil {
				return "", err
			}
			port = published(ports[p.Name], g.Slot)
		}
		if err := d.awaitHealthy(ctx, e, id, c, port); err != nil {
			return "", err
		}
		text := c.Name
		if port != 0 {
			text += " on " + portText(port)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", "), nil
}

// startOrder puts components behind what they come after. Parse refused circles.
func startOrder(s *spec.Service) []int {
	var out []int
	placed := map[string]bool{}
	for len(out) < len(s.Components) {
		before := len(out)
		for i, c := range s.Components {
			if !placed[c.Name] && !slices.ContainsFunc(c.After, func(a string) bool { return !placed[a] }) {
				out = append(out, i)
				placed[c.Name] = true
			}
		}
		if len(out) == before {
			return out
		}
	}
	return out
}

// stopGeneration stops the containers of one generation, in reverse order of their start.
func (d *Deployer) stopGeneration(ctx context.Context, service string, n int64) error {
	return d.eachOf(ctx, service, func(p placed) error {
		if p.generation() != n {
			return nil
		}
		signal, grace := "SIGTERM", 10*time.Second
		if g, err := d.cfg.Store.Generation(ctx, service, n); err == nil {
			if s, err := spec.FromCanonical([]byte(g.Spec)); err == nil {
				for _, c := range s.Components {
					if c.Name == p.component() {
						signal, grace = c.Stop.Signal, c.Stop.Grace.Std()
					}
				}
			}
		}
		return p.engine.Stop(ctx, p.ID, signal, grace)
	})
}

func (d *Deployer) eachOf(ctx context.Context, service string, fn func(p placed) error) error {
	list, err := d.containers(ctx, service)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b placed) int { return b.Started.Compare(a.Started) })
	for _, p := range list {
		if err := fn(p); err != nil {
			return err
		}
	}
	return nil
}

func (d *Deployer) removeGeneration(ctx context.Context, service string, n int64) error {
	if err := d.stopGeneration(ctx, service, n); err != nil {
		return err
	}
	return d.eachOf(ctx, service, func(p placed) error {
		if p.generation() != n {
			return nil
		}
		return p.engine.Remove(ctx, p.ID)
	})
}

func (d *Deployer) removeGenerationsBelow(ctx context.Context, service string, n int64) error {
	list, err := d.containers(ctx, service)
	if err != nil {
		return err
	}
	for _, p := range list {
		if g := p.generation(); g < n {
			if err := d.removeGeneration(ctx, service, g); err != nil {
				return err
			}
		}
	}
	return nil
}

// forget removes what a service owns beside its containers.
func (d *Deployer) forget(ctx context.Context, s *spec.Service) error {
	for kind, e := range d.cfg.Engines {
		if err := e.RemoveNetwork(ctx, "mc-"+d.cfg.Platform+"-"+s.Name); err != nil {
			return fmt.Errorf("network of %s on %s: %w", s.Name, kind, err)
		}
	}
	return d.cfg.Store.RemoveService(ctx, s.Name)
}
