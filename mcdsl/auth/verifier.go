package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"
	"metacircular.net/mcdsl/metrics"
)

// The budgets of platform.md 4: how long a service goes on without hearing MCIAS.
const (
	DefaultNormal     = 15 * time.Minute
	DefaultPrivileged = 30 * time.Second
)

// Config says what a verifier verifies.
type Config struct {
	Service          string        // this service's name: must be in aud
	Issuer           string        // MCIAS's issuer URL: must be iss
	Source           Source        // Watch or a *LocalSource
	StateFile        string        // where the last state survives a restart; empty = nowhere
	NormalBudget     time.Duration // 0 = 15 min; MCIAS may lower it, nobody raises it
	PrivilegedBudget time.Duration // 0 = 30 s
	Clock            clock.Clock
	Log              *slog.Logger
	Metrics          *metrics.Registry // nil = none
}

// Verifier turns tokens into callers without a round trip, and knows how long that may go on without MCIAS.
// It is usable as soon as New returned; Start connects it to its source. Safe for concurrent use.
type Verifier struct {
	conf     Config
	clock    clock.Clock
	log      *slog.Logger
	instance string

	state     atomic.Pointer[state]
	beat      atomic.Pointer[time.Time] // last heartbeat without a gap, by our clock
	skew      atomic.Int64              // MCIAS's clock minus ours at that time, in nanoseconds
	immediate atomic.Bool
	cache     cache
	refresh   chan struct{}
	lastAsk   atomic.Int64 // Unix nanoseconds of the last refresh asked for

	mu       sync.Mutex // guards the writers of state, the state file and held
	held     map[*hold]struct{}
	lastSave time.Time
	saved    *state

	cancel context.CancelFunc
	done   chan struct{}
}

