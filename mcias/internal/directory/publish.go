package directory

import (
	"context"
	"errors"
	"net/netip"
	"strconv"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/policy"
	"metacircular.net/mcias/internal/revoke"
	"metacircular.net/mcias/internal/store"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// Applied is the result of publishing a policy.
type Applied struct {
	Revision int64
	Diff     []string
	Cut      int
}

// Apply replaces the operator's rules if base is still the current revision. In the same transaction it looks at every
// live (session, service) pair and writes a row for those that are denied now.
func (d *Directory) Apply(ctx context.Context, by audit.By, rules []policy.Rule, base int64, force, dryRun bool) (res Applied, err error) {
	for i := range rules {
		rules[i].Builtin = false
	}
	trial, err := policy.CompileAll(0, rules)
	if err != nil {
		return res, fault.New(fault.Invalid, "%v", err)
	}
	now := d.Clock.Now()
	var set *policy.Set
	run := func(tx *db.Tx) error {
		res, set = Applied{}, nil
		old, rev, err := storedRules(tx)
		if err != nil {
			return err
		}
		if rev != base {
			return fault.New(fault.Conflict, "the policy is at revision %d, yours is based on %d", rev, base).
				WithReason("STALE_REVISION").WithNext("mcias policy show > policy.toml, then merge")
		}
		res.Revision, res.Diff = rev, policy.Diff(old, rules)
		if !force {
			before, err := d.admins(tx, by, nil)
			if err != nil {
				return err
			}
			after, err := d.admins(tx, by, trial)
			if err != nil {
				return err
			}
			if before > 0 && after == 0 {
				return errLockout()
			}
		}
		if dryRun || len(res.Diff) == 0 {
			return nil
		}
		if set, err = d.replaceRules(tx, by, old, rules, now); err != nil {
			return err
		}
		res.Revision = set.Revision()
		res.Cut, err = d.cutDenied(tx, set)
		return err
	}
	if dryRun {
		err = d.DB.Write(ctx, run) // writes nothing; the writer gives it a consistent view
	} else {
		err = d.write(ctx, run)
	}
	if err == nil && set != nil {
		d.set.Store(set)
	}
	return res, err
}

// cutDenied kills the tokens of sessions at services that the new policy denies them: platform services by a row,
// apps by removing their grant.
func (d *Directory) cutDenied(tx *db.Tx, set *policy.Set) (n int, err error) {
	clients, err := store.Clients(tx, "", maxClients)
	if err != nil {
		return 0, err
	}
	now := d.Clock.Now()
	after := ""
	for {
		sessions, err := store.Sessions(tx, "", after, 500)
		if err != nil || len(sessions) == 0 {
			return n, err
		}
		after = sessions[len(sessions)-1].SID
		for _, s := range sessions {
			a, err := store.AccountByID(tx, s.Account)
			if err != nil {
				return n, err
			}
			q := Request(a, addr(s.IP), now)
			q.AMR, q.AuthTime = s.AMR, s.AuthTime
			cut, err := d.cutPairs(tx, set, q, s, clients)
			if err != nil {
				return n, err
			}
			n += cut
		}
	}
}

const maxClients = 10000

func (d *Directory) cutPairs(tx *db.Tx, set *policy.Set, q policy.Request, s *store.Session, clients []*account.Client) (n int, err error) {
	for _, c := range clients {
		q.Service, q.ClientKind, q.ServiceTags = c.ID, c.Kind, c.Tags
		was := d.set.Load().Decide(q)
		if set.Decide(q).Outcome != policy.OutcomeDeny || was.Outcome == policy.OutcomeDeny {
			continue
		}
		if _, err := d.Killer.Kill(tx, q.Time, revoke.Row{Kind: revoke.SID, Value: s.SID, Aud: c.ID}); err != nil {
			return n, err
		}
		grants, err := store.Grants(tx, s.Account, s.SID)
		if err != nil {
			return n, err
		}
		for _, g := range grants {
			if g.Client == c.ID {
				if _, err := store.DeleteGrant(tx, g.ID); err != nil {
					return n, err
				}
			}
		}
		n++
	}
	return n, nil
}

func addr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a
}

