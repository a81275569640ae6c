package rpc

import (
	"time"

	"metacircular.net/mcdsl/auth"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
)

const service = "/metacrypt.v1."

// Rules returns the access rule of every method.
func Rules() auth.Map {
	admin := auth.Roles(auth.RoleAdmin).Privileged()
	m := auth.Map{
		service + "System/Status": auth.Public(),
		service + "System/Init":   auth.Local().Audited(nil).Within(time.Minute),
		service + "System/Unseal": auth.Public().Audited(nil).Within(2 * time.Minute),
		service + "System/Seal":   admin.Audited(nil),

		service + "Slots/List":     admin,
		service + "Slots/Add":      admin.Unsealed().Audited(target(func(r *metacryptv1.SlotsAddRequest) string { return r.GetKind() })).Within(time.Minute),
		service + "Slots/Remove":   admin.Unsealed().Audited(target(func(r *metacryptv1.SlotsRemoveRequest) string { return r.GetId() })).Within(time.Minute),
		service + "Slots/Replace":  admin.Unsealed().Audited(target(func(r *metacryptv1.SlotsReplaceRequest) string { return r.GetId() })).Within(time.Minute),
		service + "Slots/Rehearse": admin.Audited(nil).Within(time.Minute),

		service + "PKI/GetRoot":   auth.Public(),
		service + "PKI/GetChain":  auth.Public(),
		service + "PKI/GetIssuer": auth.Public(),
		service + "PKI/GetBundle": auth.Public(),
		service + "PKI/GetCRL":    auth.Public(),

		service + "PKI/Adopt":        admin.Unsealed().Audited(target(func(r *metacryptv1.AdoptRequest) string { return mountOf(r) })).Within(time.Minute),
		service + "PKI/CreateIssuer": admin.Unsealed().Audited(target(func(r *metacryptv1.CreateIssuerRequest) string { return r.GetName() })).Within(time.Minute),
		service + "PKI/ListIssuers":  admin.Unsealed(),
		service + "PKI/Issue":        auth.Policy("issue").Unsealed().Audited(target(func(r *metacryptv1.IssueRequest) string { return first(r.GetIdentifiers()) })),
		service + "PKI/SignCSR":      auth.Policy("issue").Unsealed().Audited(target(func(r *metacryptv1.SignCSRRequest) string { return mountOf(r) })),
		// The proof is the old key; neither identity nor MCIAS is needed.
		service + "PKI/RenewChallenge": auth.Public().Unsealed(),
		service + "PKI/Renew":          auth.Public().Unsealed().Audited(target(func(r *metacryptv1.RenewRequest) string { return mountOf(r) })),
		service + "PKI/GetCert":        auth.Policy("read").Unsealed(),
		service + "PKI/ListCerts":      auth.Policy("list").Unsealed(),
		service + "PKI/Revoke":         auth.Policy("delete").Unsealed().Privileged().Audited(target(func(r *metacryptv1.RevokeRequest) string { return r.GetSerial() })),

		service + "Policy/Put":     admin.Unsealed().Audited(target(func(r *metacryptv1.PolicyPutRequest) string { return r.GetRule().GetId() })),
		service + "Policy/Get":     admin.Unsealed(),
		service + "Policy/List":    admin.Unsealed(),
		service + "Policy/Delete":  admin.Unsealed().Audited(target(func(r *metacryptv1.PolicyDeleteRequest) string { return r.GetId() })),
		service + "Policy/Explain": auth.Authenticated().Unsealed(),

		service + "KV/Put":    auth.Policy("write").Unsealed().Audited(target(func(r *metacryptv1.KVPutRequest) string { return r.GetPath() })),
		service + "KV/Get":    auth.Policy("read").Unsealed().Audited(target(func(r *metacryptv1.KVGetRequest) string { return r.GetPath() })),
		service + "KV/List":   auth.Policy("list").Unsealed(),
		service + "KV/Delete": auth.Policy("delete").Unsealed().Audited(target(func(r *metacryptv1.KVDeleteRequest) string { return r.GetPath() })),
	}
	for _, route := range PublicRoutes() {
		m[auth.HTTPKey("GET", route)] = auth.Public()
	}
	return m
}

// target makes a rule's target function of a typed one.
func target[T any](f func(T) string) func(any) string {
	return func(req any) string {
		if r, ok := req.(T); ok {
			return f(r)
		}
		return ""
	}
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}
