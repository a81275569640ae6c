package auth

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc"
)

// Map holds one rule per method. Keys are "/pkg.Service/Method" for gRPC and "HTTP GET /v2/{name}/tags/list" for
// a hand-written chi route (the pattern as registered). HEAD is ruled by its GET.
type Map map[string]Rule

// HTTPKey returns the key of a hand-written route.
func HTTPKey(method, pattern string) string { return "HTTP " + method + " " + pattern }

// Merge returns the rules of all maps. A method ruled twice is an error: exactly one rule decides.
func Merge(all ...Map) (Map, error) {
	out := Map{}
	var twice []string
	for _, m := range all {
		for k, r := range m {
			if _, ok := out[k]; ok {
				twice = append(twice, k)
			}
			out[k] = r
		}
	}
	if len(twice) > 0 {
		slices.Sort(twice)
		return nil, fmt.Errorf("ruled twice: %s", strings.Join(twice, ", "))
	}
	return out, nil
}

// Check compares the map with what the server really offers, in both directions, and names every method without
// a rule, every rule without a method and every rule that cannot work. routes are "GET /pattern".
func (m Map) Check(services map[string]grpc.ServiceInfo, routes []string) error {
	offered := map[string]bool{}
	for name, info := range services {
		for _, meth := range info.Methods {
			offered["/"+name+"/"+meth.Name] = true
		}
	}
	for _, r := range routes {
		offered["HTTP "+r] = true
	}
	var faults []error
	for _, k := range slices.Sorted(maps.Keys(offered)) {
		if _, ok := m[k]; !ok {
			faults = append(faults, fmt.Errorf("method %s has no rule", k))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !offered[k] {
			faults = append(faults, fmt.Errorf("rule %s has no method", k))
		}
		if err := m[k].valid(); err != nil {
			faults = append(faults, fmt.Errorf("rule %s: %w", k, err))
		}
	}
	return errors.Join(faults...)
}

func (r Rule) valid() error {
	switch {
	case r.Access == accessNone || r.Access > AccessLocal:
		return errors.New("admits nobody: use Public, Authenticated, Roles, Policy or Local")
	case r.Access == AccessRoles && len(r.RoleNames) == 0:
		return errors.New("Roles without a role admits nobody")
	case r.Access == AccessPolicy && r.Action == "":
		return errors.New("Policy needs an action")
	case r.Access == AccessPublic && r.MaxAuthAge > 0:
		return errors.New("Public cannot ask for a recent sign-in")
	}
	return nil
}
