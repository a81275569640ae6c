// Package service says what the mcat binary is: its configuration, its rules and its parts. MCAT keeps no state and
// has no contract of its own: it is pages over a sign-in.
package service

import (
	"context"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/config"

	"metacircular.net/mcat/internal/ui"
)

// Config is mcat.toml.
type Config struct {
	Server  config.Server  `toml:"server"`
	MCIAS   config.MCIAS   `toml:"mcias"`
	Log     config.Log     `toml:"log"`
	Metrics config.Metrics `toml:"metrics"`
	Auth    config.Auth    `toml:"auth"`
	Web     config.Web     `toml:"web"`
}

// Rules are MCAT's own. Its one page is public: it shows a visitor nothing but their own session.
func Rules() auth.Map {
	return auth.Map{"HTTP GET /": auth.Public()}
}

// New returns the service.
func New() cli.Service[Config] {
	return cli.Service[Config]{
		Name:  "mcat",
		Short: "Shows who you are to the platform, and what its policy said about it.",
		Rules: Rules(),
		Build: func(_ context.Context, _ Config, b *cli.Builder) error {
			pages := ui.New()
			login, err := b.Pages(pages.Config())
			if err != nil {
				return err
			}
			pages.Use(login)
			return nil
		},
	}
}
