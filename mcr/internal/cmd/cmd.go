package cmd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcr/internal/image"
)

// All returns every verb of the registry.
func All(e *cli.Env) []*cobra.Command {
	return []*cobra.Command{
		pushCommand(e), pullCommand(e), copyCommand(e), repoCommand(e), tagCommand(e), manifestCommand(e), referrersCommand(e),
		trashCommand(e), policyCommand(e), immutableCommand(e), pinCommand(e), gcCommand(e), verifyCommand(e), uploadCommand(e),
		usageCommand(e), eventsCommand(e),
	}
}

// noun makes a command that only holds verbs.
func noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short}
	c.AddCommand(verbs...)
	return c
}

// dial runs fn with a connection to the registry.
func dial(e *cli.Env, ctx context.Context, fn func(conn *grpc.ClientConn) error) error { //nolint:revive // e is the receiver in all but form
	conn, err := e.Dial(ctx, "mcr")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return fn(conn)
}

// pages asks for every page of a list.
func pages(get func(token string) (next string, err error)) error {
	for token := ""; ; {
		next, err := get(token)
		if err != nil || next == "" {
			return err
		}
		token = next
	}
}

// ago is a time as people read it.
func ago(e *cli.Env, t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	at := t.AsTime()
	switch d := e.Clock.Now().Sub(at); {
	case d < 0:
		return at.UTC().Format("2006-01-02 15:04")
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	case d < 7*24*time.Hour:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	}
	return at.UTC().Format(time.DateOnly)
}

// size is a number of bytes as people read it.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f /= 1024; f < 1024 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

// middle shortens a digest in its middle.
func middle(d string) string {
	alg, hex, ok := strings.Cut(d, ":")
	if !ok || len(hex) <= 12 {
		return d
	}
	return alg + ":" + hex[:4] + "…" + hex[len(hex)-4:]
}

// reference is what a person wrote as [HOST/]NAME[:TAG][@DIGEST].
type reference struct {
	host, repo, tag, digest string
}

// ref is the tag or digest to ask for: the digest if both are there.
func (r reference) ref() string {
	if r.digest != "" {
		return r.digest
	}
	return r.tag
}

// parseRef reads a reference; one without tag and digest is refused: latest is never meant by silence.
func parseRef(text string) (reference, error) {
	host, repo, tag, d, err := image.ParseReference(text)
	if err != nil {
		return reference{}, fault.New(fault.Invalid, "%v", err)
	}
	if tag == "" && d == "" {
		return reference{}, fault.New(fault.Invalid, "%s names no tag and no digest", text).WithNext("mcr tag list %s", repo)
	}
	return reference{host, repo, tag, d.String()}, nil
}

// splitTag lets a tag be given as REPO TAG or as REPO:TAG.
func splitTag(args []string) (repo, tag string, err error) {
	if len(args) == 2 {
		return args[0], args[1], nil
	}
	r, err := parseRef(args[0])
	if err == nil && r.tag == "" {
		err = fault.New(fault.Invalid, "%s names no tag", args[0])
	}
	return r.repo, r.tag, err
}
