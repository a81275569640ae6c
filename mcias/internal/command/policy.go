package command

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/policy"
)

func (c *commands) policy() *cobra.Command {
	return group("policy", "Who may sign in to what", c.policyList(), c.policyShow(), c.policyApply(), c.policyTest(), c.policyExplain(), c.policyHistory())
}

func fromWire(r *mciasv1.Rule) policy.Rule {
	o := r.GetObligations()
	out := policy.Rule{ID: r.GetId(), Disabled: r.GetDisabled(), Description: r.GetDescription(), Effect: policy.Effect(r.GetEffect()), Actions: r.GetActions(),
		Services: r.GetServices(), ClientKinds: r.GetClientKinds(), RequiredTags: r.GetRequiredTags(), Accounts: r.GetAccounts(),
		AccountTypes: r.GetAccountTypes(), Roles: r.GetRoles(), AccountTags: r.GetAccountTags(), ResourceType: r.GetResourceType(),
		OwnerIsSubject: r.GetOwnerIsSubject(), Networks: r.GetNetworks(), Hours: r.GetHours(), TZ: r.GetTz(), Builtin: r.GetBuiltin(),
		Obligations: policy.Obligations{RequireMFA: o.GetRequireMfa(), RequirePasskey: o.GetRequirePasskey(), MaxAuthAge: o.GetMaxAuthAge().AsDuration(), TokenTTL: o.GetTokenTtl().AsDuration()}}
	if t := r.GetNotBefore(); t != nil {
		out.NotBefore = t.AsTime()
	}
	if t := r.GetExpiresAt(); t != nil {
		out.ExpiresAt = t.AsTime()
	}
	return out
}

func toWire(r policy.Rule) *mciasv1.Rule {
	o := r.Obligations
	out := &mciasv1.Rule{Id: r.ID, Disabled: r.Disabled, Description: r.Description, Effect: string(r.Effect), Actions: r.Actions, Services: r.Services,
		ClientKinds: r.ClientKinds, RequiredTags: r.RequiredTags, Accounts: r.Accounts, AccountTypes: r.AccountTypes, Roles: r.Roles, AccountTags: r.AccountTags,
		ResourceType: r.ResourceType, OwnerIsSubject: r.OwnerIsSubject, Networks: r.Networks, Hours: r.Hours, Tz: r.TZ,
		Obligations: &mciasv1.Obligations{RequireMfa: o.RequireMFA, RequirePasskey: o.RequirePasskey}}
	if o.MaxAuthAge > 0 {
		out.Obligations.MaxAuthAge = durationpb.New(o.MaxAuthAge)
	}
	if o.TokenTTL > 0 {
		out.Obligations.TokenTtl = durationpb.New(o.TokenTTL)
	}
	if !r.NotBefore.IsZero() {
		out.NotBefore = timestamppb.New(r.NotBefore)
	}
	if !r.ExpiresAt.IsZero() {
		out.ExpiresAt = timestamppb.New(r.ExpiresAt)
	}
	return out
}

// summary says in one line whom a rule is about.
func summary(r policy.Rule) string {
	var parts []string
	add := func(name string, v []string) {
		if len(v) > 0 {
			parts = append(parts, name+" "+strings.Join(v, ","))
		}
	}
	add("account", r.Accounts)
	add("role", r.Roles)
	add("type", r.AccountTypes)
	add("tag", r.AccountTags)
	add("service", r.Services)
	add("kind", r.ClientKinds)
	add("service-tag", r.RequiredTags)
	add("from", r.Networks)
	add("at", r.Hours)
	if r.Obligations.RequireMFA {
		parts = append(parts, "needs mfa")
	}
	if r.Obligations.RequirePasskey {
		parts = append(parts, "needs passkey")
	}
	if r.Obligations.MaxAuthAge > 0 {
		parts = append(parts, "sign-in at most "+r.Obligations.MaxAuthAge.String()+" old")
	}
	return strings.Join(parts, "; ")
}

func (c *commands) policyList() *cobra.Command {
	return &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the rules in force", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewPolicyClient(conn).GetRules(cmd.Context(), &mciasv1.PolicyGetRulesRequest{})
				if err != nil {
					return err
				}
				t := newTable("ID", "EFFECT", "ACTIONS", "ABOUT")
				for _, r := range res.GetRules() {
					effect := r.GetEffect()
					if r.GetDisabled() {
						effect += " (off)"
					}
					acts := strings.Join(r.GetActions(), " ")
					if acts == "" {
						acts = policy.Login
					}
					t.Row(r.GetId(), effect, acts, dash(summary(fromWire(r))))
				}
				t.Foot = fmt.Sprintf("%d rules, revision %d; anything no rule allows is denied", t.Len(), res.GetRevision())
				return c.EmitTable(res, t)
			})
		}}
}

