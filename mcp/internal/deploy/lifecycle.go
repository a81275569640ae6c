package deploy

import (
	"context"
	"fmt"
	"os"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcp/internal/spec"
	"metacircular.net/mcp/internal/store"
)

// current returns a service's current generation and its definition.
func (d *Deployer) current(ctx context.Context, service string) (store.Generation, *spec.Service, error) {
	sv, err := d.cfg.Store.Service(ctx, service)
	if err != nil {
		return store.Generation{}, nil, err
	}
	if sv.Current == 0 {
		return store.Generation{}, nil, fault.New(fault.Precondition, "%s was never deployed to the end", service)
	}
	g, err := d.cfg.Store.Generation(ctx, service, sv.Current)
	if err != nil {
		return g, nil, err
	}
	s, err := spec.FromCanonical([]byte(g.Spec))
	return g, s, err
}

// Stop stops a service; what it owns stays reserved. desired is stopped, or down for `mcp down`.
func (d *Deployer) Stop(ctx context.Context, service, desired string, req Request) (store.Op, error) {
	g, _, err := d.current(ctx, service)
	if err != nil {
		return store.Op{}, err
	}
	op, _, err := d.start(ctx, "stop", service, g.N, req, func(ctx context.Context, o *operation) error {
		return o.step(ctx, "stop", func(ctx context.Context) (string, error) {
			if err := d.cfg.Store.SetDesired(ctx, service, desired); err != nil {
				return "", err
			}
			return fmt.Sprintf("generation %d", g.N), d.removeGeneration(ctx, service, g.N)
		})
	})
	return op, err
}

// Start lets a stopped service run again; Restart stops it first. One that runs already and is to start is done at once.
func (d *Deployer) Start(ctx context.Context, service string, restart bool, req Request) (store.Op, error) {
	g, s, err := d.current(ctx, service)
	if err != nil {
		return store.Op{}, err
	}
	kind := "start"
	if restart {
		kind = "restart"
	}
	op, _, err := d.start(ctx, kind, service, g.N, req, func(ctx context.Context, o *operation) error {
		if err := d.cfg.Store.SetDesired(ctx, service, "running"); err != nil {
			return err
		}
		return o.step(ctx, "start", func(ctx context.Context) (string, error) {
			if !restart {
				if whole, err := d.runs(ctx, g, s); err != nil || whole {
					return "it runs", err
				}
			}
			if err := d.removeGeneration(ctx, service, g.N); err != nil {
				return "", err
			}
			return d.startGeneration(ctx, g, s, o.row.ID)
		})
	})
	return op, err
}

// Undeploy takes back, in the order in which nothing is left dangling: name, route, containers, certificate, ports, rows.
func (d *Deployer) Undeploy(ctx context.Context, service string, deleteData bool, req Request) (store.Op, []string, error) {
	sv, err := d.cfg.Store.Service(ctx, service)
	if err != nil {
		return store.Op{}, nil, err
	}
	if sv.Core {
		return store.Op{}, nil, fault.New(fault.Precondition, "%s is part of the platform", service).WithNext("mcp destroy removes the platform")
	}
	var kept []string
	if data := d.path("apps", service); !deleteData && fileThere(data) {
		kept = append(kept, data)
	}
	op, _, err := d.start(ctx, "undeploy", service, sv.Current, req, func(ctx context.Context, o *operation) error {
		return o.undeploy(ctx, sv, deleteData)
	})
	return op, kept, err
}

func (o *operation) undeploy(ctx context.Context, sv store.Service, deleteData bool) error {
	d := o.d
	s := &spec.Service{Name: sv.Name}
	var targets []Target
	if sv.Current > 0 {
		g, got, err := d.current(ctx, sv.Name)
		if err != nil {
			return err
		}
		s = got
		if targets, err = d.targets(ctx, s, g.Slot); err != nil {
			return err
		}
	}
	if err := d.cfg.Store.SetDesired(ctx, sv.Name, "stopped"); err != nil {
		return err
	}
	d.syncNames(ctx, o)
	if len(targets) > 0 {
		err := o.step(ctx, "route", func(ctx context.Context) (string, error) {
			return switchDetail(targets), d.cfg.Router.Swap(ctx, o.row.ID, nil, targets, false)
		})
		if err != nil {
			return err
		}
	}
	err := o.step(ctx, "stop", func(ctx context.Context) (string, error) {
		return "all containers", d.eachOf(ctx, sv.Name, func(p placed) error {
			if err := p.engine.Stop(ctx, p.ID, "SIGTERM", stopGrace(s, p.component())); err != nil {
				return err
			}
			return p.engine.Remove(ctx, p.ID)
		})
	})
	if err != nil {
		return err
	}
	if hosts := certHosts(targets); len(hosts) > 0 {
		err := o.step(ctx, "certs", func(ctx context.Context) (string, error) {
			for _, h := range hosts {
				if err := d.cfg.Issuer.Drop(ctx, h); err != nil {
					return "", err
				}
			}
			return "revoked and removed", nil
		})
		if err != nil {
			return err
		}
	}
	return o.step(ctx, "forget", func(ctx context.Context) (string, error) {
		if deleteData {
			if err := os.RemoveAll(d.path("apps", sv.Name)); err != nil {
				return "", fmt.Errorf("remove data: %w", err)
			}
		}
		return "ports, user, history", d.forget(ctx, s)
	})
}
