package cmd

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"

	mcnsv1 "metacircular.net/mcns/api/mcns/v1"
)

func recordCommand(e *cli.Env) *cobra.Command {
	return noun("record", "List, add, set and remove records", recordList(e), recordAdd(e), recordSet(e), recordRemove(e))
}

func recordList(e *cli.Env) *cobra.Command {
	req := &mcnsv1.ListRecordsRequest{PageSize: 500}
	c := &cobra.Command{Use: "list ZONE", Aliases: []string{"ls"}, Short: "List a zone's records", Args: cobra.ExactArgs(1),
		Example: "  mcns record list lab.example\n  mcns record list lab.example --type A --owner registry:node-a"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req.Zone = args[0]
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			all := &mcnsv1.ListRecordsResponse{}
			if err := pages(func(token string) (string, error) {
				req.PageToken = token
				res, err := mcnsv1.NewRecordServiceClient(conn).ListRecords(cmd.Context(), req)
				all.Records, all.Serial = append(all.Records, res.GetRecords()...), res.GetSerial()
				return res.GetNextPageToken(), err
			}); err != nil {
				return err
			}
			t := &cli.Table{Head: []string{"NAME", "TYPE", ">TTL", "VALUE", "OWNER", "CHANGED", ">ID"}, Empty: "No records like that in " + args[0] + ".",
				Foot: fmt.Sprintf("%d records, serial %d", len(all.GetRecords()), all.GetSerial())}
			for _, r := range all.GetRecords() {
				t.Row(r.GetName(), r.GetType(), fmt.Sprint(r.GetTtl()), r.GetValue(), r.GetOwner(), ago(e, r.GetChangedAt()), r.GetId())
			}
			return e.EmitTable(all, t)
		})
	}
	c.Flags().StringVar(&req.Name, "name", "", "only this name")
	c.Flags().StringVar(&req.Type, "type", "", "only this type")
	c.Flags().StringVar(&req.Owner, "owner", "", "only this owner's")
	c.Flags().StringVar(&req.Value, "value", "", "only values that contain this")
	return c
}

func recordAdd(e *cli.Env) *cobra.Command {
	req := &mcnsv1.CreateRecordRequest{}
	c := &cobra.Command{Use: "add ZONE NAME TYPE VALUE...", Short: "Add a record", Args: cobra.MinimumNArgs(4),
		Example: "  mcns record add lab.example www A 10.0.0.3\n  mcns record add lab.example @ MX 10 mail.lab.example."}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req.Zone, req.Name, req.Type, req.Value = args[0], args[1], args[2], strings.Join(args[3:], " ")
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			res, err := mcnsv1.NewRecordServiceClient(conn).CreateRecord(cmd.Context(), req)
			if err != nil {
				return err
			}
			warn(e, res.GetWarnings())
			r := res.GetRecord()
			return say(e, res, "Added %s %s %s, serial %d.      undo: mcns record rm %s %s", r.GetName(), r.GetType(), r.GetValue(), res.GetSerial(), r.GetZone(), r.GetId())
		})
	}
	c.Flags().Uint32Var(&req.Ttl, "ttl", 0, "TTL of the set; default that of the set or the zone")
	c.Flags().StringVar(&req.Note, "note", "", "a note for people")
	c.Flags().StringVar(&req.Reason, "reason", "", "why, for the list of changes")
	return c
}

func recordSet(e *cli.Env) *cobra.Command {
	req := &mcnsv1.SetRRsetRequest{}
	c := &cobra.Command{Use: "set ZONE NAME TYPE [VALUE...]", Short: "Make your values at a name exactly these, one argument a value; none removes them", Args: cobra.MinimumNArgs(3),
		Example: "  mcns record set lab.example www A 10.0.0.3 10.0.0.4"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req.Zone, req.Name, req.Type, req.Values = args[0], args[1], args[2], args[3:]
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			res, err := mcnsv1.NewRecordServiceClient(conn).SetRRset(cmd.Context(), req)
			if err != nil {
				return err
			}
			warn(e, res.GetWarnings())
			return say(e, res, "%s %s has %d value(s), serial %d.", args[1], args[2], len(res.GetRecords()), res.GetSerial())
		})
	}
	c.Flags().Uint32Var(&req.Ttl, "ttl", 0, "TTL of the set")
	c.Flags().StringVar(&req.Reason, "reason", "", "why, for the list of changes")
	return c
}

func recordRemove(e *cli.Env) *cobra.Command {
	req := &mcnsv1.DeleteRecordRequest{}
	c := &cobra.Command{Use: "rm ZONE ID", Aliases: []string{"delete"}, Short: "Remove a record", Args: cobra.ExactArgs(2)}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req.Zone, req.Id = args[0], args[1]
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			res, err := mcnsv1.NewRecordServiceClient(conn).DeleteRecord(cmd.Context(), req)
			if err != nil {
				return err
			}
			return say(e, res, "Removed record %s, serial %d.", args[1], res.GetSerial())
		})
	}
	c.Flags().BoolVar(&req.Take, "take", false, "although it is another owner's")
	c.Flags().StringVar(&req.Reason, "reason", "", "why, for the list of changes")
	return c
}

func changesCommand(e *cli.Env) *cobra.Command {
	var limit int32
	c := &cobra.Command{Use: "changes [ZONE|ID]", Short: "List what changed, newest first; with a number, show that change", Args: cobra.MaximumNArgs(1),
		Example: "  mcns changes lab.example\n  mcns changes 17"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			client := mcnsv1.NewChangeServiceClient(conn)
			if len(args) == 1 && strings.Trim(args[0], "0123456789") == "" {
				res, err := client.GetChange(cmd.Context(), &mcnsv1.GetChangeRequest{Id: args[0]})
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) {
					ch := res.GetChange()
					_, _ = fmt.Fprintf(w, "%s  %s  by %s (%s)  %s  serial %d -> %d\n", ch.GetId(), ch.GetZone(), ch.GetActor(), ch.GetSource(), ch.GetReason(), ch.GetSerialFrom(), ch.GetSerialTo())
					for _, d := range ch.GetDiff() {
						_, _ = fmt.Fprintln(w, d)
					}
				})
			}
			req := &mcnsv1.ListChangesRequest{PageSize: limit}
			if len(args) == 1 {
				req.Zone = args[0]
			}
			res, err := client.ListChanges(cmd.Context(), req)
			if err != nil {
				return err
			}
			t := &cli.Table{Head: []string{">ID", "ZONE", ">SERIAL", "BY", "FROM", "WHEN", "WHY"}, Empty: "Nothing has changed yet."}
			for _, ch := range res.GetChanges() {
				t.Row(ch.GetId(), ch.GetZone(), fmt.Sprint(ch.GetSerialTo()), ch.GetActor(), ch.GetSource(), ago(e, ch.GetTime()), ch.GetReason())
			}
			return e.EmitTable(res, t)
		})
	}
	c.Flags().Int32Var(&limit, "limit", 50, "how many")
	return c
}
