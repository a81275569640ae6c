package fault_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"metacircular.net/mcdsl/fault"
)

func TestTable(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		kind fault.Kind
		code codes.Code
		http int
		exit int
	}{
		{fault.Invalid, codes.InvalidArgument, 400, 2},
		{fault.Unauthenticated, codes.Unauthenticated, 401, 4},
		{fault.Denied, codes.PermissionDenied, 403, 4},
		{fault.NotFound, codes.NotFound, 404, 1},
		{fault.Exists, codes.AlreadyExists, 409, 1},
		{fault.Conflict, codes.Aborted, 409, 3},
		{fault.Precondition, codes.FailedPrecondition, 400, 1},
		{fault.Exhausted, codes.ResourceExhausted, 429, 1},
		{fault.Unavailable, codes.Unavailable, 503, 5},
		{fault.Timeout, codes.DeadlineExceeded, 504, 5},
		{fault.Internal, codes.Internal, 500, 1},
	} {
		if got := tc.kind.Code(); got != tc.code {
			t.Errorf("%v.Code() = %v, want %v", tc.kind, got, tc.code)
		}
		if got := tc.kind.HTTPStatus(); got != tc.http {
			t.Errorf("%v.HTTPStatus() = %v, want %v", tc.kind, got, tc.http)
		}
		if got := tc.kind.ExitCode(); got != tc.exit {
			t.Errorf("%v.ExitCode() = %v, want %v", tc.kind, got, tc.exit)
		}
	}
}

func TestRoundTripOverStatus(t *testing.T) {
	t.Parallel()
	in := fault.New(fault.Unavailable, "metacrypt is sealed").WithReason("SEALED").
		WithNext("metacrypt unseal").WithField("path", "not readable now").WithRetry(3 * time.Second).
		Wrap(errors.New("secret cause"))
	st := fault.Status(fmt.Errorf("issue: %w", in), fault.Origin{Service: "metacrypt", RequestID: "r-1"})
	out := fault.From(fmt.Errorf("deploy blog: %w", st.Err()))
	want := &fault.Error{Kind: fault.Unavailable, Reason: "SEALED", Message: "metacrypt is sealed",
		Fields: []fault.Field{{Name: "path", Problem: "not readable now"}}, Next: "metacrypt unseal",
		RetryAfter: 3 * time.Second, RequestID: "r-1"}
	if d := cmp.Diff(want, out, cmpopts.IgnoreUnexported(fault.Error{})); d != "" {
		t.Errorf("fault after a trip through a status (-want +got):\n%s", d)
	}
	if strings.Contains(st.String(), "secret cause") {
		t.Error("the cause left the process")
	}
	text := fault.Text(fmt.Errorf("deploy blog: %w", st.Err()))
	for _, part := range []string{"deploy blog: metacrypt is sealed", "next: metacrypt unseal"} {
		if !strings.Contains(text, part) {
			t.Errorf("Text = %q, lacks %q", text, part)
		}
	}
	if strings.Contains(text, "rpc error") {
		t.Errorf("Text = %q speaks gRPC to a person", text)
	}
}

func TestInternalShowsOnlyTheRequest(t *testing.T) {
	t.Parallel()
	st := fault.Status(errors.New("SELECT * FROM secret"), fault.Origin{Service: "mcns", RequestID: "r-9"})
	if st.Code() != codes.Internal || st.Message() != "internal error; request r-9" {
		t.Errorf("Status = %v", st)
	}
}

func TestFromOthers(t *testing.T) {
	t.Parallel()
	if fault.From(nil) != nil {
		t.Error("From(nil) is not nil")
	}
	for _, tc := range []struct {
		err  error
		kind fault.Kind
		exit int
	}{
		{context.DeadlineExceeded, fault.Timeout, 5},
		{context.Canceled, fault.Timeout, 130},
		{status.Error(codes.NotFound, "gone"), fault.NotFound, 1},
		{status.Error(codes.Canceled, "gone"), fault.Timeout, 130},
		{errors.New("x"), fault.Internal, 1},
		{fault.Field1("ttl", "must be at least %d", 1), fault.Invalid, 2},
	} {
		if got := fault.Of(tc.err); got != tc.kind {
			t.Errorf("Of(%v) = %v, want %v", tc.err, got, tc.kind)
		}
		if got := fault.ExitCode(tc.err); got != tc.exit {
			t.Errorf("ExitCode(%v) = %v, want %v", tc.err, got, tc.exit)
		}
	}
}

func ExampleNew() {
	err := fault.New(fault.Conflict, "zone %s is at serial %d", "lab.example", 2026112302).
		WithNext("mcns zone show lab.example")
	fmt.Println(fault.Text(fmt.Errorf("add record: %w", err)))
	fmt.Println(fault.ExitCode(err))
	// Output:
	// add record: zone lab.example is at serial 2026112302
	//   next: mcns zone show lab.example
	// 3
}
