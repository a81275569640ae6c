package authn

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/directory"
	"metacircular.net/mcias/internal/hashpool"
	"metacircular.net/mcias/internal/opaque"
	"metacircular.net/mcias/internal/policy"
	"metacircular.net/mcias/internal/session"
	"metacircular.net/mcias/internal/store"
	"metacircular.net/mcias/internal/vault"
)

// knownFor is how long a network that succeeded counts as known.
const knownFor = 90 * 24 * time.Hour

// Config of Authn.
type Config struct {
	DB        *db.DB
	Clock     clock.Clock
	Pool      *hashpool.Pool
	Vault     *vault.Vault
	Sessions  *session.Sessions
	Directory *directory.Directory
	Throttle  Throttle
}

// Authn signs people in. Safe for concurrent use.
type Authn struct{ Config }

// New returns an Authn.
func New(cfg Config) *Authn {
	cfg.Clock = clock.Or(cfg.Clock)
	return &Authn{cfg}
}

// Attempt is what somebody submitted, and from where.
type Attempt struct {
	Name, Password string
	IP             netip.Addr
	UA             string
	Kind           string // of the session: browser or cli
}

// Opened is a new session with its secret.
type Opened struct {
	Secret  string
	Session *store.Session
	Account *account.Account
}

// errRefused is the one answer to every failed attempt.
func errRefused() error {
	return fault.New(fault.Unauthenticated, "wrong name, password or code, or too many attempts: wait a minute").WithReason("BAD_CREDENTIALS")
}

// errBusy is the answer of a full pool.
func errBusy(err error) error {
	if errors.Is(err, hashpool.ErrBusy) {
		return fault.New(fault.Unavailable, "too many sign-ins at once").WithReason("BUSY").WithRetry(2 * time.Second).WithNext("try again in a few seconds")
	}
	return err
}

