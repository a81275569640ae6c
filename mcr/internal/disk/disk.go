// Package disk says when the disk is too full to take more. It exists so that pushes are refused, with
// numbers, before the database itself has no room: pulls, deletions and collection go on.
package disk

import (
	"fmt"
	"sync"

	"metacircular.net/mcdsl/fault"
)

// ReasonFull is the stable word of the refusal.
const ReasonFull = "DISK_FULL"

// hysteresis is how far below the limit the disk must be before pushes are taken again.
const hysteresis = 0.02

// Gauge watches one filesystem. Safe for concurrent use.
type Gauge struct {
	Measure func() (total, free int64, err error)
	Warn    float64 // ratio from which it is a finding
	Refuse  float64 // ratio from which pushes are refused
	Floor   int64   // bytes that stay free for the database

	mu      sync.Mutex
	refused bool
}

// Admit returns a fault while the disk is too full for a push.
func (g *Gauge) Admit() error {
	total, free, err := g.Measure()
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	limit := g.Refuse
	if g.refused {
		limit -= hysteresis
	}
	used := 1 - float64(free)/float64(max(total, 1))
	g.refused = used >= limit || free < g.Floor
	if !g.refused {
		return nil
	}
	return fault.New(fault.Exhausted, "the registry's disk is %.0f %% full (%d of %d bytes free); pushes are refused from %.0f %% or under %d bytes free",
		used*100, free, total, g.Refuse*100, g.Floor).WithReason(ReasonFull).WithNext("mcr gc --wait")
}

// Check returns a sentence if the disk is past the warning level, "" otherwise.
func (g *Gauge) Check() (string, error) {
	total, free, err := g.Measure()
	if err != nil {
		return "", err
	}
	if used := 1 - float64(free)/float64(max(total, 1)); used >= g.Warn {
		return fmt.Sprintf("%.0f %% full, %d bytes free", used*100, free), nil
	}
	return "", nil
}
