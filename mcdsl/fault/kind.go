package fault

import (
	"net/http"

	"google.golang.org/grpc/codes"
)

// Kind says what sort of failure an error is. The zero value is Internal: an error nobody classified
// is our fault until shown otherwise.
type Kind uint8

// The kinds. Each has one gRPC code, one HTTP status and one exit code.
const (
	Internal        Kind = iota // a bug or a broken machine; the cause stays in the log
	Invalid                     // the request can never succeed as it is; fields say why
	Unauthenticated             // we don't know who is asking
	Denied                      // we know, and the answer is no
	NotFound                    // the thing is not there, or the caller may not know that it is
	Exists                      // the name is taken
	Conflict                    // stale: somebody else was faster, or an operation is in progress
	Precondition                // the state of the system doesn't allow it now
	Exhausted                   // a limit, a quota or a full disk
	Unavailable                 // sealed, starting, draining, peer away: try again
	Timeout                     // it took too long
)

type row struct {
	name string
	code codes.Code
	http int
	exit int
}

// table returns the one mapping of the platform; a switch, so that nothing can change it at run time.
func (k Kind) table() row {
	switch k {
	case Invalid:
		return row{"invalid", codes.InvalidArgument, http.StatusBadRequest, 2}
	case Unauthenticated:
		return row{"unauthenticated", codes.Unauthenticated, http.StatusUnauthorized, 4}
	case Denied:
		return row{"denied", codes.PermissionDenied, http.StatusForbidden, 4}
	case NotFound:
		return row{"not found", codes.NotFound, http.StatusNotFound, 1}
	case Exists:
		return row{"exists", codes.AlreadyExists, http.StatusConflict, 1}
	case Conflict:
		return row{"conflict", codes.Aborted, http.StatusConflict, 3}
	case Precondition:
		return row{"precondition", codes.FailedPrecondition, http.StatusBadRequest, 1}
	case Exhausted:
		return row{"exhausted", codes.ResourceExhausted, http.StatusTooManyRequests, 1}
	case Unavailable:
		return row{"unavailable", codes.Unavailable, http.StatusServiceUnavailable, 5}
	case Timeout:
		return row{"timeout", codes.DeadlineExceeded, http.StatusGatewayTimeout, 5}
	}
	return row{"internal", codes.Internal, http.StatusInternalServerError, 1}
}

// String returns the kind in words.
func (k Kind) String() string { return k.table().name }

// Code returns the gRPC code of the kind.
func (k Kind) Code() codes.Code { return k.table().code }

// HTTPStatus returns the HTTP status of the kind.
func (k Kind) HTTPStatus() int { return k.table().http }

// ExitCode returns the exit code a command ends with when it failed this way.
func (k Kind) ExitCode() int { return k.table().exit }

// Retryable reports whether the same request may succeed later without being changed.
func (k Kind) Retryable() bool {
	return k == Unavailable || k == Timeout || k == Exhausted
}

// kindOf returns the kind of a gRPC code.
func kindOf(c codes.Code) Kind {
	switch c {
	case codes.InvalidArgument, codes.OutOfRange, codes.Unimplemented:
		return Invalid
	case codes.Unauthenticated:
		return Unauthenticated
	case codes.PermissionDenied:
		return Denied
	case codes.NotFound:
		return NotFound
	case codes.AlreadyExists:
		return Exists
	case codes.Aborted:
		return Conflict
	case codes.FailedPrecondition:
		return Precondition
	case codes.ResourceExhausted:
		return Exhausted
	case codes.Unavailable:
		return Unavailable
	case codes.DeadlineExceeded, codes.Canceled:
		return Timeout
	}
	return Internal
}
