package command

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/cli"

	"metacircular.net/mcias/internal/server"
)

// Service returns the binary.
func Service() cli.Service[server.Config] {
	s := server.Service()
	s.Commands = func(e *cli.Env, load func() (server.Config, error)) []*cobra.Command {
		c := &commands{Env: e, load: load}
		return []*cobra.Command{c.init(), cli.LoginCommand(e), cli.LogoutCommand(e), c.unseal(), c.seal(), c.slot(), c.account(), c.role(), c.tag(),
			c.session(), c.token(), c.service(), c.client(), c.policy(), c.audit(), c.key(), c.watch(), c.breakGlass(), c.setup(), c.operatorKey()}
	}
	return s
}

// commands is what the verbs share.
type commands struct {
	*cli.Env
	load func() (server.Config, error)
}

// call connects as the logged-in user, runs fn and closes.
func (c *commands) call(ctx context.Context, fn func(conn *grpc.ClientConn) error) error {
	conn, err := c.Dial(ctx, "mcias")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is pending
	return fn(conn)
}

// open connects without a token, for calls that are public.
func (c *commands) open(ctx context.Context, fn func(conn *grpc.ClientConn) error) error {
	conn, err := c.DialPublic(ctx, "mcias")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is pending
	return fn(conn)
}

// group returns a noun with its verbs.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short}
	g.AddCommand(verbs...)
	return g
}

func (c *commands) ago(t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	return cli.Ago(t.AsTime(), c.Clock.Now())
}

func until(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
