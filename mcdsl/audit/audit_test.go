package audit_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"metacircular.net/mcdsl/audit"
)

func TestLogSink(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	s := audit.Log(slog.New(slog.NewJSONHandler(&buf, nil)))
	r := &audit.Record{Who: "alice", Method: "/mcns.v1.ZoneService/CreateZone", Target: "lab.example"}
	if err := s.Begin(t.Context(), r); err != nil || buf.Len() != 0 {
		t.Fatalf("Begin = %v, wrote %q", err, buf.String())
	}
	r.Outcome = "ok"
	s.End(t.Context(), r)
	for _, part := range []string{`"audit":true`, `"user":"alice"`, `"target":"lab.example"`, `"outcome":"ok"`} {
		if !strings.Contains(buf.String(), part) {
			t.Errorf("record lacks %s: %s", part, buf.String())
		}
	}
}

func ExampleLog() {
	sink := audit.Log(slog.New(slog.DiscardHandler))
	r := &audit.Record{Who: "alice", Method: "/mcns.v1.ZoneService/CreateZone", Target: "lab.example"}
	ctx := context.Background()
	if err := sink.Begin(ctx, r); err != nil {
		return // a sink that may not lose a record refuses, and the call is not made
	}
	r.Outcome = "ok"
	sink.End(ctx, r)
	fmt.Println(r.Who, r.Outcome)
	// Output: alice ok
}
