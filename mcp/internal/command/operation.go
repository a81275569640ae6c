package command

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
)

// follow prints the steps of an operation as they end and returns how it ended. next yields one event a call.
func (v *verbs) follow(next func() (*mcpv1.OpEvent, error)) (*mcpv1.Op, error) {
	var op *mcpv1.Op
	live := false
	for {
		ev, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if op != nil && fault.ExitCode(err) == fault.ExitInterrupted {
				v.env.Printf("detached; operation %s goes on\n  next: mcp op watch %s\n", op.GetId(), op.GetId())
			}
			return op, err
		}
		if ev == nil {
			continue
		}
		if v.env.JSON {
			if err := v.env.EmitLine(ev); err != nil {
				return op, err
			}
		}
		switch e := ev.GetEvent().(type) {
		case *mcpv1.OpEvent_Accepted:
			op = e.Accepted
		case *mcpv1.OpEvent_Step:
			v.step(e.Step)
		case *mcpv1.OpEvent_Live:
			op, live = e.Live, true
		case *mcpv1.OpEvent_Ended:
			op = e.Ended
		}
	}
	if op == nil {
		return nil, nil // nothing to do
	}
	switch op.GetState() {
	case mcpv1.OpState_OP_STATE_FAILED, mcpv1.OpState_OP_STATE_REVERTED, mcpv1.OpState_OP_STATE_CANCELLED:
		return op, v.failure(op)
	case mcpv1.OpState_OP_STATE_SUCCEEDED:
		return op, nil
	}
	if live {
		return op, nil
	}
	return op, fault.New(fault.Unavailable, "the connection ended before the operation did").WithNext("mcp op watch %s", op.GetId())
}

func (v *verbs) step(s *mcpv1.Step) {
	if v.env.JSON || v.env.Quiet || s.GetState() == mcpv1.StepState_STEP_STATE_BEGUN {
		return
	}
	mark := ""
	switch s.GetState() {
	case mcpv1.StepState_STEP_STATE_FAILED:
		mark = "FAILED "
	case mcpv1.StepState_STEP_STATE_UNDONE:
		mark = "undone "
	}
	v.env.Printf("  %-9s %-48s %6.1f s\n", s.GetName(), mark+s.GetDetail(), s.GetSeconds())
}

// failure turns the end of an operation into the error the command ends with: cause, the app's last lines, next step.
func (v *verbs) failure(op *mcpv1.Op) error {
	e := op.GetError()
	msg := e.GetMessage()
	if msg == "" {
		msg = "it ended " + word(op.GetState(), "OP_STATE_")
	}
	if tail := e.GetLogTail(); len(tail) > 0 {
		msg += fmt.Sprintf("\n  last lines of %s:", e.GetComponent())
		for _, l := range tail {
			msg += "\n    " + printable(l)
		}
	}
	f := fault.New(fault.Precondition, "%s %s: %s", op.GetKind(), op.GetService(), msg)
	if n := e.GetNext(); n != "" {
		f = f.WithNext("%s", n)
	}
	return f
}

// printable strips what a log line could do to a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || (r >= ' ' && r != 0x7f && (r < 0x80 || r > 0x9f)) {
			return r
		}
		return -1
	}, s)
}

func (v *verbs) done(op *mcpv1.Op, verb string) error {
	if v.env.JSON || v.env.Quiet {
		return nil
	}
	if op == nil {
		_, err := fmt.Fprintln(v.env.Out, "nothing to do")
		return err
	}
	line := fmt.Sprintf("%s %s", verb, op.GetService())
	if g := op.GetGeneration(); g > 0 {
		line += fmt.Sprintf(", generation %d", g)
	}
	if urls := op.GetUrls(); len(urls) > 0 {
		line += ": " + strings.Join(urls, " ")
	}
	_, err := fmt.Fprintln(v.env.Out, line)
	return err
}

func opRow(t *cli.Table, op *mcpv1.Op, now func(op *mcpv1.Op) string) {
	t.Row(op.GetId(), op.GetKind(), op.GetService(), word(op.GetState(), "OP_STATE_"), op.GetStep(), op.GetOperator(), now(op))
}
