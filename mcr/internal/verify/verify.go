package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"
	"metacircular.net/mcr/internal/cas"
	"metacircular.net/mcr/internal/store"
)

const (
	batch      = 100
	chunk      = 1 << 20
	maxDamaged = 1000 // digests named in the record of a run; all are quarantined
)

// Config says how fast and how often.
type Config struct {
	Store *store.Store
	Blobs *cas.Store
	Every time.Duration // between runs of the service itself
	Rate  int64         // bytes a second; 0 = as fast as the disk
	Log   *slog.Logger
	Clock clock.Clock
}

// Verifier runs verifications, one at a time. Safe for concurrent use.
type Verifier struct {
	Config

	mu      sync.Mutex
	running bool
	want    chan store.VerifyRun
}

// New returns a verifier.
func New(cfg Config) (*Verifier, error) {
	if cfg.Store == nil || cfg.Blobs == nil || cfg.Every <= 0 {
		return nil, errors.New("verify: Store, Blobs and Every are needed")
	}
	cfg.Log, cfg.Clock = log.Or(cfg.Log), clock.Or(cfg.Clock)
	return &Verifier{Config: cfg, want: make(chan store.VerifyRun, 1)}, nil
}

// DueKey in the store's bookkeeping asks for a quick run at the next start: set by a restore.
const DueKey = "verify_due"

// restored makes the quick run that a restore asks for.
func (v *Verifier) restored(ctx context.Context) error {
	due, err := v.Store.Meta(ctx, DueKey)
	if err != nil || due == "" {
		return err
	}
	r, err := v.begin(ctx, true)
	if err != nil {
		return err
	}
	v.finish(ctx, r)
	return v.Store.SetMeta(context.WithoutCancel(ctx), DueKey, "")
}

// Run verifies when it is time and when asked, until ctx ends; it is made for run.Background.
func (v *Verifier) Run(ctx context.Context) error {
	if err := v.restored(ctx); err != nil {
		v.Log.Error("verification after a restore", log.Err(err))
	}
	tick := time.NewTicker(min(v.Every, time.Hour))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-v.want:
			v.finish(ctx, r)
		case <-tick.C:
			if due, err := v.due(ctx); err != nil {
				v.Log.Error("verification", log.Err(err))
			} else if due {
				if r, err := v.begin(ctx, false); err == nil {
					v.finish(ctx, r)
				}
			}
		}
	}
}

func (v *Verifier) due(ctx context.Context) (bool, error) {
	last, err := v.Store.LastVerify(ctx, 0)
	if fault.Is(err, fault.NotFound) {
		return true, nil
	}
	return v.Clock.Now().Sub(last.Started) >= v.Every, err
}

// Start begins a run in the worker and returns it; Conflict if one is running.
func (v *Verifier) Start(ctx context.Context, quick bool) (store.VerifyRun, error) {
	r, err := v.begin(ctx, quick)
	if err == nil {
		v.want <- r // never full: begin admits one run at a time
	}
	return r, err
}

func (v *Verifier) begin(ctx context.Context, quick bool) (store.VerifyRun, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.running {
		return store.VerifyRun{}, fault.New(fault.Conflict, "a verification is running").WithReason("VERIFY_RUNNING").WithNext("mcr verify --status")
	}
	r, err := v.Store.BeginVerify(ctx, quick)
	v.running = err == nil
	return r, err
}

func (v *Verifier) finish(ctx context.Context, r store.VerifyRun) {
	err := v.Verify(ctx, &r)
	r.Ended, r.State = v.Clock.Now().UTC(), "done"
	if errors.Is(err, context.Canceled) {
		r.State = "cancelled"
	} else if err != nil {
		r.State, r.Error = "failed", err.Error()
		v.Log.Error("verification failed", log.Err(err))
	}
	if err := v.Store.SaveVerify(context.WithoutCancel(ctx), r); err != nil {
		v.Log.Error("record verification", log.Err(err))
	}
	v.mu.Lock()
	v.running = false
	v.mu.Unlock()
}

