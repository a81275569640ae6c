package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcp/internal/bootstrap"
)

// Mcp is the mcp binary: the master's verbs, the operator's, and those of the whole platform.
func Mcp[T any](svc cli.Service[T]) cli.Service[T] {
	svc.Commands = func(e *cli.Env, _ func() (T, error)) []*cobra.Command {
		return append(New(e), up(e), down(e), destroy(e), platformStatus(e), cli.LoginCommand(e), cli.LogoutCommand(e))
	}
	return svc
}

// rootOf is --root, or ./srv in a checkout and /srv elsewhere.
func rootOf(e *cli.Env) string {
	if e.Root != "" {
		return e.Root
	}
	if _, err := os.Stat("go.work"); err == nil {
		return "srv"
	}
	return "/srv"
}

func up(e *cli.Env) *cobra.Command {
	opts := bootstrap.Options{}
	c := &cobra.Command{
		Use: "up", Short: "Bring the whole platform up; run again to finish or repair", Args: cobra.NoArgs,
		Example: "  mcp up --root ./srv --yes\n  mcp up --engine proc --domain mc.localhost --https-port 8443",
		Long: "Brings up identity, certificates, registry, ingress, DNS and deployment, in stages that each look before they act.\n" +
			"Interrupted anywhere, run it again. Over a healthy platform it changes nothing.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			fi, err := os.Stat(self)
			if err != nil {
				return err
			}
			opts.Root, opts.Yes, opts.JSON, opts.Out = rootOf(e), e.Yes, e.JSON, e.Out
			opts.BinDir, opts.Built = filepath.Dir(self), fi.ModTime().Add(-time.Minute)
			if e.Terminal {
				opts.Ask = func(prompt string) (string, error) {
					v, err := e.Secret("", "--yes", prompt)
					return string(v.Reveal()), err
				}
			}
			return bootstrap.Run(cmd.Context(), opts)
		},
	}
	f := c.Flags()
	f.StringVar(&opts.Engine, "engine", "", "auto, docker, podman or proc (default auto, later as before)")
	f.StringVar(&opts.Domain, "domain", "", "the platform's domain (default mc.localhost)")
	f.IntVar(&opts.HTTPSPort, "https-port", 0, "MC-Proxy's port; gRPC is 1000 and plain HTTP 2000 above one other than 443 (default 8443 in a checkout, 443 installed)")
	f.IntVar(&opts.DNSPort, "dns-port", 0, "MCNS's port (default 8053 in a checkout, 53 installed)")
	return c
}

func down(e *cli.Env) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Stop the whole platform, lastingly, until mcp up", Args: cobra.NoArgs, Example: "  mcp down --root ./srv",
		RunE: func(cmd *cobra.Command, _ []string) error { return bootstrap.Down(cmd.Context(), rootOf(e), e.Note) },
	}
}

func destroy(e *cli.Env) *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "destroy", Short: "Remove everything this platform made; its data only when its domain is repeated", Args: cobra.NoArgs,
		Example: "  mcp destroy --root ./srv\n  mcp destroy --root ./srv --yes-delete-data=mc.localhost",
		RunE: func(cmd *cobra.Command, _ []string) error {
			what := "This removes all containers and images of the platform in " + rootOf(e) + "; data stays"
			if data != "" {
				what = "This removes the platform in " + rootOf(e) + " with its keys and all data, for good"
			}
			if data == "" {
				if err := e.Confirm(what); err != nil {
					return err
				}
			}
			return bootstrap.Destroy(cmd.Context(), rootOf(e), data, e.Note)
		},
	}
	c.Flags().StringVar(&data, "yes-delete-data", "", "delete data, keys and backups too; repeat the platform's domain")
	return c
}

func platformStatus(e *cli.Env) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Say whether all is well, on one screen", Args: cobra.NoArgs, Example: "  mcp status --root ./srv\n  mcp status --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := bootstrap.Status(cmd.Context(), rootOf(e))
			if err != nil {
				return err
			}
			if e.JSON {
				data, err := json.Marshal(st)
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintln(e.Out, string(data)); err != nil {
					return err
				}
			} else if !e.Quiet {
				t := &cli.Table{Head: []string{"NAME", "STATE", "VERSION", "NODE", "URL"}, Empty: "Nothing runs here. Start it: mcp up"}
				for _, s := range st.Services {
					t.Row(s.Name, s.State, s.Version, s.Node, s.URL)
				}
				if err := e.Emit(st, func(w io.Writer) { fmt.Fprintf(w, "%s, engine %s, in %s\n", st.Domain, st.Engine, st.Root) }); err != nil {
					return err
				}
				if err := e.EmitTable(st, t); err != nil {
					return err
				}
			}
			if !st.Healthy {
				return errors.Join(cli.Exit(fault.Internal.ExitCode()))
			}
			return nil
		},
	}
}
