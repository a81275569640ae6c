package command

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
)

func (v *verbs) validate() *cobra.Command {
	return &cobra.Command{
		Use: "validate [FILE]", Short: "Name every fault of a definition at once; nothing is changed",
		Example: "  mcp validate wiki.toml\n  mcp validate - < wiki.toml", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := v.source(definitionArg(args))
			if err != nil {
				return err
			}
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				resp, err := mcpv1.NewServicesClient(conn).Validate(ctx, &mcpv1.ValidateRequest{Source: src})
				if err != nil {
					return err
				}
				v.warn(resp.GetWarnings())
				if err := v.env.Emit(resp, func(w io.Writer) {
					for _, f := range resp.GetFaults() {
						fmt.Fprintln(w, faultLine(f))
					}
					if len(resp.GetFaults()) == 0 {
						fmt.Fprintf(w, "%s can be deployed (%s)\n", resp.GetService(), cli.Middle(resp.GetSpecHash()))
					}
				}); err != nil {
					return err
				}
				if len(resp.GetFaults()) > 0 {
					return cli.Exit(2)
				}
				return nil
			})
		},
	}
}

func faultLine(f *mcpv1.Fault) string {
	where := f.GetFile()
	if f.GetLine() > 0 {
		where += fmt.Sprintf(":%d", f.GetLine())
	}
	if f.GetField() != "" {
		where += ": " + f.GetField()
	}
	return where + ": " + f.GetMessage()
}

func (v *verbs) warn(faults []*mcpv1.Fault) {
	for _, f := range faults {
		v.env.Note("warning: %s", faultLine(f))
	}
}

func (v *verbs) plan() *cobra.Command {
	var code bool
	c := &cobra.Command{
		Use: "plan [FILE]", Aliases: []string{"diff"}, Short: "Say what a deployment would change, and nothing else",
		Example: "  mcp plan wiki.toml\n  mcp plan --exit-code wiki.toml   # 0 no change, 1 changes", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := v.source(definitionArg(args))
			if err != nil {
				return err
			}
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				resp, err := mcpv1.NewServicesClient(conn).Plan(ctx, &mcpv1.PlanRequest{Source: src})
				if err != nil {
					return err
				}
				v.warn(resp.GetPlan().GetWarnings())
				if err := v.env.Emit(resp.GetPlan(), func(w io.Writer) { printPlan(w, resp.GetPlan()) }); err != nil {
					return err
				}
				if (code || cmd.CalledAs() == "diff") && !resp.GetPlan().GetEmpty() {
					return cli.Exit(1)
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&code, "exit-code", false, "answer by the exit code: 0 no change, 1 changes")
	return c
}

func printPlan(w io.Writer, p *mcpv1.Plan) {
	if p.GetEmpty() {
		fmt.Fprintf(w, "%s is as the definition says; nothing to do\n", p.GetService())
		return
	}
	fmt.Fprintf(w, "%s on node %s, generation %d\n", p.GetService(), p.GetNode(), p.GetGeneration())
	sign := map[string]string{"create": "+", "update": "~", "delete": "-"}
	for _, c := range p.GetChanges() {
		fmt.Fprintf(w, "  %s %s %s\n", sign[c.GetAction()], c.GetKind(), c.GetSubject())
		for _, f := range c.GetFields() {
			fmt.Fprintf(w, "      %s\n", f)
		}
	}
	for _, i := range p.GetImages() {
		fmt.Fprintf(w, "  image of %s: %s@%s\n", i.GetComponent(), i.GetReference(), i.GetDigest())
	}
	fmt.Fprintf(w, "interruption: %s\nplan %s\n", p.GetInterruption(), p.GetId())
}

func (v *verbs) deploy() *cobra.Command {
	req := &mcpv1.DeployRequest{}
	c := &cobra.Command{
		Use: "deploy [FILE]", Short: "Deploy a definition: the new version starts, proves itself, takes over; the old one goes",
		Example: "  mcp deploy wiki.toml\n  mcp deploy --plan 3f1c… wiki.toml", Args: cobra.MaximumNArgs(1),
		Long: "Deploys a definition. Until traffic is switched any failure leaves the old version untouched.\n" +
			"Interrupting the command detaches from the operation and cancels nothing.",
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := v.source(definitionArg(args))
			if err != nil {
				return err
			}
			req.Source = src
			if req.IdempotencyKey == "" {
				req.IdempotencyKey = rand.Text()
			}
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				stream, err := mcpv1.NewServicesClient(conn).Deploy(ctx, req)
				if err != nil {
					return err
				}
				op, err := v.follow(func() (*mcpv1.OpEvent, error) {
					m, err := stream.Recv()
					if err == nil {
						v.warn(m.GetPlan().GetWarnings())
					}
					return m.GetEvent(), err
				})
				if err != nil {
					return err
				}
				if op != nil && op.GetGeneration() > 1 {
					defer v.env.Note("undo: mcp rollback %s", op.GetService())
				}
				return v.done(op, "Deployed")
			})
		},
	}
	c.Flags().StringVar(&req.PlanId, "plan", "", "apply this plan; refused (exit 3) when what it saw has moved")
	c.Flags().StringVar(&req.IdempotencyKey, "idempotency-key", "", "a repeated call with the same key joins the first one")
	c.Flags().StringVar(&req.Reason, "reason", "", "kept in the history")
	c.Flags().BoolVar(&req.Wait, "wait", false, "stay until the old version is gone, not only until the new one is live")
	return c
}

