package seal

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/keyslot"
	"metacircular.net/metacrypt/internal/barrier"
	"metacircular.net/metacrypt/internal/engine"
	"metacircular.net/metacrypt/internal/store"
)

// Config of [New].
type Config struct {
	DB             *db.DB
	Engines        engine.Config
	CredentialFile string // seal.credential_file
	Slots          keyslot.Config
	Clock          clock.Clock
	Log            *slog.Logger
	OnUnseal       func() // something to do soon after, e.g. revocation lists; must not block
}

// Seal is the state machine. Safe for concurrent use.
type Seal struct {
	cfg   Config
	slots *keyslot.Slots

	mu       sync.Mutex
	state    State
	reason   string
	hold     bool
	instance string
	open     *session // while Unsealed and Sealing
}

// session is one time of being unsealed.
type session struct {
	barrier *barrier.Barrier
	engines *engine.Set
	ctx     context.Context //nolint:containedctx // ends every lease of the session
	cancel  context.CancelFunc
	leases  int
	drained chan struct{} // closed when sealing and the last lease is back
}

// New reads the state from the database. It does not unseal; see [Seal.Start].
func New(ctx context.Context, cfg Config) (*Seal, error) {
	cfg.Clock = clock.Or(cfg.Clock)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Seal{cfg: cfg}
	cfg.Slots.Service, cfg.Slots.Store, cfg.Slots.Clock = "metacrypt", slotStore{s}, cfg.Clock
	var err error
	if s.slots, err = keyslot.New(cfg.Slots); err != nil {
		return nil, err
	}
	err = cfg.DB.Read(ctx, func(v *db.View) error {
		id, err := store.Meta(v, store.MetaInstance)
		if err != nil {
			return err
		}
		hold, err := store.Meta(v, store.MetaHold)
		s.instance, s.hold, s.state = string(id), hold != nil, Sealed
		if id == nil {
			s.state, s.reason = Uninitialized, "No keys have been made yet: metacrypt init --recovery-out FILE."
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Start tries the credential slot, unless an explicit seal holds. Failure leaves it sealed and says why.
func (s *Seal) Start(ctx context.Context) {
	s.mu.Lock()
	state, hold := s.state, s.hold
	s.mu.Unlock()
	if state != Sealed {
		return
	}
	if hold {
		s.why("It was sealed by hand and waits for a person: metacrypt unseal.")
		return
	}
	cred, err := keyslot.ReadCredential("metacrypt", s.cfg.CredentialFile)
	if errors.Is(err, fs.ErrNotExist) {
		s.why("It starts sealed: metacrypt unseal.")
		return
	}
	if err == nil {
		defer clear(cred.Value)
		_, err = s.Unseal(ctx, cred, keyslot.Local)
	}
	if err != nil {
		s.cfg.Log.Error("the credential did not unseal", "err", err)
		s.why("The credential did not unseal: " + fault.From(err).Public() + ". Unseal it with metacrypt unseal.")
	}
}

func (s *Seal) why(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Sealed {
		s.reason = reason
	}
}

// Init makes the keys of a new store. It is single-shot and ends sealed. credential may be empty.
func (s *Seal) Init(ctx context.Context, password, credential []byte) (code, instance string, err error) {
	if err := s.enter(Uninitialized, Initializing); err != nil {
		return "", "", err
	}
	ended := Uninitialized
	defer func() { s.leave(ended, instance) }()
	secrets := []keyslot.Secret{{Kind: keyslot.Password, Value: password}}
	if len(credential) > 0 {
		secrets = append(secrets, keyslot.Secret{Kind: keyslot.Credential, Value: credential})
	}
	master, rows, made, err := s.slots.Prepare(secrets...)
	if err != nil {
		return "", "", err
	}
	defer master.Close()
	mounts := engine.Mounts()
	id := hex.EncodeToString(mounts[0].ID[:8])
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if have, err := store.Meta(tx, store.MetaInstance); err != nil || have != nil {
			return fault.New(fault.Exists, "metacrypt is initialized already").WithReason("INITIALIZED").Wrap(err)
		}
		if err := store.SetMeta(tx, store.MetaInstance, []byte(id)); err != nil {
			return err
		}
		return barrier.Init(tx, master, rows, mounts)
	})
	if err != nil {
		return "", "", fmt.Errorf("init: %w", err)
	}
	ended, instance = Sealed, id
	return made.RecoveryCode, id, nil
}

// enter moves from one state to another, or refuses.
func (s *Seal) enter(from, to State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != from {
		if from == Uninitialized {
			return fault.New(fault.Exists, "metacrypt is initialized already").WithReason("INITIALIZED").WithNext("metacrypt unseal")
		}
		return errSealed(s.state)
	}
	s.state = to
	return nil
}

func (s *Seal) leave(to State, instance string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = to
	if to == Sealed {
		s.instance, s.reason = instance, "It is initialized and waits to be unsealed: metacrypt unseal."
	}
}

// Unseal opens the barrier with the secret of a slot; when it is open already nothing happens and the secret is not
// looked at. It returns the slot's id.
func (s *Seal) Unseal(ctx context.Context, sec keyslot.Secret, from keyslot.Origin) (string, error) {
	s.mu.Lock()
	state := s.state
	s.mu.Unlock()
	switch state {
	case Unsealed:
		return "", nil
	case Sealed, Unsealing:
	default:
		return "", errSealed(state)
	}
	master, slot, err := s.slots.Unlock(ctx, sec, from)
	if err != nil {
		return "", err
	}
	if err := s.enter(Sealed, Unsealing); err != nil { // somebody else was faster
		master.Close()
		if s.Status(ctx).State == Unsealed {
			return slot, nil
		}
		return "", err
	}
	ses, err := s.load(ctx, master)
	s.mu.Lock()
	if err != nil {
		s.state, s.reason = Sealed, "Unsealing failed: "+fault.From(err).Message+"."
		s.mu.Unlock()
		return "", err
	}
	s.state, s.reason, s.open = Unsealed, "", ses
	s.mu.Unlock()
	s.used(ctx, sec.Kind, slot)
	s.cfg.Log.Info("unsealed", "slot", slot, "kind", string(sec.Kind), "generation", ses.barrier.Generation())
	if s.cfg.OnUnseal != nil {
		s.cfg.OnUnseal()
	}
	return slot, nil
}

// load opens barrier and engines.
func (s *Seal) load(ctx context.Context, master *keyslot.Master) (*session, error) {
	b, err := barrier.Open(ctx, s.cfg.DB, master)
	if err != nil {
		return nil, err
	}
	set, err := engine.Load(ctx, b, s.cfg.Engines)
	if err != nil {
		b.Close()
		return nil, err
	}
	sesCtx, cancel := context.WithCancel(context.Background())
	return &session{barrier: b, engines: set, ctx: sesCtx, cancel: cancel, drained: make(chan struct{})}, nil
}

// used notes the slot's use, and that an interactive one ended the hold. Losing this note is harmless.
func (s *Seal) used(ctx context.Context, kind keyslot.Kind, slot string) {
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if kind.Interactive() {
			if err := store.SetMeta(tx, store.MetaHold, nil); err != nil {
				return err
			}
		}
		return store.TouchSlot(tx, slot, s.cfg.Clock.Now())
	})
	if err != nil {
		s.cfg.Log.Warn("the use of a slot was not noted", "err", err)
		return
	}
	if kind.Interactive() {
		s.mu.Lock()
		s.hold = false
		s.mu.Unlock()
	}
}

