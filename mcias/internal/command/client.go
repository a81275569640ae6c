package command

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/secret"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"
)

// credentials is what an app needs; scripts rely on the shape.
type credentials struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	Issuer       string `json:"issuer"`
}

func (c *commands) client() *cobra.Command {
	return group("client", "Apps and services people sign in to", c.clientList(), c.clientCreate(), c.clientShow(), c.clientUpdate(), c.clientRotate(),
		c.clientEnable("enable", true), c.clientEnable("disable", false), c.clientDelete())
}

// emitSecret hands a client secret out.
func (c *commands) emitSecret(d credentials, out string) error {
	if out != "" {
		text, err := json.MarshalIndent(d, "", "  ")
		if err != nil {
			return err
		}
		if err := c.WriteSecret(out, secret.New(text)); err != nil {
			return err
		}
		c.Note("The credentials of %s are in %s.", d.ClientID, out)
		return nil
	}
	return c.Emit(d, func(w io.Writer) { _, _ = fmt.Fprintf(w, "client_id  %s\nissuer     %s\n", d.ClientID, d.Issuer) })
}

func (c *commands) clientCreate() *cobra.Command {
	r := &mciasv1.ClientCreateRequest{}
	var out string
	cmd := &cobra.Command{Use: "create ID", Short: "Make a client; nobody may use it unless --allow or a rule says so", Args: cobra.ExactArgs(1),
		Example: "  mcias client create gitea --redirect-uri https://gitea.example.org/callback --allow role:user --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Id = args[0]
			public := r.Kind == "native" || r.Kind == "spa" || r.Kind == "test"
			if out == "" && !c.JSON && !public {
				return errOut("the client's secret")
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewClientClient(conn).Create(cmd.Context(), r)
				if err != nil {
					return err
				}
				return c.emitSecret(credentials{res.GetClient().GetId(), res.GetClientSecret(), res.GetIssuer()}, out)
			})
		}}
	f := cmd.Flags()
	f.StringVar(&r.Kind, "kind", "web", "service, web, native, spa or test")
	f.StringSliceVar(&r.RedirectUris, "redirect-uri", nil, "where codes go; repeatable")
	f.StringSliceVar(&r.PostLogoutUris, "post-logout-uri", nil, "where browsers go after signing out; repeatable")
	f.StringSliceVar(&r.Tags, "tag", nil, "tag for policy; repeatable")
	f.StringSliceVar(&r.Allow, "allow", nil, "role:ROLE, account:NAME or tag:TAG; repeatable")
	f.StringVar(&out, "out", "", "file for the credentials (0600)")
	return cmd
}

func (c *commands) clientList() *cobra.Command {
	return &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List clients", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res := &mciasv1.ClientListResponse{Clients: []*mciasv1.ClientRecord{}}
				for token := ""; ; {
					p, err := mciasv1.NewClientClient(conn).List(cmd.Context(), &mciasv1.ClientListRequest{PageSize: 500, PageToken: token})
					if err != nil {
						return err
					}
					res.Clients, res.Issuer = append(res.Clients, p.GetClients()...), p.GetIssuer()
					if token = p.GetNextPageToken(); token == "" {
						break
					}
				}
				t := newTable("ID", "KIND", "STATE", "OWNER", "TAGS", "REDIRECT URIS")
				for _, x := range res.GetClients() {
					state := "enabled"
					if !x.GetEnabled() {
						state = "disabled"
					}
					t.Row(x.GetId(), x.GetKind(), state, dash(x.GetOwner()), dash(strings.Join(x.GetTags(), " ")), dash(strings.Join(x.GetRedirectUris(), " ")))
				}
				t.Empty = "No clients yet. Make one: mcias client create ID --redirect-uri URL --allow role:user --json"
				return c.EmitTable(res, t)
			})
		}}
}

func (c *commands) emitClient(x *mciasv1.ClientRecord, issuer string, err error) error {
	if err != nil {
		return err
	}
	return c.Emit(x, func(w io.Writer) {
		for _, kv := range [][2]string{{"id", x.GetId()}, {"kind", x.GetKind()}, {"enabled", fmt.Sprint(x.GetEnabled())}, {"owner", dash(x.GetOwner())},
			{"tags", dash(strings.Join(x.GetTags(), " "))}, {"redirect", dash(strings.Join(x.GetRedirectUris(), " "))},
			{"post-logout", dash(strings.Join(x.GetPostLogoutUris(), " "))}, {"issuer", dash(issuer)}} {
			_, _ = fmt.Fprintf(w, "%-11s %s\n", kv[0], kv[1])
		}
	})
}

func (c *commands) clientShow() *cobra.Command {
	return &cobra.Command{Use: "show ID", Short: "Show a client", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewClientClient(conn).Get(cmd.Context(), &mciasv1.ClientGetRequest{Id: args[0]})
				return c.emitClient(res.GetClient(), res.GetIssuer(), err)
			})
		}}
}

func (c *commands) clientUpdate() *cobra.Command {
	r := &mciasv1.ClientUpdateRequest{}
	cmd := &cobra.Command{Use: "update ID", Short: "Replace redirect URIs or tags", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Id = args[0]
			for flag, field := range map[string]string{"redirect-uri": "redirect_uris", "post-logout-uri": "post_logout_uris", "tag": "tags"} {
				if cmd.Flags().Changed(flag) {
					r.Fields = append(r.Fields, field)
				}
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewClientClient(conn).Update(cmd.Context(), r)
				return c.emitClient(res.GetClient(), "", err)
			})
		}}
	f := cmd.Flags()
	f.StringSliceVar(&r.RedirectUris, "redirect-uri", nil, "where codes go; repeatable")
	f.StringSliceVar(&r.PostLogoutUris, "post-logout-uri", nil, "where browsers go after signing out; repeatable")
	f.StringSliceVar(&r.Tags, "tag", nil, "tag for policy; repeatable")
	return cmd
}

func (c *commands) clientRotate() *cobra.Command {
	var out string
	cmd := &cobra.Command{Use: "rotate-secret ID", Short: "Make a new secret; the old one ends at once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" && !c.JSON {
				return errOut("the client's secret")
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewClientClient(conn).RotateSecret(cmd.Context(), &mciasv1.ClientRotateSecretRequest{Id: args[0]})
				if err != nil {
					return err
				}
				return c.emitSecret(credentials{res.GetClientId(), res.GetClientSecret(), res.GetIssuer()}, out)
			})
		}}
	cmd.Flags().StringVar(&out, "out", "", "file for the credentials (0600)")
	return cmd
}

func (c *commands) clientEnable(verb string, on bool) *cobra.Command {
	short := "Let people sign in again"
	if !on {
		short = "Kill every token for the client; nobody signs in"
	}
	return &cobra.Command{Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewClientClient(conn).SetEnabled(cmd.Context(), &mciasv1.ClientSetEnabledRequest{Id: args[0], Enabled: on})
				return c.emitClient(res.GetClient(), "", err)
			})
		}}
}

func (c *commands) clientDelete() *cobra.Command {
	return &cobra.Command{Use: "delete ID", Aliases: []string{"rm"}, Short: "Remove a client, its sign-ins and the rules made with it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.Confirm("Client " + args[0] + " goes for good, with its secret and sign-ins"); err != nil {
				return err
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewClientClient(conn).Delete(cmd.Context(), &mciasv1.ClientDeleteRequest{Id: args[0]})
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) {
					_, _ = fmt.Fprintf(w, "Client %s is gone; %d rules went with it.\n", args[0], len(res.GetRulesRemoved()))
				})
			})
		}}
}
