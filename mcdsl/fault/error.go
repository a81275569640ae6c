package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/status"
)

// ExitInterrupted is the exit code of a command that the user stopped.
const ExitInterrupted = 130

// Field is one part of a request that was refused.
type Field struct {
	Name    string // as in the request message, e.g. "record.ttl"
	Problem string // a sentence that a person can act on
}

// Error is a failure with everything a caller may be told. Message is for people and holds no secret,
// no SQL and no path the caller could not know.
type Error struct {
	Kind       Kind
	Reason     string        // a stable word for programs, e.g. "SEALED"; empty if nobody branches on it
	Message    string        // what happened, to what; lower case, no full stop
	Fields     []Field       // what is wrong in the request
	Next       string        // what to do: one line, best a command that can be pasted
	RetryAfter time.Duration // when to try again; 0 = not said
	RequestID  string        // set on faults that came over the network
	cause      error         // for the log only
}

// New returns a fault of a kind with its message.
func New(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Field1 returns an Invalid fault about one field of the request; the message repeats it for people.
func Field1(name, format string, args ...any) *Error {
	problem := fmt.Sprintf(format, args...)
	return &Error{Kind: Invalid, Message: name + ": " + problem, Fields: []Field{{name, problem}}}
}

// WithReason sets the stable word.
func (e *Error) WithReason(reason string) *Error { e.Reason = reason; return e }

// WithNext sets the next step.
func (e *Error) WithNext(format string, args ...any) *Error {
	e.Next = fmt.Sprintf(format, args...)
	return e
}

// WithField adds a refused field.
func (e *Error) WithField(name, format string, args ...any) *Error {
	e.Fields = append(e.Fields, Field{name, fmt.Sprintf(format, args...)})
	return e
}

// WithRetry says when trying again makes sense.
func (e *Error) WithRetry(after time.Duration) *Error { e.RetryAfter = after; return e }

// Wrap attaches the cause. It is found by errors.Is and errors.As and shown in the log, never to a caller.
func (e *Error) Wrap(cause error) *Error { e.cause = cause; return e }

// Error returns the message and the cause: the form for logs.
func (e *Error) Error() string {
	if e.cause == nil {
		return e.Message
	}
	if e.Message == "" {
		return e.cause.Error()
	}
	return e.Message + ": " + e.cause.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Public returns the message for callers: everything but the cause; for Internal only that it is internal.
func (e *Error) Public() string {
	if e.Kind == Internal && e.RequestID == "" {
		return "internal error"
	}
	return e.Message
}

// From returns the fault in err's chain: a fault of this process, the one in a gRPC status that came from
// a peer, or one made from a context error. Anything else is Internal with err as its cause.
// From(nil) is nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var gs interface{ GRPCStatus() *status.Status }
	if errors.As(err, &gs) {
		return fromStatus(gs.GRPCStatus())
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return New(Timeout, "it took too long").Wrap(err)
	case errors.Is(err, context.Canceled):
		return New(Timeout, "the caller went away").WithReason("CANCELED").Wrap(err)
	}
	return (&Error{Kind: Internal}).Wrap(err)
}

// FromError is From under the name clients look for.
func FromError(err error) *Error { return From(err) }

// Of returns the kind of err. Of(nil) is Internal; test for nil first.
func Of(err error) Kind {
	if f := From(err); f != nil {
		return f.Kind
	}
	return Internal
}

// Is reports whether err is a failure of this kind.
func Is(err error, kind Kind) bool { return err != nil && Of(err) == kind }

// HasReason reports whether err carries this stable word.
func HasReason(err error, reason string) bool {
	f := From(err)
	return f != nil && f.Reason == reason
}

// ExitCode returns the exit code for err: 0 for nil, 130 for an interruption by the user, else by kind.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	f := From(err)
	if f.Reason == "CANCELED" {
		return ExitInterrupted
	}
	return f.Kind.ExitCode()
}

// Text returns err as a command prints it: what happened, the fields, and a "next:" line.
// The cause of a local fault is shown, since whoever runs a command on this machine is its operator.
func Text(err error) string {
	f := From(err)
	if f == nil {
		return ""
	}
	var b strings.Builder
	msg := err.Error()
	if f.RequestID != "" || errorIsStatus(err) {
		msg = f.Message
		if prefix := contextOf(err); prefix != "" {
			msg = prefix + msg
		}
	}
	b.WriteString(msg)
	for _, fd := range f.Fields {
		if !strings.Contains(msg, fd.Problem) {
			fmt.Fprintf(&b, "\n  %s: %s", fd.Name, fd.Problem)
		}
	}
	if f.RequestID != "" && f.Kind == Internal {
		fmt.Fprintf(&b, "\n  request id: %s", f.RequestID)
	}
	if f.Next != "" {
		fmt.Fprintf(&b, "\n  next: %s", f.Next)
	}
	return b.String()
}

// errorIsStatus reports whether the fault in err came as a gRPC status.
func errorIsStatus(err error) bool {
	var e *Error
	if errors.As(err, &e) {
		return false
	}
	var gs interface{ GRPCStatus() *status.Status }
	return errors.As(err, &gs)
}

// contextOf returns what was wrapped round a gRPC status, so that "rpc error: code = …" is not printed.
func contextOf(err error) string {
	var gs interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &gs) {
		return ""
	}
	inner, ok := gs.(error)
	if !ok {
		return ""
	}
	if i := strings.Index(err.Error(), inner.Error()); i > 0 {
		return err.Error()[:i]
	}
	return ""
}
