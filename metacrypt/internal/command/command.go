package command

import (
	"context"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/grpcserver"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
)

const name = "metacrypt"

// All returns the service's own verbs.
func All(e *cli.Env) []*cobra.Command {
	return []*cobra.Command{
		initCommand(e), unsealCommand(e), sealCommand(e), slotCommand(e), pkiCommand(e), policyCommand(e), kvCommand(e), trustCommand(e),
	}
}

// group is a verb that only holds others.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short}
	c.AddCommand(sub...)
	return c
}

// with runs f on a connection as the logged-in user, or over the socket with --addr local.
func with(ctx context.Context, e *cli.Env, f func(*grpc.ClientConn) error) error {
	conn, err := e.Dial(ctx, name)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is left to lose
	return f(conn)
}

// withPublic runs f without a login: over the socket where this user may use it, else over the network.
func withPublic(ctx context.Context, e *cli.Env, f func(*grpc.ClientConn) error) error {
	conn, err := dialPublic(ctx, e)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is left to lose
	return f(conn)
}

func dialPublic(ctx context.Context, e *cli.Env) (*grpc.ClientConn, error) {
	if e.Addr == "local" {
		return e.DialLocal(name)
	}
	if e.Addr == "" {
		if p, err := e.Platform(); err == nil && unix.Access(grpcserver.SocketFor(p.Socket(name)), unix.W_OK) == nil {
			return e.DialLocal(name)
		}
	}
	return e.DialPublic(ctx, name)
}

// proof reads the secret of a slot.
type proof struct {
	file     string
	recovery bool
}

func (p *proof) flags(c *cobra.Command) {
	c.Flags().StringVar(&p.file, "password-file", "", "file with the unseal password, - for standard input; asked for if absent")
	c.Flags().BoolVar(&p.recovery, "recovery", false, "it is the recovery code instead of the password")
}

func (p *proof) read(e *cli.Env) (*metacryptv1.SlotProof, error) {
	kind, prompt := "password", "Unseal password"
	if p.recovery {
		kind, prompt = "recovery", "Recovery code"
	}
	v, err := e.Secret(p.file, "--password-file", prompt)
	if err != nil {
		return nil, err
	}
	return &metacryptv1.SlotProof{Kind: kind, Secret: v.Reveal()}, nil
}

// readFile reads a file that a person named.
func readFile(name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fault.New(fault.Invalid, "cannot read %s", name).Wrap(err)
	}
	return b, nil
}
