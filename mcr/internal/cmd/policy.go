package cmd

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	mcrv1 "metacircular.net/mcr/api/mcr/v1"
)

func policyCommand(e *cli.Env) *cobra.Command {
	return noun("policy", "Say who may pull, push, tag, delete and administer", policyList(e), policyPut(e), policyDelete(e), policyExplain(e))
}

func policyList(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the rules: built-in, of the configuration, of the database", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mcrv1.NewPolicyServiceClient(conn).ListRules(cmd.Context(), &mcrv1.PolicyListRulesRequest{})
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{"NAME", "EFFECT", "WHO", "MAY", "WHERE", "TAGS", "OWNER"}, Foot: "What none allows is denied; a deny wins."}
				for _, r := range res.Rules {
					t.Row(r.Name, r.Effect, strings.Join(r.Subjects, " "), strings.Join(r.Actions, " "), strings.Join(r.Repositories, " "), strings.Join(r.Tags, " "), r.Owner)
				}
				return e.EmitTable(res, t)
			})
		}}
}

func policyPut(e *cli.Env) *cobra.Command {
	r := &mcrv1.Rule{}
	var deny bool
	var until string
	c := &cobra.Command{Use: "put NAME", Aliases: []string{"add"}, Short: "Make or replace a rule", Args: cobra.ExactArgs(1),
		Example: "  mcr policy put team --who user:bob --may pull,push,tag --where 'team/**'\n  mcr policy put freeze --deny --who any --may push,tag --where 'prod/**'"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		r.Name, r.Effect = args[0], "allow"
		if deny {
			r.Effect = "deny"
		}
		if until != "" {
			t, err := time.Parse(time.RFC3339, until)
			if err != nil {
				return fault.Field1("until", "%q is no time as 2026-12-31T00:00:00Z", until)
			}
			r.NotAfter = timestamppb.New(t)
		}
		return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
			res, err := mcrv1.NewPolicyServiceClient(conn).PutRule(cmd.Context(), &mcrv1.PolicyPutRuleRequest{Rule: r})
			if err != nil {
				return err
			}
			return e.Emit(res, func(w io.Writer) {
				verb := "Replaced"
				if res.Created {
					verb = "Made"
				}
				_, _ = fmt.Fprintf(w, "%s rule %s; it holds from the next request on.\n", verb, args[0])
			})
		})
	}
	f := c.Flags()
	f.StringSliceVar(&r.Subjects, "who", nil, "user:NAME, system:NAME, role:ROLE or any")
	f.StringSliceVar(&r.Actions, "may", nil, "pull, push, tag, delete, pin, admin")
	f.StringSliceVar(&r.Repositories, "where", nil, "repository globs: * within a segment, ** across, {user} = their own name")
	f.StringSliceVar(&r.Tags, "tags", nil, "tag globs that bind tag, and delete of a tag")
	f.BoolVar(&deny, "deny", false, "deny instead of allow")
	f.StringVar(&until, "until", "", "end of the rule, RFC 3339")
	f.StringVar(&r.Comment, "comment", "", "why it is there")
	return c
}

func policyDelete(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "delete NAME", Aliases: []string{"rm", "remove"}, Short: "Delete a rule of the database", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
				if err := e.Confirm("This deletes rule " + args[0]); err != nil {
					return err
				}
				res, err := mcrv1.NewPolicyServiceClient(conn).DeleteRule(cmd.Context(), &mcrv1.PolicyDeleteRuleRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintf(w, "Deleted rule %s.\n", args[0]) })
			})
		}}
}

func policyExplain(e *cli.Env) *cobra.Command {
	var as, kindOf, tag string
	var roles []string
	c := &cobra.Command{Use: "explain ACTION REPO", Short: "Say whether something is allowed, by which rule, and why the others did not match", Args: cobra.ExactArgs(2),
		Long:    "Say whether something is allowed, by which rule, and why the others did not match.\n\nExit codes: 0 allowed, 1 denied.",
		Example: "  mcr policy explain push team/blog\n  mcr policy explain --as bob --role user pull team/blog"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req := &mcrv1.PolicyExplainRequest{Action: args[0], Repository: args[1], Tag: tag}
		if as != "" {
			req.Subject = &mcrv1.Subject{Name: as, Kind: kindOf, Roles: roles}
		}
		return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
			res, err := mcrv1.NewPolicyServiceClient(conn).Explain(cmd.Context(), req)
			if err != nil {
				return err
			}
			err = e.Emit(res, func(w io.Writer) {
				word := "denied"
				if res.Allowed {
					word = "allowed"
				}
				_, _ = fmt.Fprintf(w, "%s: %s\n", word, res.Why)
				for _, v := range res.Rules {
					said := "matches"
					if !v.Matched {
						said = "no: " + v.FailedOn
					}
					_, _ = fmt.Fprintf(w, "  %-6s %-24s %s\n", v.Effect, v.Rule, said)
				}
			})
			if err == nil && !res.Allowed {
				return cli.Exit(1)
			}
			return err
		})
	}
	f := c.Flags()
	f.StringVar(&as, "as", "", "somebody else's account; needs admin")
	f.StringVar(&kindOf, "kind", "human", "human or system")
	f.StringSliceVar(&roles, "role", nil, "their roles")
	f.StringVar(&tag, "tag", "", "the tag, for tag and delete")
	return c
}

