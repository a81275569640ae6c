package rpc

import (
	"context"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/keyslot"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
	"metacircular.net/metacrypt/internal/engine/pki"
	"metacircular.net/metacrypt/internal/ident"
	"metacircular.net/metacrypt/internal/policy"
	"metacircular.net/metacrypt/internal/seal"
)

// Server implements the services of metacrypt.v1. Safe for concurrent use.
type Server struct {
	Seal    *seal.Seal
	Public  *pki.Public
	Version string
	Clock   clock.Clock
	Kick    func() // asks for new revocation lists soon; must not block
}

// Register registers every service.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	metacryptv1.RegisterSystemServer(r, system{Server: s})
	metacryptv1.RegisterSlotsServer(r, slots{Server: s})
	metacryptv1.RegisterPKIServer(r, pkiService{Server: s})
	metacryptv1.RegisterPolicyServer(r, policyService{Server: s})
	metacryptv1.RegisterKVServer(r, kvService{Server: s})
}

// mountOf returns the mount a request names; the default is "pki".
func mountOf(r interface{ GetMount() string }) string {
	if m := r.GetMount(); m != "" {
		return m
	}
	return "pki"
}

// origin says which lane of attempts a call counts in.
func origin(ctx context.Context) keyslot.Origin {
	if c := auth.CallFrom(ctx); c != nil && c.Transport == auth.OverUnix {
		return keyslot.Local
	}
	return keyslot.Remote
}

// requester is the caller as policy sees him and as certificates record him.
func requester(c auth.Caller) pki.Requester {
	if c.LocalAdmin() {
		return pki.LocalRoot
	}
	r := pki.Requester{Subject: c.Subject, Name: c.Name, Tags: c.Tags, Admin: c.HasRole(auth.RoleAdmin)}
	if c.Kind == auth.Human {
		r.Roles = c.Roles
	}
	return r
}

func subject(r pki.Requester) policy.Subject {
	return policy.Subject{Name: r.Name, Roles: r.Roles, Tags: r.Tags, Admin: r.Admin}
}

// decide asks policy about the caller and records the answer.
func decide(ctx context.Context, l *seal.Lease, action, resource string, names []ident.Name, zones []string) error {
	d := l.Engines.Policy.Set().Decide(policy.Request{Subject: subject(requester(auth.From(ctx))), Action: action, Resource: resource,
		Identifiers: names, Zones: zones})
	return auth.Decide(ctx, action, resource, d.Allow, d.Why)
}

// secretOf is the secret of a proof; the kind defaults to password.
func secretOf(p *metacryptv1.SlotProof) keyslot.Secret {
	kind := keyslot.Kind(p.GetKind())
	if kind == "" {
		kind = keyslot.Password
	}
	return keyslot.Secret{Kind: kind, Value: p.GetSecret()}
}

// prove checks the secret of a slot beside the caller's identity.
func (s *Server) prove(ctx context.Context, p *metacryptv1.SlotProof) error {
	if len(p.GetSecret()) == 0 {
		return fault.Field1("proof", "this needs the unseal password or a recovery code besides your login")
	}
	defer clear(p.GetSecret())
	_, err := s.Seal.Prove(ctx, secretOf(p), origin(ctx))
	return err
}
