package gc_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcr/internal/cas"
	"metacircular.net/mcr/internal/gc"
	"metacircular.net/mcr/internal/image"
	"metacircular.net/mcr/internal/store"
)

const day = 24 * time.Hour

// world is a registry without its surface.
type world struct {
	*store.Store
	t     *testing.T
	blobs *cas.Store
	gc    *gc.Collector
	clock *clock.Fake
}

func newWorld(t *testing.T, grace time.Duration) *world {
	t.Helper()
	dir := t.TempDir()
	c := clock.NewFake(time.Now())
	d, err := db.Open(t.Context(), db.Config{Path: filepath.Join(dir, "mcr.db"), Service: "mcr", Migrations: store.Migrations()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	w := &world{t: t, clock: c}
	if w.Store, err = store.New(t.Context(), d, c); err != nil {
		t.Fatal(err)
	}
	if w.blobs, err = cas.Open(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.blobs.Close() })
	w.gc, err = gc.New(gc.Config{Store: w.Store, Blobs: w.blobs, Every: time.Hour, Grace: grace, UntaggedAfter: 30 * day, Trash: 7 * day, UploadIdle: day, Clock: c})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) collect() store.GCRun {
	w.t.Helper()
	r, err := w.BeginGC(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.gc.Collect(w.t.Context(), &r); err != nil {
		w.t.Fatal(err)
	}
	return r
}

// put uploads a blob as the registry does.
func (w *world) put(repo string, data []byte) (digest.Digest, error) {
	u, err := w.blobs.Create(store.NewID(), digest.SHA256)
	if err != nil {
		return "", err
	}
	if _, err := u.Append(bytes.NewReader(data)); err != nil {
		return "", err
	}
	d, err := u.Finish(digest.SHA256)
	if err != nil {
		return "", err
	}
	unlock := w.blobs.Lock(d)
	defer unlock()
	has, err := w.HasBlob(context.Background(), d)
	if err != nil {
		return "", err
	}
	if has {
		err = u.Discard()
	} else {
		err = w.blobs.Place(u, d)
	}
	if err != nil {
		return "", err
	}
	return d, w.CommitBlob(context.Background(), repo, d, int64(len(data)), "")
}

func (w *world) image(repo, tag string, layers ...digest.Digest) (digest.Digest, error) {
	config, err := w.put(repo, []byte(`{"tag":"`+repo+tag+`"}`))
	if err != nil {
		return "", err
	}
	m := &image.Manifest{MediaType: image.OCIManifest, Children: []image.Descriptor{{Kind: image.Config, Digest: config}}}
	for _, l := range layers {
		m.Children = append(m.Children, image.Descriptor{Kind: image.Layer, Digest: l})
	}
	body, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	d := digest.FromBytes(body)
	var tags []string
	if tag != "" {
		tags = []string{tag}
	}
	return d, w.PutManifest(context.Background(), store.Push{Repo: repo, Digest: d, Manifest: m, Body: body, Tags: tags, Who: "test"})
}

func noise() []byte {
	b := make([]byte, 200)
	_, _ = rand.Read(b)
	return b
}

func (w *world) must(d digest.Digest, err error) digest.Digest {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) there(repo string, d digest.Digest) bool {
	w.t.Helper()
	_, err := w.Blob(w.t.Context(), repo, d)
	if err != nil && !fault.Is(err, fault.NotFound) {
		w.t.Fatal(err)
	}
	return err == nil
}

func TestLeases(t *testing.T) {
	t.Parallel()
	w := newWorld(t, day)
	loose, kept := w.must(w.put("a", noise())), w.must(w.put("a", noise()))
	w.must(w.image("a", "v1", kept))
	w.clock.Advance(day - time.Minute)
	if w.collect(); !w.there("a", loose) {
		t.Fatal("a blob was collected within its lease")
	}
	// Whoever was told that it is here may rely on it for another grace.
	b, err := w.Blob(t.Context(), "a", loose)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Renew(t.Context(), "a", b, day/2); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(day - time.Minute)
	if w.collect(); !w.there("a", loose) {
		t.Fatal("a renewed lease did not hold")
	}
	w.clock.Advance(2 * time.Minute)
	r := w.collect()
	if w.there("a", loose) || !w.there("a", kept) || r.BlobsRemoved != 1 {
		t.Errorf("after the lease: loose %v, used %v, run %+v", w.there("a", loose), w.there("a", kept), r)
	}
	if _, err := w.blobs.OpenBlob(loose); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its file is still there: %v", err)
	}
	if err := w.Renew(t.Context(), "a", b, 0); !fault.Is(err, fault.NotFound) {
		t.Errorf("renewing what is gone = %v, want NotFound", err)
	}
}

func TestTrashAndUntagged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, day)
	layer := w.must(w.put("a", noise()))
	m := w.must(w.image("a", "v1", layer))
	if _, _, err := w.DeleteManifests(t.Context(), store.Deletion{Repo: "a", Digest: m.String(), Op: "op1", Who: "test"}); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(6 * day)
	w.collect()
	if _, err := w.Restore(t.Context(), "a", "op1", "test", false); err != nil {
		t.Fatalf("restore within the window: %v", err)
	}
	if got, err := w.Manifest(t.Context(), "a", "v1"); err != nil || got.Digest != m || !w.there("a", layer) {
		t.Fatalf("restored = %v, %v", got.Digest, err)
	}
	// Untagged: trashed after 30 days, gone 7 later.
	if _, _, err := w.ChangeTag(t.Context(), store.TagChange{Repo: "a", Name: "v1", Who: "test", Op: "op2"}); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(29 * day)
	w.collect()
	if _, err := w.Manifest(t.Context(), "a", m.String()); err != nil {
		t.Fatalf("untagged for 29 days: %v", err)
	}
	w.clock.Advance(2 * day)
	w.collect()
	if _, err := w.Manifest(t.Context(), "a", m.String()); !fault.Is(err, fault.NotFound) {
		t.Fatalf("untagged for 31 days: %v", err)
	}
	if !w.there("a", layer) {
		t.Error("the trash lost a layer")
	}
	w.clock.Advance(8 * day)
	w.collect()
	if u, err := w.Usage(t.Context()); err != nil || u.Blobs != 0 || u.Manifests != 0 {
		t.Errorf("in the end %+v, %v, want nothing", u, err)
	}
}

