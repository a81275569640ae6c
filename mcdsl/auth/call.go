package auth

import (
	"context"
	"net/netip"
	"sync"

	"metacircular.net/mcdsl/fault"
)

// Call is one call on its way through the chain: where it came from, who asks, and what was decided about it.
// The server makes it; handlers use From, Client, RequestID and Decide.
type Call struct {
	Origin
	Caller Caller
	Rule   Rule
	User   string // for the edge's log line, when the caller was verified further in
	token  string // as presented; leaves the package only towards MCIAS and the server in process

	mu        sync.Mutex // guards decisions
	decisions []Decision
}

// Decision is what a service's policy said about one action on one resource.
type Decision struct {
	Action   string
	Resource string
	Allow    bool
	Why      string // the rule and reason, for audit and the caller
}

type callKey struct{}

// Enter returns a context in which From and its kin know the call.
func Enter(ctx context.Context, c *Call) context.Context { return context.WithValue(ctx, callKey{}, c) }

// CallFrom returns the call of the context, nil outside of one.
func CallFrom(ctx context.Context) *Call {
	c, _ := ctx.Value(callKey{}).(*Call)
	return c
}

// From returns the caller; nobody outside of a call and on Public methods.
func From(ctx context.Context) Caller {
	if c := CallFrom(ctx); c != nil {
		return c.Caller
	}
	return Caller{}
}

// Client returns the client's true address, behind MC-Proxy too; the zero value if there is none (the socket).
func Client(ctx context.Context) netip.Addr {
	if c := CallFrom(ctx); c != nil {
		return c.Client
	}
	return netip.Addr{}
}

// RequestID returns the id that the call's log lines carry.
func RequestID(ctx context.Context) string {
	if c := CallFrom(ctx); c != nil {
		return c.Origin.RequestID
	}
	return ""
}

// Decide records what the service's policy said, and returns the refusal if it said no. why is shown to the
// caller and in audit: name the rule. A local administrator is always allowed: that is what break-glass is for.
//
//	if err := auth.Decide(ctx, "zones:delete", zone, d.Allow, d.Why); err != nil {
//		return nil, err
//	}
func Decide(ctx context.Context, action, resource string, allow bool, why string) error {
	call := CallFrom(ctx)
	if call == nil {
		return fault.New(fault.Internal, "decision on %s outside of a call", action)
	}
	if !allow && call.Caller.LocalAdmin() {
		allow, why = true, "local administrator"
	}
	call.mu.Lock()
	if len(call.decisions) < maxDecisions {
		call.decisions = append(call.decisions, Decision{Action: action, Resource: resource, Allow: allow, Why: why})
	}
	call.mu.Unlock()
	if allow {
		return nil
	}
	msg := fault.New(fault.Denied, "you are %s; %s on %s is not allowed", describe(call.Caller), action, resource)
	if why != "" {
		msg = fault.New(fault.Denied, "you are %s; %s on %s is not allowed: %s", describe(call.Caller), action, resource, why)
	}
	return msg.WithReason(ReasonDenied)
}

// maxDecisions bounds what one call keeps for audit: a list may judge every row.
const maxDecisions = 16

// Decisions returns what was decided so far, at most 16.
func (c *Call) Decisions() []Decision {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Decision(nil), c.decisions...)
}

// Decided reports whether the call may be answered: its rule is not a Policy, or a decision was recorded.
func (c *Call) Decided() bool {
	if c.Rule.Access != AccessPolicy {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.decisions) > 0
}

// MayAnswer returns nil if this outcome may be told without a decision: refusals that say nothing about the
// resource. Success, "not found" or "already there" need one first.
func (c *Call) MayAnswer(err error) error {
	if c.Decided() {
		return nil
	}
	if err != nil {
		switch fault.Of(err) {
		case fault.NotFound, fault.Exists, fault.Conflict, fault.Precondition:
		default:
			return nil
		}
	}
	return fault.New(fault.Internal, "%s answered without a decision of policy", c.Method).WithReason(ReasonNoDecision)
}
