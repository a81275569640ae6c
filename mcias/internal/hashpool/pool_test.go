package hashpool_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"metacircular.net/mcias/internal/hashpool"
)

var floor = hashpool.Params{MemoryKiB: hashpool.FloorMemoryKiB, Time: hashpool.FloorTime, Threads: 1}

func pool(t *testing.T, cfg hashpool.Config) *hashpool.Pool {
	t.Helper()
	if cfg.Params == (hashpool.Params{}) {
		cfg.Params = floor
	}
	if cfg.Budget == 0 {
		cfg.Budget = 64 << 20
	}
	p, err := hashpool.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestVerify(t *testing.T) {
	t.Parallel()
	p := pool(t, hashpool.Config{})
	phc, err := p.Hash(t.Context(), hashpool.Class{}, []byte("violet anchors"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.Admit(t.Context(), hashpool.Class{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Release()
	huge := strings.Replace(phc, "m=19456", "m=4194304", 1)
	for name, tc := range map[string]struct {
		phc, pw    string
		ok, rehash bool
	}{
		"right":           {phc, "violet anchors", true, false},
		"wrong":           {phc, "violet anchor", false, false},
		"unknown":         {"", "violet anchors", false, false},
		"damaged":         {phc[:len(phc)-1], "violet anchors", false, false},
		"too much memory": {huge, "violet anchors", false, false},
		"old parameters":  {"$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzYWx0$" + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "x", false, true},
	} {
		if ok, rehash := m.Verify(tc.phc, []byte(tc.pw)); ok != tc.ok || rehash != tc.rehash {
			t.Errorf("%s: Verify = %t, %t, want %t, %t", name, ok, rehash, tc.ok, tc.rehash)
		}
	}
}

func TestRefusedParams(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]hashpool.Config{
		"below the floor": {Params: hashpool.Params{MemoryKiB: 1024, Time: 2, Threads: 1}, Budget: 1 << 30},
		"above the cap":   {Params: hashpool.Params{MemoryKiB: 1 << 20, Time: 2, Threads: 1}, Budget: 4 << 30},
		"small budget":    {Params: floor, Budget: 1 << 20},
	} {
		if _, err := hashpool.New(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestBoundsAndFairness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pool(t, hashpool.Config{Cores: 2, Queue: 4, Wait: time.Second})
		flood := hashpool.Class{Prefix: "203.0.113.0/24"}
		first, err := p.Admit(t.Context(), flood)
		if err != nil {
			t.Fatal(err)
		}
		// The second permit is kept for networks that are known.
		results := make(chan error, 8)
		for range 3 {
			go func() {
				m, err := p.Admit(t.Context(), flood)
				if err == nil {
					m.Release()
				}
				results <- err
			}()
		}
		synctest.Wait()
		if st := p.Stats(); st.Inflight != 1 || st.Queued != 2 || st.Refused != 1 {
			t.Errorf("Stats = %+v, want 1 running, 2 queued (half of the queue), 1 refused", st)
		}
		known, err := p.Admit(t.Context(), hashpool.Class{Prefix: "10.0.0.0/24", Known: true})
		if err != nil {
			t.Errorf("a known network during a flood: %v", err)
		}
		known.Release()
		if err := <-results; !errors.Is(err, hashpool.ErrBusy) {
			t.Errorf("third of the prefix: %v, want busy", err)
		}
		time.Sleep(2 * time.Second) // fake time: the wait is over
		for range 2 {
			if err := <-results; !errors.Is(err, hashpool.ErrBusy) {
				t.Errorf("waited too long: %v, want busy", err)
			}
		}
		first.Release()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.Admit(ctx, flood); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled caller: %v", err)
		}
		if st := p.Stats(); st.Inflight != 0 || st.Queued != 0 {
			t.Errorf("Stats at rest = %+v", st)
		}
		time.Sleep(10 * time.Second) // the idle timer fires inside the bubble
	})
}

func FuzzPHC(f *testing.F) {
	p, err := hashpool.New(hashpool.Config{Params: floor, Budget: 64 << 20})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=999999999,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := p.Admit(t.Context(), hashpool.Class{Known: true})
		if err != nil {
			t.Skip()
		}
		defer m.Release()
		if ok, _ := m.Verify(s, []byte("no")); ok {
			t.Error("a made-up hash matches")
		}
	})
}
