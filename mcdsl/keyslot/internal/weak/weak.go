// Package weak holds the permission for KDF costs that protect nothing. It is internal to keyslot so that only
// keyslottest, which needs a *testing.T, can give it.
package weak

// Costs is the permission; its zero value permits nothing.
type Costs struct{ allowed bool }

// Allow gives the permission.
func Allow() Costs { return Costs{allowed: true} }

// Allowed reports whether it was given.
func (c Costs) Allowed() bool { return c.allowed }