func (c *commands) policyShow() *cobra.Command {
	return &cobra.Command{Use: "show", Short: "Print the operator's rules as a policy file", Args: cobra.NoArgs,
		Example: "  mcias policy show > policy.toml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewPolicyClient(conn).GetRules(cmd.Context(), &mciasv1.PolicyGetRulesRequest{})
				if err != nil {
					return err
				}
				var own []policy.Rule
				for _, r := range res.GetRules() {
					if !r.GetBuiltin() {
						own = append(own, fromWire(r))
					}
				}
				text, err := policy.FormatFile(res.GetRevision(), own)
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) { _, _ = w.Write(text) })
			})
		}}
}

func readPolicy(name string) (*policy.File, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fault.New(fault.Invalid, "policy file").Wrap(err)
	}
	if info.Size() > policy.MaxFile {
		return nil, fault.New(fault.Invalid, "%s is larger than 1 MiB", name)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fault.New(fault.Invalid, "policy file").Wrap(err)
	}
	f, err := policy.ParseFile(data)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s: %v", name, err)
	}
	return f, nil
}

func (c *commands) policyApply() *cobra.Command {
	var dry, force bool
	cmd := &cobra.Command{Use: "apply FILE", Short: "Replace the operator's rules by those of a file", Args: cobra.ExactArgs(1),
		Long:    "Replace the operator's rules by those of a file. The file's revision must be the current one.\n\nWith --dry-run: exit 0 = no change, 1 = there would be one.",
		Example: "  mcias policy apply policy.toml --dry-run\n  mcias policy apply policy.toml",
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := readPolicy(args[0])
			if err != nil {
				return err
			}
			r := &mciasv1.PolicyApplyRequest{BaseRevision: f.Revision, Force: force, DryRun: dry}
			for _, x := range f.Rules {
				r.Rules = append(r.Rules, toWire(x))
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewPolicyClient(conn).Apply(cmd.Context(), r)
				if err != nil {
					return err
				}
				err = c.Emit(res, func(w io.Writer) {
					for _, d := range res.GetDiff() {
						_, _ = fmt.Fprintln(w, d)
					}
					if len(res.GetDiff()) == 0 {
						_, _ = fmt.Fprintln(w, "Nothing to do.")
					} else if !dry {
						_, _ = fmt.Fprintf(w, "Revision %d is in force; %d sign-ins cut.\n", res.GetRevision(), res.GetSessionsCut())
					}
				})
				if err == nil && dry && len(res.GetDiff()) > 0 {
					return cli.Exit(1)
				}
				return err
			})
		}}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show the changes, make none")
	cmd.Flags().BoolVar(&force, "force", false, "even if no admin could sign in afterwards")
	return cmd
}

// explain asks the server about an imagined request.
type question struct {
	account, service, action, ip, at string
	amr                              []string
	age                              time.Duration
}

func (q question) request() (*mciasv1.PolicyExplainRequest, error) {
	r := &mciasv1.PolicyExplainRequest{Account: q.account, Service: q.service, Action: q.action, Ip: q.ip, Amr: q.amr, AuthAgeSeconds: int64(q.age.Seconds())}
	if q.at != "" {
		t, err := time.Parse(time.RFC3339, q.at)
		if err != nil {
			return nil, fault.New(fault.Invalid, "--time %q is not RFC 3339, such as 2027-03-01T09:00:00Z", q.at)
		}
		r.Time = timestamppb.New(t)
	}
	return r, nil
}

func (c *commands) policyExplain() *cobra.Command {
	var q question
	cmd := &cobra.Command{Use: "explain ACCOUNT SERVICE", Short: "Say whether ACCOUNT may use SERVICE, and why", Args: cobra.ExactArgs(2),
		Long:    "Say whether ACCOUNT may use SERVICE, and why. No token is made.\n\nExit codes: 0 allow, 1 deny or step-up.",
		Example: "  mcias policy explain bob gitea\n  mcias policy explain alice mcp --ip 10.8.0.7 --amr pwd,otp,mfa",
		RunE: func(cmd *cobra.Command, args []string) error {
			q.account, q.service = args[0], args[1]
			r, err := q.request()
			if err != nil {
				return err
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewPolicyClient(conn).Explain(cmd.Context(), r)
				if err != nil {
					return err
				}
				err = c.Emit(res, func(w io.Writer) { explained(w, res) })
				if err == nil && res.GetOutcome() != "allow" {
					return cli.Exit(1)
				}
				return err
			})
		}}
	f := cmd.Flags()
	f.StringVar(&q.action, "action", "", "default auth:login")
	f.StringVar(&q.ip, "ip", "", "address it would come from")
	f.StringVar(&q.at, "time", "", "RFC 3339; default now")
	f.StringSliceVar(&q.amr, "amr", []string{"pwd"}, "factors shown: pwd, otp, mfa, pop, user")
	f.DurationVar(&q.age, "auth-age", 0, "how old the sign-in would be")
	return cmd
}

