package registry

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcns/internal/zone"
)

// Limits of one set.
const (
	maxInstances = 2000
	maxNodes     = 100
	maxPorts     = 32
	maxAddresses = 16
)

// Node is a machine.
type Node struct {
	Name  string       `json:"name"`
	Addrs []netip.Addr `json:"addrs"`
}

// Port is where an instance is reached.
type Port struct {
	Name  string   `json:"name"`
	Proto string   `json:"proto"`
	Port  uint16   `json:"port"`
	HTTPS bool     `json:"https,omitempty"`
	ALPN  []string `json:"alpn,omitempty"`
}

// Instance is a service running somewhere.
type Instance struct {
	Service  string       `json:"service"` // relative name, "@" = the zone itself
	Instance string       `json:"instance"`
	Node     string       `json:"node"`
	Addrs    []netip.Addr `json:"addrs,omitempty"`
	Ports    []Port       `json:"ports,omitempty"`
	Healthy  bool         `json:"healthy"`
}

// Set is what an owner states.
type Set struct {
	Zone       string        `json:"-"` // canonical
	Owner      string        `json:"-"`
	Principal  string        `json:"principal"`
	Epoch      uint64        `json:"-"`
	Generation uint64        `json:"-"`
	Lease      time.Duration `json:"-"`
	Keep       bool          `json:"-"`
	Nodes      []Node        `json:"nodes"`
	Instances  []Instance    `json:"instances"`

	expires time.Time
}

// Expires returns when the lease lapses.
func (s *Set) Expires() time.Time { return s.expires }

// body is the set as it is kept and compared.
func (s *Set) body() (string, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("encode set: %w", err)
	}
	return string(b), nil
}

// normal checks the set's form and orders it; wrong names are left to publishing, which reports them.
func (s *Set) normal() error {
	if len(s.Instances) > maxInstances || len(s.Nodes) > maxNodes {
		return fault.Field1("instances", "at most %d instances on %d nodes", maxInstances, maxNodes)
	}
	seen := map[string]bool{}
	for i := range s.Instances {
		in := &s.Instances[i]
		if in.Service == "" {
			in.Service = "@"
		}
		if in.Instance == "" {
			in.Instance = in.Node
		}
		k := in.Service + " " + in.Instance
		if seen[k] {
			return fault.Field1("instances", "%s of %s is there twice", in.Instance, in.Service)
		}
		seen[k] = true
		if len(in.Ports) > maxPorts || len(in.Addrs) > maxAddresses {
			return fault.Field1("instances", "%s: at most %d ports and %d addresses", in.Service, maxPorts, maxAddresses)
		}
		slices.SortFunc(in.Addrs, netip.Addr.Compare)
	}
	for i := range s.Nodes {
		if len(s.Nodes[i].Addrs) > maxAddresses {
			return fault.Field1("nodes", "%s: at most %d addresses", s.Nodes[i].Name, maxAddresses)
		}
		slices.SortFunc(s.Nodes[i].Addrs, netip.Addr.Compare)
	}
	slices.SortFunc(s.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Instances, func(a, b Instance) int {
		if c := strings.Compare(a.Service, b.Service); c != 0 {
			return c
		}
		return strings.Compare(a.Instance, b.Instance)
	})
	return nil
}

// Conflict is a name that was not published.
type Conflict struct {
	Name, Type, Owner, Reason, Text string
}

// wanted collects the values of one owner by set of records.
type wanted map[zone.Key]map[string]bool

func (w wanted) add(name string, t uint16, text string) {
	k := zone.Key{Name: name, Type: t}
	if w[k] == nil {
		w[k] = map[string]bool{}
	}
	w[k][text] = true
}

func (w wanted) addresses(name string, addrs []netip.Addr) {
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			w.add(name, dns.TypeA, a.String())
		} else {
			w.add(name, dns.TypeAAAA, a.String())
		}
	}
}

// records says what the set publishes. may judges the names; live tells whether an unhealthy instance of a
// service may leave, because a healthy one remains.
func (s *Set) records(may func(name string) *Conflict, live func(service string) bool) (wanted, []Conflict) {
	w := wanted{}
	var conflicts []Conflict
	nodes := map[string][]netip.Addr{}
	target := map[string]string{} // published name of a node
	for _, n := range s.Nodes {
		nodes[n.Name] = n.Addrs
		name, err := zone.Absolute(n.Name+".node", s.Zone)
		if err != nil || n.Name == "" {
			conflicts = append(conflicts, Conflict{Name: n.Name, Reason: "INVALID", Text: "is no name of a node"})
			continue
		}
		if c := may(name); c != nil {
			conflicts = append(conflicts, *c)
			continue
		}
		w.addresses(name, n.Addrs)
		target[n.Name] = name
	}
	denied := map[string]bool{}
	for _, in := range s.Instances {
		name, err := zone.Absolute(in.Service, s.Zone)
		if err != nil {
			conflicts = append(conflicts, Conflict{Name: in.Service, Reason: "INVALID", Text: "is no name inside the zone"})
			continue
		}
		if denied[name] {
			continue
		}
		if c := may(name); c != nil {
			conflicts, denied[name] = append(conflicts, *c), true
			continue
		}
		if !in.Healthy && live(in.Service) {
			continue
		}
		addrs := in.Addrs
		if len(addrs) == 0 {
			addrs = nodes[in.Node]
		}
		if len(addrs) == 0 {
			conflicts = append(conflicts, Conflict{Name: zone.Plain(name), Reason: "INVALID", Text: "has no address, and its node has none"})
			continue
		}
		w.addresses(name, addrs)
		host := target[in.Node]
		if host == "" {
			host = name
		}
		for _, p := range in.Ports {
			if c := w.port(name, host, s.Zone, p); c != nil {
				conflicts = append(conflicts, *c)
			}
		}
	}
	return w, conflicts
}

// port adds the SRV record of a port and, if asked for, the HTTPS record (RFC 9460).
func (w wanted) port(name, host, apex string, p Port) *Conflict {
	proto := p.Proto
	if proto == "" {
		proto = "tcp"
	}
	srv, err := zone.Canonical("_" + p.Name + "._" + proto + "." + name)
	if err != nil || p.Name == "" || strings.ContainsAny(p.Name, ". ") || (proto != "tcp" && proto != "udp") || p.Port == 0 || !zone.Below(srv, apex) {
		return &Conflict{Name: zone.Plain(name), Type: "SRV", Reason: "INVALID", Text: "port " + strconv.Quote(p.Name) + " has no valid name, protocol or number"}
	}
	w.add(srv, dns.TypeSRV, fmt.Sprintf("0 0 %d %s", p.Port, host))
	if !p.HTTPS {
		return nil
	}
	value := "1 ."
	if len(p.ALPN) > 0 {
		value += ` alpn="` + strings.Join(p.ALPN, ",") + `"`
	}
	if p.Port != 443 {
		value += fmt.Sprintf(` port="%d"`, p.Port)
	}
	_, text, err := zone.ParseValue(name, dns.TypeHTTPS, 0, value, apex)
	if err != nil {
		return &Conflict{Name: zone.Plain(name), Type: "HTTPS", Reason: "INVALID", Text: "its alpn cannot be written"}
	}
	w.add(name, dns.TypeHTTPS, text)
	return nil
}
