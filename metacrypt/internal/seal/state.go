package seal

import (
	"time"

	"metacircular.net/mcdsl/fault"
)

// State of the seal.
type State string

// The states.
const (
	Uninitialized State = "uninitialized"
	Initializing  State = "initializing"
	Sealed        State = "sealed"
	Unsealing     State = "unsealing"
	Unsealed      State = "unsealed"
	Sealing       State = "sealing"
)

// Status is what everybody may know.
type Status struct {
	State      State
	Reason     string // why, and what to do; one sentence
	Hold       bool
	Instance   string
	Generation uint64 // 0 unless unsealed
	RetryAt    time.Time
	Broken     map[string]string
}

// errSealed is the refusal of what needs the open barrier.
func errSealed(st State) error {
	switch st {
	case Uninitialized, Initializing:
		return fault.New(fault.Precondition, "metacrypt is not initialized").WithReason("UNINITIALIZED").
			WithNext("metacrypt init --recovery-out FILE")
	case Unsealing:
		return fault.New(fault.Unavailable, "metacrypt is unsealing").WithReason("SEALED").WithRetry(time.Second).WithNext("try again")
	default:
		return fault.New(fault.Unavailable, "metacrypt is sealed").WithReason("SEALED").WithRetry(30 * time.Second).WithNext("metacrypt unseal")
	}
}
