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

func grantCommand(e *cli.Env) *cobra.Command {
	return noun("grant", "List, add, remove and test grants", grantList(e), grantAdd(e), grantRemove(e), grantTest(e))
}

func grantList(e *cli.Env) *cobra.Command {
	req := &mcnsv1.ListGrantsRequest{PageSize: 500}
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the grants", Args: cobra.NoArgs}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			all := &mcnsv1.ListGrantsResponse{}
			if err := pages(func(token string) (string, error) {
				req.PageToken = token
				res, err := mcnsv1.NewAccessServiceClient(conn).ListGrants(cmd.Context(), req)
				all.Grants = append(all.Grants, res.GetGrants()...)
				return res.GetNextPageToken(), err
			}); err != nil {
				return err
			}
			t := &cli.Table{Head: []string{">ID", "WHO", "ZONE", "NAMES", "TYPES", "MAY"}, Empty: "No grants yet: only administrators may do something. Add one: mcns grant add account:NAME ZONE '*' sync"}
			for _, g := range all.GetGrants() {
				types := strings.Join(g.GetTypes(), ",")
				if types == "" {
					types = "all"
				}
				t.Row(g.GetId(), g.GetPrincipal(), g.GetZone(), g.GetNameGlob(), types, strings.Join(g.GetOps(), ","))
			}
			return e.EmitTable(all, t)
		})
	}
	c.Flags().StringVar(&req.Principal, "who", "", "only those of account:NAME or user:NAME")
	c.Flags().StringVar(&req.Zone, "zone", "", "only those in this zone")
	return c
}

func grantAdd(e *cli.Env) *cobra.Command {
	var types []string
	c := &cobra.Command{Use: "add WHO ZONE NAMES OP...", Short: "Let somebody do something", Args: cobra.MinimumNArgs(4),
		Example: "  mcns grant add account:node-a lab.example '*' sync\n  mcns grant add user:alice lab.example 'home.**' read create update delete --type A,AAAA"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			res, err := mcnsv1.NewAccessServiceClient(conn).CreateGrant(cmd.Context(), &mcnsv1.CreateGrantRequest{Grant: &mcnsv1.Grant{
				Principal: args[0], Zone: args[1], NameGlob: args[2], Ops: args[3:], Types: types}})
			if err != nil {
				return err
			}
			if !res.GetCreated() {
				return say(e, res, "That grant is there already (%s); nothing to do.", res.GetGrant().GetId())
			}
			return say(e, res, "Added grant %s.      undo: mcns grant rm %s", res.GetGrant().GetId(), res.GetGrant().GetId())
		})
	}
	c.Flags().StringSliceVar(&types, "type", nil, "only these record types")
	return c
}

func grantRemove(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "rm ID", Aliases: []string{"delete"}, Short: "Remove a grant", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			res, err := mcnsv1.NewAccessServiceClient(conn).DeleteGrant(cmd.Context(), &mcnsv1.DeleteGrantRequest{Id: args[0]})
			if err != nil {
				return err
			}
			return say(e, res, "Removed grant %s.", args[0])
		})
	}}
}

func grantTest(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "test WHO OP ZONE NAME [TYPE]", Short: "Say whether somebody may, and which grant decides", Args: cobra.RangeArgs(4, 5),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &mcnsv1.TestGrantRequest{Principal: args[0], Op: args[1], Zone: args[2], Name: args[3]}
			if len(args) == 5 {
				req.Type = args[4]
			}
			return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := mcnsv1.NewAccessServiceClient(conn).TestGrant(cmd.Context(), req)
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) {
					word := "denied"
					if res.GetAllowed() {
						word = "allowed"
					}
					_, _ = fmt.Fprintf(w, "%s: %s\n", word, res.GetWhy())
				})
			})
		}}
}

func servicesCommand(e *cli.Env) *cobra.Command {
	req := &mcnsv1.ListInstancesRequest{PageSize: 500}
	c := &cobra.Command{Use: "services", Short: "List the registered instances", Args: cobra.NoArgs}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return dial(cmd.Context(), e, func(conn *grpc.ClientConn) error {
			all := &mcnsv1.ListInstancesResponse{}
			if err := pages(func(token string) (string, error) {
				req.PageToken = token
				res, err := mcnsv1.NewRegistryServiceClient(conn).ListInstances(cmd.Context(), req)
				all.Leases = append(all.Leases, res.GetLeases()...)
				return res.GetNextPageToken(), err
			}); err != nil {
				return err
			}
			t := &cli.Table{Head: []string{"SERVICE", "INSTANCE", "NODE", "STATE", "OWNER", "RENEWED UNTIL"}, Empty: "No service is registered."}
			for _, l := range all.GetLeases() {
				in := l.GetInstance()
				t.Row(in.GetService(), in.GetInstance(), in.GetNode(), l.GetState(), l.GetOwner(), l.GetExpiresAt().AsTime().Format("15:04:05"))
			}
			return e.EmitTable(all, t)
		})
	}
	c.Flags().StringVar(&req.Zone, "zone", "", "only of this zone")
	c.Flags().StringVar(&req.Service, "service", "", "only of this service")
	c.Flags().StringVar(&req.Owner, "owner", "", "only of this owner")
	return c
}
