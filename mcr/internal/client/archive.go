package client

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"metacircular.net/mcr/internal/image"
)

const refName = "org.opencontainers.image.ref.name"

// Open reads an archive as a tree: an OCI layout (folder or tar) or a docker-save tar, plain, gzip or zstd; "-"
// is standard input. want picks one of several images by name, "" takes the only one. scratch is a folder for
// what must be unpacked, which the tree reads from until it is pushed.
func Open(path, want string, stdin io.Reader, scratch string) (*Tree, error) {
	if path != "-" {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			return openLayout(path, want)
		}
	}
	file, err := plainTar(path, stdin, scratch)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	layout, err := unpackLayout(file, filepath.Join(scratch, "layout"))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if layout {
		return openLayout(filepath.Join(scratch, "layout"), want)
	}
	return openDocker(file, want)
}

// plainTar returns a file that is an uncompressed tar: the archive itself, or a copy in scratch.
func plainTar(path string, stdin io.Reader, scratch string) (string, error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	r := bufio.NewReaderSize(in, 1<<16)
	magic, err := r.Peek(4)
	if err != nil {
		return "", errors.New("it is no archive")
	}
	var plain io.Reader = r
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return "", err
		}
		plain = z
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return "", err
		}
		defer z.Close()
		plain = z
	default:
		if path != "-" {
			return path, nil
		}
	}
	file := filepath.Join(scratch, "archive.tar")
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, plain) //nolint:gosec // the operator's own archive, bounded by the disk
	return file, errors.Join(err, out.Close())
}

var layoutFile = regexp.MustCompile(`^(oci-layout|index\.json|blobs/[a-z0-9]+/[a-f0-9]+)$`)

// unpackLayout unpacks an OCI layout and reports whether the tar is one. Other files of the archive stay in it.
func unpackLayout(file, dir string) (found bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, err
	}
	defer root.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return false, fmt.Errorf("it is no tar: %w", err)
		}
		p := strings.TrimPrefix(h.Name, "./")
		if h.Typeflag != tar.TypeReg || !layoutFile.MatchString(p) {
			continue
		}
		found = found || p == "oci-layout"
		if err := root.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			return false, err
		}
		out, err := root.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return false, err
		}
		_, err = io.Copy(out, tr) //nolint:gosec // the operator's own archive, bounded by the disk
		if err := errors.Join(err, out.Close()); err != nil {
			return false, err
		}
	}
}

// layout reads a folder as an OCI image layout.
type layout struct{ dir string }

func openLayout(dir, want string) (*Tree, error) {
	l := layout{dir}
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return nil, fmt.Errorf("%s is no OCI layout: %w", dir, err)
	}
	idx, err := image.Parse(image.OCIIndex, raw)
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	var names []string
	for _, c := range idx.Children {
		if n := c.Annotations[refName]; want != "" && (n == want || strings.HasSuffix(n, ":"+want)) {
			return l.child(c, 0)
		} else if n != "" {
			names = append(names, n)
		}
	}
	switch {
	case len(idx.Children) == 1:
		return l.child(idx.Children[0], 0)
	case len(idx.Children) == 0:
		return nil, errors.New("the layout holds no image")
	}
	return nil, fmt.Errorf("the layout holds %d images; pick one with --image (%s)", len(idx.Children), strings.Join(names, ", "))
}

func (l layout) file(d digest.Digest) string {
	return filepath.Join(l.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

func (l layout) child(c image.Descriptor, depth int) (*Tree, error) {
	if c.Size > image.MaxManifest {
		return nil, fmt.Errorf("manifest %s has %d bytes", c.Digest, c.Size)
	}
	raw, err := os.ReadFile(l.file(c.Digest))
	if err != nil {
		return nil, err
	}
	if c.Digest.Algorithm().FromBytes(raw) != c.Digest {
		return nil, fmt.Errorf("manifest %s: %w", c.Digest, errContent)
	}
	t, err := grow(c.MediaType, c.Digest, raw, depth, l.child, func(b image.Descriptor) Content {
		return func() (io.ReadCloser, error) { return os.Open(l.file(b.Digest)) }
	})
	if err == nil {
		t.Platform = c.Platform
	}
	return t, err
}

// openDocker reads a docker-save tar; its layers are compressed on the way, always to the same bytes.
func openDocker(file, want string) (*Tree, error) {
	var tag *name.Tag
	if want != "" {
		t, err := name.NewTag(want)
		if err != nil {
			return nil, err
		}
		tag = &t
	}
	img, err := tarball.ImageFromPath(file, tag)
	if err != nil {
		return nil, fmt.Errorf("%s is neither an OCI layout nor a docker-save archive: %w", file, err)
	}
	return fromImage(img)
}

func fromImage(img v1.Image) (*Tree, error) {
	raw, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	mt, err := img.MediaType()
	if err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	open := map[digest.Digest]Content{}
	for _, l := range layers {
		h, err := l.Digest()
		if err != nil {
			return nil, err
		}
		open[digest.Digest(h.String())] = l.Compressed
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	return grow(string(mt), digest.SHA256.FromBytes(raw), raw, 0, nil, func(b image.Descriptor) Content {
		if b.Kind == image.Config {
			return func() (io.ReadCloser, error) { return readSeekCloser{bytes.NewReader(config)}, nil }
		}
		return open[b.Digest]
	})
}

type readSeekCloser struct{ *bytes.Reader }

func (readSeekCloser) Close() error { return nil }

// Save writes a tree whose blobs lie in an OCI layout folder as that layout: manifests, index and marker.
func Save(t *Tree, dir, ref string) error {
	err := t.walk(func(n *Tree) error {
		return writeFile(layout{dir}.file(n.Digest), n.Raw)
	})
	if err != nil {
		return err
	}
	d := map[string]any{"mediaType": t.MediaType, "digest": t.Digest.String(), "size": len(t.Raw)}
	if ref != "" {
		d["annotations"] = map[string]string{refName: ref}
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": image.OCIIndex, "manifests": []any{d}})
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "index.json"), index); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
}

func writeFile(file string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}