// New returns a verifier. It reads the state file, if there is one, and waits for nobody: without any state,
// Public and Local methods work and every token is answered with Unavailable, NO_KEYS.
func New(c Config) (*Verifier, error) {
	switch {
	case c.Service == "":
		return nil, errors.New("auth: no service name")
	case c.Issuer == "":
		return nil, errors.New("auth: no issuer")
	case c.Source == nil:
		return nil, errors.New("auth: no source of keys")
	case c.NormalBudget < 0 || c.NormalBudget > DefaultNormal:
		return nil, fmt.Errorf("auth: normal budget %s: want at most %s", c.NormalBudget, DefaultNormal)
	case c.PrivilegedBudget < 0 || c.PrivilegedBudget > DefaultPrivileged:
		return nil, fmt.Errorf("auth: privileged budget %s: want at most %s", c.PrivilegedBudget, DefaultPrivileged)
	}
	if c.NormalBudget == 0 {
		c.NormalBudget = DefaultNormal
	}
	if c.PrivilegedBudget == 0 {
		c.PrivilegedBudget = DefaultPrivileged
	}
	v := &Verifier{conf: c, clock: clock.Or(c.Clock), log: log.Or(c.Log), held: map[*hold]struct{}{},
		refresh: make(chan struct{}, 1)}
	v.gauges()
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	v.instance = hex.EncodeToString(id[:])
	if err := v.load(); err != nil {
		v.log.Warn("state file is of no use, starting without", "file", c.StateFile, log.Err(err))
	}
	if l, ok := c.Source.(*LocalSource); ok {
		if err := l.attach(v); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Start connects the verifier to its source and returns at once: a service never waits for MCIAS to start.
func (v *Verifier) Start(ctx context.Context) error {
	ctx, v.cancel = context.WithCancel(ctx)
	v.done = make(chan struct{})
	go func() {
		defer close(v.done)
		if err := v.conf.Source.Run(ctx, v); err != nil && ctx.Err() == nil {
			v.log.Error("source of keys ended", log.Err(err))
		}
	}()
	return nil
}

// Stop ends the connection and saves the time of the last heartbeat.
func (v *Verifier) Stop(ctx context.Context) error {
	if v.cancel == nil {
		return nil
	}
	v.cancel()
	select {
	case <-v.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.save(true)
}

// Check judges a call: rule, token, budget, access, step-up, in this order. It sets call.Caller. A caller of the
// Unix socket is already known and shows no token. bearer is "" when none was shown.
func (v *Verifier) Check(call *Call, bearer string) error {
	if call.Rule.Access == AccessPublic {
		return nil
	}
	if !call.Caller.known && bearer != "" && call.Rule.Access != AccessLocal {
		c, err := v.Verify(bearer)
		if err != nil {
			return err
		}
		if err := v.Fresh(call.Rule.Budget); err != nil {
			return err
		}
		call.Caller, call.token = c.over(call.Transport), bearer
	}
	return call.Rule.Admit(call.Caller, v.clock.Now())
}

// Verify returns the caller a token stands for: signature, claims, expiry, revocation. It does not ask how old
// the last word of MCIAS is; Fresh does.
func (v *Verifier) Verify(token string) (Caller, error) {
	c, err := v.verify(token)
	v.conf.Metrics.Verify(outcome(err))
	return c, err
}

func (v *Verifier) verify(token string) (Caller, error) {
	if len(token) > MaxToken {
		return Caller{}, errBad("longer than %d bytes", MaxToken)
	}
	st := v.state.Load()
	if st.empty() {
		return Caller{}, errNoKeys()
	}
	now := v.clock.Now()
	hash := tokenHash(sha256.Sum256([]byte(token)))
	e := v.cache.get(&hash)
	if e == nil {
		var err error
		if e, err = v.parse(token, st, now); err != nil {
			return Caller{}, err
		}
		e.hash = hash
		v.cache.put(e, now.UnixNano())
	} else {
		v.conf.Metrics.CacheHit()
	}
	if now.UnixNano() > e.exp {
		v.cache.drop(e)
		return Caller{}, errExpired()
	}
	if err := v.alive(e, st, now); err != nil {
		v.cache.drop(e)
		return Caller{}, err
	}
	return e.caller, nil
}

// alive asks the state about a verified token; under an unchanged state once is enough.
func (v *Verifier) alive(e *entry, st *state, now time.Time) error {
	if e.caller.IssuedAt.Sub(now) > futureLeeway {
		return errFuture(e.caller.IssuedAt, now) // the clock went back
	}
	if e.good.Load() == st {
		return nil
	}
	if st.revoked(e) {
		return errRevoked()
	}
	e.good.Store(st)
	return nil
}

func (v *Verifier) parse(token string, st *state, now time.Time) (*entry, error) {
	h, err := split(token)
	if err != nil {
		return nil, err
	}
	key, ok := st.keys[h.Kid]
	if !ok {
		return nil, v.unknownKey(now)
	}
	cl, err := open(token, key)
	if err != nil {
		return nil, err
	}
	c, err := cl.caller(v.conf.Issuer, v.conf.Service, h.Kid, now)
	if err != nil {
		if c := fault.From(err); c.Reason == ReasonBadToken {
			v.log.Warn("token refused", "why", c.Message)
		}
		return nil, err
	}
	e := &entry{caller: c, exp: c.Expires.Add(expLeeway).UnixNano(), sub: probeSub + c.Subject}
	e.probes = probesOf(c)
	return e, nil
}

// unknownKey asks for the key set once more, at most every 10 s, and answers by whether we would know.
func (v *Verifier) unknownKey(now time.Time) error {
	last := v.lastAsk.Load()
	if now.UnixNano()-last > int64(10*time.Second) && v.lastAsk.CompareAndSwap(last, now.UnixNano()) {
		select {
		case v.refresh <- struct{}{}:
		default:
		}
	}
	if v.Live() {
		return errBad("signed by an unknown key")
	}
	return errNoKeys()
}

// Fresh refuses when MCIAS was not heard for longer than the budget.
func (v *Verifier) Fresh(b Budget) error {
	age, ok := v.Age()
	if !ok {
		return errNoKeys()
	}
	if budget := v.budget(b); age > budget {
		return fault.New(fault.Unavailable, "MCIAS was last heard %s ago; calls of this kind go on for %s without it",
			age.Round(time.Second), budget).WithReason(ReasonStale).WithRetry(retryUnknown).WithNext("mcp status mcias")
	}
	return nil
}

func (v *Verifier) budget(b Budget) time.Duration {
	d := v.conf.NormalBudget
	if b == Privileged {
		d = v.conf.PrivilegedBudget
	}
	if st := v.state.Load(); st != nil && st.maxStale > 0 {
		d = min(d, st.maxStale)
	}
	return d
}

// Age returns the time since the last heartbeat that left no gap: by the monotonic clock or the wall clock,
// whichever says more, because the monotonic one stands still while a machine sleeps. false = never heard.
func (v *Verifier) Age() (time.Duration, bool) {
	if v.immediate.Load() {
		return 0, v.state.Load() != nil
	}
	b := v.beat.Load()
	if b == nil {
		return 0, false
	}
	now := v.clock.Now()
	return max(now.Sub(*b), now.Round(0).Sub(b.Round(0)), 0), true
}

// Live reports whether MCIAS was heard within the last 12 s.
func (v *Verifier) Live() bool {
	age, ok := v.Age()
	return ok && age <= silence
}

// Report is what status and doctor say about the verifier.
type Report struct {
	Known       bool          // there is a key set
	Live        bool          // MCIAS was heard within 12 s
	Age         time.Duration // since the last heartbeat
	Skew        time.Duration // MCIAS's clock minus ours
	Seq         int64
	StreamID    string
	Keys        int
	Revocations int
	Normal      time.Duration // budgets in force
	Privileged  time.Duration
}

// Report returns how things stand with MCIAS.
func (v *Verifier) Report() Report {
	r := Report{Live: v.Live(), Skew: time.Duration(v.skew.Load()), Normal: v.budget(Normal), Privileged: v.budget(Privileged)}
	r.Age, _ = v.Age()
	if st := v.state.Load(); st != nil {
		r.Known, r.Seq, r.StreamID, r.Keys, r.Revocations = !st.empty(), st.seq, st.streamID, len(st.keys), st.rows
	}
	return r
}

// Service returns the name that must stand in aud.
func (v *Verifier) Service() string { return v.conf.Service }

var _ Sink = (*Verifier)(nil)

// Have implements Sink.
func (v *Verifier) Have() Position {
	p := Position{Service: v.conf.Service, Instance: v.instance}
	if st := v.state.Load(); st != nil {
		p.StreamID, p.Seq, p.Digest = st.streamID, st.seq, st.digest
	}
	return p
}

// Snapshot implements Sink.
func (v *Verifier) Snapshot(snap *mciasv1.WatchSnapshot) error {
	st, err := fromSnapshot(snap, v.conf.Service, v.clock.Now())
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.publish(st)
	v.heard(snap.GetTime().AsTime(), snap.GetTime() != nil)
	return nil
}

// Deltas implements Sink.
func (v *Verifier) Deltas(ds ...*mciasv1.WatchDelta) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	st := v.state.Load()
	for _, d := range ds {
		if st == nil || d.GetStreamId() != st.streamID || d.GetPrevSeq() != st.seq {
			return ErrGap
		}
		var err error
		if st, err = st.with(d, v.conf.Service, v.clock.Now()); err != nil {
			return err
		}
	}
	if st == nil {
		return ErrGap
	}
	v.publish(st)
	if last := ds[len(ds)-1].GetTime(); last != nil {
		v.heard(last.AsTime(), true)
	} else {
		v.heard(time.Time{}, false)
	}
	return nil
}

// publish puts a state in force and ends the streams it kills.
func (v *Verifier) publish(st *state) {
	v.state.Store(st)
	for h := range v.held {
		h.judge(v)
	}
}

// Heartbeat implements Sink.
func (v *Verifier) Heartbeat(hb *mciasv1.WatchHeartbeat) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.heard(hb.GetTime().AsTime(), hb.GetTime() != nil)
	if err := v.save(false); err != nil {
		v.log.Warn("write state file", log.Err(err))
	}
}

func (v *Verifier) heard(theirs time.Time, said bool) {
	now := v.clock.Now()
	v.beat.Store(&now)
	if said {
		v.skew.Store(int64(theirs.Sub(now.Round(0))))
	}
}

// Immediate implements Sink.
func (v *Verifier) Immediate() { v.immediate.Store(true) }

// Refresh implements Sink.
func (v *Verifier) Refresh() <-chan struct{} { return v.refresh }

// Persist implements Sink.
func (v *Verifier) Persist() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.save(true)
}
