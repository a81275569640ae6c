package command

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"
)

func newTable(head ...string) *cli.Table { return &cli.Table{Head: head} }

func errOut(what string) error {
	return fault.New(fault.Invalid, "no place for %s", what).WithNext("name a file with --out FILE, or print it with --json")
}

func (c *commands) account() *cobra.Command {
	return group("account", "People and system accounts", c.accountList(), c.accountCreate(), c.accountShow(), c.accountStatus("disable", "disabled", "End sessions and kill tokens; nobody signs in as NAME"),
		c.accountStatus("enable", "active", "Let NAME sign in again"), c.accountDelete(), c.accountUpdate(), c.accountInvite(), c.accountReset())
}

func (c *commands) accountList() *cobra.Command {
	var typ string
	var all bool
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List accounts", Args: cobra.NoArgs,
		Example: "  mcias account list\n  mcias account list --type system",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res := &mciasv1.AccountListResponse{Accounts: []*mciasv1.AccountRecord{}}
				for token := ""; ; {
					p, err := mciasv1.NewAccountClient(conn).List(cmd.Context(), &mciasv1.AccountListRequest{Type: typ, IncludeDeleted: all, PageToken: token, PageSize: 500})
					if err != nil {
						return err
					}
					res.Accounts = append(res.Accounts, p.GetAccounts()...)
					if token = p.GetNextPageToken(); token == "" {
						break
					}
				}
				t := newTable("NAME", "TYPE", "STATUS", "ROLES", "TAGS", "LAST LOGIN")
				for _, a := range res.GetAccounts() {
					t.Row(a.GetName(), a.GetType(), a.GetStatus(), dash(strings.Join(a.GetRoles(), " ")), dash(strings.Join(a.GetTags(), " ")), c.ago(a.GetLastLogin()))
				}
				return c.EmitTable(res, t)
			})
		}}
	cmd.Flags().StringVar(&typ, "type", "", "human or system")
	cmd.Flags().BoolVar(&all, "deleted", false, "show deleted accounts, whose names stay reserved, too")
	return cmd
}

func (c *commands) accountCreate() *cobra.Command {
	r := &mciasv1.AccountCreateRequest{}
	var file string
	cmd := &cobra.Command{Use: "create NAME", Short: "Make an account", Args: cobra.ExactArgs(1),
		Example: "  mcias account create bob --role user\n  mcias account create carol --role guest --password-file pw",
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Name = args[0]
			if file != "" {
				pw, err := c.Secret(file, "--password-file", "Password")
				if err != nil {
					return err
				}
				defer pw.Wipe()
				r.Password = string(pw.Reveal())
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewAccountClient(conn).Create(cmd.Context(), r)
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) {
					_, _ = fmt.Fprintf(w, "Account %s is made.\n", res.GetAccount().GetName())
					if file == "" && res.GetAccount().GetType() == "human" {
						c.Note("  next: mcias account invite %s", res.GetAccount().GetName())
					}
				})
			})
		}}
	f := cmd.Flags()
	f.StringSliceVar(&r.Roles, "role", nil, "admin, user or guest; repeatable")
	f.StringSliceVar(&r.Tags, "tag", nil, "tag for policy; repeatable")
	f.StringVar(&r.Display, "display", "", "name for people")
	f.StringVar(&r.Email, "email", "", "e-mail address; apps join accounts by it")
	f.StringVar(&file, "password-file", "", "file with the first password, - for standard input")
	return cmd
}

func (c *commands) accountShow() *cobra.Command {
	return &cobra.Command{Use: "show NAME", Short: "Show an account", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewAccountClient(conn).Get(cmd.Context(), &mciasv1.AccountGetRequest{Name: args[0]})
				return c.emitAccount(res.GetAccount(), err)
			})
		}}
}

