package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sort"
	"strconv"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcp/internal/spec"
	"metacircular.net/mcp/internal/store"
)

// Plan is every change a deployment makes, and no other.
type Plan struct {
	ID           string
	Service      string
	Empty        bool
	Generation   int64
	Changes      []Change
	Digests      map[string]string
	Interruption string
	Spec         *spec.Service
	now          *store.Generation // nil for a first deployment
}

// Change is one difference.
type Change struct {
	Action  string // create, update, delete
	Kind    string
	Subject string
	Fields  []string
}

// Plan computes what deploying a definition would change. It resolves tags, and changes nothing.
func (d *Deployer) Plan(ctx context.Context, s *spec.Service) (*Plan, error) {
	p := &Plan{Service: s.Name, Spec: s, Digests: map[string]string{}}
	for i := range s.Components {
		c := &s.Components[i]
		digest, err := d.resolve(ctx, c.Image)
		if err != nil {
			return nil, err
		}
		p.Digests[c.Name] = digest
	}
	sv, err := d.cfg.Store.Service(ctx, s.Name)
	switch {
	case fault.Is(err, fault.NotFound):
	case err != nil:
		return nil, err
	default:
		if sv.Current > 0 {
			g, err := d.cfg.Store.Generation(ctx, s.Name, sv.Current)
			if err != nil {
				return nil, err
			}
			p.now = &g
			p.Generation = g.N
		}
	}
	if err := d.hostsFree(ctx, s); err != nil {
		return nil, err
	}
	var old *spec.Service
	var oldDigests map[string]string
	if p.now != nil {
		if old, err = spec.FromCanonical([]byte(p.now.Spec)); err != nil {
			return nil, err
		}
		oldDigests = p.now.Digests
	}
	p.Changes = compare(old, s, oldDigests, p.Digests)
	p.Empty = len(p.Changes) == 0 && p.now != nil && sv.Desired == "running"
	p.Interruption = interruption(s, p.now != nil)
	input, err := json.Marshal([]any{s.Hash(), p.Digests, p.Generation, sv.Desired})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(input)
	p.ID = hex.EncodeToString(sum[:])
	if !p.Empty {
		p.Generation++
	}
	return p, nil
}

// resolve turns a reference into a manifest digest: from the node's store first, so that a present image needs no registry.
func (d *Deployer) resolve(ctx context.Context, image string) (string, error) {
	if digest, ok, err := d.cfg.Images.Resolve(image); err != nil || ok {
		return digest, err
	}
	reg, there := d.cfg.Registry()
	if !there {
		return "", fault.New(fault.NotFound, "image %s is not on this node, and there is no registry yet", image)
	}
	digest, ok, err := reg.Resolve(ctx, image)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", fault.New(fault.NotFound, "image %s is not in the registry", image).WithNext("push it, or pick a tag that mcr tag list shows")
	}
	return digest, nil
}

// hostsFree refuses a host that another service of this node holds.
func (d *Deployer) hostsFree(ctx context.Context, s *spec.Service) error {
	wanted := map[string]bool{}
	for _, c := range s.Components {
		for _, r := range c.Routes {
			wanted[r.Listener+" "+r.Host] = true
		}
	}
	all, err := d.cfg.Store.Services(ctx)
	if err != nil {
		return err
	}
	for _, sv := range all {
		if sv.Name == s.Name || sv.Current == 0 {
			continue
		}
		g, err := d.cfg.Store.Generation(ctx, sv.Name, sv.Current)
		if err != nil {
			return err
		}
		other, err := spec.FromCanonical([]byte(g.Spec))
		if err != nil {
			return err
		}
		for _, c := range other.Components {
			for _, r := range c.Routes {
				if wanted[r.Listener+" "+r.Host] {
					return fault.New(fault.Exists, "host %s belongs to service %s", r.Host, sv.Name).WithNext("choose another host, or undeploy %s", sv.Name)
				}
			}
		}
	}
	return nil
}

// compare lists the differences between two services; old is nil for a first deployment.
func compare(old, now *spec.Service, oldDigests, digests map[string]string) []Change {
	var out []Change
	have := map[string]*spec.Component{}
	if old != nil {
		for i := range old.Components {
			have[old.Components[i].Name] = &old.Components[i]
		}
	}
	for i := range now.Components {
		c := &now.Components[i]
		before := have[c.Name]
		delete(have, c.Name)
		if before == nil {
			out = append(out, Change{Action: "create", Kind: "component", Subject: c.Name, Fields: []string{"image: " + c.Image + "@" + digests[c.Name]}})
			continue
		}
		fields := differences(before, c)
		if oldDigests[c.Name] != digests[c.Name] {
			fields = append(fields, fmt.Sprintf("digest: %s -> %s", oldDigests[c.Name], digests[c.Name]))
		}
		if len(fields) > 0 {
			out = append(out, Change{Action: "update", Kind: "component", Subject: c.Name, Fields: fields})
		}
	}
	gone := make([]string, 0, len(have))
	for name := range have {
		gone = append(gone, name)
	}
	sort.Strings(gone)
	for _, name := range gone {
		out = append(out, Change{Action: "delete", Kind: "component", Subject: name})
	}
	if old != nil && (old.Repair != now.Repair || fmt.Sprint(old.After) != fmt.Sprint(now.After)) {
		out = append(out, Change{Action: "update", Kind: "setting", Subject: now.Name, Fields: []string{"repair: " + old.Repair + " -> " + now.Repair, fmt.Sprintf("after: %v -> %v", old.After, now.After)}})
	}
	return out
}

// differences compares two components field by field in their canonical form.
func differences(a, b *spec.Component) []string {
	fa, fb := fieldsOf(a), fieldsOf(b)
	names := map[string]bool{}
	for k := range fa {
		names[k] = true
	}
	for k := range fb {
		names[k] = true
	}
	sorted := make([]string, 0, len(names))
	for k := range names {
		sorted = append(sorted, k)
	}
	sort.Strings(sorted)
	var out []string
	for _, k := range sorted {
		if string(fa[k]) != string(fb[k]) {
			out = append(out, fmt.Sprintf("%s: %s -> %s", k, orNone(fa[k]), orNone(fb[k])))
		}
	}
	return out
}

func fieldsOf(c *spec.Component) map[string]json.RawMessage {
	data, err := json.Marshal(c)
	if err != nil {
		panic(err) // a plain struct of ours
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(data, &m); err != nil {
		panic(err)
	}
	return m
}

func orNone(raw json.RawMessage) string {
	if len(raw) == 0 {
		return "none"
	}
	return string(raw)
}

// cutover says how traffic moves from one generation to the next.
type cutover string

const (
	sideBySide cutover = "proxy"   // new beside old, then one switch
	held       cutover = "hold"    // requests wait while the one writer changes
	inPlace    cutover = "restart" // stop, start
)

func cutoverOf(s *spec.Service) cutover {
	routed, exclusive := false, false
	for i := range s.Components {
		routed = routed || len(s.Components[i].Routes) > 0
		exclusive = exclusive || s.Components[i].Exclusive()
	}
	switch {
	case s.Core || !routed:
		return inPlace
	case exclusive:
		return held
	}
	return sideBySide
}

func interruption(s *spec.Service, running bool) string {
	if !running {
		return "none: it is new"
	}
	switch cutoverOf(s) {
	case sideBySide:
		return "none"
	case held:
		return "requests wait while the single writer changes"
	}
	return "stopped while the new one starts"
}

func asUnhealthy(err error) (*unhealthy, bool) {
	var u *unhealthy
	ok := errors.As(err, &u)
	return u, ok
}

func portText(n int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(n)) }