func explained(w io.Writer, res *mciasv1.PolicyExplainResponse) {
	_, _ = fmt.Fprintf(w, "%s: %s (revision %d)\n", res.GetOutcome(), res.GetWhy(), res.GetRevision())
	for name, rule := range res.GetObligationRules() {
		_, _ = fmt.Fprintf(w, "  %s set by %s\n", name, rule)
	}
	for _, v := range res.GetRules() {
		switch {
		case v.GetDeciding():
			_, _ = fmt.Fprintf(w, "  * %-24s %s\n", v.GetRuleId(), v.GetEffect())
		case v.GetMatched():
			_, _ = fmt.Fprintf(w, "    %-24s %s, matched\n", v.GetRuleId(), v.GetEffect())
		default:
			_, _ = fmt.Fprintf(w, "    %-24s %s: %s\n", v.GetRuleId(), v.GetFailedField(), v.GetWhy())
		}
	}
}

func (c *commands) policyTest() *cobra.Command {
	return &cobra.Command{Use: "test FILE", Short: "Run the tests of a policy file against the rules in force", Args: cobra.ExactArgs(1),
		Long: "Run the tests of a policy file against the rules in force.\n\nExit codes: 0 all as expected, 1 some not.",
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := readPolicy(args[0])
			if err != nil {
				return err
			}
			type result struct {
				Given  string `json:"given"`
				Expect string `json:"expect"`
				Got    string `json:"got"`
				OK     bool   `json:"ok"`
			}
			results, failed := []result{}, 0
			err = c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				for _, t := range f.Tests {
					r := &mciasv1.PolicyExplainRequest{Account: t.Account, Service: t.Service, Action: t.Action, Amr: t.AMR, AuthAgeSeconds: int64(t.AuthAge.Seconds())}
					if t.IP.IsValid() {
						r.Ip = t.IP.String()
					}
					if !t.Time.IsZero() {
						r.Time = timestamppb.New(t.Time)
					}
					res, err := mciasv1.NewPolicyClient(conn).Explain(cmd.Context(), r)
					if err != nil {
						return err
					}
					d := policy.Decision{Outcome: policy.Outcome(res.GetOutcome()), StepUp: res.GetStepUp()}
					got := res.GetOutcome()
					if res.GetStepUp() != "" {
						got += ":" + res.GetStepUp()
					}
					ok := t.Matches(d)
					if !ok {
						failed++
					}
					results = append(results, result{t.Account + " " + t.Service + " " + r.Ip, t.Expect, got, ok})
				}
				return nil
			})
			if err != nil {
				return err
			}
			err = c.Emit(results, func(w io.Writer) {
				for _, r := range results {
					if r.OK {
						_, _ = fmt.Fprintf(w, "ok    %s: %s\n", r.Given, r.Got)
					} else {
						_, _ = fmt.Fprintf(w, "FAIL  %s: %s, expected %s\n", r.Given, r.Got, r.Expect)
					}
				}
				_, _ = fmt.Fprintf(w, "%d of %d as expected\n", len(results)-failed, len(results))
			})
			if err == nil && failed > 0 {
				return cli.Exit(1)
			}
			return err
		}}
}

func (c *commands) policyHistory() *cobra.Command {
	return &cobra.Command{Use: "history", Short: "List revisions, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewPolicyClient(conn).ListRevisions(cmd.Context(), &mciasv1.PolicyListRevisionsRequest{})
				if err != nil {
					return err
				}
				t := newTable(">REVISION", "AUTHOR", "WHEN", "CHANGES")
				for _, r := range res.GetRevisions() {
					t.Row(fmt.Sprint(r.GetId()), r.GetAuthor(), c.ago(r.GetTime()), strings.Join(r.GetDiff(), ", "))
				}
				return c.EmitTable(res, t)
			})
		}}
}
