package auth

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
)

// Minter asks MCIAS for tokens, with the service key as its proof. Safe for concurrent use.
type Minter struct {
	client mciasv1.TokenClient
	key    *ServiceKey
	clock  clock.Clock
}

// NewMinter returns a minter over a connection to MCIAS.
func NewMinter(conn grpc.ClientConnInterface, key *ServiceKey) *Minter {
	return &Minter{client: mciasv1.NewTokenClient(conn), key: key, clock: clock.System()}
}

// Minted is a token with what MCIAS said about it.
type Minted struct {
	Token    string
	Expires  time.Time
	GrantID  string // with a grant: shown again at the next mint
	Outcome  string // what policy said, for those who show it (MCAT)
	RuleID   string
	RuleIDs  []string
	Revision int64
	Must     Obligations
}

// Obligations are what policy asks of a sign-in.
type Obligations struct {
	MFA, Passkey bool
	MaxAuthAge   time.Duration
	TokenTTL     time.Duration
}

// Service returns a token of this service's own account for one audience. Tokens keeps one and renews it.
func (m *Minter) Service(ctx context.Context, audience string) (Minted, error) {
	assertion, err := m.key.Assertion(m.clock.Now())
	if err != nil {
		return Minted{}, err
	}
	return m.mint(ctx, &mciasv1.MintRequest{Credential: &mciasv1.MintRequest_Assertion{Assertion: assertion}, Audiences: []string{audience}})
}

// FirstGrant returns a token for this service's own audience from the access token of an OIDC code exchange: how
// pages get a platform token after a sign-in. Its GrantID is for Grant.
func (m *Minter) FirstGrant(ctx context.Context, accessToken string) (Minted, error) {
	return m.grant(ctx, &mciasv1.GrantCredential{Proof: &mciasv1.GrantCredential_AccessToken{AccessToken: accessToken}})
}

// Grant returns a fresh token for a grant that FirstGrant returned.
func (m *Minter) Grant(ctx context.Context, grantID string) (Minted, error) {
	return m.grant(ctx, &mciasv1.GrantCredential{Proof: &mciasv1.GrantCredential_GrantId{GrantId: grantID}})
}

func (m *Minter) grant(ctx context.Context, g *mciasv1.GrantCredential) (Minted, error) {
	var err error
	if g.Assertion, err = m.key.Assertion(m.clock.Now()); err != nil {
		return Minted{}, err
	}
	return m.mint(ctx, &mciasv1.MintRequest{Credential: &mciasv1.MintRequest_Grant{Grant: g}})
}

// Exchange turns the token of the present call into one for another audience, same caller, never longer-lived:
// how the master acts for a caller at a node. The presented token goes to MCIAS and nowhere else.
func (m *Minter) Exchange(ctx context.Context, audience string) (Minted, error) {
	call := CallFrom(ctx)
	if call == nil || call.token == "" {
		return Minted{}, fault.New(fault.Precondition, "there is no caller's token to exchange").WithReason(ReasonNoToken)
	}
	assertion, err := m.key.Assertion(m.clock.Now())
	if err != nil {
		return Minted{}, err
	}
	return m.mint(ctx, &mciasv1.MintRequest{Credential: &mciasv1.MintRequest_Token{
		Token: &mciasv1.ExchangeCredential{Assertion: assertion, Token: call.token}}, Audiences: []string{audience}})
}

func (m *Minter) mint(ctx context.Context, req *mciasv1.MintRequest) (Minted, error) {
	resp, err := m.client.Mint(ctx, req)
	if err != nil {
		return Minted{}, fmt.Errorf("ask MCIAS for a token: %w", err)
	}
	o := resp.GetObligations()
	return Minted{Token: resp.GetToken(), Expires: resp.GetExpiresAt().AsTime(), GrantID: resp.GetGrantId(), Outcome: resp.GetOutcome(),
		RuleID: resp.GetRuleId(), RuleIDs: resp.GetRuleIds(), Revision: resp.GetPolicyRevision(),
		Must: Obligations{MFA: o.GetRequireMfa(), Passkey: o.GetRequirePasskey(), MaxAuthAge: o.GetMaxAuthAge().AsDuration(),
			TokenTTL: o.GetTokenTtl().AsDuration()}}, nil
}
