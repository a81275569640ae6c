package fault

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Origin says which service and which request a status comes from.
type Origin struct {
	Service   string // becomes ErrorInfo.domain
	RequestID string
}

// Metadata keys of ErrorInfo.
const (
	metaNext      = "next"
	metaRequestID = "request_id"
)

// Status makes the gRPC status a caller sees: code, public message, BadRequest with the fields, ErrorInfo
// with reason, next step and request id, RetryInfo. Unavailable and Exhausted always carry RetryInfo.
// Status(nil, …) is OK.
func Status(err error, from Origin) *status.Status {
	f := From(err)
	if f == nil {
		return status.New(codes.OK, "")
	}
	code := f.Kind.Code()
	if f.Reason == "CANCELED" {
		code = codes.Canceled
	}
	msg := f.Message
	if f.Kind == Internal {
		msg = "internal error"
		if from.RequestID != "" {
			msg += "; request " + from.RequestID
		}
	}
	st := status.New(code, msg)

	info := &errdetails.ErrorInfo{Reason: f.Reason, Domain: from.Service, Metadata: map[string]string{}}
	if f.Next != "" && f.Kind != Internal {
		info.Metadata[metaNext] = f.Next
	}
	if from.RequestID != "" {
		info.Metadata[metaRequestID] = from.RequestID
	}
	if with, err := st.WithDetails(info); err == nil {
		st = with
	}
	if len(f.Fields) > 0 {
		br := &errdetails.BadRequest{}
		for _, fd := range f.Fields {
			br.FieldViolations = append(br.FieldViolations,
				&errdetails.BadRequest_FieldViolation{Field: fd.Name, Description: fd.Problem})
		}
		if with, err := st.WithDetails(br); err == nil {
			st = with
		}
	}
	retry := f.RetryAfter
	if retry == 0 && (f.Kind == Unavailable || f.Kind == Exhausted) {
		retry = time.Second
	}
	if retry > 0 {
		if with, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retry)}); err == nil {
			st = with
		}
	}
	return st
}

// fromStatus is the inverse of Status, as far as the network carries it.
func fromStatus(st *status.Status) *Error {
	e := &Error{Kind: kindOf(st.Code()), Message: st.Message()}
	if st.Code() == codes.Canceled {
		e.Reason = "CANCELED"
	}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.Reason != "" {
				e.Reason = d.Reason
			}
			e.Next = d.Metadata[metaNext]
			e.RequestID = d.Metadata[metaRequestID]
		case *errdetails.BadRequest:
			for _, v := range d.FieldViolations {
				e.Fields = append(e.Fields, Field{v.Field, v.Description})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	return e
}