func (v *verbs) rollback() *cobra.Command {
	req := &mcpv1.RollbackRequest{}
	c := &cobra.Command{
		Use: "rollback SERVICE", Short: "Deploy the previous generation again: its exact definition and digests",
		Example: "  mcp rollback wiki\n  mcp rollback --generation 4 wiki", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Service, req.IdempotencyKey = args[0], rand.Text()
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				stream, err := mcpv1.NewServicesClient(conn).Rollback(ctx, req)
				if err != nil {
					return err
				}
				op, err := v.follow(func() (*mcpv1.OpEvent, error) { m, err := stream.Recv(); return m.GetEvent(), err })
				if err != nil {
					return err
				}
				return v.done(op, "Rolled back")
			})
		},
	}
	c.Flags().Int64Var(&req.Generation, "generation", 0, "the generation to go back to; 0 is the previous one")
	c.Flags().StringVar(&req.Reason, "reason", "", "kept in the history")
	c.Flags().BoolVar(&req.Wait, "wait", false, "stay until the replaced version is gone")
	return c
}

func (v *verbs) undeploy() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "undeploy SERVICE", Short: "Remove a service and what it owns: containers, route, name, certificate, ports",
		Example: "  mcp undeploy wiki\n  mcp undeploy --delete-data=wiki wiki", Args: cobra.ExactArgs(1),
		Long: "Removes a service and everything it owns. Its data stays, and is named, unless --delete-data repeats the service's name.",
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if data != "" && data != name {
				return fault.New(fault.Invalid, "--delete-data=%s does not repeat the name %s; nothing was removed", data, name)
			}
			what := "This removes " + name + " with its route, name and certificate; its data stays"
			if data != "" {
				what = "This removes " + name + " and all its data, for good"
			}
			if err := v.env.Confirm(what); err != nil {
				return err
			}
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				stream, err := mcpv1.NewServicesClient(conn).Undeploy(ctx, &mcpv1.UndeployRequest{Service: name, IdempotencyKey: rand.Text(), DeleteData: data})
				if err != nil {
					return err
				}
				var kept []string
				op, err := v.follow(func() (*mcpv1.OpEvent, error) {
					m, err := stream.Recv()
					kept = append(kept, m.GetKept()...)
					return m.GetEvent(), err
				})
				if err != nil {
					return err
				}
				if len(kept) > 0 {
					v.env.Note("kept: %s", strings.Join(kept, ", "))
				}
				return v.done(op, "Removed")
			})
		},
	}
	c.Flags().StringVar(&data, "delete-data", "", "remove the volumes too; repeat the service's name")
	return c
}
