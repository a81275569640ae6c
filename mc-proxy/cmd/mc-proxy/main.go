// Command mc-proxy is the ingress of a node: server, operator's client and offline tool in one.
package main

import (
	"context"
	"os"

	"metacircular.net/mcdsl/cli"

	"metacircular.net/mc-proxy/internal/command"
)

func main() { os.Exit(cli.Main(context.Background(), command.Service(), os.Args[1:])) }
