package command

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
)

func policyCommand(e *cli.Env) *cobra.Command {
	return group("policy", "Who may do what", policyPut(e), policyList(e), policyShow(e), policyDelete(e), policyExplain(e))
}

func policyPut(e *cli.Env) *cobra.Command {
	rule := &metacryptv1.Rule{}
	var file string
	c := &cobra.Command{Use: "put [ID]", Short: "Make or replace a rule", Args: cobra.MaximumNArgs(1),
		Long: "Make or replace a rule, from flags or as JSON with --file. An empty list means any; the lowest priority that matches decides; deny beats allow at equal priority.",
		Example: "  metacrypt policy put node-a-apps --user mcp-agent-a --action issue --resource 'pki/pki/*' --name '*.mc.localhost' --name a.node.mc.localhost\n" +
			"  metacrypt policy put --file rule.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				b, err := readFile(file)
				if err != nil {
					return err
				}
				if err := protojson.Unmarshal(b, rule); err != nil {
					return fault.New(fault.Invalid, "%s is no rule", file).Wrap(err).WithNext("metacrypt policy list --json shows the form")
				}
			}
			if len(args) == 1 {
				rule.Id = args[0]
			}
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewPolicyClient(conn).Put(cmd.Context(), &metacryptv1.PolicyPutRequest{Rule: rule})
				if err != nil {
					return err
				}
				return e.Emit(res.GetRule(), func(w io.Writer) { _, _ = fmt.Fprintf(w, "Rule %s is in force.\n", res.GetRule().GetId()) })
			})
		}}
	f := c.Flags()
	f.StringVar(&file, "file", "", "file with the rule as JSON")
	f.Int32Var(&rule.Priority, "priority", 100, "lower decides first")
	f.StringVar(&rule.Effect, "effect", "allow", "allow or deny")
	f.StringSliceVar(&rule.Usernames, "user", nil, "accounts")
	f.StringSliceVar(&rule.Roles, "role", nil, "roles")
	f.StringSliceVar(&rule.Tags, "tag", nil, "tags of accounts")
	f.StringSliceVar(&rule.Resources, "resource", nil, "globs over type/mount/path; ** is any number of segments")
	f.StringSliceVar(&rule.Actions, "action", nil, "read, list, write, delete, issue, …, any")
	f.StringSliceVar(&rule.Identifiers, "name", nil, "names in certificates: x, *.x, **.x, wildcard:*.x, address or network")
	return c
}

func policyList(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the rules in the order in which they decide", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				all := &metacryptv1.PolicyListResponse{Rules: []*metacryptv1.Rule{}}
				for token := ""; ; {
					res, err := metacryptv1.NewPolicyClient(conn).List(cmd.Context(), &metacryptv1.PolicyListRequest{PageSize: 500, PageToken: token})
					if err != nil {
						return err
					}
					all.Rules = append(all.Rules, res.GetRules()...)
					if token = res.GetNextPageToken(); token == "" {
						break
					}
				}
				t := &cli.Table{Head: []string{"RULE", ">PRIORITY", "EFFECT", "WHO", "MAY", "ON", "NAMES"}, Empty: "No rules: only admins may do anything. next: metacrypt policy put --help"}
				for _, r := range all.GetRules() {
					who := append([]string(nil), r.GetUsernames()...)
					for _, x := range r.GetRoles() {
						who = append(who, "role:"+x)
					}
					for _, x := range r.GetTags() {
						who = append(who, "tag:"+x)
					}
					t.Row(r.GetId(), strconv.Itoa(int(r.GetPriority())), r.GetEffect(), strings.Join(who, " "), strings.Join(r.GetActions(), " "),
						strings.Join(r.GetResources(), " "), strings.Join(r.GetIdentifiers(), " "))
				}
				return e.EmitTable(all, t)
			})
		}}
}

func policyShow(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "show ID", Short: "Print a rule", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewPolicyClient(conn).Get(cmd.Context(), &metacryptv1.PolicyGetRequest{Id: args[0]})
				if err != nil {
					return err
				}
				return e.Emit(res.GetRule(), func(w io.Writer) {
					b, _ := json.MarshalIndent(res.GetRule(), "", "  ") // strings and numbers only
					_, _ = fmt.Fprintf(w, "%s\n", b)
				})
			})
		}}
}

func policyDelete(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "delete ID", Aliases: []string{"rm"}, Short: "Delete a rule", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := e.Confirm("Rule " + args[0] + " is deleted"); err != nil {
				return err
			}
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewPolicyClient(conn).Delete(cmd.Context(), &metacryptv1.PolicyDeleteRequest{Id: args[0]})
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintf(w, "Deleted rule %s.\n", args[0]) })
			})
		}}
}

func policyExplain(e *cli.Env) *cobra.Command {
	req := &metacryptv1.PolicyExplainRequest{}
	c := &cobra.Command{Use: "explain ACTION RESOURCE", Short: "Say what would be decided and why; exit 0 allowed, 1 not", Args: cobra.ExactArgs(2),
		Example: "  metacrypt policy explain --user mcp-agent-a --name blog.mc.localhost issue pki/pki/server",
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Action, req.Resource = args[0], args[1]
			var allow bool
			err := with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewPolicyClient(conn).Explain(cmd.Context(), req)
				if err != nil {
					return err
				}
				allow = res.GetAllow()
				return e.Emit(res, func(w io.Writer) {
					word := "no"
					if allow {
						word = "yes"
					}
					_, _ = fmt.Fprintf(w, "%s: %s\n", word, res.GetWhy())
					for _, n := range res.GetNear() {
						_, _ = fmt.Fprintf(w, "  rule %s (priority %d) does not match: %s\n", n.GetRule(), n.GetPriority(), n.GetField())
					}
				})
			})
			if err == nil && !allow {
				return cli.Exit(1)
			}
			return err
		}}
	f := c.Flags()
	f.StringVar(&req.Username, "user", "", "somebody else; needs the admin role")
	f.StringSliceVar(&req.Roles, "role", nil, "his roles")
	f.StringSliceVar(&req.Tags, "tag", nil, "his tags")
	f.StringSliceVar(&req.Identifiers, "name", nil, "names in the certificate")
	return c
}
