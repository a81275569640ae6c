// Command mcias is identity for the platform: server, administrator's client and offline tool.
package main

import (
	"context"
	"os"
	_ "time/tzdata" // a scratch image has no zone files; policy hours need them

	"metacircular.net/mcdsl/cli"

	"metacircular.net/mcias/internal/command"
)

func main() { os.Exit(cli.Main(context.Background(), command.Service(), os.Args[1:])) }
