// Package dns publishes the node's names in MCNS as one set: the deploy package's Names.
package dns

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/fault"
	mcnsv1 "metacircular.net/mcns/api/mcns/v1"
)

// Config says what the node publishes.
type Config struct {
	Zone    string
	Node    string
	Addrs   []string // where clients reach this node's MC-Proxy
	HTTPS   int
	GRPC    int
	Epoch   int64
	Reserve []string // core hosts: they get a gRPC port too
}

// Client is a deploy.Names. Safe for concurrent use.
type Client struct {
	cfg      Config
	registry mcnsv1.RegistryServiceClient

	mu         sync.Mutex // one Sync at a time; guards what is below
	generation uint64
	last       []string
}

// New uses a connection to MCNS under the node's account.
func New(conn grpc.ClientConnInterface, cfg Config) *Client {
	return &Client{cfg: cfg, registry: mcnsv1.NewRegistryServiceClient(conn)}
}

// Sync publishes exactly these hosts; an equal set is a renewal of the lease. What is not published because somebody
// else holds the name is an error that says whose it is.
func (c *Client) Sync(ctx context.Context, hosts []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if c.generation > 0 && slices.Equal(hosts, c.last) {
		_, err := c.registry.Renew(ctx, &mcnsv1.RenewRequest{Zone: c.cfg.Zone, Epoch: uint64(c.cfg.Epoch), Generation: c.generation}) //nolint:gosec // an epoch is positive
		if err == nil {
			return nil
		}
		if !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Precondition) && !fault.Is(err, fault.Conflict) {
			return fmt.Errorf("renew names: %w", err)
		}
	}
	req := &mcnsv1.SyncRequest{Zone: c.cfg.Zone, Epoch: uint64(c.cfg.Epoch), Generation: c.generation + 1, OnExpiry: mcnsv1.OnExpiry_ON_EXPIRY_KEEP, //nolint:gosec // an epoch is positive
		Nodes: []*mcnsv1.Node{{Name: c.cfg.Node, Addresses: c.cfg.Addrs}}}
	for _, h := range hosts {
		label := strings.TrimSuffix(strings.TrimSuffix(h, c.cfg.Zone), ".")
		in := &mcnsv1.Instance{Service: label, Instance: c.cfg.Node, Node: c.cfg.Node, Healthy: true,
			Ports: []*mcnsv1.Port{{Name: "https", Protocol: "tcp", Port: uint32(c.cfg.HTTPS), HttpsRecord: c.cfg.HTTPS == 443}}} //nolint:gosec // a port
		if slices.Contains(c.cfg.Reserve, h) {
			in.Ports = append(in.Ports, &mcnsv1.Port{Name: "grpc", Protocol: "tcp", Port: uint32(c.cfg.GRPC)}) //nolint:gosec // a port
		}
		req.Instances = append(req.Instances, in)
	}
	resp, err := c.registry.Sync(ctx, req)
	if err != nil {
		return fmt.Errorf("publish names: %w", err)
	}
	c.generation, c.last = req.GetGeneration(), slices.Clone(hosts)
	if cs := resp.GetConflicts(); len(cs) > 0 {
		return fault.New(fault.Conflict, "%d name(s) not published: %s: %s", len(cs), cs[0].GetName(), cs[0].GetText()).WithNext("mcns record list %s", c.cfg.Zone)
	}
	return nil
}
