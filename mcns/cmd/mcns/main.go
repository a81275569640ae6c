// Command mcns is the platform's name service: its server, its administrator's client and its offline tool.
package main

import (
	"context"
	"os"

	"metacircular.net/mcdsl/cli"

	"metacircular.net/mcns/internal/service"
)

func main() { os.Exit(cli.Main(context.Background(), service.New(), os.Args[1:])) }
