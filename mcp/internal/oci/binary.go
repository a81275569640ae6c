package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Binary says what an image of one static program looks like.
type Binary struct {
	Path    string // of the program on this machine
	Name    string // of the program in the image: /NAME
	User    string // numeric "uid:gid"
	Command []string
	Labels  map[string]string
}

// maxBinary bounds what is read into an image.
const maxBinary = 512 << 20

// FromBinary assembles an image FROM scratch around a static program and stores it under a name. One layer, one file,
// fixed times: the same program gives the same digest on every machine.
func (s *Store) FromBinary(ctx context.Context, name string, b Binary) (string, error) {
	fi, err := os.Stat(b.Path)
	if err != nil {
		return "", fmt.Errorf("read the program: %w", err)
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxBinary {
		return "", fmt.Errorf("%s is not a program of at most %d MiB", b.Path, maxBinary>>20)
	}
	program, err := os.ReadFile(b.Path)
	if err != nil {
		return "", fmt.Errorf("read the program: %w", err)
	}
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	// The epoch of reproducible builds: what the time was says nothing about what the image is.
	header := &tar.Header{Name: path.Base(b.Name), Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(program)), ModTime: time.Unix(0, 0).UTC(), Format: tar.FormatUSTAR}
	if err := tw.WriteHeader(header); err != nil {
		return "", fmt.Errorf("write layer: %w", err)
	}
	if _, err := tw.Write(program); err != nil {
		return "", fmt.Errorf("write layer: %w", err)
	}
	if err := tw.Close(); err != nil {
		return "", fmt.Errorf("write layer: %w", err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestSpeed), tarball.WithCompressedCaching)
	if err != nil {
		return "", fmt.Errorf("write layer: %w", err)
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layer)
	if err != nil {
		return "", fmt.Errorf("assemble image: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return "", fmt.Errorf("assemble image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch()
	config.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	config.Config.Entrypoint = append([]string{"/" + path.Base(b.Name)}, b.Command...)
	config.Config.User, config.Config.Labels = b.User, b.Labels
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return "", fmt.Errorf("assemble image: %w", err)
	}
	return s.Save(ctx, name, img)
}
