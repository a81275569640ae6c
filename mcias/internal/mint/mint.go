package mint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4/json"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/authn"
	"metacircular.net/mcias/internal/directory"
	"metacircular.net/mcias/internal/opaque"
	"metacircular.net/mcias/internal/policy"
	"metacircular.net/mcias/internal/revoke"
	"metacircular.net/mcias/internal/session"
	"metacircular.net/mcias/internal/store"
	"metacircular.net/mcias/internal/token"
)

// MaxAudiences is how many services one token may be for.
const MaxAudiences = 8

// Lives of tokens that are not configured.
const (
	RegistryLife  = 5 * time.Minute
	assertionLife = 60 * time.Second
	clockLeeway   = 60 * time.Second
)

// Config of a Minter.
type Config struct {
	DB        *db.DB
	Clock     clock.Clock
	Log       *slog.Logger
	Keys      *token.Keys
	Sessions  *session.Sessions
	Directory *directory.Directory
	Hub       *revoke.Hub
	Issuer    string
	HumanTTL  time.Duration
	SystemTTL time.Duration
}

// Minter makes platform tokens.
type Minter struct {
	Config
	checker *Checker
	hold    *Hold
	counts  counts
}

// Hold keeps minting back until the clock has left a second that a time bound kills. Safe for concurrent use.
type Hold struct{ bound, high atomic.Int64 }

// Until raises the bound: nothing is minted with iat <= bound.
func (h *Hold) Until(bound int64) { raise(&h.bound, bound) }

// Seen raises the highest time seen, in Unix seconds.
func (h *Hold) Seen(sec int64) { raise(&h.high, sec) }

// High returns the highest time seen.
func (h *Hold) High() int64 { return h.high.Load() }

func raise(v *atomic.Int64, to int64) {
	for {
		old := v.Load()
		if to <= old || v.CompareAndSwap(old, to) {
			return
		}
	}
}

// New returns a Minter.
func New(cfg Config, hold *Hold) *Minter {
	cfg.Clock, cfg.Log = clock.Or(cfg.Clock), log.Or(cfg.Log)
	return &Minter{Config: cfg, checker: newChecker(cfg), hold: hold}
}

// Subject is who a token will speak for.
type Subject struct {
	Account  *account.Account
	SID      string
	AMR      []string
	AuthTime time.Time // zero for system accounts
	Ends     time.Time // of the session, key or presented token; zero = none
	IP       netip.Addr
	Services []string // the key is bound to these; empty = any
}

// Minted is a token with what policy said.
type Minted struct {
	Token    string
	Expires  time.Time
	Decision policy.Decision // of the first audience, with the obligations of all
}

// Options of one mint.
type Options struct {
	Access     []auth.Scope // the access claim of a registry token
	Scoped     bool
	ClientKind string        // overrides the kind of the client record: registry
	Life       time.Duration // caps the configured one
	AskAs      string        // the service policy is asked about, when it is not the audience: mcp for mcp/<node>
}

// ErrNotNow is the refusal while the clock is behind.
func errClock(now, high time.Time) error {
	return fault.New(fault.Unavailable, "the clock says %s, but it was %s already: no sign-in until it is right",
		now.UTC().Format(time.RFC3339), high.UTC().Format(time.RFC3339)).WithReason("CLOCK")
}

// Clock refuses while the clock is behind what was seen, and notes the present time.
func (m *Minter) CheckClock() error {
	now := m.Clock.Now()
	if high := time.Unix(m.hold.High(), 0); now.Add(clockLeeway).Before(high) {
		return errClock(now, high)
	}
	m.hold.Seen(now.Unix())
	return nil
}

// Mint asks policy and signs.
func (m *Minter) Mint(ctx context.Context, s Subject, audiences []string, opt Options) (*Minted, error) {
	if len(audiences) == 0 || len(audiences) > MaxAudiences {
		return nil, fault.Field1("audiences", "name 1 to %d services", MaxAudiences)
	}
	if err := m.CheckClock(); err != nil {
		return nil, err
	}
	now, err := m.wait(ctx)
	if err != nil {
		return nil, err
	}
	d, err := m.decide(ctx, s, audiences, opt, now)
	if err != nil {
		return nil, err
	}
	exp := m.expiry(s, d, opt, now)
	if !exp.After(now) {
		return nil, fault.New(fault.Unauthenticated, "the sign-in is about to end").WithReason("STEP_UP_REQUIRED").WithNext("sign in again")
	}
	tok, err := m.sign(s, audiences, opt, now, exp)
	if err != nil {
		return nil, err
	}
	m.counts.add(s.Account.Name, strings.Join(audiences, " "), now)
	return &Minted{Token: tok, Expires: exp.Truncate(time.Second), Decision: d}, nil
}

// wait returns the present time once the clock has left a killed second. At most one second passes.
func (m *Minter) wait(ctx context.Context) (time.Time, error) {
	for {
		now := m.Clock.Now()
		bound := m.hold.bound.Load()
		if now.Unix() > bound || bound-now.Unix() > 2 {
			return now, nil
		}
		t := time.NewTimer(time.Unix(bound+1, 0).Sub(now))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return now, ctx.Err()
		}
	}
}

