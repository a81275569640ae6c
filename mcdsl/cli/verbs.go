package cli

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/fault"
)

// load reads the service's configuration as the server would.
func (s *Service[T]) load(e *Env) (T, *config.Report, error) {
	in := config.Input{Service: s.Name, Prefix: s.Prefix, File: e.Configured(), Env: os.Environ()}
	if _, err := os.Stat(in.File); err != nil {
		var none T
		if os.IsNotExist(err) {
			return none, nil, fault.New(fault.Invalid, "there is no configuration file %s", in.File).
				WithNext("name it with --config FILE, or its platform with --root DIR")
		}
		return none, nil, fault.New(fault.Invalid, "read the configuration").Wrap(err)
	}
	return config.Load[T](in)
}

func (s *Service[T]) configCommand(e *Env) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check or print the configuration"}
	cmd.AddCommand(&cobra.Command{
		Use: "check", Short: "Say whether the configuration is right; exit 2 if it is not", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, rep, err := s.load(e)
			if err != nil {
				return err
			}
			for _, w := range rep.Warnings {
				e.Printf("warning: %s\n", w)
			}
			e.Note("%s is right: %d settings.", e.Configured(), len(rep.Settings))
			return nil
		},
	}, &cobra.Command{
		Use: "print", Short: "Print each setting and where it comes from; secrets are masked", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, rep, err := s.load(e)
			if err != nil {
				return err
			}
			return e.Emit(rep, func(w io.Writer) { _ = rep.Print(w) })
		},
	})
	return cmd
}

// versionDocument is the shape of version --json.
type versionDocument struct {
	Service  string `json:"service"`
	Version  string `json:"version"`
	Go       string `json:"go"`
	Revision string `json:"revision"`
}

func versionCommand(e *Env) *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			doc := versionDocument{Service: e.Service, Version: Version}
			if bi, ok := debug.ReadBuildInfo(); ok {
				doc.Go = bi.GoVersion
				for _, s := range bi.Settings {
					if s.Key == "vcs.revision" {
						doc.Revision = s.Value
					}
				}
			}
			return e.Emit(doc, func(w io.Writer) { _, _ = fmt.Fprintf(w, "%s %s %s\n", doc.Service, doc.Version, doc.Go) })
		}}
}

// LoginCommand returns "login", for binaries that offer it.
func LoginCommand(e *Env) *cobra.Command {
	var user, file string
	cmd := &cobra.Command{Use: "login", Args: cobra.NoArgs,
		Short:   "Log in at MCIAS; every component's command line uses this login",
		Example: "  " + e.Service + " login\n  " + e.Service + " --root ./srv login --user alice --password-file pw",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := e.Platform()
			if err != nil {
				return err
			}
			if p.Issuer == "" {
				return fault.New(fault.Invalid, "no platform is known here").
					WithNext("name one with --root DIR, or with --addr https://%s.DOMAIN --ca FILE", e.Service)
			}
			if user == "" {
				if user, err = e.Ask("--user NAME", "User name"); err != nil {
					return err
				}
			}
			pw, err := e.Secret(file, "--password-file", "Password for "+user)
			if err != nil {
				return err
			}
			defer pw.Wipe()
			l, err := e.LogIn(cmd.Context(), LoginRequest{Username: user, Password: pw, OTP: func() (string, error) {
				code, err := e.Secret("", "--otp", "One-time or recovery code")
				return string(code.Reveal()), err
			}})
			if err != nil {
				return err
			}
			e.Note("Logged in as %s at %s until %s.", l.Username, l.Issuer, l.Expires.UTC().Format("2006-01-02 15:04 UTC"))
			return nil
		}}
	cmd.Flags().StringVar(&user, "user", "", "account name; asked for if absent")
	cmd.Flags().StringVar(&file, "password-file", "", "file with the password, - for standard input")
	return cmd
}

// LogoutCommand returns "logout".
func LogoutCommand(e *Env) *cobra.Command {
	return &cobra.Command{Use: "logout", Short: "End the saved login", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.LogOut(cmd.Context()); err != nil {
				return err
			}
			e.Note("Logged out.")
			return nil
		}}
}

// nearest adds cobra's suggestions in our words.
func nearest(cmd *cobra.Command, arg string) error {
	f := fault.New(fault.Invalid, "unknown command %q for %s", arg, cmd.CommandPath())
	if s := cmd.SuggestionsFor(arg); len(s) > 0 {
		return f.WithNext("%s %s    (did you mean that?)", cmd.CommandPath(), strings.Join(s, " or "))
	}
	return f.WithNext("%s --help", cmd.CommandPath())
}