// Seal closes the barrier and sets the hold. When it is sealed already only the hold is set.
func (s *Seal) Seal(ctx context.Context) error {
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error { return store.SetMeta(tx, store.MetaHold, []byte{1}) })
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.hold = true
	s.mu.Unlock()
	return s.shut(ctx, "It was sealed by hand and waits for a person: metacrypt unseal.")
}

// Stop closes the barrier at the end of the process, without a hold.
func (s *Seal) Stop(ctx context.Context) error { return s.shut(ctx, "The process is stopping.") }

// shut is the way down: no new leases, cancel, wait, wipe.
func (s *Seal) shut(ctx context.Context, reason string) error {
	s.mu.Lock()
	switch s.state {
	case Uninitialized, Initializing:
		defer s.mu.Unlock()
		return errSealed(s.state)
	case Unsealing:
		defer s.mu.Unlock()
		return fault.New(fault.Conflict, "metacrypt is unsealing at this moment").WithNext("try again")
	case Sealed:
		s.reason = reason
		s.mu.Unlock()
		return nil
	case Unsealed, Sealing:
	}
	ses := s.open
	if s.state == Unsealed {
		s.state = Sealing
		ses.cancel()
		if ses.leases == 0 {
			close(ses.drained)
		}
	}
	s.mu.Unlock()
	select {
	case <-ses.drained:
	case <-ctx.Done():
		return fmt.Errorf("seal: waiting for the last operation: %w", ctx.Err()) // goes on: the last lease will wipe
	}
	s.finish(ses, reason)
	return nil
}

// finish wipes, once, after the last lease is back.
func (s *Seal) finish(ses *session, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open != ses {
		return
	}
	ses.barrier.Close()
	s.open, s.state, s.reason = nil, Sealed, reason
	s.cfg.Log.Info("sealed")
}

// Status returns the state.
func (s *Seal) Status(ctx context.Context) Status {
	s.mu.Lock()
	st := Status{State: s.state, Reason: s.reason, Hold: s.hold, Instance: s.instance}
	if s.state == Unsealed {
		st.Generation, st.Broken = s.open.barrier.Generation(), s.open.engines.Broken
	}
	s.mu.Unlock()
	_ = s.cfg.DB.Read(ctx, func(v *db.View) error { // without it the time is only unknown
		next, err := store.NextAttempt(v, "password/remote")
		if next.After(s.cfg.Clock.Now()) {
			st.RetryAt = next.UTC().Truncate(time.Second)
		}
		return err
	})
	return st
}

// Sealed reports whether operations are refused: the sealed gate of the server.
func (s *Seal) Sealed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Unsealed {
		return nil
	}
	return errSealed(s.state)
}