// Login verifies a password, asks policy about MCIAS itself and opens a session.
func (s *Authn) Login(ctx context.Context, at Attempt) (*Opened, error) {
	a, proof, err := s.verify(ctx, at)
	if err != nil {
		return nil, err
	}
	d := s.Directory.Policy().Decide(s.request(a, at.IP, []string{"pwd"}))
	if d.Outcome != policy.OutcomeAllow {
		return nil, s.denied(ctx, a, at, d)
	}
	out := &Opened{Account: a}
	var hash []byte
	out.Secret, hash = opaque.New()
	sid := opaque.ID()
	now := s.Clock.Now()
	err = s.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.succeeded(tx, a, proof, now); err != nil {
			return err
		}
		if err := store.TouchLogin(tx, a.ID, now); err != nil {
			return err
		}
		if out.Session, err = s.Sessions.Open(tx, hash, sid, a, at.Kind, []string{"pwd"}, at.IP, at.UA); err != nil {
			return err
		}
		by := audit.By{Name: a.Name, IP: at.IP}
		return audit.Append(tx, now, by.Record("session.open", a.Name, "sid", sid, "kind", at.Kind, "amr", "pwd", "service", policy.Self,
			"rule", d.Rule(), "revision", strconv.FormatInt(d.Revision, 10), "roles", strings.Join(a.Roles, " "), "tags", strings.Join(a.Tags, " ")))
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Password verifies a password for one use, without a session: the registry's token realm.
func (s *Authn) Password(ctx context.Context, at Attempt) (*account.Account, error) {
	a, proof, err := s.verify(ctx, at)
	if err != nil {
		return nil, err
	}
	now := s.Clock.Now()
	return a, s.DB.Write(ctx, func(tx *db.Tx) error { return s.succeeded(tx, a, proof, now) })
}

// Reauthenticate proves the password once more: the session gets a new secret and a new auth_time.
func (s *Authn) Reauthenticate(ctx context.Context, live *session.Live, password string, ip netip.Addr, ua string) (*Opened, error) {
	at := Attempt{Name: live.Account.Name, Password: password, IP: ip, UA: ua, Kind: live.Kind}
	a, proof, err := s.verify(ctx, at)
	if err != nil {
		return nil, err
	}
	out := &Opened{Account: a}
	var hash []byte
	out.Secret, hash = opaque.New()
	now := s.Clock.Now()
	err = s.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.succeeded(tx, a, proof, now); err != nil {
			return err
		}
		did, err := store.RenewSession(tx, live.SID, hash, []string{"pwd"}, now, ip.String())
		if err != nil {
			return err
		}
		if !did {
			return session.ErrNone()
		}
		if out.Session, err = store.SessionBySID(tx, live.SID); err != nil {
			return err
		}
		return audit.Append(tx, now, audit.By{Name: a.Name, IP: ip}.Record("session.reauth", a.Name, "sid", live.SID, "amr", "pwd"))
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// proof is what a verified attempt leaves for the transaction of success.
type proof struct {
	here, all []byte
	network   string
	phc       string // a better hash to store, "" = none
}

// verify runs the common path. Any failure but a busy pool or a broken database is errRefused.
func (s *Authn) verify(ctx context.Context, at Attempt) (*account.Account, *proof, error) {
	c, err := s.Vault.Cipher()
	if err != nil {
		return nil, nil, err
	}
	pw, err := account.NormalPassword(at.Password)
	if err != nil {
		return nil, nil, fault.Field1("password", "%v", err)
	}
	name := account.CanonicalName(at.Name)
	p := &proof{network: prefix(at.IP)}
	p.here, p.all = keys(c.MAC(), name, p.network)
	now := s.Clock.Now()

	a, known, err := s.look(ctx, name, p.network, now)
	if err != nil {
		return nil, nil, err
	}
	permit, err := s.Pool.Admit(ctx, hashpool.Class{Prefix: p.network, Known: known})
	if err != nil {
		return nil, nil, errBusy(err)
	}
	defer permit.Release()
	phc, err := s.count(ctx, a, p, known, now)
	if err != nil {
		return nil, nil, err
	}
	ok, rehash := permit.Verify(phc, pw)
	if !ok {
		permit.Release()
		return nil, nil, s.failed(ctx, a, p, at.IP)
	}
	if rehash {
		p.phc = permit.Hash(pw)
	}
	return a, p, nil
}

// look finds the account and whether the network is known; an unknown name gives nil.
func (s *Authn) look(ctx context.Context, name, network string, now time.Time) (a *account.Account, known bool, err error) {
	err = s.DB.Read(ctx, func(v *db.View) error {
		a, err = store.AccountByName(v, name)
		if errors.Is(err, store.ErrNotFound) {
			a = nil
			_, err = store.KnownNetwork(v, "", network, now) // the same work
			return err
		}
		if err != nil {
			return err
		}
		known, err = store.KnownNetwork(v, a.ID, network, now.Add(-knownFor))
		return err
	})
	return a, known, err
}

// count counts the attempt and returns the hash to verify: "" for everything that must fail.
func (s *Authn) count(ctx context.Context, a *account.Account, p *proof, known bool, now time.Time) (phc string, err error) {
	err = s.DB.Write(ctx, func(tx *db.Tx) error {
		here, err := s.Throttle.count(tx, p.here, s.Throttle.Free, now)
		if err != nil {
			return err
		}
		everyone, err := s.Throttle.count(tx, p.all, s.Throttle.Free*everywhere, now)
		if err != nil {
			return err
		}
		id := ""
		if a != nil {
			id = a.ID
		}
		phc, err = store.Password(tx, id)
		if errors.Is(err, store.ErrNotFound) {
			phc, err = "", nil
		}
		if !here || !everyone && !known || a == nil || a.Status != account.Active || a.Type != account.Human {
			phc = ""
		}
		return err
	})
	return phc, err
}

// failed writes one audit record per (name, network, minute) and returns the refusal.
func (s *Authn) failed(ctx context.Context, a *account.Account, p *proof, ip netip.Addr) error {
	now := s.Clock.Now()
	name := "unknown" // people type passwords into the name field
	if a != nil {
		name = a.Name
	}
	err := s.DB.Write(ctx, func(tx *db.Tx) error {
		t, err := store.ThrottleOf(tx, p.here)
		if err != nil {
			return err
		}
		if t.Told.Truncate(time.Minute).Equal(now.Truncate(time.Minute)) {
			return nil
		}
		t.Told = now
		if err := store.SetThrottle(tx, p.here, t); err != nil {
			return err
		}
		r := audit.By{Name: name, IP: ip}.Record("login.refused", name, "fails", strconv.Itoa(t.Fails))
		r.Outcome = audit.Failed
		return audit.Append(tx, now, r)
	})
	if err != nil {
		return err
	}
	return errRefused()
}

// denied records and tells policy's refusal.
func (s *Authn) denied(ctx context.Context, a *account.Account, at Attempt, d policy.Decision) error {
	now := s.Clock.Now()
	err := s.DB.Write(ctx, func(tx *db.Tx) error {
		r := audit.By{Name: a.Name, IP: at.IP}.Record("login.denied", policy.Self, "rule", d.Rule(), "outcome", string(d.Outcome))
		r.Outcome = audit.Denied
		return audit.Append(tx, now, r)
	})
	if err != nil {
		return err
	}
	return Refusal(d, a.Name, policy.Self)
}

// Refusal turns a decision that is not an allow into its fault.
func Refusal(d policy.Decision, name, service string) error {
	if d.Outcome == policy.OutcomeStepUp {
		f := fault.New(fault.Unauthenticated, "%s needs a stronger or newer sign-in (%s)", service, d.StepUp).WithReason("STEP_UP_REQUIRED")
		switch d.StepUp {
		case "passkey":
			f = f.WithField("acr_values", "mcias:passkey")
		case "mfa":
			f = f.WithField("acr_values", "mcias:mfa")
		}
		if d.Obligations.MaxAuthAge > 0 {
			f = f.WithField("max_age", "%d", int(d.Obligations.MaxAuthAge.Seconds()))
		}
		return f.WithNext("sign in again")
	}
	why := "no rule allows it"
	if len(d.Deciding) > 0 {
		why = "rule " + strings.Join(d.Deciding, ", ")
	}
	return fault.New(fault.Denied, "%s may not use %s: %s", name, service, why).WithReason("POLICY_DENIED").
		WithNext("mcias policy explain %s %s", name, service)
}

// succeeded resets the counters and stores what a complete sign-in teaches.
func (s *Authn) succeeded(tx *db.Tx, a *account.Account, p *proof, now time.Time) error {
	if err := store.ClearThrottle(tx, p.here); err != nil {
		return err
	}
	if err := store.ClearThrottle(tx, p.all); err != nil {
		return err
	}
	if p.phc != "" {
		if err := store.SetPassword(tx, a.ID, p.phc, now); err != nil {
			return err
		}
	}
	return store.KnowNetwork(tx, a.ID, p.network, now)
}

func (s *Authn) request(a *account.Account, ip netip.Addr, amr []string) policy.Request {
	now := s.Clock.Now()
	q := directory.Request(a, ip, now)
	q.AMR, q.AuthTime = amr, now
	return q
}

// HashNew judges and hashes a new password.
func (s *Authn) HashNew(ctx context.Context, name, password string, ip netip.Addr) (string, error) {
	if !s.Vault.Open() {
		return "", vault.ErrSealed()
	}
	pw, err := account.NormalPassword(password)
	if err != nil {
		return "", fault.Field1("password", "%v", err)
	}
	if err := account.CheckPassword(pw, name); err != nil {
		return "", err
	}
	phc, err := s.Pool.Hash(ctx, hashpool.Class{Prefix: prefix(ip)}, pw)
	return phc, errBusy(err)
}

// ChangePassword replaces the password of a session's account and ends its other sessions.
func (s *Authn) ChangePassword(ctx context.Context, live *session.Live, old, fresh string, ip netip.Addr) (ended int, err error) {
	a, p, err := s.verify(ctx, Attempt{Name: live.Account.Name, Password: old, IP: ip})
	if err != nil {
		return 0, err
	}
	phc, err := s.HashNew(ctx, a.Name, fresh, ip)
	if err != nil {
		return 0, err
	}
	return s.Directory.SetPassword(ctx, audit.By{ID: a.ID, Name: a.Name, IP: ip}, a.ID, phc, live.SID, func(tx *db.Tx, now time.Time) error {
		p.phc = ""
		return s.succeeded(tx, a, p, now)
	})
}
