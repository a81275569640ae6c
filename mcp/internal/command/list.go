package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
)

const listPage = 200

func (v *verbs) ps() *cobra.Command {
	return &cobra.Command{
		Use: "ps", Aliases: []string{"list", "ls"}, Short: "List the services with their state", Args: cobra.NoArgs,
		Example: "  mcp ps\n  mcp ps --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				all := &mcpv1.ListServicesResponse{Services: []*mcpv1.Service{}}
				for token := ""; ; {
					resp, err := mcpv1.NewServicesClient(conn).ListServices(ctx, &mcpv1.ListServicesRequest{PageSize: listPage, PageToken: token})
					if err != nil {
						return err
					}
					all.Services = append(all.Services, resp.GetServices()...)
					if token = resp.GetNextPageToken(); token == "" {
						break
					}
				}
				t := &cli.Table{Head: []string{"NAME", "STATE", ">GEN", "NODE", "IMAGE", "URL", "DETAIL"}, Empty: "No services yet. Deploy one: mcp deploy service.toml"}
				for _, s := range all.GetServices() {
					t.Row(s.GetName(), word(s.GetState(), "STATE_"), strconv.FormatInt(s.GetGeneration(), 10), s.GetNode(), images(s), urls(s), detail(s))
				}
				return v.env.EmitTable(all, t)
			})
		},
	}
}

func images(s *mcpv1.Service) string {
	var out []string
	for _, c := range s.GetComponents() {
		out = append(out, c.GetImage())
	}
	return strings.Join(out, " ")
}

func urls(s *mcpv1.Service) string {
	var out []string
	for _, r := range s.GetRoutes() {
		if r.GetUrl() != "" {
			out = append(out, r.GetUrl())
		}
	}
	return strings.Join(out, " ")
}

func detail(s *mcpv1.Service) string {
	out := s.GetPending()
	for _, c := range s.GetComponents() {
		if c.GetDetail() != "" {
			out = append(out, c.GetName()+": "+c.GetDetail())
		}
	}
	return strings.Join(out, "; ")
}

func (v *verbs) show() *cobra.Command {
	return &cobra.Command{
		Use: "show SERVICE", Short: "Show one service: components, ports, routes, certificates", Args: cobra.ExactArgs(1), Example: "  mcp show wiki",
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				resp, err := mcpv1.NewServicesClient(conn).GetService(ctx, &mcpv1.GetServiceRequest{Service: args[0]})
				if err != nil {
					return err
				}
				return v.env.Emit(resp.GetService(), func(w io.Writer) { v.printService(w, resp.GetService()) })
			})
		},
	}
}

func (v *verbs) printService(w io.Writer, s *mcpv1.Service) {
	fmt.Fprintf(w, "%s  %s  generation %d on node %s\n", s.GetName(), word(s.GetState(), "STATE_"), s.GetGeneration(), s.GetNode())
	for _, c := range s.GetComponents() {
		fmt.Fprintf(w, "component %s  %s  %s  since %s, %d restarts\n", c.GetName(), word(c.GetState(), "STATE_"), c.GetImage(),
			cli.Ago(c.GetStarted().AsTime(), v.env.Clock.Now()), c.GetRestarts())
		if c.GetDigest() != "" {
			fmt.Fprintf(w, "  digest %s\n", c.GetDigest())
		}
		if c.GetDetail() != "" {
			fmt.Fprintf(w, "  %s\n", c.GetDetail())
		}
		for _, p := range c.GetPorts() {
			fmt.Fprintf(w, "  port %s  %d -> %d (slot %s)\n", p.GetName(), p.GetDeclared(), p.GetPublished(), p.GetSlot())
		}
	}
	for _, r := range s.GetRoutes() {
		fmt.Fprintf(w, "route %s %s -> %s  %s\n", r.GetMode(), r.GetHost(), r.GetBackend(), r.GetUrl())
	}
	for _, c := range s.GetCertificates() {
		fmt.Fprintf(w, "certificate %s  ends %s\n", c.GetName(), cli.Ago(c.GetNotAfter().AsTime(), v.env.Clock.Now()))
	}
	for _, p := range s.GetPending() {
		fmt.Fprintf(w, "pending: %s\n", p)
	}
}

func (v *verbs) history() *cobra.Command {
	return &cobra.Command{
		Use: "history SERVICE", Short: "List the generations of a service, newest first", Args: cobra.ExactArgs(1), Example: "  mcp history wiki",
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				resp, err := mcpv1.NewServicesClient(conn).History(ctx, &mcpv1.HistoryRequest{Service: args[0], PageSize: listPage})
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{">GEN", "STATE", "IMAGE", "BY", "WHEN", "REASON"}, Empty: "No generation of " + args[0] + " yet."}
				for _, g := range resp.GetGenerations() {
					var refs []string
					for _, i := range g.GetImages() {
						refs = append(refs, i.GetReference())
					}
					t.Row(strconv.FormatInt(g.GetN(), 10), g.GetState(), strings.Join(refs, " "), g.GetOperator(),
						cli.Ago(g.GetCreated().AsTime(), v.env.Clock.Now()), g.GetReason())
				}
				return v.env.EmitTable(resp, t)
			})
		},
	}
}

func (v *verbs) logs() *cobra.Command {
	req := &mcpv1.LogsRequest{}
	c := &cobra.Command{
		Use: "logs SERVICE [COMPONENT]", Short: "Print what a service wrote", Args: cobra.RangeArgs(1, 2),
		Example: "  mcp logs -f wiki\n  mcp logs --tail 20 shop web",
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Service = args[0]
			if len(args) > 1 {
				req.Component = args[1]
			}
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				stream, err := mcpv1.NewRuntimeClient(conn).Logs(ctx, req)
				if err != nil {
					return err
				}
				for {
					line, err := stream.Recv()
					if errors.Is(err, io.EOF) {
						return nil
					}
					if err != nil {
						return err
					}
					if v.env.JSON {
						if err := v.env.EmitLine(line); err != nil {
							return err
						}
						continue
					}
					if _, err := fmt.Fprintf(v.env.Out, "%s %s  %s\n", line.GetTime().AsTime().Format("15:04:05.000"), line.GetComponent(), printable(line.GetLine())); err != nil {
						return err
					}
				}
			})
		},
	}
	c.Flags().BoolVarP(&req.Follow, "follow", "f", false, "go on with new lines, into the next generation too")
	c.Flags().Int32Var(&req.Tail, "tail", 100, "begin with this many lines; 0 is all")
	c.Flags().BoolVar(&req.Previous, "previous", false, "the generation before this one")
	return c
}
