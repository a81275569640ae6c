package proc

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcp/internal/engine"
)

// Bounds on an image's files: a decompression bomb ends as an error, not as a full disk.
const (
	maxEntries = 1_000_000
	maxBytes   = 16 << 30
)

// unpack writes the flattened image (whiteouts resolved) below dir. Every name goes through os.Root, so no entry can
// leave it, by dots or by links. Devices, setuid bits and sockets are refused or dropped: nothing of ours needs them.
func unpack(ctx context.Context, img v1.Image, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("unpack image: %w", err)
	}
	// Modes are set one by one: the agent's umask keeps everything it makes from other users, and these are theirs.
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("unpack image: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpack image: %w", err)
	}
	defer root.Close()
	rc := mutate.Extract(img)
	defer rc.Close()
	tr := tar.NewReader(rc)
	var entries, total int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fault.New(fault.Invalid, "the image's layers cannot be read").Wrap(err)
		}
		entries++
		total += h.Size
		if entries > maxEntries || total > maxBytes {
			return fault.New(fault.Invalid, "the image has more than %d files or %d GiB", maxEntries, maxBytes>>30)
		}
		if err := unpackEntry(root, h, tr); err != nil {
			return fault.New(fault.Invalid, "image entry %q", h.Name).Wrap(err)
		}
	}
}

func unpackEntry(root *os.Root, h *tar.Header, r io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if name == "" {
		return nil
	}
	if strings.Contains(h.Name, "..") && path.Clean("/"+h.Name) != "/"+strings.Trim(h.Name, "./") {
		return errors.New("it leaves the image")
	}
	if d := path.Dir(name); d != "." {
		if err := mkdirAll(root, d); err != nil {
			return err
		}
	}
	mode := fs.FileMode(h.Mode & 0o777) //nolint:gosec // masked: setuid, setgid and sticky bits are dropped
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return root.Chmod(name, mode|0o111)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, io.LimitReader(r, h.Size))
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = root.Chmod(name, mode)
		}
		return err
	case tar.TypeSymlink:
		// The target is looked up inside the cage, whose root this folder becomes; here it is only text.
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(strings.TrimPrefix(path.Clean("/"+h.Linkname), "/"), name)
	}
	return fmt.Errorf("files of type %q are refused", string(h.Typeflag))
}

// mkdirAll makes the folders that are missing, open to all whatever the umask.
func mkdirAll(root *os.Root, dir string) error {
	at := ""
	for _, part := range strings.Split(dir, "/") {
		at = path.Join(at, part)
		err := root.Mkdir(at, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = root.Chmod(at, 0o755)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// makeMountPoints makes the empty folders and files that mounts cover. The unpacked image is shared by all its
// containers, and an empty folder in it harms none.
func makeMountPoints(dir string, s engine.Spec) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	defer root.Close()
	folders := []string{"proc", "dev", "tmp", "etc"}
	files := []string{"etc/hosts", "etc/resolv.conf"}
	for _, m := range s.Mounts {
		target := strings.TrimPrefix(path.Clean(m.Target), "/")
		fi, err := os.Stat(m.Source)
		if err != nil {
			return err
		}
		if fi.IsDir() {
			folders = append(folders, target)
		} else {
			files = append(files, target)
		}
	}
	for _, d := range folders {
		if err := mkdirAll(root, d); err != nil {
			return fmt.Errorf("mount point /%s: %w", d, err)
		}
	}
	for _, f := range files {
		if d := path.Dir(f); d != "." {
			if err := mkdirAll(root, d); err != nil {
				return fmt.Errorf("mount point /%s: %w", f, err)
			}
		}
		fh, err := root.OpenFile(f, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return fmt.Errorf("mount point /%s: %w", f, err)
		}
		fh.Close()
	}
	return nil
}
