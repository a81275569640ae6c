package ident

// core are the labels below a platform's domain that belong to the platform itself, with all below them.
var core = [...]string{"mcias", "metacrypt", "mcr", "mc-proxy", "mcns", "mcp", "mcat", "node", "_acme-challenge"}

// Reserved reports whether the name belongs to the platform itself in one of the zones: the apex, the core's names and
// all below them. A wildcard that would cover such a name is reserved too.
func Reserved(n Name, zones []string) bool {
	if n.IsIP() {
		return false
	}
	for _, z := range zones {
		if n.dns == z {
			return true // the apex, and *.apex, which covers every core name
		}
		for _, c := range core {
			if n.Under(c + "." + z) {
				return true
			}
		}
	}
	return false
}
