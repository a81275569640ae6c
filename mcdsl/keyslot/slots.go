package keyslot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/keyslot/internal/weak"
)

// maxSlots bounds the rows, and so the derivations that one attempt may cost.
const maxSlots = 16

// Config of [New].
type Config struct {
	Service    string        // as in the credential's name <service>-unseal, and in hints
	Store      Store         // required
	Clock      clock.Clock   // nil = the system's
	Costs      Costs         // of new password slots; zero = DefaultCosts, otherwise within Floor and Cap
	BackoffMax time.Duration // default 5 min, at least 1 s
	Weak       weak.Costs    // only package keyslottest can set it
}

// Slots opens and changes the slots of one store. It is safe for concurrent use.
type Slots struct {
	cfg   Config
	floor Costs
	lanes limiter
}

// New checks the configuration.
func New(cfg Config) (*Slots, error) {
	if cfg.Service == "" || cfg.Store == nil {
		return nil, errors.New("keyslot: Service and Store are required")
	}
	cfg.Clock = clock.Or(cfg.Clock)
	if cfg.BackoffMax == 0 {
		cfg.BackoffMax = 5 * time.Minute
	}
	if cfg.BackoffMax < time.Second {
		return nil, fmt.Errorf("keyslot: the longest back-off is %s, at least 1s", cfg.BackoffMax)
	}
	floor := Floor()
	if cfg.Weak.Allowed() {
		floor = Costs{Time: 1, Memory: 8, Threads: 1}
		cfg.Costs = floor
	}
	if cfg.Costs == (Costs{}) {
		cfg.Costs = DefaultCosts()
	}
	if err := cfg.Costs.within(floor); err != nil {
		return nil, fmt.Errorf("keyslot: %w", err)
	}
	return &Slots{cfg: cfg, floor: floor, lanes: newLimiter()}, nil
}

// Made is what Init and Add made.
type Made struct {
	IDs          []string // in the order of the secrets, the recovery slot last
	RecoveryCode string   // shown once
}

// Prepare makes a master key with a slot for each secret, and one recovery slot always, and stores nothing: for
// a service whose init is one transaction of its own.
func (s *Slots) Prepare(secrets ...Secret) (*Master, []Row, Made, error) {
	var made Made
	m := NewMaster()
	made.RecoveryCode = newCode()
	all := append(append([]Secret(nil), secrets...), Secret{Kind: Recovery, Value: []byte(made.RecoveryCode)})
	rows := make([]Row, 0, len(all))
	for _, sec := range all {
		r, err := s.NewRow(m, sec)
		if err != nil {
			m.Close()
			return nil, nil, Made{}, err
		}
		rows = append(rows, r)
		made.IDs = append(made.IDs, r.ID)
	}
	return m, rows, made, nil
}

// Init is Prepare and storing the rows. It refuses a store that has slots.
func (s *Slots) Init(ctx context.Context, secrets ...Secret) (*Master, Made, error) {
	have, err := s.cfg.Store.Slots(ctx)
	if err != nil {
		return nil, Made{}, err
	}
	if len(have) > 0 {
		return nil, Made{}, fault.New(fault.Exists, "%s is initialized already", s.cfg.Service).
			WithReason("INITIALIZED").WithNext("%s unseal", s.cfg.Service)
	}
	m, rows, made, err := s.Prepare(secrets...)
	if err != nil {
		return nil, Made{}, err
	}
	if err := s.cfg.Store.SaveSlots(ctx, rows, nil); err != nil {
		m.Close()
		return nil, Made{}, err
	}
	return m, made, nil
}

// NewRow makes a slot round the master key and stores nothing. A new password must pass [CheckPassword].
func (s *Slots) NewRow(m *Master, sec Secret) (Row, error) {
	if sec.Kind == Password {
		if err := CheckPassword(sec.Value); err != nil {
			return Row{}, err
		}
	}
	canon, err := canonicalSecret(sec)
	if err != nil {
		return Row{}, err
	}
	defer clear(canon)
	var r Row
	err = m.Use(func(mek []byte) error {
		r, err = makeRow(sec.Kind, canon, mek, s.cfg.Costs, s.cfg.Clock.Now())
		return err
	})
	return r, err
}

// Add makes and stores a slot. For kind Recovery it makes the code itself; sec.Value is ignored.
func (s *Slots) Add(ctx context.Context, m *Master, sec Secret) (Row, Made, error) {
	rows, err := s.cfg.Store.Slots(ctx)
	if err != nil {
		return Row{}, Made{}, err
	}
	if len(rows) >= maxSlots {
		return Row{}, Made{}, fault.New(fault.Precondition, "there are %d slots, the most there can be", maxSlots)
	}
	var made Made
	if sec.Kind == Recovery {
		made.RecoveryCode = newCode()
		sec.Value = []byte(made.RecoveryCode)
	}
	r, err := s.NewRow(m, sec)
	if err != nil {
		return Row{}, Made{}, err
	}
	made.IDs = []string{r.ID}
	return r, made, s.cfg.Store.SaveSlots(ctx, []Row{r}, nil)
}

// Removable refuses the removal of a slot that has to stay: the last recovery slot and the last interactive one.
func Removable(rows []Row, id string) error {
	var found *Row
	interactive, recovery := 0, 0
	for i := range rows {
		r := &rows[i]
		if r.ID == id {
			found = r
			continue
		}
		if r.Kind.Interactive() {
			interactive++
		}
		if r.Kind == Recovery {
			recovery++
		}
	}
	switch {
	case found == nil:
		return fault.New(fault.NotFound, "there is no slot %q", id)
	case found.Kind.Interactive() && interactive == 0:
		return fault.New(fault.Precondition, "slot %s is the last that a person can use", id).WithReason("LAST_SLOT")
	case found.Kind == Recovery && recovery == 0:
		return fault.New(fault.Precondition, "slot %s is the last recovery slot", id).
			WithReason("LAST_SLOT").WithNext("add a new recovery slot first")
	}
	return nil
}

// Remove deletes a slot under the rules of [Removable]. The master key stays as it is: whoever copied the row and knows
// its secret still has it, so a service that can rotates with [Reseal].
func (s *Slots) Remove(ctx context.Context, id string) error {
	rows, err := s.cfg.Store.Slots(ctx)
	if err != nil {
		return err
	}
	if err := Removable(rows, id); err != nil {
		return err
	}
	return s.cfg.Store.SaveSlots(ctx, nil, []string{id})
}

// List returns the rows.
func (s *Slots) List(ctx context.Context) ([]Row, error) { return s.cfg.Store.Slots(ctx) }
