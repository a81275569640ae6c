package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"
	"metacircular.net/mcr/internal/disk"
	"metacircular.net/mcr/internal/store"
)

// Error is a refusal with the code the distribution specification gives it.
type Error struct {
	Status int
	Code   string
	Msg    string
	Detail map[string]any // added to the request id
	cause  error
	header http.Header
	scope  string // set = answer with a challenge for this scope
}

// Error returns message and cause, for the log.
func (e *Error) Error() string {
	if e.cause != nil {
		return e.Msg + ": " + e.cause.Error()
	}
	return e.Msg
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

func refuse(status int, code, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Msg: fmt.Sprintf(format, args...)}
}

func (e *Error) set(key, value string) *Error {
	if e.header == nil {
		e.header = http.Header{}
	}
	e.header.Set(key, value)
	return e
}

func errMethod(method string) *Error {
	return refuse(http.StatusMethodNotAllowed, "UNSUPPORTED", "%s is not done here", method)
}

func errTooMany(n int) *Error {
	return refuse(http.StatusTooManyRequests, "TOOMANYREQUESTS", "over %d requests of yours at once", n).set("Retry-After", "2")
}

func pathError(err error) *Error {
	if errors.Is(err, errNoRoute) {
		return refuse(http.StatusNotFound, "NAME_UNKNOWN", "%v", err)
	}
	return refuse(http.StatusBadRequest, "NAME_INVALID", "%v", err)
}

func errDigest(err error) *Error { return refuse(http.StatusBadRequest, "DIGEST_INVALID", "%v", err) }

func errMissing(digests []digest.Digest) *Error {
	e := refuse(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "%d parts of the manifest are not in this repository", len(digests))
	e.Detail = map[string]any{"digests": digests}
	return e
}

// classify turns any error into one a client understands.
func classify(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var missing *store.MissingError
	if errors.As(err, &missing) {
		return errMissing(missing.Digests)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return (&Error{Status: http.StatusInsufficientStorage, Code: "DENIED", Msg: "the registry's disk is full", cause: err})
	}
	f := fault.From(err)
	e = &Error{Status: f.Kind.HTTPStatus(), Code: "UNKNOWN", Msg: f.Public(), cause: err}
	if f.RetryAfter > 0 {
		e.set("Retry-After", strconv.Itoa(max(1, int(f.RetryAfter.Seconds()))))
	}
	switch f.Reason {
	case store.ReasonUnknownRepo:
		e.Code = "NAME_UNKNOWN"
	case store.ReasonUnknown:
		e.Code = "MANIFEST_UNKNOWN"
	case store.ReasonUnknownBlob:
		e.Code = "BLOB_UNKNOWN"
	case store.ReasonInUse:
		e.Status, e.Code = http.StatusMethodNotAllowed, "UNSUPPORTED"
	case store.ReasonPinned, store.ReasonImmutable:
		e.Status, e.Code = http.StatusConflict, "DENIED"
	case disk.ReasonFull:
		e.Status, e.Code = http.StatusInsufficientStorage, "DENIED"
	default:
		switch f.Kind {
		case fault.Unauthenticated:
			e.Code = "UNAUTHORIZED"
		case fault.Denied:
			e.Code = "DENIED"
		case fault.Exhausted:
			e.Code = "TOOMANYREQUESTS"
		}
	}
	if f.Kind == fault.Unavailable && e.header.Get("Retry-After") == "" {
		e.set("Retry-After", "5")
	}
	return e
}

// Refuse writes the answer to a request that was refused or failed, by the chain in front or by a handler.
func (g *Registry) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	e := classify(err)
	if e.Status >= 500 && e.Status != http.StatusServiceUnavailable {
		g.Log.ErrorContext(r.Context(), "registry request failed", "path", r.URL.Path, log.Err(err))
	}
	h := w.Header()
	setVersion(w)
	for _, k := range []string{"Etag", "Cache-Control", "Content-Length", "Docker-Content-Digest"} {
		h.Del(k) // a handler may have got that far
	}
	for k, v := range e.header {
		h[k] = v
	}
	if e.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", g.challenge(r, e, err))
	}
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Body != nil && e.Status >= 400 && r.ProtoMajor == 1 && r.ContentLength != 0 {
		h.Set("Connection", "close") // the rest of the body is not worth reading
	}
	w.WriteHeader(e.Status)
	if r.Method == http.MethodHead {
		return
	}
	detail := map[string]any{"request_id": auth.RequestID(r.Context())}
	for k, v := range e.Detail {
		detail[k] = v
	}
	type entry struct {
		Code    string         `json:"code"`
		Message string         `json:"message"`
		Detail  map[string]any `json:"detail"`
	}
	b, merr := json.Marshal(map[string]any{"errors": []entry{{e.Code, e.Msg, detail}}})
	if merr != nil {
		g.Log.ErrorContext(r.Context(), "write refusal", log.Err(merr))
		return
	}
	_, _ = w.Write(b)
}

// challenge tells a client where its token comes from and what to ask for.
func (g *Registry) challenge(r *http.Request, e *Error, err error) string {
	parts := []string{`realm="` + g.Realm + `"`, `service="` + g.Service + `"`}
	scope := e.scope
	if scope == "" {
		scope = requestScope(r)
	}
	if scope != "" {
		parts = append(parts, `scope="`+scope+`"`)
	}
	switch {
	case e.scope != "":
		parts = append(parts, `error="insufficient_scope"`)
	case !fault.HasReason(err, auth.ReasonNoToken):
		parts = append(parts, `error="invalid_token"`)
	}
	return "Bearer " + strings.Join(parts, ",")
}
