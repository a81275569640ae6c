package cli

import (
	"context"

	"github.com/spf13/cobra"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/config"
)

// Service says what a binary is. T is its configuration: a struct with the shared sections of mcdsl/config it needs
// (config.Server, config.MCIAS, config.Log …, each found by its type) and its own.
type Service[T any] struct {
	Name   string // "mcns": names binary, files, socket and audience
	Short  string // one sentence for --help
	Prefix string // of environment variables, if it is not the name's
	Rules  auth.Map

	// Build makes the service's parts and hands them to b: what it registers, serves, starts and checks. It runs once
	// when the server starts, before anything listens. An error ends the start and leaves nothing behind.
	Build func(ctx context.Context, cfg T, b *Builder) error

	// Commands returns the service's own verbs.
	Commands func(e *Env, load func() (T, error)) []*cobra.Command

	// Flags maps the names of server flags to configuration keys, e.g. "listen": "server.listen_addr".
	Flags map[string]string

	flags map[string]string // as given: configuration key → text
}

// sections are the shared parts of a configuration; nil = the service has none.
type sections struct {
	server   *config.Server
	database *config.Database
	mcias    *config.MCIAS
	log      *config.Log
	metrics  *config.Metrics
	auth     *config.Auth
	backup   *config.Backup
	web      *config.Web
}