func immutableCommand(e *cli.Env) *cobra.Command {
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the rules for immutable tags", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mcrv1.NewPolicyServiceClient(conn).ListImmutable(cmd.Context(), &mcrv1.PolicyListImmutableRequest{})
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{"NAME", "WHERE", "TAGS", "OWNER"}, Empty: "No tag is immutable."}
				for _, r := range res.Rules {
					t.Row(r.Name, strings.Join(r.Repositories, " "), strings.Join(r.Tags, " "), r.Owner)
				}
				return e.EmitTable(res, t)
			})
		}}
	r := &mcrv1.ImmutableRule{}
	put := &cobra.Command{Use: "put NAME", Aliases: []string{"add"}, Short: "Make or replace a rule: tags that match never move", Args: cobra.ExactArgs(1),
		Example: "  mcr immutable put releases --where 'team/**' --tags 'v*'"}
	put.RunE = func(cmd *cobra.Command, args []string) error {
		r.Name = args[0]
		return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
			res, err := mcrv1.NewPolicyServiceClient(conn).PutImmutable(cmd.Context(), &mcrv1.PolicyPutImmutableRequest{Rule: r})
			if err != nil {
				return err
			}
			return e.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintf(w, "Rule %s holds from the next push on.\n", args[0]) })
		})
	}
	put.Flags().StringSliceVar(&r.Repositories, "where", nil, "repository globs")
	put.Flags().StringSliceVar(&r.Tags, "tags", nil, "tag globs; none = all tags")
	put.Flags().StringVar(&r.Comment, "comment", "", "why it is there")
	remove := &cobra.Command{Use: "delete NAME", Aliases: []string{"rm", "remove"}, Short: "Delete a rule of the database", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mcrv1.NewPolicyServiceClient(conn).DeleteImmutable(cmd.Context(), &mcrv1.PolicyDeleteImmutableRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintf(w, "Deleted rule %s.\n", args[0]) })
			})
		}}
	return noun("immutable", "Hold tags in place", list, put, remove)
}

func pinCommand(e *cli.Env) *cobra.Command {
	var owner string
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List what is pinned, and by whom", Args: cobra.NoArgs}
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
			all := &mcrv1.PinListResponse{}
			err := pages(func(token string) (string, error) {
				res, err := mcrv1.NewPinServiceClient(conn).List(cmd.Context(), &mcrv1.PinListRequest{Owner: owner, PageToken: token, PageSize: 500})
				if err != nil {
					return "", err
				}
				all.Pins = append(all.Pins, res.Pins...)
				return res.NextPageToken, nil
			})
			if err != nil {
				return err
			}
			t := &cli.Table{Head: []string{"OWNER", "REPOSITORY", "DIGEST", "REASON", "SET", "EXPIRES"}, Empty: "Nothing is pinned."}
			for _, p := range all.Pins {
				until := "never"
				if p.Expires != nil {
					until = p.Expires.AsTime().UTC().Format("2006-01-02 15:04")
				}
				t.Row(p.Owner, p.Repository, middle(p.Digest), p.Reason, ago(e, p.SetAt), until)
			}
			return e.EmitTable(all, t)
		})
	}
	list.Flags().StringVar(&owner, "owner", "", "only this account's")
	release := &cobra.Command{Use: "release OWNER", Short: "Drop every pin of an account, as when its node is gone for good", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
				if err := e.Confirm("This drops every pin of " + args[0] + ": what it runs may be deleted and collected then"); err != nil {
					return err
				}
				res, err := mcrv1.NewPinServiceClient(conn).Release(cmd.Context(), &mcrv1.PinReleaseRequest{Owner: args[0]})
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintf(w, "Released %d pins of %s.\n", res.Released, args[0]) })
			})
		}}
	return noun("pin", "See and release what nodes keep", list, release)
}
