package cmd

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcr/internal/client"
)

// registry returns ours as the user, and the host people write before its repositories.
func registry(e *cli.Env) *client.Registry {
	return &client.Registry{
		Connect: func(ctx context.Context) (*http.Client, string, error) {
			c, base, err := e.HTTP(ctx, "mcr", true)
			if err != nil {
				return nil, "", err
			}
			c.Timeout = 0 // a large layer may take hours; the server cuts what stands still
			return c, base, nil
		},
		Say: e.Note,
	}
}

// cached makes one client for a whole transfer: connections are reused, and a refused token makes a new one.
func cached(g *client.Registry) *client.Registry {
	return &client.Registry{Connect: client.Once(g.Connect), Say: g.Say}
}

type moved struct {
	Repository string `json:"repository"`
	Reference  string `json:"reference"`
	Digest     string `json:"digest"`
	Bytes      int64  `json:"bytes"`
	File       string `json:"file,omitempty"`
}

func pushCommand(e *cli.Env) *cobra.Command {
	var want string
	c := &cobra.Command{Use: "push ARCHIVE REPO:TAG", Short: "Push an archive: docker-save or OCI layout, tar or folder, plain, gzip or zstd", Args: cobra.ExactArgs(2),
		Example: "  mcr push blog.tar team/blog:1.3\n  docker save blog | mcr push - team/blog:1.3"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		to, err := parseRef(args[1])
		if err != nil {
			return err
		}
		scratch, err := os.MkdirTemp("", "mcr-push-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(scratch) }()
		tree, err := client.Open(args[0], want, e.In, scratch)
		if err != nil {
			return fault.New(fault.Invalid, "%v", err)
		}
		if to.digest != "" && to.digest != tree.Digest.String() {
			return fault.New(fault.Invalid, "the archive holds %s, not %s", tree.Digest, to.digest)
		}
		rep := newReport(e)
		if err := cached(registry(e)).Push(cmd.Context(), tree, to.repo, to.tag, "", rep); err != nil {
			return err
		}
		rep.end()
		return e.Emit(moved{to.repo, to.ref(), tree.Digest.String(), tree.Bytes(), ""}, func(w io.Writer) {
			_, _ = fmt.Fprintf(w, "Pushed %s@%s.\n", to.repo, tree.Digest)
		})
	}
	c.Flags().StringVar(&want, "image", "", "which image, if the archive holds several")
	return c
}

func pullCommand(e *cli.Env) *cobra.Command {
	var out, format, platform string
	c := &cobra.Command{Use: "pull REPO:TAG -o FILE", Short: "Pull an image into an archive", Args: cobra.ExactArgs(1),
		Example: "  mcr pull team/blog:1.3 -o blog.tar\n  mcr pull team/blog:1.3 -o blog.tar --format docker && docker load -i blog.tar"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		from, err := parseRef(args[0])
		if err != nil {
			return err
		}
		if out == "" || (format != "oci" && format != "docker") {
			return fault.New(fault.Invalid, "-o FILE is needed, and --format is oci or docker")
		}
		if format == "docker" && platform == "" {
			platform = "linux/" + runtime.GOARCH
		}
		// Beside the target, so that the end is a rename.
		scratch, err := os.MkdirTemp(filepath.Dir(filepath.Clean(out)), ".mcr-pull-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(scratch) }()
		rep := newReport(e)
		dir := filepath.Join(scratch, "layout")
		tree, err := cached(registry(e)).Pull(cmd.Context(), from.repo, from.ref(), platform, dir, rep)
		if err != nil {
			return err
		}
		rep.end()
		if err := finish(tree, from, dir, scratch, out, format); err != nil {
			return err
		}
		return e.Emit(moved{from.repo, from.ref(), tree.Digest.String(), tree.Bytes(), out}, func(w io.Writer) {
			_, _ = fmt.Fprintf(w, "Pulled %s@%s into %s.\n", from.repo, tree.Digest, out)
		})
	}
	f := c.Flags()
	f.StringVarP(&out, "output", "o", "", "file to write; a name that ends in / becomes a layout folder")
	f.StringVar(&format, "format", "oci", "oci or docker")
	f.StringVar(&platform, "platform", "", "one platform of an index, e.g. linux/arm64")
	return c
}

// finish turns the layout folder into what was asked for; the last step is a rename.
func finish(tree *client.Tree, from reference, dir, scratch, out, format string) error {
	if format == "oci" && strings.HasSuffix(out, "/") {
		return os.Rename(dir, strings.TrimSuffix(out, "/"))
	}
	file := filepath.Join(scratch, "out.tar")
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if format == "oci" {
		err = client.WriteOCI(dir, f)
	} else {
		tag := from.tag
		if tag == "" {
			tag = "pulled"
		}
		err = client.WriteDocker(tree, dir, from.host, from.repo, tag, f)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(file, out)
}

func copyCommand(e *cli.Env) *cobra.Command {
	var platform string
	c := &cobra.Command{Use: "copy SRC DST", Short: "Copy an image within the registry, by mounts, without moving its bytes", Args: cobra.ExactArgs(2),
		Example: "  mcr copy team/blog:1.3 prod/blog:1.3"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		from, err := parseRef(args[0])
		if err != nil {
			return err
		}
		to, err := parseRef(args[1])
		if err != nil {
			return err
		}
		g := cached(registry(e))
		if err := ours(cmd.Context(), g, from, to); err != nil {
			return err
		}
		tree, err := g.Tree(cmd.Context(), from.repo, from.ref(), platform)
		if err != nil {
			return err
		}
		rep := newReport(e)
		if err := g.Push(cmd.Context(), tree, to.repo, to.tag, from.repo, rep); err != nil {
			return err
		}
		rep.end()
		return e.Emit(moved{to.repo, to.ref(), tree.Digest.String(), tree.Bytes(), ""}, func(w io.Writer) {
			_, _ = fmt.Fprintf(w, "Copied %s@%s to %s.\n", from.repo, tree.Digest, args[1])
		})
	}
	c.Flags().StringVar(&platform, "platform", "", "only one platform of an index")
	return c
}

// ours refuses references to other registries.
func ours(ctx context.Context, g *client.Registry, refs ...reference) error {
	_, base, err := g.Connect(ctx)
	if err != nil {
		return err
	}
	host := base[strings.Index(base, "://")+3:]
	for _, r := range refs {
		if r.host != "" && r.host != host {
			return fault.New(fault.Invalid, "%s is another registry; this copies within %s", r.host, host).
				WithNext("skopeo copy docker://%s/%s oci-archive:image.tar && mcr push image.tar REPO:TAG", r.host, r.repo)
		}
	}
	return nil
}