// Bootstrap writes what a new database begins with: the first admin, its link and the two initial rules. It runs in
// the transaction of init.
func (d *Directory) Bootstrap(tx *db.Tx, by audit.By, admin string) (*Link, error) {
	now := d.Clock.Now()
	n := NewAccount{Name: admin, Roles: []string{account.Admin}}
	if err := n.check(); err != nil {
		return nil, err
	}
	a, err := d.insert(tx, by, n, now)
	if err != nil {
		return nil, err
	}
	if _, err := d.replaceRules(tx, by, nil, policy.Initial(), now); err != nil {
		return nil, err
	}
	return d.link(tx, a.ID, store.PurposeFirstAdmin, now)
}

// Kill is what an operator's revocation hits; one field is set.
type Kill struct{ JTI, SID, Account, Client string }

// Kill ends tokens by the operator's hand and returns how many sessions ended with them.
func (d *Directory) Kill(ctx context.Context, by audit.By, k Kill) (ended int, err error) {
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		ended = 0
		switch {
		case k.JTI != "":
			_, err := d.Killer.Kill(tx, now, revoke.Row{Kind: revoke.JTI, Value: k.JTI})
			if err != nil {
				return err
			}
			return audited(tx, now, by.Record("token.revoke", "jti:"+k.JTI))
		case k.SID != "":
			if did, err := store.DeleteSession(tx, k.SID); err != nil {
				return err
			} else if did {
				ended = 1
			}
			if _, err := d.Killer.Kill(tx, now, revoke.Row{Kind: revoke.SID, Value: k.SID}); err != nil {
				return err
			}
			return audited(tx, now, by.Record("token.revoke", "sid:"+k.SID))
		case k.Account != "":
			a, err := find(tx, k.Account)
			if err != nil {
				return err
			}
			if ended, err = d.cut(tx, a, now, true, ""); err != nil {
				return err
			}
			return audited(tx, now, by.Record("token.revoke", "account:"+a.Name))
		case k.Client != "":
			if _, err := d.client(tx, by, k.Client); err != nil && k.Client != policy.Self {
				return err
			}
			if err := d.killClient(tx, k.Client, now); err != nil {
				return err
			}
			return audited(tx, now, by.Record("token.revoke", "client:"+k.Client))
		}
		return fault.Field1("target", "name a jti, sid, account or client")
	})
	return ended, err
}

// EndSession ends a session: the actor's own, or anybody's for an admin who was allowed to.
func (d *Directory) EndSession(ctx context.Context, by audit.By, sid, owner string, any bool) error {
	now := d.Clock.Now()
	return d.write(ctx, func(tx *db.Tx) error {
		s, err := store.SessionBySID(tx, sid)
		if errors.Is(err, store.ErrNotFound) || err == nil && !any && s.Account != owner {
			return fault.New(fault.NotFound, "there is no session %q", sid).WithNext("mcias session list")
		}
		if err != nil {
			return err
		}
		a, err := store.AccountByID(tx, s.Account)
		if err != nil {
			return err
		}
		if _, err := store.DeleteSession(tx, sid); err != nil {
			return err
		}
		if _, err := d.Killer.Kill(tx, now, revoke.Row{Kind: revoke.SID, Value: sid}); err != nil {
			return err
		}
		return audited(tx, now, by.Record("session.end", a.Name, "sid", sid))
	})
}

// RevokeGrant takes an app's access within a session away: the owner's own, or anybody's for an admin.
func (d *Directory) RevokeGrant(ctx context.Context, by audit.By, id, owner string, any bool) error {
	now := d.Clock.Now()
	return d.write(ctx, func(tx *db.Tx) error {
		g, err := store.GrantByID(tx, id)
		if errors.Is(err, store.ErrNotFound) || err == nil && !any && g.Account != owner {
			return fault.New(fault.NotFound, "there is no such access")
		}
		if err != nil {
			return err
		}
		if _, err := store.DeleteGrant(tx, id); err != nil {
			return err
		}
		if _, err := d.Killer.Kill(tx, now, revoke.Row{Kind: revoke.SID, Value: g.SID, Aud: g.Client}); err != nil {
			return err
		}
		return audited(tx, now, by.Record("grant.revoke", g.Client, "sid", g.SID))
	})
}
