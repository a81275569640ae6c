package command

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/keyslot"
	"metacircular.net/mcdsl/secret"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/server"
)

func (c *commands) init() *cobra.Command {
	var r server.InitRequest
	var pwFile, credFile string
	cmd := &cobra.Command{Use: "init", Short: "Make a new MCIAS: keys, slots, policy, the first admin's setup link", Args: cobra.NoArgs,
		Example: "  mcias init --admin alice --unseal-password-file pw --setup-out setup-link --operator-key-out operator.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.load()
			if err != nil {
				return err
			}
			if err := r.CheckInit(); err != nil {
				return err
			}
			if r.Password, err = c.NewSecret(pwFile, "--unseal-password-file", "Unseal password"); err != nil {
				return err
			}
			defer r.Password.Wipe()
			if err := keyslot.CheckPassword(r.Password.Reveal()); err != nil {
				return err
			}
			if credFile != "" {
				if r.Credential, err = secret.ReadFile(credFile); err != nil {
					return err
				}
				defer r.Credential.Wipe()
			}
			res, err := server.Init(cmd.Context(), &cfg, r, c.Clock)
			if err != nil {
				return err
			}
			return c.Emit(res, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "MCIAS is made. It starts sealed.\n  setup link of %s   %s (dies %s)\n  operator key       %s (keep it off this machine)\n  recovery code      %s (print it, then delete it)\n",
					res.Admin, res.SetupFile, res.SetupExpires, res.OperatorKeyFile, res.RecoveryFile)
				c.Note("  next: mcias server, then mcias unseal")
			})
		}}
	f := cmd.Flags()
	f.StringVar(&r.Admin, "admin", "", "name of the first admin")
	f.StringVar(&pwFile, "unseal-password-file", "", "file with the unseal password, - for standard input")
	f.StringVar(&r.SetupOut, "setup-out", "", "file for the first admin's setup link")
	f.StringVar(&r.OperatorOut, "operator-key-out", "", "file for the operator key")
	f.StringVar(&r.RecoveryOut, "recovery-out", "", "file for the recovery code (default: mcias-recovery-code beside the operator key)")
	f.StringVar(&credFile, "credential-file", "", "file with a machine credential that unseals at start, too")
	return cmd
}

func (c *commands) unseal() *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "unseal", Short: "Open the vault with the unseal password or the recovery code", Args: cobra.NoArgs,
		Example: "  mcias unseal\n  mcias --addr local unseal --password-file pw",
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := c.Secret(file, "--password-file", "Unseal password or recovery code")
			if err != nil {
				return err
			}
			defer v.Wipe()
			return c.open(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewVaultClient(conn).Unseal(cmd.Context(), &mciasv1.VaultUnsealRequest{Secret: string(v.Reveal())})
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintln(w, "MCIAS is unsealed.") })
			})
		}}
	cmd.Flags().StringVar(&file, "password-file", "", "file with the secret, - for standard input")
	return cmd
}

func (c *commands) seal() *cobra.Command {
	return &cobra.Command{Use: "seal", Short: "Wipe the keys from memory; holds until a typed unseal", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.Confirm("Nobody can sign in until it is unsealed by hand"); err != nil {
				return err
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewVaultClient(conn).Seal(cmd.Context(), &mciasv1.VaultSealRequest{})
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintln(w, "MCIAS is sealed.") })
			})
		}}
}

func (c *commands) slot() *cobra.Command {
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the key slots", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewVaultClient(conn).ListSlots(cmd.Context(), &mciasv1.VaultListSlotsRequest{})
				if err != nil {
					return err
				}
				t := newTable("ID", "KIND", "MADE")
				for _, s := range res.GetSlots() {
					t.Row(s.GetId(), s.GetKind(), c.ago(s.GetCreatedAt()))
				}
				return c.EmitTable(res, t)
			})
		}}
	return group("slot", "Key slots of the vault", list, c.slotAdd(), c.slotRemove())
}

func (c *commands) slotAdd() *cobra.Command {
	var proof, file, out string
	cmd := &cobra.Command{Use: "add password|recovery|credential", Short: "Add a key slot; needs the secret of an existing one", Args: cobra.ExactArgs(1),
		Example: "  mcias slot add credential --out /srv/mcias/certs/unseal-credential\n  mcias slot add password",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := c.Secret(proof, "--proof-file", "Secret of an existing slot")
			if err != nil {
				return err
			}
			defer p.Wipe()
			req := &mciasv1.VaultAddSlotRequest{Proof: string(p.Reveal()), Kind: args[0]}
			if args[0] == "password" || file != "" {
				v, err := c.NewSecret(file, "--secret-file", "New unseal password")
				if err != nil {
					return err
				}
				defer v.Wipe()
				req.Secret = string(v.Reveal())
			} else if out == "" && !c.JSON {
				return errOut("the new " + args[0])
			}
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewVaultClient(conn).AddSlot(cmd.Context(), req)
				if err != nil {
					return err
				}
				if out != "" && res.GetSecret() != "" {
					if err := c.WriteSecret(out, secret.FromString(res.GetSecret())); err != nil {
						return err
					}
					res.Secret = ""
				}
				return c.Emit(res, func(w io.Writer) {
					_, _ = fmt.Fprintf(w, "Slot %s (%s) is made.\n", res.GetSlot().GetId(), res.GetSlot().GetKind())
				})
			})
		}}
	cmd.Flags().StringVar(&proof, "proof-file", "", "file with the secret of an existing slot, - for standard input")
	cmd.Flags().StringVar(&file, "secret-file", "", "file with the new secret")
	cmd.Flags().StringVar(&out, "out", "", "file for a secret that is made (0600)")
	return cmd
}

func (c *commands) slotRemove() *cobra.Command {
	var proof string
	cmd := &cobra.Command{Use: "remove ID", Aliases: []string{"rm"}, Short: "Remove a key slot; needs the secret of one", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := c.Secret(proof, "--proof-file", "Secret of an existing slot")
			if err != nil {
				return err
			}
			defer p.Wipe()
			return c.call(cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mciasv1.NewVaultClient(conn).RemoveSlot(cmd.Context(), &mciasv1.VaultRemoveSlotRequest{Id: args[0], Proof: string(p.Reveal())})
				if err != nil {
					return err
				}
				return c.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintln(w, "Removed.") })
			})
		}}
	cmd.Flags().StringVar(&proof, "proof-file", "", "file with the secret of an existing slot, - for standard input")
	return cmd
}