// emitAccount prints one account.
func (c *commands) emitAccount(a *mciasv1.AccountRecord, err error) error {
	if err != nil {
		return err
	}
	return c.Emit(a, func(w io.Writer) {
		for _, kv := range [][2]string{{"name", a.GetName()}, {"id", a.GetId()}, {"type", a.GetType()}, {"status", a.GetStatus()}, {"display", dash(a.GetDisplay())},
			{"email", dash(a.GetEmail())}, {"roles", dash(strings.Join(a.GetRoles(), " "))}, {"tags", dash(strings.Join(a.GetTags(), " "))},
			{"factors", dash(strings.Join(a.GetFactors(), " "))}, {"last login", c.ago(a.GetLastLogin())}} {
			_, _ = fmt.Fprintf(w, "%-11s %s\n", kv[0], kv[1])
		}
	})
}

func (c *commands) accountStatus(verb, status, short string) *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewAccountClient(conn).SetStatus(cmd.Context(), &mciasv1.AccountSetStatusRequest{Name: args[0], Status: status, Force: force})
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) {
					_, _ = fmt.Fprintf(w, "Account %s is %s; %d sessions ended.\n", args[0], res.GetAccount().GetStatus(), res.GetSessionsEnded())
				})
			})
		}}
	cmd.Flags().BoolVar(&force, "force", false, "even if no admin could sign in afterwards")
	return cmd
}

func (c *commands) accountDelete() *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "delete NAME", Aliases: []string{"rm"}, Short: "End everything of an account; its name stays reserved", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.Confirm("Account " + args[0] + " loses its credentials, keys and sessions for good; its name stays reserved"); err != nil {
				return err
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewAccountClient(conn).Delete(cmd.Context(), &mciasv1.AccountDeleteRequest{Name: args[0], Force: force})
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) {
					_, _ = fmt.Fprintf(w, "Account %s is deleted; %d sessions ended.\n", args[0], res.GetSessionsEnded())
				})
			})
		}}
	cmd.Flags().BoolVar(&force, "force", false, "even if no admin could sign in afterwards")
	return cmd
}

func (c *commands) accountUpdate() *cobra.Command {
	var display, email string
	cmd := &cobra.Command{Use: "update NAME", Short: "Change display name or e-mail", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := &mciasv1.AccountUpdateRequest{Name: args[0]}
			if cmd.Flags().Changed("display") {
				r.Display = &display
			}
			if cmd.Flags().Changed("email") {
				r.Email = &email
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewAccountClient(conn).Update(cmd.Context(), r)
				return c.emitAccount(res.GetAccount(), err)
			})
		}}
	cmd.Flags().StringVar(&display, "display", "", "name for people")
	cmd.Flags().StringVar(&email, "email", "", "e-mail address; empty removes it")
	return cmd
}

// emitLink hands a setup link out: to a file, or to standard output.
func (c *commands) emitLink(l *mciasv1.SetupLink, out, name string, doc any) error {
	if out != "" {
		if err := c.WriteSecret(out, secret.FromString(l.GetUrl())); err != nil {
			return err
		}
		c.Note("The setup link of %s is in %s; it works once, until %s.", name, out, until(l.GetExpiresAt()))
		return nil
	}
	return c.Emit(doc, func(w io.Writer) {
		_, _ = fmt.Fprintln(w, l.GetUrl())
		c.Note("Works once, until %s. You will not see it again.", until(l.GetExpiresAt()))
	})
}

func (c *commands) accountInvite() *cobra.Command {
	var out string
	cmd := &cobra.Command{Use: "invite NAME", Short: "Make a link with which NAME sets a password", Args: cobra.ExactArgs(1),
		Example: "  mcias account invite bob\n  mcias account invite bob --out link",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewAccountClient(conn).CreateSetupLink(cmd.Context(), &mciasv1.AccountCreateSetupLinkRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return c.emitLink(res.GetLink(), out, args[0], res)
			})
		}}
	cmd.Flags().StringVar(&out, "out", "", "file for the link (0600)")
	return cmd
}

func (c *commands) accountReset() *cobra.Command {
	var out string
	var force bool
	cmd := &cobra.Command{Use: "reset NAME", Short: "Remove NAME's credentials, end the sessions, make a setup link", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.Confirm(args[0] + " is signed out everywhere and needs the new link to come back"); err != nil {
				return err
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewAccountClient(conn).ResetFactors(cmd.Context(), &mciasv1.AccountResetFactorsRequest{Name: args[0], Force: force})
				if err != nil {
					return err
				}
				return c.emitLink(res.GetLink(), out, args[0], res)
			})
		}}
	cmd.Flags().StringVar(&out, "out", "", "file for the link (0600)")
	cmd.Flags().BoolVar(&force, "force", false, "even if no admin could sign in afterwards")
	return cmd
}

