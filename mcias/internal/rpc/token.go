package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/directory"
	"metacircular.net/mcias/internal/mint"
	"metacircular.net/mcias/internal/policy"
)

type tokenServer struct {
	mciasv1.UnimplementedTokenServer
	*Servers
}

// Mint makes a token; the credential in the request is the caller.
func (s tokenServer) Mint(ctx context.Context, r *mciasv1.MintRequest) (*mciasv1.MintResponse, error) {
	ip := auth.Client(ctx)
	var m *mint.Minted
	var grant string
	var err error
	switch c := r.GetCredential().(type) {
	case *mciasv1.MintRequest_Session:
		m, err = s.Minter.BySession(ctx, c.Session, r.GetAudiences(), ip)
	case *mciasv1.MintRequest_Assertion:
		m, err = s.Minter.ByAssertion(ctx, c.Assertion, r.GetAudiences(), ip)
	case *mciasv1.MintRequest_Grant:
		g := c.Grant
		m, grant, err = s.Minter.ByGrant(ctx, g.GetAssertion(), g.GetAccessToken(), g.GetGrantId(), r.GetAudiences())
	case *mciasv1.MintRequest_Token:
		m, err = s.Minter.ByToken(ctx, c.Token.GetAssertion(), c.Token.GetToken(), r.GetAudiences(), ip)
	case *mciasv1.MintRequest_AccessKey:
		err = fault.New(fault.Unauthenticated, "unknown access key").WithReason("BAD_CREDENTIALS")
	default:
		err = fault.Field1("credential", "show a session, assertion, grant, access key or token")
	}
	if err != nil {
		return nil, err
	}
	d := m.Decision
	return &mciasv1.MintResponse{Token: m.Token, ExpiresAt: stamp(m.Expires), GrantId: grant, Outcome: string(d.Outcome), RuleId: d.Rule(),
		RuleIds: d.Deciding, Obligations: obligations(d.Obligations), PolicyRevision: d.Revision}, nil
}

func obligations(o policy.Obligations) *mciasv1.Obligations {
	out := &mciasv1.Obligations{RequireMfa: o.RequireMFA, RequirePasskey: o.RequirePasskey}
	if o.MaxAuthAge > 0 {
		out.MaxAuthAge = durationpb.New(o.MaxAuthAge)
	}
	if o.TokenTTL > 0 {
		out.TokenTtl = durationpb.New(o.TokenTTL)
	}
	return out
}

// Introspect verifies a token as its own service would.
func (s tokenServer) Introspect(ctx context.Context, r *mciasv1.IntrospectRequest) (*mciasv1.IntrospectResponse, error) {
	if err := s.may(ctx, "tokens:read", resource{name: "token"}); err != nil {
		return nil, err
	}
	auds, kid := mint.Audiences(r.GetToken())
	if len(auds) == 0 {
		return &mciasv1.IntrospectResponse{Reason: "not a token"}, nil
	}
	c, err := s.Minter.Checker().Verify(ctx, auds[0], r.GetToken())
	if err != nil {
		f := fault.From(err)
		if f.Kind != fault.Unauthenticated {
			return nil, err
		}
		return &mciasv1.IntrospectResponse{Reason: f.Public()}, nil
	}
	return &mciasv1.IntrospectResponse{Active: true, Subject: c.Subject, Name: c.Name, Kind: string(c.Kind), Audiences: auds, Roles: c.Roles,
		Tags: c.Tags, Amr: c.AMR, Jti: c.JTI, Sid: c.SID, Epoch: c.Epoch, IssuedAt: stamp(c.IssuedAt), ExpiresAt: stamp(c.Expires),
		AuthTime: stamp(c.AuthTime), Kid: kid}, nil
}

// Revoke kills tokens and says who has heard.
func (s tokenServer) Revoke(ctx context.Context, r *mciasv1.RevokeRequest) (*mciasv1.RevokeResponse, error) {
	k := directory.Kill{JTI: r.GetJti(), SID: r.GetSid(), Account: r.GetAccount(), Client: r.GetClient()}
	if err := s.may(ctx, "tokens:revoke", resource{name: k.JTI + k.SID + k.Account + k.Client}); err != nil {
		return nil, err
	}
	n, err := s.Directory.Kill(ctx, by(ctx), k)
	if err != nil {
		return nil, err
	}
	seq := s.Hub.Seq()
	acked, missing := s.Hub.Wait(ctx, seq, min(r.GetWait().AsDuration(), maxWait))
	return &mciasv1.RevokeResponse{Seq: seq, Acknowledged: acked, Missing: missing, SessionsEnded: int32(n)}, nil //nolint:gosec // at most 100
}

// maxWait keeps a revoke inside the deadline of a call.
const maxWait = 25e9
