package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"

	"github.com/spf13/cobra"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/grpcserver"
	"metacircular.net/mcdsl/health"
	"metacircular.net/mcdsl/tlsutil"
)

const maxStatus = 1 << 20

// report asks the running server how it is: over its socket where there is one that lets this user in, else as the
// logged-in user.
func (e *Env) report(ctx context.Context) (health.Report, error) {
	var here error // why the socket did not answer
	if e.Addr == "" {
		if p, err := e.Platform(); err == nil {
			var r health.Report
			path := grpcserver.SocketFor(p.Socket(e.Service))
			if r, here = e.ask(ctx, socketClient(path), "http://"+e.Service); here == nil {
				return r, nil
			}
		}
	}
	client, base, err := e.HTTP(ctx, e.Service, true)
	if err != nil {
		if here != nil && fault.HasReason(err, "NOT_LOGGED_IN") {
			return health.Report{}, here // without a login the socket was the only way
		}
		return health.Report{}, err
	}
	return e.ask(ctx, client, base)
}

func (e *Env) ask(ctx context.Context, client *http.Client, base string) (health.Report, error) {
	var r health.Report
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/status", nil)
	if err != nil {
		return r, err
	}
	res, err := client.Do(req)
	if err != nil {
		return r, fault.New(fault.Unavailable, "cannot reach %s", e.Service).WithReason("UNREACHABLE").WithNext("mcp status").Wrap(bare(err))
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxStatus))
	if err != nil {
		return r, fault.New(fault.Unavailable, "%s hung up", e.Service).Wrap(err)
	}
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return r, e.errNotLoggedIn()
	default:
		return r, fault.New(fault.Unavailable, "%s answers %s", e.Service, res.Status)
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fault.New(fault.Internal, "status of %s", e.Service).Wrap(err)
	}
	return r, nil
}

// bare takes the URL out of an error of net/http.
func bare(err error) error {
	var u interface{ Unwrap() error }
	if errors.As(err, &u) && u.Unwrap() != nil {
		return u.Unwrap()
	}
	return err
}

func statusCommand(e *Env) *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Say how the service is; exit 0 only when it is healthy", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := e.report(cmd.Context())
			if err != nil {
				return err
			}
			code := exitOf(r)
			if e.Quiet && code == 0 && !e.JSON {
				return nil
			}
			if err := e.Emit(r, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "%s %s %s, up since %s\n%s", r.Service, r.Version, r.State, Ago(r.Started, e.Clock.Now()), writeFindings(r, false))
			}); err != nil {
				return err
			}
			return Exit(code)
		}}
}

func healthCommand(e *Env) *cobra.Command {
	return &cobra.Command{Use: "health", Short: "Exit 0 if the service does its first duty, else 1: for container health checks", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.alive(cmd.Context()); err != nil {
				e.Fail(err)
				return Exit(1)
			}
			return e.Emit(map[string]any{"healthy": true}, func(w io.Writer) {
				if !e.Quiet {
					_, _ = fmt.Fprintln(w, "ok")
				}
			})
		}}
}

func (e *Env) alive(ctx context.Context) error {
	p, err := e.Platform()
	if err != nil {
		return err
	}
	path := grpcserver.SocketFor(p.Socket(e.Service))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.Service+"/healthz", nil)
	if err != nil {
		return err
	}
	client, base := socketClient(path), ""
	if e.Addr != "" && e.Addr != "local" {
		if client, base, err = e.HTTP(ctx, e.Service, false); err != nil {
			return err
		}
		if req, err = http.NewRequestWithContext(ctx, http.MethodGet, base+"/healthz", nil); err != nil {
			return err
		}
	}
	res, err := client.Do(req)
	if err != nil {
		return fault.New(fault.Unavailable, "cannot reach %s", e.Service).Wrap(bare(err))
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fault.New(fault.Unavailable, "%s does not do its duty (%s)", e.Service, res.Status).WithNext("%s doctor", e.Service)
	}
	return nil
}

func (s *Service[T]) doctorCommand(e *Env) *cobra.Command {
	return &cobra.Command{Use: "doctor", Short: "Check everything, also with the server down; exit 1 if something needs you", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := e.report(cmd.Context())
			if err != nil {
				if r, err = s.offline(cmd.Context(), e, err); err != nil {
					return err
				}
			}
			code := 0
			if r.Worst() != health.Good {
				code = 1
			}
			if e.Quiet && code == 0 && !e.JSON {
				return nil
			}
			if err := e.Emit(r, func(w io.Writer) { _, _ = io.WriteString(w, writeFindings(r, true)) }); err != nil {
				return err
			}
			return Exit(code)
		}}
}

// offline makes the checks that need no server.
func (s *Service[T]) offline(ctx context.Context, e *Env, away error) (health.Report, error) {
	cfg, _, err := s.load(e)
	if err != nil {
		return health.Report{}, err
	}
	dir, err := filepath.Abs(filepath.Dir(e.Configured()))
	if err != nil {
		return health.Report{}, err
	}
	clk := clock.Or(e.Clock)
	set := health.New(s.Name, Version)
	set.Add(health.Check{Code: "server", Title: "server", Offline: true, Run: func(context.Context) health.Result {
		f := fault.From(away)
		return health.Failed("the server was not asked: %s", f.Public()).Do("%s server --config %s", s.Name, e.Configured())
	}}, filesCheck(dir), diskCheck(dir))
	sec := sectionsOf(&cfg)
	if sec.server != nil && sec.mcias != nil && sec.mcias.CACert != "" {
		if roots, err := tlsutil.NewRoots(tlsutil.RootsConfig{File: sec.mcias.CACert}); err == nil {
			if cert, err := tlsutil.NewCertificate(tlsutil.Config{CertFile: sec.server.TLSCert, KeyFile: sec.server.TLSKey, Roots: roots, Clock: clk}); err == nil {
				set.Add(certificateCheck(cert, clk))
			}
		}
	}
	if sec.backup != nil && sec.database != nil {
		set.Add(snapshotCheck(dir, s.Name, sec.backup.Every.D(), clk, clk.Now()))
	}
	if s.Checks != nil {
		for _, c := range s.Checks(cfg) {
			c.Offline = true
			set.Add(c)
		}
	}
	return set.Offline(ctx), nil
}
