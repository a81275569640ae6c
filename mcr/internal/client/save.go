package client

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	gcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"
)

// Pull downloads an image into a layout folder and returns its tree.
func (g *Registry) Pull(ctx context.Context, repo, ref, platform, dir string, rep Reporter) (*Tree, error) {
	t, err := g.Tree(ctx, repo, ref, platform)
	if err != nil {
		return nil, err
	}
	l := layout{dir}
	for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		if err := os.MkdirAll(filepath.Join(dir, "blobs", a.String()), 0o750); err != nil {
			return nil, err
		}
	}
	if err := g.Fetch(ctx, t, repo, l.file, rep); err != nil {
		return nil, err
	}
	return t, Save(t, dir, ref)
}

// WriteOCI writes a layout folder as a tar. Names are sorted and times are fixed: same image, same bytes.
func WriteOCI(dir string, w io.Writer) error {
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Name: filepath.ToSlash(rel), Mode: 0o644, Size: info.Size(), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err = io.Copy(tw, f)
		return err
	})
	return errors.Join(err, tw.Close())
}

// WriteDocker writes one image of a layout folder as an archive that docker load takes.
func WriteDocker(t *Tree, dir, host, repo, tag string, w io.Writer) error {
	if len(t.Children) > 0 {
		return fmt.Errorf("%s is an index; docker's format holds one platform", t.Digest)
	}
	p, err := gcrlayout.FromPath(dir)
	if err != nil {
		return err
	}
	h, err := v1.NewHash(t.Digest.String())
	if err != nil {
		return err
	}
	img, err := p.Image(h)
	if err != nil {
		return err
	}
	if host != "" {
		repo = host + "/" + repo
	}
	ref, err := name.NewTag(repo + ":" + tag)
	if err != nil {
		return err
	}
	return tarball.Write(ref, img, w)
}
