package audit

import "net/netip"

// By says who changes something, from where. It is made at the edge from the verified caller.
type By struct {
	ID    string // account id, "" for the local administrator and for nobody
	Name  string // as audit shows it: alice, system:mcp, local:root, unknown
	Admin bool   // may touch what belongs to others
	IP    netip.Addr
}

// Record starts a record of this actor.
func (b By) Record(action, target string, kv ...string) Record {
	r := Record{Actor: b.Name, Action: action, Target: target, Detail: map[string]string{}}
	if b.IP.IsValid() {
		r.IP = b.IP.String()
	}
	for i := 0; i+1 < len(kv); i += 2 {
		r.Detail[kv[i]] = kv[i+1]
	}
	return r
}
