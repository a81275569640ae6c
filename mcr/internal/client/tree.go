package client

import (
	"context"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"metacircular.net/mcr/internal/image"
)

// parallel is how many blobs move at once.
const parallel = 4

// Blob is one blob of a tree.
type Blob struct {
	Digest  digest.Digest
	Size    int64
	Content Content // nil in a tree that was read from a registry
}

// Tree is an image or an index with everything below it.
type Tree struct {
	MediaType string
	Digest    digest.Digest
	Raw       []byte
	Platform  string
	Blobs     []Blob  // of an image: config and layers that are not foreign
	Children  []*Tree // of an index
}

// grow makes a tree of a manifest's bytes; below returns the tree of a child, blob the content of a blob.
func grow(mediaType string, d digest.Digest, raw []byte, depth int, below func(image.Descriptor, int) (*Tree, error), blob func(image.Descriptor) Content) (*Tree, error) {
	if depth > 4 {
		return nil, fmt.Errorf("manifest %s: indexes nested over 4 levels", d)
	}
	m, err := image.Parse(mediaType, raw)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	t := &Tree{MediaType: m.MediaType, Digest: d, Raw: raw}
	for _, c := range m.Children {
		switch c.Kind {
		case image.Foreign:
		case image.Child:
			child, err := below(c, depth+1)
			if err != nil {
				return nil, err
			}
			child.Platform = c.Platform
			t.Children = append(t.Children, child)
		default:
			t.Blobs = append(t.Blobs, Blob{Digest: c.Digest, Size: c.Size, Content: blob(c)})
		}
	}
	return t, nil
}

// walk visits a tree, children first.
func (t *Tree) walk(fn func(*Tree) error) error {
	for _, c := range t.Children {
		if err := c.walk(fn); err != nil {
			return err
		}
	}
	return fn(t)
}

// AllBlobs returns every blob of the tree once.
func (t *Tree) AllBlobs() []Blob {
	seen := map[digest.Digest]bool{}
	var out []Blob
	_ = t.walk(func(n *Tree) error { // the function never fails
		for _, b := range n.Blobs {
			if !seen[b.Digest] {
				seen[b.Digest] = true
				out = append(out, b)
			}
		}
		return nil
	})
	return out
}

// Bytes is the size of all blobs.
func (t *Tree) Bytes() (n int64) {
	for _, b := range t.AllBlobs() {
		n += b.Size
	}
	return n
}

// Reporter is told how a transfer goes. Its methods are called from several goroutines.
type Reporter interface {
	Begin(total int64, blobs int)
	Move(d digest.Digest, size, done int64)
	Done(d digest.Digest, size int64, how string) // pushed, pulled, mounted, already there
}

// Push pushes a tree, and its root under a tag; an empty tag pushes by digest alone. from names a repository of
// the same registry whose blobs may be mounted, "" = none.
func (g *Registry) Push(ctx context.Context, t *Tree, repo, tag, from string, rep Reporter) error {
	blobs := t.AllBlobs()
	rep.Begin(t.Bytes(), len(blobs))
	err := each(ctx, blobs, func(ctx context.Context, b Blob) error { return g.pushBlob(ctx, repo, from, b, rep) })
	if err != nil {
		return err
	}
	return t.walk(func(n *Tree) error {
		ref := n.Digest.String()
		if n == t && tag != "" {
			ref = tag
		}
		got, err := g.PutManifest(ctx, repo, ref, n.MediaType, n.Raw)
		if err == nil && got != n.Digest && n.Digest.Algorithm() == got.Algorithm() {
			err = fmt.Errorf("the registry says %s of manifest %s: %w", got, n.Digest, errContent)
		}
		return err
	})
}

func (g *Registry) pushBlob(ctx context.Context, repo, from string, b Blob, rep Reporter) error {
	has, err := g.HasBlob(ctx, repo, b.Digest)
	if err != nil {
		return err
	}
	if has {
		rep.Done(b.Digest, b.Size, "already there")
		return nil
	}
	if from != "" {
		if done, err := g.Mount(ctx, repo, from, b.Digest); err != nil {
			return err
		} else if done {
			rep.Done(b.Digest, b.Size, "mounted")
			return nil
		}
	}
	if b.Content == nil {
		return fmt.Errorf("blob %s is not here and could not be mounted", b.Digest)
	}
	if err := g.PutBlob(ctx, repo, b.Digest, b.Size, b.Content, func(n int64) { rep.Move(b.Digest, b.Size, n) }); err != nil {
		return err
	}
	rep.Done(b.Digest, b.Size, "pushed")
	return nil
}

// each runs fn for every blob, a few at once, and stops at the first error.
func each(ctx context.Context, blobs []Blob, fn func(context.Context, Blob) error) error {
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(parallel)
	for _, b := range blobs {
		eg.Go(func() error { return fn(ctx, b) })
	}
	return eg.Wait()
}

// Tree reads a manifest and all manifests below it. platform ("linux/arm64") picks one child of an index.
func (g *Registry) Tree(ctx context.Context, repo, ref, platform string) (*Tree, error) {
	t, err := g.tree(ctx, repo, ref, 0)
	if err != nil || platform == "" || len(t.Children) == 0 {
		return t, err
	}
	return t.Pick(platform)
}

// Pick returns the child of an index for a platform.
func (t *Tree) Pick(platform string) (*Tree, error) {
	var have []string
	for _, c := range t.Children {
		if c.Platform == platform {
			return c, nil
		}
		have = append(have, c.Platform)
	}
	return nil, fmt.Errorf("%s has no image for %s; it has %v", t.Digest, platform, have)
}

func (g *Registry) tree(ctx context.Context, repo, ref string, depth int) (*Tree, error) {
	raw, mediaType, d, err := g.Manifest(ctx, repo, ref)
	if err != nil {
		return nil, err
	}
	return grow(mediaType, d, raw, depth,
		func(c image.Descriptor, depth int) (*Tree, error) { return g.tree(ctx, repo, c.Digest.String(), depth) },
		func(image.Descriptor) Content { return nil })
}

// Fetch downloads every blob of a tree into a folder, by file names that name gives.
func (g *Registry) Fetch(ctx context.Context, t *Tree, repo string, name func(digest.Digest) string, rep Reporter) error {
	blobs := t.AllBlobs()
	rep.Begin(t.Bytes(), len(blobs))
	return each(ctx, blobs, func(ctx context.Context, b Blob) error {
		err := g.GetBlob(ctx, repo, b.Digest, name(b.Digest), func(n int64) { rep.Move(b.Digest, b.Size, n) })
		if err == nil {
			rep.Done(b.Digest, b.Size, "pulled")
		}
		return err
	})
}

// Totals adds up what reporters are told. The zero value is ready; safe for concurrent use.
type Totals struct {
	mu    sync.Mutex
	done  map[digest.Digest]int64
	bytes int64
}

// Set notes how far a blob is and returns the bytes of all.
func (t *Totals) Set(d digest.Digest, n int64) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done == nil {
		t.done = map[digest.Digest]int64{}
	}
	t.bytes += n - t.done[d]
	t.done[d] = n
	return t.bytes
}
