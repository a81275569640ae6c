// Package cmd holds the administrator's verbs. Each is a client of the running server.
package cmd

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/cli"

	mcnsv1 "metacircular.net/mcns/api/mcns/v1"
)

// All returns every verb.
func All(e *cli.Env) []*cobra.Command {
	return []*cobra.Command{zoneCommand(e), recordCommand(e), changesCommand(e), grantCommand(e), servicesCommand(e), queryCommand(e),
		explainCommand(e), upstreamsCommand(e), cacheCommand(e), listenersCommand(e)}
}

func noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short}
	c.AddCommand(verbs...)
	return c
}

// dial runs fn with a connection to MCNS.
func dial(ctx context.Context, e *cli.Env, fn func(conn *grpc.ClientConn) error) error {
	conn, err := e.Dial(ctx, "mcns")
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

func ago(e *cli.Env, t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	return cli.Ago(t.AsTime(), e.Clock.Now())
}

// warn prints what is legal and looks wrong to the error stream.
func warn(e *cli.Env, ws []*mcnsv1.Warning) {
	for _, w := range ws {
		e.Note("warning: %s %s %s", w.GetName(), w.GetType(), w.GetText())
	}
}

func say(e *cli.Env, v any, format string, args ...any) error {
	return e.Emit(v, func(w io.Writer) { _, _ = fmt.Fprintf(w, format+"\n", args...) })
}
