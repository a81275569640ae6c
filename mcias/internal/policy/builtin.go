package policy

import "slices"

// Self is the service name of MCIAS itself.
const Self = "mcias"

// builtins are visible and read-only. A deny rule of the operator beats them too.
var builtins = []Rule{
	{ID: "builtin:own-account", Builtin: true, Effect: Allow, Services: []string{Self}, AccountTypes: []string{"human"},
		Description: "Active people reach their own account pages."},
	{ID: "builtin:admin", Builtin: true, Effect: Allow, Services: []string{Self}, Actions: []string{"*"}, Roles: []string{"admin"},
		Description: "Admins may use every management method of MCIAS."},
}

// Builtin returns the built-in rules.
func Builtin() []Rule { return slices.Clone(builtins) }

// Initial returns the two editable rules that init writes.
func Initial() []Rule {
	return []Rule{
		{ID: "admins-core", Effect: Allow, ClientKinds: []string{KindService, KindRegistry}, Roles: []string{"admin"},
			Description: "Admins may use the platform's own services."},
		{ID: "core-services", Effect: Allow, ClientKinds: []string{KindService}, AccountTypes: []string{"system"},
			AccountTags: []string{"core"}, Description: "Core services may talk to each other."},
	}
}

// CompileAll compiles the built-in rules and the operator's.
func CompileAll(revision int64, rules []Rule) (*Set, error) {
	return Compile(revision, append(Builtin(), rules...))
}
