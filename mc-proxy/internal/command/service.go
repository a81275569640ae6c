package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mc-proxy/internal/app"
	"metacircular.net/mc-proxy/internal/rpc"
	"metacircular.net/mc-proxy/internal/store"
)

// Service returns the binary's description.
func Service() cli.Service[app.Config] {
	var env *cli.Env
	var reload func() (app.Config, error)
	return cli.Service[app.Config]{
		Name:       app.Name,
		Short:      "The ingress of a node: routes by the name a client asks for, ends TLS or passes it on",
		Rules:      rpc.Rules(),
		Migrations: store.Migrations(),
		Build: func(ctx context.Context, cfg app.Config, b *cli.Builder) error {
			return app.Build(ctx, cfg, b, app.Options{Load: reload, File: env.Configured(), Access: env.Err})
		},
		Commands: func(e *cli.Env, load func() (app.Config, error)) []*cobra.Command {
			env, reload = e, load
			c := &client{e: e}
			return []*cobra.Command{c.route(), c.backend(), c.lease(), c.cert(), c.listener(), c.conns(), c.kill(), c.explain(),
				c.apply(), c.export(), c.reload()}
		},
		Exclude: func(_ app.Config, rel string) bool { return private(rel) },
	}
}

// private reports whether a file of the service's folder stays out of snapshots: private keys never leave the node, the
// agent writes the certificate folder anew, and the fallback is written again from the database.
func private(rel string) bool {
	return rel == "certs" || strings.HasPrefix(rel, "certs/") || strings.HasSuffix(rel, ".key") || rel == "routing.snapshot"
}

// client calls the running proxy for a command.
type client struct {
	e    *cli.Env
	conn *grpc.ClientConn
}

// dial connects to the socket once.
func (c *client) dial() (*grpc.ClientConn, error) {
	if c.conn != nil {
		return c.conn, nil
	}
	conn, err := c.e.DialLocal(app.Name)
	if err != nil {
		return nil, err
	}
	c.conn = conn
	return conn, nil
}

func (c *client) routes() (mcproxyv1.RouteServiceClient, error) {
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	return mcproxyv1.NewRouteServiceClient(conn), nil
}

func (c *client) admin() (mcproxyv1.AdminServiceClient, error) {
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	return mcproxyv1.NewAdminServiceClient(conn), nil
}

func (c *client) traffic() (mcproxyv1.TrafficServiceClient, error) {
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	return mcproxyv1.NewTrafficServiceClient(conn), nil
}

func (c *client) certs() (mcproxyv1.CertificateServiceClient, error) {
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	return mcproxyv1.NewCertificateServiceClient(conn), nil
}

// key returns a route's name as people write it.
func key(s *mcproxyv1.RouteSpec) string {
	k := s.GetListener() + "/" + s.GetHostname()
	if s.GetAlpn() != "" {
		k += "[" + s.GetAlpn() + "]"
	}
	return k
}

func group(use, short string, cmds ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short}
	g.AddCommand(cmds...)
	return g
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
