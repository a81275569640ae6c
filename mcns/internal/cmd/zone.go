package cmd

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"

	mcnsv1 "metacircular.net/mcns/api/mcns/v1"
)

func zoneCommand(e *cli.Env) *cobra.Command {
	return noun("zone", "List, make, change, check, import and export zones", zoneList(e), zoneShow(e), zoneCreate(e), zoneEdit(e), zoneDelete(e),
		zoneCheck(e), zoneImport(e), zoneExport(e))
}

func zoneList(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the zones", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			all := &mcnsv1.ListZonesResponse{}
			if err := pages(func(token string) (string, error) {
				res, err := mcnsv1.NewZoneServiceClient(conn).ListZones(cmd.Context(), &mcnsv1.ListZonesRequest{PageSize: 500, PageToken: token})
				all.Zones = append(all.Zones, res.GetZones()...)
				return res.GetNextPageToken(), err
			}); err != nil {
				return err
			}
			t := &cli.Table{Head: []string{"ZONE", ">SERIAL", ">RECORDS", "CHANGED"},
				Empty: "No zones yet. A zone lets your services be found by name: mcns zone create lab.example"}
			for _, z := range all.GetZones() {
				t.Row(z.GetName(), fmt.Sprint(z.GetSerial()), fmt.Sprint(z.GetRecords()), ago(e, z.GetChangedAt()))
			}
			return e.EmitTable(all, t)
		})
	}}
}

func zoneShow(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "show ZONE", Short: "Show a zone's values", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			res, err := mcnsv1.NewZoneServiceClient(conn).GetZone(cmd.Context(), &mcnsv1.GetZoneRequest{Zone: args[0]})
			if err != nil {
				return err
			}
			return e.Emit(res, func(w io.Writer) {
				z := res.GetZone()
				_, _ = fmt.Fprintf(w, "zone     %s\nserial   %d\nrecords  %d\nprimary  %s\nmailbox  %s\nrefresh  %d\nretry    %d\nexpire   %d\nminimum  %d\nttl      %d\nchanged  %s\n",
					z.GetName(), z.GetSerial(), z.GetRecords(), z.GetMname(), z.GetRname(), z.GetRefresh(), z.GetRetry(), z.GetExpire(), z.GetMinimum(), z.GetDefaultTtl(), ago(e, z.GetChangedAt()))
			})
		})
	}}
}

func zoneCreate(e *cli.Env) *cobra.Command {
	req := &mcnsv1.CreateZoneRequest{}
	c := &cobra.Command{Use: "create ZONE", Short: "Make a zone", Args: cobra.ExactArgs(1),
		Example: "  mcns zone create lab.example\n  mcns zone create lab.example --ns ns1.lab.example --address 10.0.0.2"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req.Name = args[0]
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			res, err := mcnsv1.NewZoneServiceClient(conn).CreateZone(cmd.Context(), req)
			if err != nil {
				return err
			}
			warn(e, res.GetWarnings())
			if !res.GetCreated() {
				return say(e, res, "Zone %s is there already; nothing to do.", res.GetZone().GetName())
			}
			return say(e, res, "Made zone %s, serial %d.", res.GetZone().GetName(), res.GetZone().GetSerial())
		})
	}
	c.Flags().StringSliceVar(&req.NameServers, "ns", nil, "name servers; default mcns.<platform domain>")
	c.Flags().StringSliceVar(&req.Addresses, "address", nil, "addresses of the name servers inside the zone")
	c.Flags().StringVar(&req.Rname, "mailbox", "", "responsible person; default hostmaster.<zone>")
	c.Flags().Uint32Var(&req.DefaultTtl, "ttl", 0, "default TTL; default 300")
	c.Flags().StringVar(&req.Reason, "reason", "", "why, for the list of changes")
	c.Flags().BoolVar(&req.ExistsOk, "exists-ok", false, "an existing zone is no error")
	return c
}

func zoneEdit(e *cli.Env) *cobra.Command {
	var mname, rname, reason string
	var minimum, ttl, serial uint32
	c := &cobra.Command{Use: "edit ZONE", Short: "Change a zone's SOA values and default TTL", Args: cobra.ExactArgs(1), Example: "  mcns zone edit lab.example --ttl 600"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req := &mcnsv1.UpdateZoneRequest{Zone: args[0], Reason: reason}
		set := cmd.Flags().Changed
		if set("primary") {
			req.Mname = &mname
		}
		if set("mailbox") {
			req.Rname = &rname
		}
		if set("minimum") {
			req.Minimum = &minimum
		}
		if set("ttl") {
			req.DefaultTtl = &ttl
		}
		if set("serial") {
			req.ExpectedSerial = &serial
		}
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			res, err := mcnsv1.NewZoneServiceClient(conn).UpdateZone(cmd.Context(), req)
			if err != nil {
				return err
			}
			return say(e, res, "Zone %s is at serial %d.", res.GetZone().GetName(), res.GetZone().GetSerial())
		})
	}
	c.Flags().StringVar(&mname, "primary", "", "primary name server")
	c.Flags().StringVar(&rname, "mailbox", "", "responsible person")
	c.Flags().Uint32Var(&minimum, "minimum", 0, "TTL of negative answers")
	c.Flags().Uint32Var(&ttl, "ttl", 0, "default TTL")
	c.Flags().Uint32Var(&serial, "serial", 0, "only if the zone is at this serial")
	c.Flags().StringVar(&reason, "reason", "", "why, for the list of changes")
	return c
}

