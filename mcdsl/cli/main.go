package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"metacircular.net/mcdsl/fault"
)

// Main runs the command line of a service and returns the exit code.
func Main[T any](ctx context.Context, svc Service[T], args []string) int {
	// Nothing this process creates is readable by others.
	syscall.Umask(0o077)
	return Run(ctx, svc, NewEnv(svc.Name), args)
}

// Run is Main with a given environment: for tests.
func Run[T any](ctx context.Context, svc Service[T], e *Env, args []string) int {
	root := svc.command(e)
	root.SetArgs(args)
	root.SetIn(e.In)
	root.SetOut(e.Out)
	root.SetErr(e.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		err = fault.New(fault.Timeout, "interrupted").WithReason("CANCELED")
	}
	return e.Fail(usage(cmd, err))
}

// usage makes a fault of what cobra says about a command line.
func usage(cmd *cobra.Command, err error) error {
	var f *fault.Error
	var x *exitError
	if errors.As(err, &f) || errors.As(err, &x) {
		return err
	}
	text := err.Error()
	for _, start := range []string{"unknown flag", "unknown shorthand", "unknown command", "flag needs", "invalid argument",
		"required flag", "accepts ", "requires ", "bad flag", "if any flags in the group", "at least one of"} {
		if strings.HasPrefix(text, start) {
			first, _, _ := strings.Cut(text, "\n")
			return fault.New(fault.Invalid, "%s", first).WithNext("%s --help", cmd.CommandPath())
		}
	}
	return err
}

// command builds the tree of verbs.
func (s *Service[T]) command(e *Env) *cobra.Command {
	root := &cobra.Command{Use: s.Name, Short: s.Short, SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return nearest(cmd, args[0])
			}
			return cmd.Help()
		}}
	root.SuggestionsMinimumDistance = 2
	root.CompletionOptions.DisableDefaultCmd = false
	pf := root.PersistentFlags()
	pf.StringVar(&e.Root, "root", e.Root, "folder of a platform on this machine")
	pf.StringVar(&e.ConfigFile, "config", e.ConfigFile, "configuration file (default ROOT/"+s.Name+"/"+s.Name+".toml)")
	pf.StringVar(&e.Addr, "addr", e.Addr, "address of the service: HOST:PORT, https://HOST, or local for its Unix socket")
	pf.StringVar(&e.CA, "ca", e.CA, "file with the platform's root certificate")
	pf.BoolVar(&e.JSON, "json", e.JSON, "print JSON")
	pf.DurationVar(&e.Timeout, "timeout", e.Timeout, "limit for the whole command, e.g. 30s")
	pf.BoolVar(&e.Quiet, "quiet", e.Quiet, "print only answers and errors")
	pf.BoolVar(&e.Yes, "yes", e.Yes, "don't ask")

	// The deadline of --timeout and the interrupt belong to every verb but the server, which has its own signals.
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Annotations[ownSignals] != "" {
			return nil
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		ctx, cancel := e.context(ctx)
		context.AfterFunc(ctx, func() { cancel(); stop() })
		cmd.SetContext(ctx)
		return nil
	}
	root.AddCommand(s.serverCommand(e), statusCommand(e), healthCommand(e), s.doctorCommand(e), s.configCommand(e), versionCommand(e))
	if s.hasDatabase() {
		root.AddCommand(s.snapshotCommand(e), s.restoreCommand(e))
	}
	if s.Commands != nil {
		for _, own := range s.Commands(e, func() (T, error) { cfg, _, err := s.load(e); return cfg, err }) {
			// A service may say more than the shared verb of the same name: mcp's status is the platform's.
			for _, c := range root.Commands() {
				if c.Name() == own.Name() {
					root.RemoveCommand(c)
				}
			}
			root.AddCommand(own)
		}
	}
	groups(root)
	return root
}

// ownSignals marks a verb that handles signals by itself.
const ownSignals = "own-signals"

// groups gives every verb with sub-verbs the same answer to an unknown one.
func groups(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		c.SuggestionsMinimumDistance = 2
		if c.HasSubCommands() && c.RunE == nil && c.Run == nil {
			c.Args = cobra.ArbitraryArgs
			c.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return nearest(cmd, args[0])
				}
				return cmd.Help()
			}
		}
		groups(c)
	}
}
