package command

import (
	"context"
	"crypto/rand"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	mcpv1 "metacircular.net/mcp/api/mcp/v1"
)

// opener starts one lifecycle operation and returns how to read its events.
type opener func(ctx context.Context, conn *grpc.ClientConn, service string) (func() (*mcpv1.OpEvent, error), error)

func (v *verbs) lifecycle(verb, short string, open opener) *cobra.Command {
	return &cobra.Command{
		Use: verb + " SERVICE", Short: short, Example: "  mcp " + verb + " wiki", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.with(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				next, err := open(ctx, conn, args[0])
				if err != nil {
					return err
				}
				op, err := v.follow(next)
				if err != nil {
					return err
				}
				past := map[string]string{"start": "started", "stop": "stopped", "restart": "restarted"}[verb]
				return v.done(op, strings.ToUpper(past[:1])+past[1:])
			})
		},
	}
}

func (v *verbs) start(ctx context.Context, conn *grpc.ClientConn, service string) (func() (*mcpv1.OpEvent, error), error) {
	s, err := mcpv1.NewServicesClient(conn).Start(ctx, &mcpv1.StartRequest{Service: service, IdempotencyKey: rand.Text()})
	return func() (*mcpv1.OpEvent, error) { m, err := s.Recv(); return m.GetEvent(), err }, err
}

func (v *verbs) stop(ctx context.Context, conn *grpc.ClientConn, service string) (func() (*mcpv1.OpEvent, error), error) {
	s, err := mcpv1.NewServicesClient(conn).Stop(ctx, &mcpv1.StopRequest{Service: service, IdempotencyKey: rand.Text()})
	return func() (*mcpv1.OpEvent, error) { m, err := s.Recv(); return m.GetEvent(), err }, err
}

func (v *verbs) restart(ctx context.Context, conn *grpc.ClientConn, service string) (func() (*mcpv1.OpEvent, error), error) {
	s, err := mcpv1.NewServicesClient(conn).Restart(ctx, &mcpv1.RestartRequest{Service: service, IdempotencyKey: rand.Text()})
	return func() (*mcpv1.OpEvent, error) { m, err := s.Recv(); return m.GetEvent(), err }, err
}
