package auth

import (
	"time"

	"metacircular.net/mcdsl/fault"
)

// The stable words of refusals made here.
const (
	ReasonStepUp     = "STEP_UP_REQUIRED"  // the sign-in is too old or too weak
	ReasonStale      = "STALE_REVOCATIONS" // MCIAS was not heard for longer than the budget
	ReasonNoKeys     = "NO_KEYS"           // no key set yet
	ReasonNoDecision = "NO_DECISION"       // a Policy handler answered without deciding
	ReasonNoToken    = "NO_TOKEN"          // no bearer token
	ReasonBadToken   = "INVALID_TOKEN"     // malformed, forged, expired, or for somebody else
	ReasonRevoked    = "TOKEN_REVOKED"     // was valid, no longer is
	ReasonExpired    = "TOKEN_EXPIRED"     // ran out
	ReasonDenied     = "POLICY_DENIED"     // the service's policy says no
	ReasonNoKeyFile  = "NO_SERVICE_KEY"    // the service has no key file yet
	ReasonAmbiguous  = "SEVERAL_TOKENS"    // more than one Authorization header
	ReasonSealed     = "SEALED"            // the vault is sealed
	ReasonDraining   = "DRAINING"          // the process is about to stop
	retryUnknown     = 5 * time.Second     // suggested while MCIAS is away
)

// ErrNoToken is the refusal of a call that needs a caller and shows no token.
func ErrNoToken() *fault.Error {
	return fault.New(fault.Unauthenticated, "not logged in").WithReason(ReasonNoToken).WithNext("mcp login")
}

func errBad(format string, args ...any) *fault.Error {
	return fault.New(fault.Unauthenticated, "token refused: "+format, args...).WithReason(ReasonBadToken).WithNext("mcp login")
}

func errRevoked() *fault.Error {
	return fault.New(fault.Unauthenticated, "token revoked").WithReason(ReasonRevoked).WithNext("mcp login")
}

func errNoKeys() *fault.Error {
	return fault.New(fault.Unavailable, "no key set of MCIAS yet").WithReason(ReasonNoKeys).WithRetry(retryUnknown).
		WithNext("mcp status mcias")
}

func errSeveral() *fault.Error {
	return fault.New(fault.Invalid, "more than one Authorization header").WithReason(ReasonAmbiguous)
}
