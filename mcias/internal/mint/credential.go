package mint

import (
	"context"
	"errors"
	"net/netip"
	"regexp"
	"slices"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/opaque"
	"metacircular.net/mcias/internal/session"
	"metacircular.net/mcias/internal/store"
)

// SubjectOf returns the subject of a live session; ip is the address policy sees.
func SubjectOf(l *session.Live, ip netip.Addr) Subject {
	return Subject{Account: l.Account, SID: l.SID, AMR: l.AMR, AuthTime: l.AuthTime, Ends: l.Ends, IP: ip}
}

// BySession mints from a session secret, shown by the person's own program.
func (m *Minter) BySession(ctx context.Context, secret string, audiences []string, ip netip.Addr) (*Minted, error) {
	l, err := m.Sessions.BySecret(ctx, secret)
	if err != nil {
		return nil, err
	}
	out, err := m.Mint(ctx, SubjectOf(l, ip), audiences, Options{})
	if err != nil {
		return nil, err
	}
	return out, m.Sessions.Touch(ctx, l, ip)
}

// ByAssertion mints for a system account from one of its keys.
func (m *Minter) ByAssertion(ctx context.Context, assertion string, audiences []string, ip netip.Addr) (*Minted, error) {
	s, err := m.Prove(ctx, assertion)
	if err != nil {
		return nil, err
	}
	if err := m.Spend(ctx, s); err != nil {
		return nil, err
	}
	sub := Subject{Account: s.Account, SID: s.Key.KID, Ends: s.Key.NotAfter, IP: ip, Services: s.Key.Services}
	return m.Mint(ctx, sub, audiences, Options{})
}

// ByGrant mints for a person at the service that shows its own key and their grant, for its own audience only. The
// grant is named by the access token of the code exchange or by the id an earlier reply returned.
func (m *Minter) ByGrant(ctx context.Context, assertion, access, grantID string, audiences []string) (*Minted, string, error) {
	s, err := m.Prove(ctx, assertion)
	if err != nil {
		return nil, "", err
	}
	if err := m.Spend(ctx, s); err != nil {
		return nil, "", err
	}
	if len(audiences) == 0 {
		audiences = []string{s.Account.Name}
	}
	if !slices.Equal(audiences, []string{s.Account.Name}) {
		return nil, "", fault.New(fault.Denied, "a grant gives a token for the client's own audience only").WithReason("POLICY_DENIED")
	}
	g, live, err := m.grant(ctx, access, grantID)
	if err != nil {
		return nil, "", err
	}
	// The key must be that client's own: client and account of a service bear one name.
	if g.Client != s.Account.Name {
		return nil, "", errGrant()
	}
	out, err := m.Mint(ctx, SubjectOf(live, live.Addr()), audiences, Options{})
	if err != nil {
		return nil, "", err
	}
	return out, g.ID, m.Sessions.Touch(ctx, live, netip.Addr{})
}

func errGrant() error {
	return fault.New(fault.Unauthenticated, "the grant is unknown or over").WithReason("NO_GRANT").WithNext("sign in again")
}

// grant finds a live grant with its session.
func (m *Minter) grant(ctx context.Context, access, id string) (g *store.Grant, live *session.Live, err error) {
	err = m.DB.Read(ctx, func(v *db.View) error {
		if access != "" {
			gid, exp, err := store.AccessByHash(v, opaque.Hash(access))
			if err != nil {
				return err
			}
			if !m.Clock.Now().Before(exp) {
				return store.ErrNotFound
			}
			id = gid
		}
		if g, err = store.GrantByID(v, id); err != nil {
			return err
		}
		live, err = m.Sessions.Check(v, g.SID)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		err = errGrant()
	}
	return g, live, err
}

// nodePattern is an audience of the one exchange.
var nodePattern = regexp.MustCompile(`^mcp/[a-z0-9][a-z0-9-]{0,63}$`)

// exchanger is the one service that may exchange callers' tokens.
const exchanger = "mcp"

// ByToken is the one exchange: service mcp shows a caller's token for mcp and gets one for mcp/<node>: same claims and
// sid, never past its life.
func (m *Minter) ByToken(ctx context.Context, assertion, presented string, audiences []string, ip netip.Addr) (*Minted, error) {
	s, err := m.Prove(ctx, assertion)
	if err != nil {
		return nil, err
	}
	if err := m.Spend(ctx, s); err != nil {
		return nil, err
	}
	if s.Account.Name != exchanger || len(audiences) != 1 || !nodePattern.MatchString(audiences[0]) {
		return nil, fault.New(fault.Denied, "only mcp exchanges tokens, for one audience mcp/NODE").WithReason("POLICY_DENIED")
	}
	c, err := m.checker.Verify(ctx, exchanger, presented)
	if err != nil {
		return nil, err
	}
	if c.Scoped() {
		return nil, fault.New(fault.Denied, "a registry token cannot be exchanged").WithReason("POLICY_DENIED")
	}
	sub, err := m.subjectOfToken(ctx, c, ip)
	if err != nil {
		return nil, err
	}
	return m.Mint(ctx, sub, audiences, Options{AskAs: exchanger})
}

// subjectOfToken makes the subject that a verified token stands for, with the account as it is now.
func (m *Minter) subjectOfToken(ctx context.Context, c auth.Caller, ip netip.Addr) (Subject, error) {
	var a *account.Account
	var addr netip.Addr
	err := m.DB.Read(ctx, func(v *db.View) (err error) {
		if a, err = store.AccountByID(v, c.Subject); err != nil {
			return err
		}
		// On the back channel the peer is the service: policy sees the session's last interactive address.
		if s, err := store.SessionBySID(v, c.SID); err == nil {
			addr, _ = netip.ParseAddr(s.IP)
		}
		return nil
	})
	if err != nil {
		return Subject{}, err
	}
	if a.Status != account.Active {
		return Subject{}, session.ErrNone()
	}
	if !addr.IsValid() {
		addr = ip
	}
	return Subject{Account: a, SID: c.SID, AMR: c.AMR, AuthTime: c.AuthTime, Ends: c.Expires, IP: addr}, nil
}
