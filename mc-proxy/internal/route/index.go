package route

import (
	"slices"
	"strings"

	"metacircular.net/mcdsl/fault"
)

// Index answers which route a client of a listener belongs to. It is immutable.
type Index struct {
	all       []*Route
	byID      map[int64]*Route
	listeners map[string]*listenerIndex
}

// listenerIndex holds the names of one listener: those without an ALPN protocol, and a second table
// for each protocol that some route asks for.
type listenerIndex struct {
	plain names
	alpn  map[string]*names
}

type names struct {
	exact    map[string]*Route
	wildcard map[string]*Route // by suffix without "*."
	fallback *Route
	noSNI    *Route
}

// NewIndex builds the index of a set of routes. Two routes with one key are refused.
func NewIndex(routes []*Route) (*Index, error) {
	if len(routes) > MaxRoutes {
		return nil, fault.New(fault.Exhausted, "the table holds at most %d routes", MaxRoutes)
	}
	x := &Index{all: slices.Clone(routes), byID: make(map[int64]*Route, len(routes)), listeners: map[string]*listenerIndex{}}
	slices.SortFunc(x.all, func(a, b *Route) int { return compareKeys(a.Spec.Key, b.Spec.Key) })
	for i, r := range x.all {
		if i > 0 && x.all[i-1].Spec.Key == r.Spec.Key {
			return nil, fault.New(fault.Exists, "route %s exists twice", r.Spec.Key)
		}
		x.byID[r.ID] = r
		l := x.listeners[r.Spec.Listener]
		if l == nil {
			l = &listenerIndex{alpn: map[string]*names{}}
			x.listeners[r.Spec.Listener] = l
		}
		n := &l.plain
		if r.Spec.ALPN != "" {
			if n = l.alpn[r.Spec.ALPN]; n == nil {
				n = &names{}
				l.alpn[r.Spec.ALPN] = n
			}
		}
		n.add(r)
	}
	return x, nil
}

func (n *names) add(r *Route) {
	switch suffix, wild := strings.CutPrefix(r.Spec.Hostname, "*."); {
	case r.Spec.Hostname == Default:
		n.fallback = r
	case r.Spec.Hostname == NoSNI:
		n.noSNI = r
	case wild:
		if n.wildcard == nil {
			n.wildcard = map[string]*Route{}
		}
		n.wildcard[suffix] = r
	default:
		if n.exact == nil {
			n.exact = map[string]*Route{}
		}
		n.exact[r.Spec.Hostname] = r
	}
}

// lookup matches exact, then the longest suffix, then the fallback. *.x matches any depth below x and
// not x itself.
func (n *names) lookup(name string) *Route {
	if name == "" {
		return n.noSNI
	}
	if r := n.exact[name]; r != nil {
		return r
	}
	if len(n.wildcard) > 0 {
		for rest := name; ; {
			_, after, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			if r := n.wildcard[after]; r != nil {
				return r
			}
			rest = after
		}
	}
	return n.fallback
}

// acmeALPN is matched only as the sole offer (RFC 8737 section 4).
const acmeALPN = "acme-tls/1"

// Offer is what a client says about itself in its hello.
type Offer struct {
	Name string   // normalised; empty: none sent
	ALPN []string // in the client's order
}

// Lookup returns the route for a client of the listener, nil without one. Routes with an ALPN protocol
// that the client offers are tried first.
func (x *Index) Lookup(listener string, o Offer) *Route {
	l := x.listeners[listener]
	if l == nil {
		return nil
	}
	if len(l.alpn) > 0 {
		for _, p := range o.ALPN {
			if p == acmeALPN && len(o.ALPN) != 1 {
				continue
			}
			if n := l.alpn[p]; n != nil {
				if r := n.lookup(o.Name); r != nil {
					return r
				}
			}
		}
	}
	return l.plain.lookup(o.Name)
}

// HasALPN reports whether a listener has routes that look at ALPN, so that callers can skip reading it.
func (x *Index) HasALPN(listener string) bool {
	l := x.listeners[listener]
	return l != nil && len(l.alpn) > 0
}

// Get returns the route with this id, nil without one.
func (x *Index) Get(id int64) *Route { return x.byID[id] }

// Find returns the route with this key, nil without one.
func (x *Index) Find(k Key) *Route {
	i, ok := slices.BinarySearchFunc(x.all, k, func(r *Route, k Key) int { return compareKeys(r.Spec.Key, k) })
	if !ok {
		return nil
	}
	return x.all[i]
}

// All returns the routes in order of their keys. The slice must not be changed.
func (x *Index) All() []*Route { return x.all }
