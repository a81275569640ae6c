package command

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"metacircular.net/mcdsl/cli"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
)

func (c *client) cert() *cobra.Command {
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the certificates routes serve", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.certs()
			if err != nil {
				return err
			}
			resp, err := cl.ListCertificates(cmd.Context(), &mcproxyv1.ListCertificatesRequest{})
			if err != nil {
				return err
			}
			t := &cli.Table{Head: []string{"FILE", "NAMES", "NOT AFTER", "ROUTES", "PROBLEM"}, Empty: "No L7 route names a certificate."}
			for _, x := range resp.GetCertificates() {
				end := ""
				if x.GetNotAfter() != nil {
					end = x.GetNotAfter().AsTime().Format("2006-01-02 15:04")
				}
				t.Row(x.GetTlsCert(), strings.Join(x.GetNames(), ", "), end, strings.Join(x.GetRoutes(), ", "), x.GetLastError())
			}
			return c.e.EmitTable(resp, t)
		}}
	var host string
	check := &cobra.Command{Use: "check CERT [KEY]", Short: "Judge files inside cert_dir as a route would; exit 1 when they are no good", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.certs()
			if err != nil {
				return err
			}
			req := &mcproxyv1.CheckCertificateRequest{TlsCert: args[0], Hostname: host}
			if len(args) == 2 {
				req.TlsKey = args[1]
			}
			resp, err := cl.CheckCertificate(cmd.Context(), req)
			if err != nil {
				return err
			}
			if err := c.e.Emit(resp, func(w io.Writer) {
				for _, p := range resp.GetProblems() {
					_, _ = fmt.Fprintf(w, "%s: %s\n", args[0], p)
				}
				if len(resp.GetProblems()) == 0 {
					_, _ = fmt.Fprintf(w, "%s: good for %s until %s\n", args[0], strings.Join(resp.GetCertificate().GetNames(), ", "), resp.GetCertificate().GetNotAfter().AsTime().Format("2006-01-02 15:04"))
				}
			}); err != nil {
				return err
			}
			if len(resp.GetProblems()) > 0 {
				return cli.Exit(1)
			}
			return nil
		}}
	check.Flags().StringVar(&host, "host", "", "name it must be good for")
	reload := &cobra.Command{Use: "reload", Short: "Read all certificate files again", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.certs()
			if err != nil {
				return err
			}
			resp, err := cl.ReloadCertificates(cmd.Context(), &mcproxyv1.ReloadCertificatesRequest{})
			if err != nil {
				return err
			}
			return c.e.Emit(resp, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "%d loaded, %d failed\n", resp.GetLoaded(), len(resp.GetFailed()))
			})
		}}
	return group("cert", "Show and check certificates", list, check, reload)
}

func (c *client) listener() *cobra.Command {
	return group("listener", "Show listeners", &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List listeners", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.admin()
			if err != nil {
				return err
			}
			st, err := cl.GetStatus(cmd.Context(), &mcproxyv1.GetStatusRequest{})
			if err != nil {
				return err
			}
			t := &cli.Table{Head: []string{"NAME", "KIND", "BOUND", ">CONNECTIONS"}, Empty: "No listeners."}
			for _, l := range st.GetListeners() {
				t.Row(l.GetName(), l.GetKind(), strings.Join(l.GetBound(), ", "), strconv.FormatInt(l.GetActiveConnections(), 10))
			}
			return c.e.EmitTable(&mcproxyv1.GetStatusResponse{Listeners: st.GetListeners(), State: st.GetState()}, t)
		}})
}

func filterFlags(cmd *cobra.Command, f *mcproxyv1.ConnectionFilter) {
	cmd.Flags().StringVar(&f.Route, "route", "", "listener/hostname")
	cmd.Flags().StringVar(&f.Backend, "backend", "", "host:port")
	cmd.Flags().StringVar(&f.Client, "client", "", "address or prefix")
}