// decide asks policy for each audience; the first refusal is the answer.
func (m *Minter) decide(ctx context.Context, s Subject, audiences []string, opt Options, now time.Time) (policy.Decision, error) {
	var all policy.Decision
	for i, aud := range audiences {
		if len(s.Services) > 0 && !slices.Contains(s.Services, aud) {
			return all, fault.New(fault.Denied, "this key is not for %s", aud).WithReason("POLICY_DENIED")
		}
		q := directory.Request(s.Account, s.IP, now)
		q.AMR, q.AuthTime = s.AMR, s.AuthTime
		if err := m.describe(ctx, &q, aud, opt); err != nil {
			return all, err
		}
		d := m.Directory.Policy().Decide(q)
		if d.Outcome != policy.OutcomeAllow {
			return all, authn.Refusal(d, s.Account.Name, aud)
		}
		if i == 0 {
			all = d
			continue
		}
		all.Obligations = all.Obligations.Strictest(d.Obligations)
		if all.Until.IsZero() || !d.Until.IsZero() && d.Until.Before(all.Until) {
			all.Until = d.Until
		}
	}
	return all, nil
}

// describe fills in the service's own record: kind and tags never come from a caller.
func (m *Minter) describe(ctx context.Context, q *policy.Request, aud string, opt Options) error {
	name := aud
	if opt.AskAs != "" {
		name = opt.AskAs
	}
	if name == policy.Self {
		return nil // Request describes MCIAS itself
	}
	c, err := m.client(ctx, name)
	if err != nil {
		return err
	}
	if c.Kind != account.KindService {
		return fault.New(fault.Denied, "%s takes no platform tokens", aud).WithReason("POLICY_DENIED")
	}
	q.Service, q.ClientKind, q.ServiceTags = c.ID, c.Kind, c.Tags
	if opt.ClientKind != "" {
		q.ClientKind = opt.ClientKind
	}
	return nil
}

func (m *Minter) client(ctx context.Context, id string) (c *account.Client, err error) {
	err = m.DB.Read(ctx, func(v *db.View) error {
		c, err = store.ClientByID(v, id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) || err == nil && !c.Enabled {
		return nil, fault.New(fault.Denied, "there is no service %q to sign in to", id).WithReason("POLICY_DENIED").WithNext("mcias client list")
	}
	return c, err
}

// expiry is the minimum of everything that bounds a token.
func (m *Minter) expiry(s Subject, d policy.Decision, opt Options, now time.Time) time.Time {
	life := m.HumanTTL
	if s.Account.Type == account.System {
		life = m.SystemTTL
	}
	for _, l := range []time.Duration{d.Obligations.TokenTTL, opt.Life} {
		if l > 0 {
			life = min(life, l)
		}
	}
	exp := now.Add(life)
	earliest := func(t time.Time) {
		if !t.IsZero() && t.Before(exp) {
			exp = t
		}
	}
	if d.Obligations.MaxAuthAge > 0 && !s.AuthTime.IsZero() {
		earliest(s.AuthTime.Add(d.Obligations.MaxAuthAge))
	}
	earliest(d.Until)
	earliest(s.Ends)
	return exp
}

// claims of a platform token, in platform.md's words.
type claims struct {
	Iss      string        `json:"iss"`
	Sub      string        `json:"sub"`
	Name     string        `json:"name"`
	Aud      []string      `json:"aud"`
	Iat      int64         `json:"iat"`
	Nbf      int64         `json:"nbf"`
	Exp      int64         `json:"exp"`
	Jti      string        `json:"jti"`
	Sid      string        `json:"sid"`
	Typ      string        `json:"typ"`
	Roles    []string      `json:"roles,omitempty"`
	Tags     []string      `json:"tags,omitempty"`
	Amr      []string      `json:"amr,omitempty"`
	AuthTime int64         `json:"auth_time,omitempty"`
	Ep       int64         `json:"ep"`
	Access   *[]auth.Scope `json:"access,omitempty"`
}

func (m *Minter) sign(s Subject, audiences []string, opt Options, now, exp time.Time) (string, error) {
	c := claims{Iss: m.Issuer, Sub: s.Account.ID, Name: s.Account.Name, Aud: audiences, Iat: now.Unix(), Nbf: now.Unix(), Exp: exp.Unix(),
		Jti: opaque.ID(), Sid: s.SID, Typ: s.Account.Type, Roles: s.Account.Roles, Tags: s.Account.Tags, Amr: s.AMR, Ep: s.Account.Epoch}
	if !s.AuthTime.IsZero() {
		c.AuthTime = s.AuthTime.Unix()
	}
	if opt.Scoped {
		access := slices.Clone(opt.Access)
		if access == nil {
			access = []auth.Scope{}
		}
		c.Access = &access
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("claims: %w", err)
	}
	return m.Keys.Sign(token.Platform, payload)
}

// counts are mints not yet in audit.
type counts struct {
	mu sync.Mutex // guards n
	n  map[countKey]int
}

type countKey struct {
	account, service string
	minute           int64
}

// maxCounts bounds what is kept between two flushes.
const maxCounts = 10000

func (c *counts) add(account, service string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[countKey]int{}
	}
	k := countKey{account, service, now.Unix() / 60}
	if len(c.n) >= maxCounts {
		k = countKey{"many", "many", k.minute}
	}
	c.n[k]++
}

func (c *counts) take() map[countKey]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n
	c.n = nil
	return n
}
