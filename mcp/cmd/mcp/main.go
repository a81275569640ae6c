// Command mcp is the control plane: the operator's client, the platform's master and a node's agent in one binary.
package main

import (
	"context"
	"os"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcp/internal/agent"
	"metacircular.net/mcp/internal/command"
	"metacircular.net/mcp/internal/engine/proc"
	"metacircular.net/mcp/internal/master"
)

func main() {
	// Before anything else: this process may be half way into a container.
	if handled, code := proc.Main(os.Args[1:]); handled {
		os.Exit(code)
	}
	ctx, args := context.Background(), os.Args[1:]
	if len(args) > 0 && args[0] == "agent" {
		os.Exit(cli.Main(ctx, agent.Service(), args[1:]))
	}
	os.Exit(cli.Main(ctx, command.Mcp(master.Service()), args))
}