func (c *commands) role() *cobra.Command {
	var force bool
	add := &cobra.Command{Use: "add NAME ROLE", Short: "Give a role", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewAccountClient(conn).AddRole(cmd.Context(), &mciasv1.AccountAddRoleRequest{Name: args[0], Role: args[1]})
				return c.emitAccount(res.GetAccount(), err)
			})
		}}
	remove := &cobra.Command{Use: "remove NAME ROLE", Aliases: []string{"rm"}, Short: "Take a role", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewAccountClient(conn).RemoveRole(cmd.Context(), &mciasv1.AccountRemoveRoleRequest{Name: args[0], Role: args[1], Force: force})
				return c.emitAccount(res.GetAccount(), err)
			})
		}}
	remove.Flags().BoolVar(&force, "force", false, "even if no admin could sign in afterwards")
	return group("role", "Roles of people: admin, user, guest", add, remove)
}

func (c *commands) tag() *cobra.Command {
	var force bool
	set := &cobra.Command{Use: "set NAME [TAG…]", Short: "Replace the tags of an account", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewAccountClient(conn).SetTags(cmd.Context(), &mciasv1.AccountSetTagsRequest{Name: args[0], Tags: args[1:], Force: force})
				return c.emitAccount(res.GetAccount(), err)
			})
		}}
	set.Flags().BoolVar(&force, "force", false, "even if no admin could sign in afterwards")
	return group("tag", "Tags of accounts, for policy", set)
}

func (c *commands) breakGlass() *cobra.Command {
	var out string
	cmd := &cobra.Command{Use: "break-glass ACCOUNT", Short: "Give an account back to its owner, over the local socket", Args: cobra.ExactArgs(1),
		Example: "  sudo mcias break-glass alice --out link",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.Confirm(args[0] + " is signed out everywhere; this is written to audit and cannot be suppressed"); err != nil {
				return err
			}
			return c.local(func(conn *grpc.ClientConn) error { return c.glass(cmd.Context(), conn, args[0], out) })
		}}
	cmd.Flags().StringVar(&out, "out", "", "file for the link (0600)")
	return cmd
}

func (c *commands) glass(ctx context.Context, conn *grpc.ClientConn, name, out string) error {
	res, err := mciasv1.NewAccountClient(conn).BreakGlass(ctx, &mciasv1.AccountBreakGlassRequest{Name: name})
	if err != nil {
		return err
	}
	return c.emitLink(res.GetLink(), out, name, res)
}

// local connects to the Unix socket, where root and the local admins are believed.
func (c *commands) local(fn func(conn *grpc.ClientConn) error) error {
	conn, err := c.DialLocal("mcias")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is pending
	return fn(conn)
}

// setup redeems a setup link: what mcp up and scripts do; people use the page.
func (c *commands) setup() *cobra.Command {
	var linkFile, pwFile string
	cmd := &cobra.Command{Use: "setup", Short: "Set a password with a setup link", Args: cobra.NoArgs,
		Example: "  mcias setup --link-file link --password-file pw",
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := c.Secret(linkFile, "--link-file", "Setup link")
			if err != nil {
				return err
			}
			pw, err := c.NewSecret(pwFile, "--password-file", "New password")
			if err != nil {
				return err
			}
			defer pw.Wipe()
			text := string(l.Reveal())
			if i := strings.LastIndexByte(text, '#'); i >= 0 {
				text = text[i+1:]
			}
			return c.open(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewAuthClient(conn).RedeemSetupLink(cmd.Context(), &mciasv1.RedeemSetupLinkRequest{Link: strings.TrimSpace(text), Password: string(pw.Reveal())})
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintf(w, "The password of %s is set.\n", res.GetUsername()) })
			})
		}}
	cmd.Flags().StringVar(&linkFile, "link-file", "", "file with the link, - for standard input")
	cmd.Flags().StringVar(&pwFile, "password-file", "", "file with the new password")
	return cmd
}
