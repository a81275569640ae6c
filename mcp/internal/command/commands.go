package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
)

// AgentName is the service name of the agent: it names the agent's socket and folder.
const AgentName = "mcp-agent"

// verbs is what all commands share.
type verbs struct {
	env   *cli.Env
	local bool
}

// New returns the operator's verbs.
func New(e *cli.Env) []*cobra.Command {
	v := &verbs{env: e}
	cmds := []*cobra.Command{
		v.validate(), v.plan(), v.deploy(), v.rollback(), v.undeploy(),
		v.lifecycle("start", "Start a service that was stopped", v.start),
		v.lifecycle("stop", "Stop a service; what it owns stays reserved", v.stop),
		v.lifecycle("restart", "Stop and start the current generation", v.restart),
		v.ps(), v.show(), v.history(), v.logs(), v.op(), v.event(), v.node(), v.doctor(),
	}
	for _, c := range cmds {
		c.PersistentFlags().BoolVar(&v.local, "local", false, "ask this node's agent over its socket (root or the platform's owner)")
	}
	return cmds
}

// dial connects to the master, or with --local to the agent.
func (v *verbs) dial(ctx context.Context) (*grpc.ClientConn, error) {
	if v.local {
		return v.env.DialLocal(AgentName)
	}
	return v.env.Dial(ctx, "mcp")
}

// with dials, calls fn and hangs up.
func (v *verbs) with(ctx context.Context, fn func(ctx context.Context, conn *grpc.ClientConn) error) error {
	conn, err := v.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return fn(ctx, conn)
}

// maxDefinition is the contract's bound on a definition.
const maxDefinition = 256 << 10

// source reads a definition: a file, "-" for standard input, or a folder's one .toml.
func (v *verbs) source(path string) (*mcpv1.Source, error) {
	var r io.Reader = v.env.In
	name := "-"
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fault.New(fault.Invalid, "read the definition").Wrap(err).WithNext("mcp init app writes one")
		}
		defer f.Close()
		r, name = f, path
	}
	data, err := io.ReadAll(io.LimitReader(r, maxDefinition+1))
	if err != nil {
		return nil, fault.New(fault.Invalid, "read %s", name).Wrap(err)
	}
	if len(data) > maxDefinition {
		return nil, fault.New(fault.Invalid, "%s is larger than %d KiB, the most a definition may be", name, maxDefinition>>10)
	}
	return &mcpv1.Source{Definition: data, File: name}, nil
}

// definitionArg is the file a verb works on: the argument, or service.toml in this folder.
func definitionArg(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return "service.toml"
}

// word turns an enum value into the word people read: STATE_HEALTHY → healthy.
func word(s fmt.Stringer, prefix string) string {
	w := strings.ToLower(strings.TrimPrefix(s.String(), prefix))
	if w == "unspecified" {
		return "unknown"
	}
	return w
}
