// Package session is a person's sign-in at MCIAS itself: a random secret in a cookie or a 0600 file, a public sid, and
// how the person proved who they are. Apps and platform tokens hang on it and die with it.
package session

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/opaque"
	"metacircular.net/mcias/internal/revoke"
	"metacircular.net/mcias/internal/store"
)

// Kinds.
const (
	Browser = "browser"
	CLI     = "cli"
)

// MaxPerAccount is how many sessions an account may have; the oldest gives way.
const MaxPerAccount = 100

// touchEvery is how often activity is written.
const touchEvery = 5 * time.Minute

// Config of sessions.
type Config struct {
	DB     *db.DB
	Clock  clock.Clock
	Killer revoke.Killer
	Max    time.Duration
	Idle   time.Duration
}

// Sessions opens, finds and ends sessions. Safe for concurrent use.
type Sessions struct{ Config }

// New returns sessions.
func New(cfg Config) *Sessions {
	cfg.Clock = clock.Or(cfg.Clock)
	return &Sessions{cfg}
}

// Live is a valid session with its account.
type Live struct {
	*store.Session
	Account *account.Account
	// Ends is when it is over if nothing happens.
	Ends time.Time
}

// Addr is the address of the session's last interactive request.
func (l *Live) Addr() netip.Addr {
	a, err := netip.ParseAddr(l.IP)
	if err != nil {
		return netip.Addr{}
	}
	return a
}

// Open stores a new session in the caller's transaction. The secret is made outside, because a transaction may run
// twice.
func (s *Sessions) Open(tx *db.Tx, hash []byte, sid string, a *account.Account, kind string, amr []string, ip netip.Addr, ua string) (*store.Session, error) {
	now := s.Clock.Now()
	sids, err := store.SessionIDs(tx, a.ID)
	if err != nil {
		return nil, err
	}
	for len(sids) >= MaxPerAccount {
		if err := s.End(tx, sids[0]); err != nil {
			return nil, err
		}
		sids = sids[1:]
	}
	if len(ua) > 200 {
		ua = ua[:200]
	}
	row := &store.Session{IDHash: hash, SID: sid, Account: a.ID, Kind: kind, AMR: amr, AuthTime: now, IP: text(ip), UA: ua,
		Created: now, LastSeen: now, Expires: now.Add(s.Max)}
	return row, store.InsertSession(tx, row)
}

func text(ip netip.Addr) string {
	if !ip.IsValid() {
		return ""
	}
	return ip.Unmap().String()
}

// End removes a session with its grants and kills its tokens.
func (s *Sessions) End(tx *db.Tx, sid string) error {
	did, err := store.DeleteSession(tx, sid)
	if err != nil || !did {
		return err
	}
	_, err = s.Killer.Kill(tx, s.Clock.Now(), revoke.Row{Kind: revoke.SID, Value: sid})
	return err
}

// ErrNone is the refusal of a session that is unknown or over; both are told alike.
func ErrNone() error {
	return fault.New(fault.Unauthenticated, "the session is over").WithReason("NO_SESSION").WithNext("mcp login")
}

// BySecret finds the session of a secret.
func (s *Sessions) BySecret(ctx context.Context, secret string) (*Live, error) {
	return s.find(ctx, func(r store.Reader) (*store.Session, error) { return store.SessionByHash(r, opaque.Hash(secret)) })
}

// BySID finds a session by its public id.
func (s *Sessions) BySID(ctx context.Context, sid string) (*Live, error) {
	return s.find(ctx, func(r store.Reader) (*store.Session, error) { return store.SessionBySID(r, sid) })
}

func (s *Sessions) find(ctx context.Context, get func(store.Reader) (*store.Session, error)) (l *Live, err error) {
	err = s.DB.Read(ctx, func(v *db.View) error {
		row, err := get(v)
		if err != nil {
			return err
		}
		l, err = s.check(v, row)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNone()
	}
	return l, err
}

// Check judges a session row within a transaction.
func (s *Sessions) Check(r store.Reader, sid string) (*Live, error) {
	row, err := store.SessionBySID(r, sid)
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNone()
	}
	if err != nil {
		return nil, err
	}
	return s.check(r, row)
}

func (s *Sessions) check(r store.Reader, row *store.Session) (*Live, error) {
	now := s.Clock.Now()
	if !now.Before(row.Expires) || now.Sub(row.LastSeen) > s.Idle {
		return nil, ErrNone()
	}
	a, err := store.AccountByID(r, row.Account)
	if err != nil {
		return nil, err
	}
	if a.Status != account.Active {
		return nil, ErrNone()
	}
	ends := row.LastSeen.Add(s.Idle)
	if row.Expires.Before(ends) {
		ends = row.Expires
	}
	return &Live{Session: row, Account: a, Ends: ends}, nil
}

// Touch records activity, at most every five minutes unless the address of an interactive request changed.
func (s *Sessions) Touch(ctx context.Context, l *Live, interactive netip.Addr) error {
	now := s.Clock.Now()
	ip := text(interactive)
	moved := ip != "" && ip != l.IP
	if now.Sub(l.LastSeen) < touchEvery && !moved {
		return nil
	}
	err := s.DB.Write(ctx, func(tx *db.Tx) error { return store.TouchSession(tx, l.SID, ip, now) })
	if err == nil {
		l.LastSeen = now
		if moved {
			l.IP = ip
		}
	}
	return err
}

// Sweep ends what is over by life or idleness. Their tokens have run out or are killed with them.
func (s *Sessions) Sweep(ctx context.Context) (int, error) {
	now := s.Clock.Now()
	n := 0
	err := s.DB.Write(ctx, func(tx *db.Tx) error {
		sids, err := store.ExpiredSessions(tx, now, s.Idle, 200)
		if err != nil {
			return err
		}
		for _, sid := range sids {
			if err := s.End(tx, sid); err != nil {
				return err
			}
		}
		n = len(sids)
		return store.Sweep(tx, now)
	})
	return n, err
}
