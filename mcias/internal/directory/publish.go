package directory

import (
	"context"
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
