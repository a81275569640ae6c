package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/policy"
	"metacircular.net/mcias/internal/revoke"
	"metacircular.net/mcias/internal/store"
)

// Teller tells everybody what was committed; the hub is one.
type Teller interface{ Flush(ctx context.Context) }

// Config of a directory.
type Config struct {
	DB     *db.DB
	Clock  clock.Clock
	Log    *slog.Logger
	Killer revoke.Killer
	Teller Teller
	Issuer string
	Domain string // of the platform: for made-up e-mail addresses and reserved names
	// Hold keeps minting back until the clock has left a second that a time bound kills.
	Hold func(bound int64)
}

// Directory is who and what exists.
type Directory struct {
	Config
	set atomic.Pointer[policy.Set]
}

// New returns a directory; Load reads the policy.
func New(cfg Config) *Directory {
	cfg.Clock, cfg.Log = clock.Or(cfg.Clock), log.Or(cfg.Log)
	if cfg.Hold == nil {
		cfg.Hold = func(int64) {}
	}
	return &Directory{Config: cfg}
}

// Load compiles the stored policy and puts it in force.
func (d *Directory) Load(ctx context.Context) error {
	return d.DB.Read(ctx, func(v *db.View) error {
		rules, rev, err := storedRules(v)
		if err != nil {
			return err
		}
		set, err := policy.CompileAll(rev, rules)
		if err != nil {
			return fmt.Errorf("stored policy: %w", err)
		}
		d.set.Store(set)
		return nil
	})
}

// Policy returns the rules in force.
func (d *Directory) Policy() *policy.Set { return d.set.Load() }

func storedRules(r store.Reader) ([]policy.Rule, int64, error) {
	rows, rev, err := store.PolicyRules(r)
	if err != nil {
		return nil, 0, err
	}
	rules := make([]policy.Rule, len(rows))
	for i, row := range rows {
		if err := json.Unmarshal([]byte(row.Body), &rules[i]); err != nil {
			return nil, 0, fmt.Errorf("stored rule %q: %w", row.ID, err)
		}
	}
	return rules, rev, nil
}

// write runs a change and tells everybody after its COMMIT.
func (d *Directory) write(ctx context.Context, fn func(tx *db.Tx) error) error {
	if err := d.DB.Write(ctx, fn); err != nil {
		return err
	}
	d.Teller.Flush(context.WithoutCancel(ctx))
	return nil
}

// newID returns a UUIDv7.
func newID() (string, error) {
	id, err := uuid.NewV7()
	return id.String(), err
}

// find returns an account that is not deleted.
func find(r store.Reader, name string) (*account.Account, error) {
	a, err := store.AccountByName(r, account.CanonicalName(name))
	if errors.Is(err, store.ErrNotFound) || err == nil && a.Status == account.Deleted {
		return nil, fault.New(fault.NotFound, "there is no account %q", name).WithNext("mcias account list")
	}
	return a, err
}

// Find returns an account by name.
func (d *Directory) Find(ctx context.Context, name string) (a *account.Account, err error) {
	err = d.DB.Read(ctx, func(v *db.View) error {
		a, err = find(v, name)
		return err
	})
	return a, err
}

// Factors lists what an account has enrolled.
func (d *Directory) Factors(ctx context.Context, id string) (out []string, err error) {
	err = d.DB.Read(ctx, func(v *db.View) error {
		out, err = factors(v, id)
		return err
	})
	return out, err
}

func factors(r store.Reader, id string) ([]string, error) {
	_, err := store.Password(r, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []string{"password"}, nil
}

// cut makes every token of an account older than now dead; with sessions it ends those too. It is the one place where
// an account's tokens are killed.
func (d *Directory) cut(tx *db.Tx, a *account.Account, now time.Time, sessions bool, except string) (ended int, err error) {
	epoch, err := store.RaiseEpoch(tx, a.ID)
	if err != nil {
		return 0, err
	}
	a.Epoch = epoch
	rows := []revoke.Row{{Kind: revoke.Subject, Value: a.ID, Bound: epoch}}
	if sessions {
		sids, err := store.SessionIDs(tx, a.ID)
		if err != nil {
			return 0, err
		}
		for _, sid := range sids {
			if sid == except {
				continue
			}
			if _, err := store.DeleteSession(tx, sid); err != nil {
				return 0, err
			}
			rows = append(rows, revoke.Row{Kind: revoke.SID, Value: sid})
			ended++
		}
	}
	_, err = d.Killer.Kill(tx, now, rows...)
	return ended, err
}

// guarded runs a change and refuses it if no admin could sign in afterwards who could before.
func (d *Directory) guarded(tx *db.Tx, by audit.By, force bool, change func() error) error {
	before, err := d.admins(tx, by, nil)
	if err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	if force || before == 0 {
		return nil
	}
	after, err := d.admins(tx, by, nil)
	if err != nil {
		return err
	}
	if after == 0 {
		return errLockout()
	}
	return nil
}

func errLockout() error {
	return fault.New(fault.Precondition, "after this no admin could sign in and manage the policy from here").
		WithReason("LOCKOUT").WithNext("give another account the role first, or use --force (then only break-glass helps)")
}

// admins counts the admins who, with the factors they have enrolled, from the caller's network, now, could sign in at
// MCIAS and manage the policy. set nil = the rules stored in the transaction.
func (d *Directory) admins(r store.Reader, by audit.By, set *policy.Set) (n int, err error) {
	if set == nil {
		rules, rev, err := storedRules(r)
		if err != nil {
			return 0, err
		}
		if set, err = policy.CompileAll(rev, rules); err != nil {
			return 0, err
		}
	}
	all, err := store.AccountsWithRole(r, account.Admin)
	if err != nil {
		return 0, err
	}
	now := d.Clock.Now()
	for _, a := range all {
		f, err := factors(r, a.ID)
		if err != nil {
			return 0, err
		}
		if len(f) == 0 {
			continue
		}
		q := Request(a, by.IP, now)
		q.AMR, q.AuthTime = []string{"pwd"}, now
		if !q.IP.IsValid() {
			q.IP = netip.AddrFrom4([4]byte{127, 0, 0, 1}) // the socket is this machine
		}
		login := set.Decide(q)
		q.Action = "policy:manage"
		if login.Allowed() && set.Decide(q).Allowed() {
			n++
		}
	}
	return n, nil
}

// Request starts a policy request of an account at MCIAS itself.
func Request(a *account.Account, ip netip.Addr, now time.Time) policy.Request {
	return policy.Request{Service: policy.Self, ClientKind: policy.KindService, Account: a.Name, AccountID: a.ID, AccountType: a.Type,
		Roles: a.Roles, AccountTags: a.Tags, IP: ip, Time: now}
}

// audited appends a record.
func audited(tx *db.Tx, now time.Time, r audit.Record) error { return audit.Append(tx, now, r) }
