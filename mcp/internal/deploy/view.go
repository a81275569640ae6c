package deploy

import (
	"context"
	"fmt"
	"sort"

	"metacircular.net/mcp/internal/engine"
	"metacircular.net/mcp/internal/spec"
	"metacircular.net/mcp/internal/store"
)

// View is a service as it is now.
type View struct {
	Row        store.Service
	State      string // absent, starting, healthy, unhealthy, exited, unknown
	SpecHash   string
	Definition string // canonical
	OpID       string // the operation that runs on it
	Components []ComponentView
	Routes     []RouteView
}

// ComponentView is one container of it.
type ComponentView struct {
	Name, State, Image, Digest, Engine, Detail string
	Container                                  engine.Container
	Ports                                      []PortView
}

// PortView is a named port.
type PortView struct {
	Name                string
	Declared, Published int
	Slot                string
}

// RouteView is a name it answers to.
type RouteView struct{ Listener, Host, Mode, Component, Port, Backend, URL string }

// Image is the pin of a component.
type Image struct{ Component, Reference, Digest string }

// ImagesOf are the pins of a generation.
func ImagesOf(g store.Generation) []Image {
	s, err := spec.FromCanonical([]byte(g.Spec))
	if err != nil {
		return nil
	}
	var out []Image
	for _, c := range s.Components {
		out = append(out, Image{Component: c.Name, Reference: c.Image, Digest: g.Digests[c.Name]})
	}
	return out
}

// BootOrder lists the services core first.
func (d *Deployer) BootOrder(ctx context.Context) ([]store.Service, error) {
	all, err := d.cfg.Store.Services(ctx)
	sortBoot(all)
	return all, err
}

// Views returns every service.
func (d *Deployer) Views(ctx context.Context) ([]View, error) {
	rows, err := d.cfg.Store.Services(ctx)
	if err != nil {
		return nil, err
	}
	var out []View
	for _, r := range rows {
		v, err := d.View(ctx, r.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// View returns one service. An engine that does not answer makes its components unknown, never absent.
func (d *Deployer) View(ctx context.Context, name string) (View, error) {
	row, err := d.cfg.Store.Service(ctx, name)
	if err != nil {
		return View{}, err
	}
	v := View{Row: row, State: "absent"}
	live, err := d.cfg.Store.LiveOps(ctx)
	if err != nil {
		return v, err
	}
	for _, op := range live {
		if op.Service == name {
			v.OpID = op.ID
		}
	}
	if row.Current == 0 {
		if v.OpID != "" {
			v.State = "starting"
		}
		return v, nil
	}
	g, s, err := d.current(ctx, name)
	if err != nil {
		return v, err
	}
	v.SpecHash, v.Definition = g.SpecHash, g.Spec
	list, lerr := d.containers(ctx, name)
	for i := range s.Components {
		c := &s.Components[i]
		cv, err := d.component(ctx, g, s, c, list, lerr)
		if err != nil {
			return v, err
		}
		v.Components = append(v.Components, cv)
		for _, r := range c.Routes {
			rv := RouteView{Listener: r.Listener, Host: r.Host, Mode: r.Mode, Component: c.Name, Port: r.Port}
			for _, p := range cv.Ports {
				if p.Name == r.Port {
					rv.Backend = backendAddr(p.Published)
				}
			}
			if r.Listener == "https" {
				rv.URL = d.URL(r.Host)
			}
			v.Routes = append(v.Routes, rv)
		}
	}
	v.State = worst(v.Components)
	if v.OpID != "" && v.State != "healthy" {
		v.State = "starting"
	}
	return v, nil
}

func (d *Deployer) component(ctx context.Context, g store.Generation, s *spec.Service, c *spec.Component, list []placed, lerr error) (ComponentView, error) {
	_, kind := d.engineOf(c)
	cv := ComponentView{Name: c.Name, Image: c.Image, Digest: g.Digests[c.Name], Engine: kind, State: "absent"}
	ports, err := d.ports(ctx, s.Name, c)
	if err != nil {
		return cv, err
	}
	for _, p := range c.Ports {
		cv.Ports = append(cv.Ports, PortView{Name: p.Name, Declared: int(p.Port), Published: published(ports[p.Name], g.Slot), Slot: string("ab"[g.Slot])})
	}
	if lerr != nil {
		cv.State, cv.Detail = "unknown", "the engine does not answer"
		return cv, nil
	}
	for _, p := range list {
		if p.component() != c.Name || p.generation() != g.N {
			continue
		}
		cv.Container = p.Container
		switch p.State {
		case engine.Created:
			cv.State = "created"
		case engine.Exited:
			cv.State, cv.Detail = "exited", fmt.Sprintf("code %d %s", p.ExitCode, p.Error)
		case engine.Running:
			cv.State = "healthy"
			port, _ := c.Port(c.Health.Port)
			if err := probe(ctx, c, published(ports[port.Name], g.Slot)); err != nil {
				cv.State, cv.Detail = "unhealthy", firstLine(err)
			}
		}
	}
	return cv, nil
}

// worst is the state a service is in by those of its components.
func worst(cs []ComponentView) string {
	rank := map[string]int{"healthy": 0, "created": 1, "unknown": 2, "unhealthy": 3, "exited": 4, "absent": 5}
	sorted := append([]ComponentView{}, cs...)
	sort.SliceStable(sorted, func(i, j int) bool { return rank[sorted[i].State] > rank[sorted[j].State] })
	if len(sorted) == 0 {
		return "absent"
	}
	return sorted[0].State
}

// Destroy removes all containers, networks and images of this platform's node, telling what.
func (d *Deployer) Destroy(ctx context.Context, tell func(what string) error) error {
	list, err := d.containers(ctx, "")
	if err != nil {
		return err
	}
	all, err := d.BootOrder(ctx)
	if err != nil {
		return err
	}
	for _, sv := range all {
		if err := d.cfg.Store.SetDesired(ctx, sv.Name, "down"); err != nil {
			return err
		}
	}
	digests := map[string]placed{}
	for _, p := range list {
		if err := p.engine.Stop(ctx, p.ID, "SIGTERM", drainSlack); err != nil {
			return err
		}
		if err := p.engine.Remove(ctx, p.ID); err != nil {
			return err
		}
		digests[p.kind+p.Digest] = p
		if err := tell("container " + p.Name); err != nil {
			return err
		}
	}
	for _, sv := range all {
		for _, e := range d.cfg.Engines {
			if err := e.RemoveNetwork(ctx, "mc-"+d.cfg.Platform+"-"+sv.Name); err != nil {
				return err
			}
		}
	}
	for _, p := range digests {
		if err := p.engine.RemoveImage(ctx, p.Digest); err != nil {
			return err
		}
		if err := tell("image " + p.Digest); err != nil {
			return err
		}
	}
	return nil
}
