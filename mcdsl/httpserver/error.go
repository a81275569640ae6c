package httpserver

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
)

// problem is the JSON of a failure, the same as `--json` of the command lines prints.
type problem struct {
	Code      string  `json:"code"`
	Reason    string  `json:"reason"`
	Message   string  `json:"message"`
	Next      string  `json:"next"`
	Fields    []field `json:"fields,omitempty"`
	RequestID string  `json:"request_id,omitempty"`
}

type field struct {
	Name    string `json:"field"`
	Problem string `json:"problem"`
}

// WriteError answers a request that failed with the JSON every REST client gets:
// {"error":{"code","reason","message","next","fields","request_id"}}. It logs nothing. The request's context
// tells the request id and the rule that failed.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	f := fault.From(err)
	if f == nil {
		f = fault.New(fault.Internal, "no error")
	}
	p := problem{Code: f.Kind.String(), Reason: f.Reason, Message: f.Public(), Next: f.Next, RequestID: f.RequestID}
	if p.RequestID == "" {
		p.RequestID = auth.RequestID(r.Context())
	}
	for _, fd := range f.Fields {
		p.Fields = append(p.Fields, field{Name: fd.Name, Problem: fd.Problem})
	}
	h := w.Header()
	SetChallenge(h, r, f)
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Del("Content-Length")
	w.WriteHeader(Status(err))
	if r.Method == http.MethodHead {
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]problem{"error": p}) // the client may be gone
}

// Status returns the HTTP status of a failure.
func Status(err error) int {
	var s interface{ HTTPStatus() int }
	if errors.As(err, &s) {
		return s.HTTPStatus()
	}
	if f := fault.From(err); f != nil {
		return f.Kind.HTTPStatus()
	}
	return http.StatusOK
}

// SetChallenge sets the headers that belong to a failure: WWW-Authenticate (RFC 6750, RFC 9470) and Retry-After.
func SetChallenge(h http.Header, r *http.Request, f *fault.Error) {
	switch {
	case f.Kind == fault.Unauthenticated && f.Reason == auth.ReasonStepUp:
		v := `Bearer error="insufficient_user_authentication"`
		if call := auth.CallFrom(r.Context()); call != nil && call.Rule.MaxAuthAge > 0 {
			v += `, max_age="` + strconv.Itoa(int(call.Rule.MaxAuthAge/time.Second)) + `"`
		}
		setDefault(h, "WWW-Authenticate", v)
	case f.Kind == fault.Unauthenticated && f.Reason == auth.ReasonNoToken:
		setDefault(h, "WWW-Authenticate", "Bearer")
	case f.Kind == fault.Unauthenticated:
		setDefault(h, "WWW-Authenticate", `Bearer error="invalid_token"`)
	case f.Kind == fault.Unavailable || f.Kind == fault.Exhausted:
		after := f.RetryAfter
		if after <= 0 {
			after = time.Second
		}
		setDefault(h, "Retry-After", strconv.Itoa(int((after+time.Second-1)/time.Second)))
	}
}

func setDefault(h http.Header, name, value string) {
	if h.Get(name) == "" {
		h.Set(name, value)
	}
}

// statusError is a failure whose HTTP status the table of kinds doesn't have.
type statusError struct {
	fault  *fault.Error
	status int
}

// Error returns the fault's text.
func (e statusError) Error() string { return e.fault.Error() }

// HTTPStatus returns the status to answer with.
func (e statusError) HTTPStatus() int { return e.status }

// Unwrap returns the fault.
func (e statusError) Unwrap() error { return e.fault }

// WithStatus gives a failure another HTTP status than that of its kind: 405, 413, 415, 421.
func WithStatus(status int, f *fault.Error) error { return statusError{f, status} }

// LimitBody bounds the body of a request; negative means no limit. Reading past it fails with *http.MaxBytesError,
// which BodyError turns into a 413.
func LimitBody(w http.ResponseWriter, r *http.Request, max int64) {
	if r.Body != nil && max >= 0 {
		r.Body = http.MaxBytesReader(w, r.Body, max)
	}
}

// BodyError returns the failure of a body that was too long as such, and other errors as they are.
func BodyError(err error) error {
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return WithStatus(http.StatusRequestEntityTooLarge, fault.New(fault.Invalid, "body longer than %d bytes", tooLong.Limit).
			WithReason("BODY_TOO_LONG"))
	}
	return err
}