func TestPinsKeep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, day)
	m := w.must(w.image("a", "v1", w.must(w.put("a", noise()))))
	if _, _, err := w.SyncPins(t.Context(), "node", 1, []store.Pin{{Repo: "a", Digest: m.String(), Reason: "blog 1"}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.ChangeTag(t.Context(), store.TagChange{Repo: "a", Name: "v1", Who: "test"}); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		w.clock.Advance(40 * day)
		w.collect()
	}
	if _, _, err := w.ResolveAndPin(t.Context(), "node", "a", m.String(), "", time.Hour); err != nil {
		t.Errorf("a pinned image is not whole after 200 days: %v", err)
	}
}

func TestClockGuard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, day)
	w.must(w.put("a", noise()))
	w.collect()
	w.clock.Advance(-time.Hour)
	r, err := w.BeginGC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.gc.Collect(t.Context(), &r); err == nil {
		t.Error("it swept after the clock went back")
	}
	w.clock.Advance(day + time.Minute)
	w.collect()
}

func TestOrphans(t *testing.T) {
	t.Parallel()
	w := newWorld(t, day)
	u, err := w.blobs.Create(store.NewID(), digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Append(bytes.NewReader(noise())); err != nil {
		t.Fatal(err)
	}
	d := w.must(u.Finish(digest.SHA256))
	if err := w.blobs.Place(u, d); err != nil { // and the crash comes before the row
		t.Fatal(err)
	}
	if r := w.collect(); r.OrphansRemoved != 0 {
		t.Error("a young file without a row was removed: its push may still be going on")
	}
	w.clock.Advance(2 * day)
	if r := w.collect(); r.OrphansRemoved != 1 {
		t.Errorf("run = %+v, want one orphan removed", r)
	}
}

// TestBesidePushes collects without a pause beside pushes, deletions and mounts, with a grace so short that
// every lease ends at once unless something holds it; no live manifest may ever lack a part.
func TestBesidePushes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	var collecting, pushing sync.WaitGroup
	collecting.Go(func() {
		for ctx.Err() == nil {
			w.clock.Advance(10 * time.Minute)
			r, err := w.BeginGC(context.Background())
			if err == nil {
				err = w.gc.Collect(context.Background(), &r)
			}
			if err != nil {
				t.Errorf("collect: %v", err)
				return
			}
		}
	})
	shared := make([][]byte, 5)
	for i := range shared {
		shared[i] = noise()
	}
	for g := range 4 {
		pushing.Go(func() {
			repo := fmt.Sprintf("repo%d", g%2)
			for i := range 25 {
				tag := fmt.Sprintf("t%d-%d", g, i)
				layer, err := w.put(repo, shared[i%5])
				if err != nil {
					t.Errorf("push: %v", err)
					return
				}
				m, err := w.image(repo, tag, layer)
				var missing *store.MissingError
				if errors.As(err, &missing) {
					continue // the clock ran through a whole grace between blob and manifest: a client pushes again
				}
				if err != nil {
					t.Errorf("manifest: %v", err)
					return
				}
				if i%3 == 0 {
					_, _, err = w.DeleteManifests(context.Background(), store.Deletion{Repo: repo, Digest: m.String(), Op: store.NewID(), Who: "test"})
					if err != nil {
						t.Errorf("delete: %v", err)
					}
				}
			}
		})
	}
	pushing.Wait()
	cancel()
	collecting.Wait()
	for _, repo := range []string{"repo0", "repo1"} {
		list, err := w.Manifests(t.Context(), repo, "", false, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			if _, _, err := w.ResolveAndPin(t.Context(), "check", repo, m.Digest.String(), "", time.Hour); err != nil {
				t.Errorf("%s: %v", repo, err)
			}
			full, err := w.Manifest(t.Context(), repo, m.Digest.String())
			if err != nil {
				t.Fatal(err)
			}
			var body image.Manifest
			if err := json.Unmarshal(full.Body, &body); err != nil {
				t.Fatal(err)
			}
			for _, c := range body.Children {
				f, err := w.blobs.OpenBlob(c.Digest)
				if err != nil {
					t.Errorf("%s lacks %s: %v", m.Digest, c.Digest, err)
					continue
				}
				_ = f.Close()
			}
		}
	}
}
