package log_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"
)

func TestLineAndLevel(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	l, lv, err := log.New(log.Config{Service: "mcns", Out: &buf})
	if err != nil {
		t.Fatal(err)
	}
	ctx := log.WithRequestID(t.Context(), "r-1")
	l.DebugContext(ctx, "hidden")
	l.InfoContext(ctx, log.Request, log.Dur(1500*time.Microsecond), log.Err(errors.New("two\nlines")))
	lv.Set(-4)
	l.Debug("shown")
	out := buf.String()
	for _, part := range []string{`"svc":"mcns"`, `"dur":1.5`, `"req_id":"r-1"`, `"two\nlines"`, `"shown"`} {
		if !strings.Contains(out, part) {
			t.Errorf("log lacks %s:\n%s", part, out)
		}
	}
	if strings.Contains(out, "hidden") {
		t.Error("a debug line at level info")
	}
}

func TestRepetitionIsCounted(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	l, _, err := log.New(log.Config{Format: "json", Out: &buf})
	if err != nil {
		t.Fatal(err)
	}
	for range 5000 {
		l.Warn("same again")
	}
	// At most a few seconds pass; each may write ten.
	if n := strings.Count(buf.String(), "same again"); n >= 1000 {
		t.Errorf("%d of 5000 equal lines were written", n)
	}
}

func TestBadSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []log.Config{{Level: "loud"}, {Format: "xml"}} {
		if _, _, err := log.New(c); !fault.Is(err, fault.Invalid) {
			t.Errorf("New(%+v) = %v, want Invalid", c, err)
		}
	}
}

func ExampleNew() {
	l, level, err := log.New(log.Config{Service: "mcns", Level: "info", Format: "json"})
	if err != nil {
		return
	}
	level.Set(-4) // debug, from now on
	l.Info("zone loaded", "zone", "lab.example")
}
