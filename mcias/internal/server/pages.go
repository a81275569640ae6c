package server

import "metacircular.net/mcdsl/cli"

func pages(_ *Config, _ *Core, _ *cli.Builder) error { return nil }
