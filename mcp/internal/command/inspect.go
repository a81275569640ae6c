package command

import (
	"context"
	"io"
	"strconv"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
)

func (v *verbs) op() *cobra.Command {
	c := &cobra.Command{Use: "op", Short: "Look at operations and end them"}
	list := &cobra.Command{
		Use: "list [SERVICE]", Aliases: []string{"ls"}, Short: "List operations, newest first", Args: cobra.MaximumNArgs(1), Example: "  mcp op list wiki",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &mcpv1.ListOpsRequest{PageSize: listPage}
			if len(args) > 0 {
				req.Service = args[0]
			}
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				resp, err := mcpv1.NewOpsClient(conn).ListOps(ctx, req)
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{"ID", "KIND", "SERVICE", "STATE", "STEP", "BY", "STARTED"}, Empty: "No operations yet."}
				for _, op := range resp.GetOps() {
					opRow(t, op, func(op *mcpv1.Op) string { return cli.Ago(op.GetStarted().AsTime(), v.env.Clock.Now()) })
				}
				return v.env.EmitTable(resp, t)
			})
		},
	}
	watch := &cobra.Command{
		Use: "watch ID", Short: "Follow an operation to its end", Args: cobra.ExactArgs(1), Example: "  mcp op watch 01J9Z…",
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				s, err := mcpv1.NewOpsClient(conn).WatchOp(ctx, &mcpv1.WatchOpRequest{Id: args[0]})
				if err != nil {
					return err
				}
				op, err := v.follow(func() (*mcpv1.OpEvent, error) { m, err := s.Recv(); return m.GetEvent(), err })
				if err != nil {
					return err
				}
				return v.done(op, "Ended")
			})
		},
	}
	cancel := &cobra.Command{
		Use: "cancel ID", Short: "Undo an operation that has not switched traffic yet", Args: cobra.ExactArgs(1), Example: "  mcp op cancel 01J9Z…",
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				resp, err := mcpv1.NewOpsClient(conn).CancelOp(ctx, &mcpv1.CancelOpRequest{Id: args[0]})
				if err != nil {
					return err
				}
				return v.env.Emit(resp.GetOp(), func(io.Writer) { v.env.Note("operation %s is %s", args[0], word(resp.GetOp().GetState(), "OP_STATE_")) })
			})
		},
	}
	c.AddCommand(list, watch, cancel)
	return c
}

func (v *verbs) event() *cobra.Command {
	c := &cobra.Command{Use: "event", Short: "What happened, in order"}
	req := &mcpv1.ListEventsRequest{PageSize: listPage}
	list := &cobra.Command{
		Use: "list [SERVICE]", Aliases: []string{"ls"}, Short: "List events, newest first", Args: cobra.MaximumNArgs(1), Example: "  mcp event list wiki",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				req.Service = args[0]
			}
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				resp, err := mcpv1.NewEventsClient(conn).ListEvents(ctx, req)
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{">NO", "WHEN", "SERVICE", "KIND", "DETAIL"}, Empty: "Nothing has happened yet."}
				for _, ev := range resp.GetEvents() {
					t.Row(strconv.FormatInt(ev.GetSeq(), 10), cli.Ago(ev.GetTime().AsTime(), v.env.Clock.Now()), ev.GetService(), ev.GetKind(), ev.GetDetail())
				}
				return v.env.EmitTable(resp, t)
			})
		},
	}
	c.AddCommand(list)
	return c
}

func (v *verbs) node() *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "The machines of the platform"}
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the nodes", Args: cobra.NoArgs, Example: "  mcp node list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				resp, err := mcpv1.NewNodesClient(conn).ListNodes(ctx, &mcpv1.ListNodesRequest{PageSize: listPage})
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{"NAME", "STATE", ">SERVICES", "VERSION", "SEEN"}, Empty: "No nodes yet."}
				for _, n := range resp.GetNodes() {
					t.Row(n.GetName(), n.GetState(), strconv.Itoa(int(n.GetServices())), n.GetVersion(), cli.Ago(n.GetLastSeen().AsTime(), v.env.Clock.Now()))
				}
				return v.env.EmitTable(resp, t)
			})
		},
	}
	c.AddCommand(list)
	return c
}

func (v *verbs) doctor() *cobra.Command {
	return &cobra.Command{
		Use: "check [SERVICE]", Short: "Follow every route from name to health and check the node", Args: cobra.MaximumNArgs(1),
		Example: "  mcp check\n  mcp check wiki",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &mcpv1.DoctorRequest{}
			if len(args) > 0 {
				req.Service = args[0]
			}
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				resp, err := mcpv1.NewInsightClient(conn).Doctor(ctx, req)
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{"LEVEL", "CHECK", "ON", "DETAIL", "NEXT"}}
				bad := 0
				for _, f := range resp.GetFindings() {
					if f.GetLevel() != "ok" {
						bad++
					}
					t.Row(f.GetLevel(), f.GetCode(), f.GetSubject(), f.GetDetail(), f.GetNext())
				}
				if err := v.env.EmitTable(resp, t); err != nil {
					return err
				}
				if bad > 0 {
					return cli.Exit(1)
				}
				return nil
			})
		},
	}
}
