package idem_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/idem"
)

func do(t *testing.T, d *db.DB, k idem.Key, now time.Time, effect func() ([]byte, error)) (resp string, replayed bool, err error) {
	t.Helper()
	err = d.Write(t.Context(), func(tx *db.Tx) error {
		b, r, err := idem.Do(tx, k, now, effect)
		resp, replayed = string(b), r
		return err
	})
	return resp, replayed, err
}

func TestOnce(t *testing.T) {
	t.Parallel()
	d, err := db.Open(t.Context(), db.Config{Path: filepath.Join(t.TempDir(), "s.db"), Service: "sample"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	now := time.Unix(1_800_000_000, 0)
	runs := 0
	effect := func() ([]byte, error) { runs++; return fmt.Append(nil, "r", runs), nil }
	k := idem.Key{Caller: "alice", Method: "m", Key: "k1", Request: []byte("req")}

	boom := errors.New("boom")
	if _, _, err := do(t, d, k, now, func() ([]byte, error) { return nil, boom }); !errors.Is(err, boom) {
		t.Fatalf("failing effect: %v", err)
	}
	for i, tc := range []struct {
		key      idem.Key
		at       time.Time
		want     string
		replayed bool
		kind     fault.Kind
		fails    bool
	}{
		{key: k, at: now, want: "r1"},
		{key: k, at: now.Add(time.Hour), want: "r1", replayed: true},
		{key: idem.Key{Caller: "alice", Method: "m", Key: "k1", Request: []byte("other")}, at: now, fails: true, kind: fault.Invalid},
		{key: idem.Key{Caller: "bob", Method: "m", Key: "k1", Request: []byte("req")}, at: now, want: "r2"},
		{key: k, at: now.Add(25 * time.Hour), want: "r3"},
		{key: idem.Key{Caller: "alice", Method: "m"}, at: now, want: "r4"},
		{key: idem.Key{Caller: "alice", Method: "m"}, at: now, want: "r5"},
	} {
		got, replayed, err := do(t, d, tc.key, tc.at, effect)
		if tc.fails {
			if !fault.Is(err, tc.kind) {
				t.Errorf("%d: %v, want %v", i, err, tc.kind)
			}
			continue
		}
		if err != nil || got != tc.want || replayed != tc.replayed {
			t.Errorf("%d: %q, %v, %v; want %q, %v", i, got, replayed, err, tc.want, tc.replayed)
		}
	}
}

func ExampleDo() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		return
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	d, err := db.Open(ctx, db.Config{Path: filepath.Join(dir, "s.db"), Service: "sample"})
	if err != nil {
		return
	}
	defer d.Close()
	for range 2 {
		err = d.Write(ctx, func(tx *db.Tx) error {
			_, replayed, err := idem.Do(tx, idem.Key{Caller: "alice", Method: "Create", Key: "k"}, time.Now(),
				func() ([]byte, error) { return []byte("made"), nil })
			fmt.Println(replayed)
			return err
		})
	}
	fmt.Println(err)
	// Output:
	// false
	// true
	// <nil>
}
