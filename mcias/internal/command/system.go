package command

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"
)

func (c *commands) audit() *cobra.Command {
	r := &mciasv1.AuditListRequest{}
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List audit records, newest first", Args: cobra.NoArgs,
		Example: "  mcias audit list --action login.denied\n  mcias audit list --actor alice --limit 200",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewAuditClient(conn).List(cmd.Context(), r)
				if err != nil {
					return err
				}
				t := newTable(">SEQ", "WHEN", "ACTOR", "ACTION", "TARGET", "OUTCOME", "FROM")
				for _, a := range res.GetRecords() {
					t.Row(fmt.Sprint(a.GetSeq()), c.ago(a.GetTime()), a.GetActor(), a.GetAction(), a.GetTarget(), a.GetOutcome(), dash(a.GetIp()))
				}
				t.Empty = "No records."
				return c.EmitTable(res, t)
			})
		}}
	f := list.Flags()
	f.StringVar(&r.Actor, "actor", "", "who")
	f.StringVar(&r.Action, "action", "", "what, e.g. session.open")
	f.StringVar(&r.Target, "target", "", "on what")
	f.Int32Var(&r.PageSize, "limit", 50, "at most so many, up to 500")
	verify := &cobra.Command{Use: "verify", Short: "Recompute the hash chain", Args: cobra.NoArgs,
		Long: "Recompute the hash chain.\n\nExit codes: 0 intact, 1 a record does not fit.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewAuditClient(conn).Verify(cmd.Context(), &mciasv1.AuditVerifyRequest{})
				if err != nil {
					return err
				}
				err = c.Emit(res, func(w io.Writer) {
					if res.GetOk() {
						_, _ = fmt.Fprintf(w, "intact: %d records, newest %d, %s\n", res.GetRecords(), res.GetLastSeq(), res.GetLastHash())
					} else {
						_, _ = fmt.Fprintf(w, "record %d: %s\n", res.GetBadSeq(), res.GetWhy())
					}
				})
				if err == nil && !res.GetOk() {
					return cli.Exit(1)
				}
				return err
			})
		}}
	return group("audit", "The hash-chained record of what was done", list, verify)
}

func (c *commands) key() *cobra.Command {
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List MCIAS's signing keys", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewKeyClient(conn).List(cmd.Context(), &mciasv1.KeyListRequest{})
				if err != nil {
					return err
				}
				t := newTable("KID", "USE", "ALG", "STATE", "SINCE", "RETIRES")
				for _, k := range res.GetKeys() {
					t.Row(k.GetKid(), k.GetUse(), k.GetAlg(), k.GetState(), c.ago(k.GetNotBefore()), dash(until(k.GetRetireAt())))
				}
				return c.EmitTable(res, t)
			})
		}}
	rotate := &cobra.Command{Use: "rotate platform|oidc", Short: "Make a new active key; the old one verifies until its last token has ended", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewKeyClient(conn).Rotate(cmd.Context(), &mciasv1.KeyRotateRequest{Use: args[0]})
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) {
					_, _ = fmt.Fprintf(w, "%s signs now; %s verifies until %s.\n", res.GetActive().GetKid(), res.GetRetiring().GetKid(), until(res.GetRetiring().GetRetireAt()))
				})
			})
		}}
	compromise := &cobra.Command{Use: "compromise KID", Short: "Remove a key everywhere at once and make a new one", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.Confirm("Every token signed by " + args[0] + " dies now"); err != nil {
				return err
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewKeyClient(conn).Compromise(cmd.Context(), &mciasv1.KeyCompromiseRequest{Kid: args[0]})
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) {
					_, _ = fmt.Fprintf(w, "Key %s is dead.\n", args[0])
					if n := res.GetNote(); n != "" {
						_, _ = fmt.Fprintln(w, n)
					}
				})
			})
		}}
	return group("key", "MCIAS's own signing keys", list, rotate, compromise)
}
