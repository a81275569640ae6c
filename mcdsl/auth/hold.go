package auth

import (
	"context"
	"time"
)

// hold is one open stream of an authorised caller. It ends by itself when the token does, when MCIAS was not
// heard for the rule's budget, or when a new state kills the token.
type hold struct {
	caller Caller
	budget Budget
	end    context.CancelCauseFunc
	timer  *time.Timer
}

// Hold ties an open stream to its caller: the returned context ends, with the refusal as its cause, as soon as
// the caller may no longer hold it. release must be called when the stream is over. Callers of the Unix socket
// and of Public methods hold nothing.
func (v *Verifier) Hold(ctx context.Context, call *Call) (context.Context, func()) {
	ctx, end := context.WithCancelCause(ctx)
	if !call.Caller.known || call.Caller.Kind == Socket || call.Rule.Access == AccessPublic {
		return ctx, func() { end(nil) }
	}
	h := &hold{caller: call.Caller, budget: call.Rule.Budget, end: end}
	v.mu.Lock()
	v.held[h] = struct{}{}
	h.judge(v) // a revocation between Check and here must not be missed
	v.mu.Unlock()
	return ctx, func() {
		v.mu.Lock()
		delete(v.held, h)
		if h.timer != nil {
			h.timer.Stop()
		}
		v.mu.Unlock()
		end(nil)
	}
}

// judge ends the stream or sets the timer for the next look. v.mu is held.
func (h *hold) judge(v *Verifier) {
	now := v.clock.Now()
	e := &entry{caller: h.caller, sub: probeSub + h.caller.Subject}
	e.probes = probesOf(h.caller)
	switch st := v.state.Load(); {
	case st.empty():
		h.end(errNoKeys())
		return
	case now.After(h.caller.Expires.Add(expLeeway)):
		h.end(errExpired())
		return
	case st.revoked(e):
		h.end(errRevoked())
		return
	}
	if err := v.Fresh(h.budget); err != nil {
		h.end(err)
		return
	}
	wait := h.caller.Expires.Add(expLeeway).Sub(now)
	if !v.immediate.Load() {
		age, _ := v.Age()
		wait = min(wait, v.budget(h.budget)-age)
	}
	wait += time.Millisecond
	if h.timer != nil {
		h.timer.Reset(wait)
		return
	}
	h.timer = time.AfterFunc(wait, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if _, ok := v.held[h]; ok {
			h.judge(v)
		}
	})
}

// Held returns the number of open streams that are tied to a caller.
func (v *Verifier) Held() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.held)
}

func probesOf(c Caller) [5]string {
	return [5]string{probeJTI + c.JTI, probeSID + c.SID, probeKey + c.SID, probeKID + c.kid, probeKey + c.kid}
}