func (c *client) conns() *cobra.Command {
	f := &mcproxyv1.ConnectionFilter{}
	cmd := &cobra.Command{Use: "conns", Short: "List live connections", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.traffic()
			if err != nil {
				return err
			}
			all := &mcproxyv1.ListConnectionsResponse{}
			req := &mcproxyv1.ListConnectionsRequest{Filter: f, PageSize: 500}
			for {
				resp, err := cl.ListConnections(cmd.Context(), req)
				if err != nil {
					return err
				}
				all.Connections = append(all.Connections, resp.GetConnections()...)
				if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			t := &cli.Table{Head: []string{">ID", "CLIENT", "ROUTE", "MODE", "BACKEND", "STATE", ">IN", ">OUT", "SINCE"}, Empty: "No connections."}
			for _, x := range all.GetConnections() {
				t.Row(strconv.FormatUint(x.GetId(), 10), x.GetClient(), x.GetRoute(), x.GetMode(), x.GetBackend(), x.GetState(),
					cli.Bytes(x.GetBytesIn()), cli.Bytes(x.GetBytesOut()), cli.Ago(x.GetSince().AsTime(), c.e.Clock.Now()))
			}
			return c.e.EmitTable(all, t)
		}}
	filterFlags(cmd, f)
	return cmd
}

func (c *client) kill() *cobra.Command {
	f := &mcproxyv1.ConnectionFilter{}
	var dry bool
	cmd := &cobra.Command{Use: "kill [ID...]", Short: "Close connections by id, route, backend or client",
		Example: "  mc-proxy kill 17\n  mc-proxy kill --client 203.0.113.0/24 --dry-run",
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, a := range args {
				n, err := strconv.ParseUint(a, 10, 64)
				if err != nil {
					return fmt.Errorf("invalid argument %q: not a connection id", a)
				}
				f.Ids = append(f.Ids, n)
			}
			cl, err := c.traffic()
			if err != nil {
				return err
			}
			resp, err := cl.KillConnections(cmd.Context(), &mcproxyv1.KillConnectionsRequest{Filter: f, DryRun: dry})
			if err != nil {
				return err
			}
			return c.e.Emit(resp, func(w io.Writer) {
				verb := "closed"
				if dry {
					verb = "would be closed"
				}
				_, _ = fmt.Fprintf(w, "%s %s\n", plural(int(resp.GetClosed()), "connection"), verb)
			})
		}}
	filterFlags(cmd, f)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only count")
	return cmd
}

func (c *client) explain() *cobra.Command {
	req := &mcproxyv1.ExplainRequest{}
	cmd := &cobra.Command{Use: "explain --sni NAME [--ip ADDR]", Short: "Say what would happen to a connection, and why; exit 1 when it is refused", Args: cobra.NoArgs,
		Example: "  mc-proxy explain --sni blog.mc.localhost\n  mc-proxy explain --sni a.example --alpn h2 --host b.example --ip 203.0.113.7",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.traffic()
			if err != nil {
				return err
			}
			resp, err := cl.Explain(cmd.Context(), req)
			if err != nil {
				return err
			}
			if err := c.e.Emit(resp, func(w io.Writer) {
				for _, s := range resp.GetSteps() {
					_, _ = fmt.Fprintf(w, "  %-12s %-12s %s\n", s.GetStep(), s.GetOutcome(), s.GetDetail())
				}
				reason := ""
				if resp.GetReason() != "" {
					reason = " (" + resp.GetReason() + ")"
				}
				_, _ = fmt.Fprintf(w, "%s%s: the client sees %s\n", resp.GetVerdict(), reason, resp.GetClientSees())
			}); err != nil {
				return err
			}
			if resp.GetVerdict() == "reject" {
				return cli.Exit(1)
			}
			return nil
		}}
	cmd.Flags().StringVar(&req.Ip, "ip", "", "the client's address (default 127.0.0.1)")
	cmd.Flags().StringVar(&req.Sni, "sni", "", "server name of the hello")
	cmd.Flags().StringSliceVar(&req.Alpn, "alpn", nil, "offered protocols")
	cmd.Flags().StringVar(&req.Host, "host", "", "Host of the request (default: the server name)")
	cmd.Flags().StringVar(&req.Listener, "listener", "", "name of the listener (default https)")
	cmd.Flags().StringVar(&req.Via, "via", "", "TCP peer that speaks for the client in a PROXY header")
	return cmd
}
