package zone

import "maps"

// View is the set of zones a query is answered from. Immutable; the zero View has no zones.
type View struct {
	zones map[string]*Compiled
}

// NewView returns a view of these zones.
func NewView(zs ...*Compiled) *View {
	v := &View{zones: make(map[string]*Compiled, len(zs))}
	for _, z := range zs {
		v.zones[z.Apex] = z
	}
	return v
}

// With returns a view where these zones replace those of the same name.
func (v *View) With(zs ...*Compiled) *View {
	n := &View{zones: maps.Clone(v.zones)}
	if n.zones == nil {
		n.zones = map[string]*Compiled{}
	}
	for _, z := range zs {
		n.zones[z.Apex] = z
	}
	return n
}

// Without returns a view that lacks a zone.
func (v *View) Without(apex string) *View {
	n := &View{zones: maps.Clone(v.zones)}
	delete(n.zones, apex)
	return n
}

// Get returns the zone with this apex, or nil.
func (v *View) Get(apex string) *Compiled { return v.zones[apex] }

// Find returns the zone with the longest apex that ends the name, or nil.
func (v *View) Find(name string) *Compiled {
	if len(v.zones) == 0 {
		return nil
	}
	for p := name; p != ""; p = Parent(p) {
		if z := v.zones[p]; z != nil {
			return z
		}
	}
	return nil
}

// Len returns how many zones there are.
func (v *View) Len() int { return len(v.zones) }

// All calls f for every zone, in no order.
func (v *View) All(f func(*Compiled)) {
	for _, z := range v.zones {
		f(z)
	}
}