func zoneDelete(e *cli.Env) *cobra.Command {
	var confirm, reason string
	c := &cobra.Command{Use: "delete ZONE --confirm ZONE", Aliases: []string{"rm"}, Short: "Delete a zone with all its records", Args: cobra.ExactArgs(1)}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		again := confirm
		if again == "" {
			var err error
			if again, err = e.Ask("--confirm", "All records of "+args[0]+" will be gone. Type the zone's name"); err != nil {
				return err
			}
		}
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			res, err := mcnsv1.NewZoneServiceClient(conn).DeleteZone(cmd.Context(), &mcnsv1.DeleteZoneRequest{Zone: args[0], Confirm: again, Reason: reason})
			if err != nil {
				return err
			}
			return say(e, res, "Deleted zone %s with %d records.", args[0], res.GetRecords())
		})
	}
	c.Flags().StringVar(&confirm, "confirm", "", "the zone's name again")
	c.Flags().StringVar(&reason, "reason", "", "why, for the list of changes")
	return c
}

func zoneCheck(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "check ZONE", Short: "Show what is legal but looks wrong", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			res, err := mcnsv1.NewZoneServiceClient(conn).CheckZone(cmd.Context(), &mcnsv1.CheckZoneRequest{Zone: args[0]})
			if err != nil {
				return err
			}
			t := &cli.Table{Head: []string{"NAME", "TYPE", "WHAT"}, Empty: "Nothing looks wrong."}
			for _, w := range res.GetWarnings() {
				t.Row(w.GetName(), w.GetType(), w.GetText())
			}
			return e.EmitTable(res, t)
		})
	}}
}

func zoneImport(e *cli.Env) *cobra.Command {
	var dry bool
	var reason string
	c := &cobra.Command{Use: "import ZONE FILE", Short: "Replace the operator's records by those of a zone file (- = stdin)", Args: cobra.ExactArgs(2),
		Example: "  mcns zone import lab.example lab.zone --dry-run"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		in := e.In
		if args[1] != "-" {
			f, err := os.Open(args[1])
			if err != nil {
				return fmt.Errorf("import: %w", err)
			}
			defer func() { _ = f.Close() }()
			in = f
		}
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			stream, err := mcnsv1.NewZoneServiceClient(conn).ImportZone(cmd.Context())
			if err != nil {
				return err
			}
			buf := make([]byte, 64<<10)
			msg := &mcnsv1.ImportZoneRequest{Zone: args[0], DryRun: dry, Reason: reason}
			for {
				n, rerr := in.Read(buf)
				msg.Text = buf[:n]
				if err := stream.Send(msg); err != nil {
					break // the answer says why
				}
				msg = &mcnsv1.ImportZoneRequest{}
				if errors.Is(rerr, io.EOF) {
					break
				}
				if rerr != nil {
					return fmt.Errorf("import: %w", rerr)
				}
			}
			res, err := stream.CloseAndRecv()
			if err != nil {
				return err
			}
			warn(e, res.GetWarnings())
			return e.Emit(res, func(w io.Writer) {
				for _, d := range res.GetDiff() {
					_, _ = fmt.Fprintln(w, d)
				}
				verb := "Imported"
				if dry {
					verb = "Would import"
				}
				_, _ = fmt.Fprintf(w, "%s: %d added, %d removed, serial %d.\n", verb, res.GetAdded(), res.GetRemoved(), res.GetZone().GetSerial())
			})
		})
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "show the difference and change nothing")
	c.Flags().StringVar(&reason, "reason", "", "why, for the list of changes")
	return c
}

func zoneExport(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "export ZONE", Short: "Write a zone as a zone file", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			stream, err := mcnsv1.NewZoneServiceClient(conn).ExportZone(cmd.Context(), &mcnsv1.ExportZoneRequest{Zone: args[0]})
			if err != nil {
				return err
			}
			for {
				m, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				if _, err := e.Out.Write(m.GetText()); err != nil {
					return fmt.Errorf("export: %w", err)
				}
			}
		})
	}}
}
