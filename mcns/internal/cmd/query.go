package cmd

import (
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"

	mcnsv1 "metacircular.net/mcns/api/mcns/v1"
)

// answerView is what `query --json` prints.
type answerView struct {
	Server        string   `json:"server"`
	Rcode         string   `json:"rcode"`
	Authoritative bool     `json:"authoritative"`
	Answer        []string `json:"answer"`
	Authority     []string `json:"authority"`
}

func queryCommand(e *cli.Env) *cobra.Command {
	var at string
	var tcp bool
	c := &cobra.Command{Use: "query NAME [TYPE]", Short: "Ask a DNS server, by default ours", Args: cobra.RangeArgs(1, 2),
		Long:    "Ask a DNS server, by default ours. Exit code 0: an answer with records; 1: none, or another rcode; 5: no reply.",
		Example: "  mcns query blog.lab.example\n  mcns query lab.example MX --at 127.0.0.1:8053"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		t := dns.TypeA
		if len(args) == 2 {
			var ok bool
			if t, ok = dns.StringToType[strings.ToUpper(args[1])]; !ok {
				return fault.Field1("type", "%q is no record type", args[1])
			}
		}
		if at == "" {
			if err := dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				st, err := mcnsv1.NewAdminServiceClient(conn).GetStatus(cmd.Context(), &mcnsv1.GetStatusRequest{})
				for _, l := range st.GetListeners() {
					if l.GetBound() && at == "" {
						at = l.GetAddress()
					}
				}
				return err
			}); err != nil {
				return err
			}
		}
		if _, _, err := net.SplitHostPort(at); err != nil {
			at = net.JoinHostPort(at, "53")
		}
		q := new(dns.Msg)
		q.SetQuestion(dns.Fqdn(args[0]), t)
		q.SetEdns0(1232, false)
		client := &dns.Client{Net: "udp"}
		if tcp {
			client.Net = "tcp"
		}
		m, _, err := client.ExchangeContext(cmd.Context(), q, at)
		if err == nil && m.Truncated && !tcp {
			client.Net = "tcp"
			m, _, err = client.ExchangeContext(cmd.Context(), q, at)
		}
		if err != nil {
			return fault.New(fault.Unavailable, "%s does not answer", at).WithNext("mcns status").Wrap(err)
		}
		v := answerView{Server: at, Rcode: dns.RcodeToString[m.Rcode], Authoritative: m.Authoritative, Answer: []string{}, Authority: []string{}}
		for _, rr := range m.Answer {
			v.Answer = append(v.Answer, rr.String())
		}
		for _, rr := range m.Ns {
			v.Authority = append(v.Authority, rr.String())
		}
		if err := e.Emit(v, func(w io.Writer) {
			for _, s := range v.Answer {
				_, _ = fmt.Fprintln(w, s)
			}
		}); err != nil {
			return err
		}
		if m.Rcode != dns.RcodeSuccess || len(m.Answer) == 0 {
			return fault.New(fault.NotFound, "%s %s: %s, %d records", args[0], dns.TypeToString[t], v.Rcode, len(m.Answer)).
				WithNext("mcns explain %s %s", args[0], dns.TypeToString[t])
		}
		return nil
	}
	c.Flags().StringVar(&at, "at", "", "server as ADDRESS[:PORT]")
	c.Flags().BoolVar(&tcp, "tcp", false, "ask over TCP")
	return c
}

func explainCommand(e *cli.Env) *cobra.Command {
	req := &mcnsv1.ExplainRequest{}
	c := &cobra.Command{Use: "explain NAME [TYPE]", Short: "Say why a question gets the answer it gets", Args: cobra.RangeArgs(1, 2),
		Example: "  mcns explain blog.lab.example AAAA --client 10.0.0.9"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req.Name = args[0]
		if len(args) == 2 {
			req.Type = args[1]
		}
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			res, err := mcnsv1.NewAdminServiceClient(conn).Explain(cmd.Context(), req)
			if err != nil {
				return err
			}
			return e.Emit(res, func(w io.Writer) {
				for i, s := range res.GetPath() {
					_, _ = fmt.Fprintf(w, "%d  %s\n", i+1, s)
				}
				_, _ = fmt.Fprintf(w, "%s, authoritative %v\n", res.GetRcode(), res.GetAuthoritative())
				for _, s := range res.GetAnswer() {
					_, _ = fmt.Fprintln(w, s)
				}
			})
		})
	}
	c.Flags().StringVar(&req.Client, "client", "", "as if asked from this address")
	c.Flags().StringVar(&req.Listener, "listener", "", "as if asked at this address")
	return c
}

func upstreamsCommand(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "upstreams", Short: "List the servers other names are asked at", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			res, err := mcnsv1.NewResolverServiceClient(conn).ListUpstreams(cmd.Context(), &mcnsv1.ListUpstreamsRequest{})
			if err != nil {
				return err
			}
			t := &cli.Table{Head: []string{"UPSTREAM", "FOR", "STATE", ">MS", ">ASKED", ">FAILED"}, Empty: "No upstreams: names that are not ours are refused. They stand in [recursion] upstreams."}
			for _, u := range res.GetUpstreams() {
				state := "healthy"
				if !u.GetAlive() {
					state = "down"
				}
				t.Row(u.GetAddress(), u.GetDomain(), state, fmt.Sprintf("%.1f", u.GetSeconds()*1000), fmt.Sprint(u.GetQueries()), fmt.Sprint(u.GetFailures()))
			}
			return e.EmitTable(res, t)
		})
	}}
}

func cacheCommand(e *cli.Env) *cobra.Command {
	var subtree bool
	flush := &cobra.Command{Use: "flush [NAME]", Short: "Forget a name, or everything", Args: cobra.MaximumNArgs(1)}
	flush.RunE = func(cmd *cobra.Command, args []string) error {
		req := &mcnsv1.FlushCacheRequest{Subtree: subtree}
		if len(args) == 1 {
			req.Name = args[0]
		}
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			res, err := mcnsv1.NewResolverServiceClient(conn).FlushCache(cmd.Context(), req)
			if err != nil {
				return err
			}
			return say(e, res, "Forgot %d answers.", res.GetEntries())
		})
	}
	flush.Flags().BoolVar(&subtree, "subtree", false, "and all below it")
	return noun("cache", "Work on the forwarding cache", flush)
}

func listenersCommand(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "listeners", Short: "List the DNS listeners and what is served", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			res, err := mcnsv1.NewAdminServiceClient(conn).GetStatus(cmd.Context(), &mcnsv1.GetStatusRequest{})
			if err != nil {
				return err
			}
			t := &cli.Table{Head: []string{"ADDRESS", "TRANSPORT", "STATE", "RECURSION"}, Empty: "No listener is configured.",
				Foot: fmt.Sprintf("%s: %d zones, %d records, %d answers since %s", res.GetState(), res.GetZones(), res.GetRecords(), res.GetAnswers(), ago(e, res.GetServingSince()))}
			for _, l := range res.GetListeners() {
				state, recursion := "healthy", "no"
				if !l.GetBound() {
					state = "down: " + l.GetError()
				}
				if l.GetRecursion() {
					recursion = "yes"
				}
				t.Row(l.GetAddress(), l.GetTransport(), state, recursion)
			}
			return e.EmitTable(res, t)
		})
	}}
}
