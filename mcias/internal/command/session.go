package command

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"
)

func (c *commands) session() *cobra.Command {
	r := &mciasv1.ListSessionsRequest{PageSize: 500}
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List your sessions; --all or --account for others'", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res := &mciasv1.ListSessionsResponse{Sessions: []*mciasv1.SessionRecord{}}
				for {
					p, err := mciasv1.NewAuthClient(conn).ListSessions(cmd.Context(), r)
					if err != nil {
						return err
					}
					res.Sessions = append(res.Sessions, p.GetSessions()...)
					if r.PageToken = p.GetNextPageToken(); r.PageToken == "" {
						break
					}
				}
				t := newTable("SID", "ACCOUNT", "KIND", "FROM", "FACTORS", "LAST SEEN", "")
				for _, s := range res.GetSessions() {
					mark := ""
					if s.GetCurrent() {
						mark = "this one"
					}
					t.Row(s.GetSid(), s.GetAccount(), s.GetKind(), dash(s.GetIp()), strings.Join(s.GetAmr(), " "), c.ago(s.GetLastSeen()), mark)
				}
				t.Empty = "No sessions."
				return c.EmitTable(res, t)
			})
		}}
	list.Flags().BoolVar(&r.All, "all", false, "everybody's")
	list.Flags().StringVar(&r.Account, "account", "", "this account's")
	end := &cobra.Command{Use: "end SID", Short: "End a session", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewAuthClient(conn).EndSession(cmd.Context(), &mciasv1.EndSessionRequest{Sid: args[0]})
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintln(w, "The session is ended; its tokens are dead.") })
			})
		}}
	return group("session", "Sign-ins at MCIAS", list, end)
}

func (c *commands) token() *cobra.Command {
	return group("token", "Platform tokens", c.tokenMint(), c.tokenInspect(), c.tokenRevoke())
}

func (c *commands) tokenMint() *cobra.Command {
	var keyFile, out string
	cmd := &cobra.Command{Use: "mint SERVICE", Short: "Make a token for one service, as yourself or with a service key", Args: cobra.ExactArgs(1),
		Example: "  mcias token mint mcr --out token\n  mcias token mint mcns --key-file mcias-key.json --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" && !c.JSON {
				return errOut("the token")
			}
			var doc struct {
				Token     string `json:"token"`
				ExpiresAt string `json:"expires_at,omitempty"`
				RuleID    string `json:"rule_id,omitempty"`
			}
			if keyFile == "" {
				tok, err := c.Token(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				doc.Token = tok
			} else {
				err := c.open(cmd.Context(), func(conn *grpc.ClientConn) error {
					iss, err := mciasv1.NewWatchClient(conn).GetKeys(cmd.Context(), &mciasv1.GetKeysRequest{})
					if err != nil {
						return err
					}
					as, err := auth.OpenServiceKey(keyFile, iss.GetIssuer()).Assertion(c.Clock.Now())
					if err != nil {
						return err
					}
					res, err := mciasv1.NewTokenClient(conn).Mint(cmd.Context(), &mciasv1.MintRequest{Credential: &mciasv1.MintRequest_Assertion{Assertion: as}, Audiences: args})
					doc.Token, doc.ExpiresAt, doc.RuleID = res.GetToken(), until(res.GetExpiresAt()), res.GetRuleId()
					return err
				})
				if err != nil {
					return err
				}
			}
			if out != "" {
				if err := c.WriteSecret(out, secret.FromString(doc.Token)); err != nil {
					return err
				}
				c.Note("The token is in %s.", out)
				return nil
			}
			return c.Emit(doc, nil)
		}}
	cmd.Flags().StringVar(&keyFile, "key-file", "", "service key file; default: your own login")
	cmd.Flags().StringVar(&out, "out", "", "file for the token (0600)")
	return cmd
}

