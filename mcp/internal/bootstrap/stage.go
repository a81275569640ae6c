package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"metacircular.net/mcdsl/fault"
)

// State is what became of a stage.
type State string

// The three states scripts read (platform.md section 9).
const (
	Done      State = "done"
	Unchanged State = "unchanged"
	Failed    State = "failed"
)

// Result is one line of `mcp up --json`.
type Result struct {
	Stage   string  `json:"stage"`
	State   State   `json:"state"`
	Seconds float64 `json:"seconds"`
	Detail  string  `json:"detail"`
	Next    string  `json:"next"`
}

// stage is one step: it looks, acts where something is missing, and says in a few words what is so now.
type stage struct {
	name string
	run  func(ctx context.Context) (changed bool, detail string, err error)
}

// Reporter prints results as they come. Concurrent use is not needed: stages run one after the other.
type Reporter struct {
	Out  io.Writer
	JSON bool
	Now  func() time.Time
}

func (r Reporter) report(res Result) {
	if r.JSON {
		_ = json.NewEncoder(r.Out).Encode(res)
		return
	}
	mark := map[State]string{Done: "done", Unchanged: "unchanged", Failed: "FAILED"}[res.State]
	fmt.Fprintf(r.Out, "  %-13s %-10s %6.1f s  %s\n", res.Stage, mark, res.Seconds, res.Detail)
}

// runStages runs them in order and stops at the first that fails.
func runStages(ctx context.Context, r Reporter, stages []stage) error {
	for _, s := range stages {
		begin := r.Now()
		changed, detail, err := s.run(ctx)
		res := Result{Stage: s.name, State: Unchanged, Seconds: r.Now().Sub(begin).Seconds(), Detail: detail}
		if changed {
			res.State = Done
		}
		if err != nil {
			res.State, res.Detail = Failed, err.Error()
			var f *fault.Error
			if errors.As(err, &f) {
				res.Next = f.Next
			}
			r.report(res)
			return fmt.Errorf("stage %s: %w", s.name, err)
		}
		r.report(res)
	}
	return nil
}
