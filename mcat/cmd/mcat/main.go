// Command mcat is the web app in which the operator sees what MCIAS makes of a sign-in: who you are to the platform,
// what the policy said, and the claims that services get.
package main

import (
	"context"
	"os"

	"metacircular.net/mcat/internal/service"
	"metacircular.net/mcdsl/cli"
)

func main() { os.Exit(cli.Main(context.Background(), service.New(), os.Args[1:])) }