// Verify checks everything once and counts in r.
func (v *Verifier) Verify(ctx context.Context, r *store.VerifyRun) error {
	after := ""
	for {
		list, err := v.Store.BlobsByDigest(ctx, after, batch)
		if err != nil {
			return err
		}
		var whole []digest.Digest
		for _, b := range list {
			after = b.Digest.String()
			bad, n, err := v.check(ctx, b, r.Quick)
			if err != nil {
				return err
			}
			r.Blobs, r.Bytes = r.Blobs+1, r.Bytes+n
			switch {
			case bad != "":
				if err := v.quarantine(ctx, b.Digest, bad); err != nil {
					return err
				}
				if len(r.Quarantined) < maxDamaged {
					r.Quarantined = append(r.Quarantined, b.Digest.String())
				}
			case !r.Quick:
				whole = append(whole, b.Digest)
			}
		}
		if err := v.Store.MarkVerified(ctx, whole); err != nil {
			return err
		}
		if err := v.Store.SaveVerify(ctx, *r); err != nil {
			return err
		}
		if len(list) < batch {
			break
		}
	}
	return v.manifests(ctx, r)
}

// check returns what is wrong with a blob, "" if it is whole.
func (v *Verifier) check(ctx context.Context, b store.StoredBlob, quick bool) (bad string, n int64, err error) {
	if quick {
		size, err := v.Blobs.Size(b.Digest)
		if errors.Is(err, fs.ErrNotExist) {
			return "its file is gone", 0, nil
		}
		if err == nil && size != b.Size {
			return fmt.Sprintf("its file has %d bytes instead of %d", size, b.Size), 0, nil
		}
		return "", 0, err
	}
	f, err := v.Blobs.OpenBlob(b.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		// It may have been collected since it was listed.
		if has, herr := v.Store.HasBlob(ctx, b.Digest); herr != nil || !has {
			return "", 0, herr
		}
		return "its file is gone", 0, nil
	}
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := b.Digest.Verifier()
	n, err = v.copy(ctx, h, f)
	if err != nil {
		if ctx.Err() != nil {
			return "", n, ctx.Err()
		}
		return "it cannot be read: " + err.Error(), n, nil
	}
	if !h.Verified() {
		return "its content is another", n, nil
	}
	return "", n, nil
}

// copy reads at the configured rate.
func (v *Verifier) copy(ctx context.Context, w io.Writer, r io.Reader) (total int64, err error) {
	var wait time.Duration
	if v.Rate > 0 {
		wait = time.Duration(float64(chunk) / float64(v.Rate) * float64(time.Second))
	}
	for {
		n, err := io.CopyN(w, r, chunk)
		total += n
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		select {
		case <-ctx.Done():
			return total, ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (v *Verifier) quarantine(ctx context.Context, d digest.Digest, why string) error {
	v.Log.Error("blob is damaged", "digest", d.String(), "err", why)
	unlock := v.Blobs.Lock(d)
	defer unlock()
	if err := v.Store.QuarantineBlob(ctx, d); err != nil {
		return err
	}
	return v.Blobs.Quarantine(d, v.Clock.Now())
}

func (v *Verifier) manifests(ctx context.Context, r *store.VerifyRun) error {
	after := ""
	for {
		list, err := v.Store.ManifestBodies(ctx, after, batch)
		if err != nil {
			return err
		}
		for _, m := range list {
			after = m.Digest.String()
			r.Manifests++
			if m.Digest.Algorithm().FromBytes(m.Body) != m.Digest {
				// The database is damaged: nothing here can mend that, so it is named and the run goes on.
				v.Log.Error("manifest is damaged", "digest", after)
				if len(r.Quarantined) < maxDamaged {
					r.Quarantined = append(r.Quarantined, after)
				}
			}
		}
		if len(list) < batch {
			return ctx.Err()
		}
	}
}
