package rpc

import (
	"time"

	"metacircular.net/mcdsl/auth"
)

// authBody bounds the requests that anybody may send.
const authBody = 8 << 10

// stepUp is how recent the proof of a factor must be for the most dangerous changes.
const stepUp = 5 * time.Minute

// Rules returns the rule of every method. Audit is written by the domain, in the transaction of the change.
func Rules() auth.Map {
	manage := func(action string) auth.Rule { return auth.Policy(action).Privileged() }
	return auth.Map{
		"/mcias.v1.Auth/Login":           auth.Public().Unsealed(),
		"/mcias.v1.Auth/RedeemSetupLink": auth.Public().Unsealed(),
		"/mcias.v1.Auth/Reauthenticate":  auth.Authenticated().Unsealed(),
		"/mcias.v1.Auth/Logout":          auth.Authenticated(),
		"/mcias.v1.Auth/ChangePassword":  auth.Authenticated().Unsealed(),
		"/mcias.v1.Auth/ListSessions":    auth.Authenticated(),
		"/mcias.v1.Auth/EndSession":      auth.Authenticated(),
		"/mcias.v1.Auth/ListGrants":      auth.Authenticated(),
		"/mcias.v1.Auth/RevokeGrant":     auth.Authenticated(),

		"/mcias.v1.Account/Create":          manage("accounts:create"),
		"/mcias.v1.Account/Get":             auth.Policy("accounts:read"),
		"/mcias.v1.Account/List":            auth.Policy("accounts:list"),
		"/mcias.v1.Account/Update":          manage("accounts:update"),
		"/mcias.v1.Account/SetStatus":       manage("accounts:manage"),
		"/mcias.v1.Account/Delete":          manage("accounts:delete"),
		"/mcias.v1.Account/AddRole":         manage("roles:manage"),
		"/mcias.v1.Account/RemoveRole":      manage("roles:manage"),
		"/mcias.v1.Account/SetTags":         manage("tags:manage"),
		"/mcias.v1.Account/CreateSetupLink": manage("accounts:manage"),
		"/mcias.v1.Account/ResetFactors":    manage("accounts:manage"),
		"/mcias.v1.Account/BreakGlass":      auth.Local(),

		"/mcias.v1.Token/Mint":       auth.Public().Unsealed(),
		"/mcias.v1.Token/Introspect": auth.Policy("tokens:read"),
		"/mcias.v1.Token/Revoke":     manage("tokens:revoke"),

		"/mcias.v1.Watch/Watch":        auth.Public(),
		"/mcias.v1.Watch/ListWatchers": auth.Policy("tokens:list"),
		"/mcias.v1.Watch/GetKeys":      auth.Public(),

		"/mcias.v1.ServiceAccount/Create":    manage("accounts:create"),
		"/mcias.v1.ServiceAccount/List":      auth.Policy("accounts:list"),
		"/mcias.v1.ServiceAccount/AddKey":    manage("accounts:manage"),
		"/mcias.v1.ServiceAccount/RetireKey": manage("accounts:manage"),
		"/mcias.v1.ServiceAccount/ListKeys":  auth.Policy("accounts:read"),

		"/mcias.v1.Policy/GetRules":      auth.Policy("policy:read"),
		"/mcias.v1.Policy/Apply":         manage("policy:manage").StepUp(stepUp),
		"/mcias.v1.Policy/Explain":       auth.Policy("policy:read"),
		"/mcias.v1.Policy/ListRevisions": auth.Policy("policy:read"),

		"/mcias.v1.Client/Create":       manage("clients:create"),
		"/mcias.v1.Client/Get":          auth.Policy("clients:read"),
		"/mcias.v1.Client/List":         auth.Policy("clients:list"),
		"/mcias.v1.Client/Update":       manage("clients:update"),
		"/mcias.v1.Client/RotateSecret": manage("clients:update"),
		"/mcias.v1.Client/SetEnabled":   manage("clients:update"),
		"/mcias.v1.Client/Delete":       manage("clients:delete"),

		"/mcias.v1.Audit/List":   auth.Policy("audit:read"),
		"/mcias.v1.Audit/Verify": auth.Policy("audit:read"),

		"/mcias.v1.Key/List":       auth.Policy("keys:list"),
		"/mcias.v1.Key/Rotate":     manage("keys:manage").Unsealed(),
		"/mcias.v1.Key/Compromise": manage("keys:manage").Unsealed(),

		"/mcias.v1.Vault/Status":     auth.Public(),
		"/mcias.v1.Vault/Unseal":     auth.Public(),
		"/mcias.v1.Vault/Seal":       manage("vault:manage"),
		"/mcias.v1.Vault/ListSlots":  auth.Policy("vault:read"),
		"/mcias.v1.Vault/AddSlot":    manage("vault:manage"),
		"/mcias.v1.Vault/RemoveSlot": manage("vault:manage"),
	}
}
