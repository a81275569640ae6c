// Command metacrypt is the platform's key store: certificate authority and secrets behind one seal. The same binary is
// server, administrator's client and offline tool.
package main

import (
	"context"
	"os"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/metacrypt/internal/service"
)

func main() { os.Exit(cli.Main(context.Background(), service.Metacrypt(), os.Args[1:])) }
