package command

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/server"
	"metacircular.net/mcias/internal/token"
)

func (c *commands) service() *cobra.Command {
	key := group("key", "Keys of a system account: two may live during a rotation", c.keyAdd(), c.keyRetire(), c.keyListOf())
	return group("service", "System accounts and their keys", c.serviceCreate(), c.serviceList(), key)
}

// newKey makes a key and the text of its file. The private half never leaves this process but into the file.
func newKey(account string) (ed25519.PublicKey, secret.Value, string, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, secret.Value{}, "", err
	}
	kid, err := token.Thumbprint(pub)
	if err != nil {
		return nil, secret.Value{}, "", err
	}
	text, err := json.MarshalIndent(auth.NewKeyFile(account, kid, priv), "", "  ")
	return pub, secret.New(text), kid, err
}

// fresh refuses a file that is there before anything is changed.
func fresh(out string) error {
	if out == "" {
		return errOut("the new key")
	}
	if _, err := os.Lstat(out); err == nil {
		return fault.New(fault.Exists, "%s is already there; nothing was changed", out).WithNext("choose another file with --out")
	}
	return nil
}

func (c *commands) serviceCreate() *cobra.Command {
	var out, display string
	var tags []string
	cmd := &cobra.Command{Use: "create NAME", Short: "Make a system account with a key, whose file goes to --out", Args: cobra.ExactArgs(1),
		Example: "  mcias service create backup --out backup-key.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := fresh(out); err != nil {
				return err
			}
			pub, text, _, err := newKey(args[0])
			if err != nil {
				return err
			}
			// The file first: a key whose private half is lost would be of no use.
			if err := c.WriteSecret(out, text); err != nil {
				return err
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewServiceAccountClient(conn).Create(cmd.Context(), &mciasv1.ServiceAccountCreateRequest{Name: args[0], Display: display, Tags: tags, PublicKey: pub})
				if err != nil {
					_ = os.Remove(out) // opens nothing
					return err
				}
				return c.Emit(res, func(w io.Writer) {
					_, _ = fmt.Fprintf(w, "System account %s is made; its key is in %s.\n", args[0], out)
				})
			})
		}}
	cmd.Flags().StringVar(&out, "out", "", "file for the key (0600)")
	cmd.Flags().StringVar(&display, "display", "", "name for people")
	cmd.Flags().StringSliceVar(&tags, "tag", nil, "tag for policy; repeatable")
	return cmd
}

func (c *commands) serviceList() *cobra.Command {
	return &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List system accounts", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewServiceAccountClient(conn).List(cmd.Context(), &mciasv1.ServiceAccountListRequest{PageSize: 500})
				if err != nil {
					return err
				}
				t := newTable("NAME", "STATUS", "TAGS", "MADE")
				for _, a := range res.GetAccounts() {
					t.Row(a.GetName(), a.GetStatus(), dash(strings.Join(a.GetTags(), " ")), c.ago(a.GetCreatedAt()))
				}
				t.Empty = "No system accounts yet. Make one: mcias service create NAME --out FILE"
				return c.EmitTable(res, t)
			})
		}}
}

func (c *commands) keyAdd() *cobra.Command {
	var out, pubFile string
	var services []string
	var life time.Duration
	cmd := &cobra.Command{Use: "add NAME", Short: "Add a key; the old one works on until it is retired", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := &mciasv1.ServiceAccountAddKeyRequest{Name: args[0], Services: services}
			if life > 0 {
				r.NotAfter = timestamppb.New(c.Clock.Now().Add(life))
			}
			if pubFile == "" {
				if err := fresh(out); err != nil {
					return err
				}
				pub, text, _, err := newKey(args[0])
				if err != nil {
					return err
				}
				if err := c.WriteSecret(out, text); err != nil {
					return err
				}
				r.PublicKey = pub
			} else {
				data, err := os.ReadFile(pubFile)
				if err != nil {
					return fault.New(fault.Invalid, "--public-key-file %s", pubFile).Wrap(err)
				}
				_, priv, err := auth.ParseKeyFile(data)
				if err != nil {
					return fault.New(fault.Invalid, "--public-key-file %s", pubFile).Wrap(err)
				}
				r.PublicKey = priv.Public().(ed25519.PublicKey) //nolint:forcetypeassert // of an Ed25519 key
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewServiceAccountClient(conn).AddKey(cmd.Context(), r)
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) {
					_, _ = fmt.Fprintf(w, "Key %s of %s is registered.\n", res.GetKey().GetKid(), args[0])
				})
			})
		}}
	cmd.Flags().StringVar(&out, "out", "", "file for the key (0600)")
	cmd.Flags().StringVar(&pubFile, "from-key-file", "", "register the public half of an existing key file")
	cmd.Flags().StringSliceVar(&services, "for", nil, "services the key may mint for; repeatable; default all that policy allows")
	cmd.Flags().DurationVar(&life, "life", 0, "the key ends by itself after this time")
	return cmd
}

func (c *commands) keyRetire() *cobra.Command {
	return &cobra.Command{Use: "retire NAME KID", Short: "End a key and kill the tokens minted from it", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewServiceAccountClient(conn).RetireKey(cmd.Context(), &mciasv1.ServiceAccountRetireKeyRequest{Name: args[0], Kid: args[1]})
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintln(w, "The key is retired; its tokens are dead.") })
			})
		}}
}

func (c *commands) keyListOf() *cobra.Command {
	return &cobra.Command{Use: "list NAME", Aliases: []string{"ls"}, Short: "List the keys of a system account", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewServiceAccountClient(conn).ListKeys(cmd.Context(), &mciasv1.ServiceAccountListKeysRequest{Name: args[0]})
				if err != nil {
					return err
				}
				t := newTable("KID", "STATE", "FOR", "MADE", "ENDS")
				for _, k := range res.GetKeys() {
					state := "live"
					if k.GetRetired() {
						state = "retired"
					}
					t.Row(k.GetKid(), state, dash(strings.Join(k.GetServices(), " ")), c.ago(k.GetCreatedAt()), dash(until(k.GetNotAfter())))
				}
				t.Empty = "No keys."
				return c.EmitTable(res, t)
			})
		}}
}

func (c *commands) operatorKey() *cobra.Command {
	var out string
	cmd := &cobra.Command{Use: "new", Short: "Make a new operator key; pin its public half in MCP's configuration", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := fresh(out); err != nil {
				return err
			}
			k, err := server.NewOperatorKey()
			if err != nil {
				return err
			}
			text, err := json.MarshalIndent(k, "", "  ")
			if err != nil {
				return err
			}
			if err := c.WriteSecret(out, secret.New(text)); err != nil {
				return err
			}
			doc := struct {
				KID       string `json:"kid"`
				PublicKey string `json:"public_key"`
			}{k.KID, k.PublicKey}
			return c.Emit(doc, func(w io.Writer) { _, _ = fmt.Fprintf(w, "kid         %s\npublic key  %s\n", k.KID, k.PublicKey) })
		}}
	cmd.Flags().StringVar(&out, "out", "", "file for the key (0600)")
	return group("operator-key", "The key that deploys while MCIAS is away", cmd)
}
