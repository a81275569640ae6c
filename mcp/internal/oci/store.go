package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"metacircular.net/mcdsl/fault"
)

// Store is a folder of blobs and names.
type Store struct{ dir string }

// Open makes the folder if need be.
func Open(dir string) (*Store, error) {
	for _, d := range []string{"blobs/sha256", "refs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o750); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	return &Store{dir: dir}, nil
}

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func (s *Store) blobPath(digest string) (string, error) {
	if !digestPattern.MatchString(digest) {
		return "", fault.New(fault.Invalid, "%q is not a sha256 digest", digest)
	}
	return filepath.Join(s.dir, "blobs", "sha256", digest[7:]), nil
}

// Has reports whether a blob is there.
func (s *Store) Has(digest string) bool {
	p, err := s.blobPath(digest)
	if err != nil {
		return false
	}
	_, err = os.Stat(p)
	return err == nil
}

// put writes a blob; what does not hash to its digest never appears under it.
func (s *Store) put(digest string, r io.Reader) error {
	p, err := s.blobPath(digest)
	if err != nil {
		return err
	}
	if _, err := os.Stat(p); err == nil {
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(p), ".new-*")
	if err != nil {
		return fmt.Errorf("write blob: %w", err)
	}
	defer os.Remove(tmp.Name())
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(tmp, sum), r)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write blob %s: %w", digest, err)
	}
	if got := digestOf(sum); got != digest {
		return fault.New(fault.Invalid, "blob %s has other content (%s): it was altered on its way", digest, got)
	}
	if err := os.Rename(tmp.Name(), p); err != nil {
		return fmt.Errorf("write blob %s: %w", digest, err)
	}
	return syncDir(filepath.Dir(p))
}

func digestOf(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Save stores an image and, with a name, points the name to it. It returns the manifest's digest.
func (s *Store) Save(ctx context.Context, name string, img v1.Image) (string, error) {
	layers, err := img.Layers()
	if err != nil {
		return "", fmt.Errorf("read the image's layers: %w", err)
	}
	for _, l := range layers {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if err := s.saveLayer(l); err != nil {
			return "", err
		}
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return "", fmt.Errorf("read the image's config: %w", err)
	}
	configName, err := img.ConfigName()
	if err != nil {
		return "", fmt.Errorf("read the image's config: %w", err)
	}
	if err := s.put(configName.String(), bytes.NewReader(config)); err != nil {
		return "", err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return "", fmt.Errorf("read the image's manifest: %w", err)
	}
	sum := sha256.Sum256(manifest)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	if err := s.put(digest, bytes.NewReader(manifest)); err != nil {
		return "", err
	}
	if name != "" {
		return digest, s.Tag(name, digest)
	}
	return digest, nil
}

func (s *Store) saveLayer(l v1.Layer) error {
	d, err := l.Digest()
	if err != nil {
		return fmt.Errorf("read a layer: %w", err)
	}
	if s.Has(d.String()) {
		return nil
	}
	rc, err := l.Compressed()
	if err != nil {
		return fmt.Errorf("read layer %s: %w", d, err)
	}
	defer rc.Close()
	return s.put(d.String(), rc)
}

func (s *Store) refPath(name string) string {
	return filepath.Join(s.dir, "refs", url.PathEscape(name))
}

// Tag points a name such as "mcias:1.0" to a manifest.
func (s *Store) Tag(name, digest string) error {
	if name == "" || len(name) > 200 {
		return fault.New(fault.Invalid, "%q is not an image name", name)
	}
	p := s.refPath(name)
	tmp, err := os.CreateTemp(filepath.Dir(p), ".new-*")
	if err != nil {
		return fmt.Errorf("name an image: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = io.WriteString(tmp, digest)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), p)
	}
	if err != nil {
		return fmt.Errorf("name an image: %w", err)
	}
	return syncDir(filepath.Dir(p))
}

// Resolve returns the digest a reference means: of "name@digest" the digest, else what the name points to.
func (s *Store) Resolve(ref string) (digest string, ok bool, err error) {
	if i := strings.LastIndexByte(ref, '@'); i >= 0 {
		d := ref[i+1:]
		return d, s.Has(d), nil
	}
	data, err := os.ReadFile(s.refPath(ref))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("resolve image %s: %w", ref, err)
	}
	d := strings.TrimSpace(string(data))
	return d, s.Has(d), nil
}

// Image returns a stored image by its manifest's digest.
func (s *Store) Image(digest string) (v1.Image, error) {
	p, err := s.blobPath(digest)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(p)
	if err != nil {
		return nil, fault.New(fault.NotFound, "image %s is not on this node", digest).Wrap(err)
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", digest, err)
	}
	return partial.CompressedToImage(&stored{store: s, raw: raw, manifest: m})
}

// stored is an image on disk, read as it is asked for.
type stored struct {
	store    *Store
	raw      []byte
	manifest *v1.Manifest
}

func (i *stored) RawManifest() ([]byte, error)        { return i.raw, nil }
func (i *stored) MediaType() (types.MediaType, error) { return i.manifest.MediaType, nil }
func (i *stored) RawConfigFile() ([]byte, error) {
	return i.store.read(i.manifest.Config.Digest.String())
}
func (i *stored) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	if h == i.manifest.Config.Digest {
		return partial.ConfigLayer(i)
	}
	for _, l := range i.manifest.Layers {
		if l.Digest == h {
			return &storedLayer{store: i.store, desc: l}, nil
		}
	}
	return nil, fmt.Errorf("the image has no layer %s", h)
}

func (s *Store) read(digest string) ([]byte, error) {
	p, err := s.blobPath(digest)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(p)
}

type storedLayer struct {
	store *Store
	desc  v1.Descriptor
}

func (l *storedLayer) Digest() (v1.Hash, error)            { return l.desc.Digest, nil }
func (l *storedLayer) Size() (int64, error)                { return l.desc.Size, nil }
func (l *storedLayer) MediaType() (types.MediaType, error) { return l.desc.MediaType, nil }
func (l *storedLayer) Compressed() (io.ReadCloser, error) {
	p, err := l.store.blobPath(l.desc.Digest.String())
	if err != nil {
		return nil, err
	}
	return os.Open(p)
}
