package cli

import (
	"context"
	"io/fs"
	"reflect"

	"github.com/spf13/cobra"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/health"
)

// Service says what a binary is. T is its configuration: a struct with the shared sections of mcdsl/config it needs
// (config.Server, config.MCIAS, config.Log …, each found by its type) and its own.
type Service[T any] struct {
	Name   string // "mcns": names binary, files, socket and audience
	Short  string // one sentence for --help
	Prefix string // of environment variables, if it is not the name's

	// Rules has one rule per method, hand-written route and page. The rows of health, status, sign-in and static files
	// are added. A method without a rule, or a rule without a method, stops the server before it listens.
	Rules auth.Map

	// Build makes the service's parts and hands them to b: what it registers, serves, starts and checks. It runs once
	// when the server starts, before anything listens. After an error everything handed over is stopped again.
	Build func(ctx context.Context, cfg T, b *Builder) error

	// Commands returns the service's own verbs; load reads the configuration as the server would.
	Commands func(e *Env, load func() (T, error)) []*cobra.Command

	// Checks are those doctor can make with the server down, besides the shared ones.
	Checks func(cfg T) []health.Check

	// Migrations and Steps are the database's schema, if there is a [database].
	Migrations fs.FS
	Steps      map[int]db.Step

	// Exclude keeps files of the service's folder out of snapshots; paths are relative, with slashes.
	Exclude func(cfg T, rel string) bool

	// OnRestore kills old authority in restored data: sessions, tokens, signing keys. It may run twice.
	OnRestore func(ctx context.Context, dir string) error
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

// sectionsOf finds the shared sections among the fields of a configuration.
func sectionsOf[T any](cfg *T) sections {
	var s sections
	v := reflect.ValueOf(cfg).Elem()
	if v.Kind() != reflect.Struct {
		return s
	}
	for i := range v.NumField() {
		if !v.Type().Field(i).IsExported() {
			continue
		}
		switch p := v.Field(i).Addr().Interface().(type) {
		case *config.Server:
			s.server = p
		case *config.Database:
			s.database = p
		case *config.MCIAS:
			s.mcias = p
		case *config.Log:
			s.log = p
		case *config.Metrics:
			s.metrics = p
		case *config.Auth:
			s.auth = p
		case *config.Backup:
			s.backup = p
		case *config.Web:
			s.web = p
		}
	}
	return s
}

// hasDatabase reports whether there is state to save.
func (s *Service[T]) hasDatabase() bool {
	var cfg T
	return sectionsOf(&cfg).database != nil
}