func (c *commands) tokenInspect() *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "inspect", Short: "Say whether a token is valid, and its claims", Args: cobra.NoArgs,
		Long: "Say whether a token is valid, and its claims.\n\nExit codes: 0 valid, 1 not valid.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := c.Secret(file, "--token-file", "Token")
			if err != nil {
				return err
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewTokenClient(conn).Introspect(cmd.Context(), &mciasv1.IntrospectRequest{Token: string(v.Reveal())})
				if err != nil {
					return err
				}
				err = c.Emit(res, func(w io.Writer) {
					if !res.GetActive() {
						_, _ = fmt.Fprintf(w, "not valid: %s\n", res.GetReason())
						return
					}
					_, _ = fmt.Fprintf(w, "%s (%s) for %s until %s\n  roles %s, tags %s, factors %s\n  sid %s, jti %s, epoch %d, key %s\n", res.GetName(), res.GetKind(),
						strings.Join(res.GetAudiences(), " "), until(res.GetExpiresAt()), dash(strings.Join(res.GetRoles(), " ")), dash(strings.Join(res.GetTags(), " ")),
						dash(strings.Join(res.GetAmr(), " ")), res.GetSid(), res.GetJti(), res.GetEpoch(), res.GetKid())
				})
				if err == nil && !res.GetActive() {
					return cli.Exit(1)
				}
				return err
			})
		}}
	cmd.Flags().StringVar(&file, "token-file", "", "file with the token, - for standard input")
	return cmd
}

func (c *commands) tokenRevoke() *cobra.Command {
	var jti, sid, account, client string
	var wait time.Duration
	cmd := &cobra.Command{Use: "revoke", Short: "Kill tokens and say who has heard", Args: cobra.NoArgs,
		Example: "  mcias token revoke --account bob --wait 2s\n  mcias token revoke --sid SID",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := &mciasv1.RevokeRequest{Wait: durationpb.New(wait)}
			switch {
			case jti != "":
				r.Target = &mciasv1.RevokeRequest_Jti{Jti: jti}
			case sid != "":
				r.Target = &mciasv1.RevokeRequest_Sid{Sid: sid}
			case account != "":
				r.Target = &mciasv1.RevokeRequest_Account{Account: account}
			case client != "":
				r.Target = &mciasv1.RevokeRequest_Client{Client: client}
			default:
				return fault.New(fault.Invalid, "name what to kill: --jti, --sid, --account or --client")
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewTokenClient(conn).Revoke(cmd.Context(), r)
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) {
					_, _ = fmt.Fprintf(w, "Revoked (number %d); %d sessions ended; %d instances have it in force.\n", res.GetSeq(), res.GetSessionsEnded(), len(res.GetAcknowledged()))
					for _, m := range res.GetMissing() {
						_, _ = fmt.Fprintf(w, "  not yet: %s %s, last seen %s\n", m.GetService(), m.GetInstance(), c.ago(m.GetLastSeen()))
					}
				})
			})
		}}
	f := cmd.Flags()
	f.StringVar(&jti, "jti", "", "one token")
	f.StringVar(&sid, "sid", "", "a session and its tokens")
	f.StringVar(&account, "account", "", "all tokens and sessions of an account")
	f.StringVar(&client, "client", "", "all tokens for a service")
	f.DurationVar(&wait, "wait", 0, "how long to wait for acknowledgements, e.g. 2s")
	cmd.MarkFlagsMutuallyExclusive("jti", "sid", "account", "client")
	return cmd
}

func (c *commands) watch() *cobra.Command {
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List who watches and how far they are", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewWatchClient(conn).ListWatchers(cmd.Context(), &mciasv1.ListWatchersRequest{})
				if err != nil {
					return err
				}
				t := newTable("SERVICE", "INSTANCE", "STATE", ">SEQ", ">LAG", "LAST SEEN")
				for _, w := range res.GetWatchers() {
					state := "gone"
					if w.GetConnected() {
						state = "connected"
					}
					t.Row(w.GetService(), w.GetInstance(), state, fmt.Sprint(w.GetSeq()), fmt.Sprint(w.GetLag()), c.ago(w.GetLastSeen()))
				}
				t.Empty = "Nobody watches."
				return c.EmitTable(res, t)
			})
		}}
	return group("watch", "Services that follow keys and revocations", list)
}
