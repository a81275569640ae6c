package command

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
)

func slotCommand(e *cli.Env) *cobra.Command {
	return group("slot", "The ways to open the seal", slotList(e), slotAdd(e), slotReplace(e), slotRemove(e), slotRehearse(e))
}

func slotList(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the slots", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewSlotsClient(conn).List(cmd.Context(), &metacryptv1.SlotsListRequest{})
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{"ID", "KIND", "DERIVATION", "MADE", "LAST USED"}, Empty: "No slots: the store is not initialized. next: metacrypt init --recovery-out FILE"}
				for _, s := range res.GetSlots() {
					used := "never"
					if s.GetLastUsedAt() != nil {
						used = cli.Ago(s.GetLastUsedAt().AsTime(), e.Clock.Now())
					}
					t.Row(s.GetId(), s.GetKind(), s.GetParams(), cli.Ago(s.GetCreatedAt().AsTime(), e.Clock.Now()), used)
				}
				return e.EmitTable(res, t)
			})
		}}
}

// newSlotSecret reads the secret of a new slot; recovery slots get theirs from the server.
func newSlotSecret(e *cli.Env, kind, file string) ([]byte, error) {
	switch kind {
	case "recovery":
		return nil, nil
	case "credential":
		if file == "" {
			return nil, fault.Field1("new-file", "name the credential file: at least 32 random bytes")
		}
	case "password":
	default:
		return nil, fault.Field1("kind", "%q is not password, recovery or credential", kind)
	}
	v, err := e.NewSecret(file, "--new-file", "New unseal password")
	return v.Reveal(), err
}

// emitSlot prints a new slot; a recovery code goes to a file of its own.
func emitSlot(e *cli.Env, s *metacryptv1.Slot, code, out string) error {
	if code != "" {
		if err := e.WriteSecret(out, secret.FromString(code+"\n")); err != nil {
			return err
		}
	}
	return e.Emit(s, func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "Made slot %s (%s).\n", s.GetId(), s.GetKind())
		if code != "" {
			_, _ = fmt.Fprintf(w, "Its recovery code is in %s.\n", out)
		}
	})
}

func slotAdd(e *cli.Env) *cobra.Command {
	var p proof
	var file, out string
	c := &cobra.Command{Use: "add password|recovery|credential", Short: "Add a way to open the seal", Args: cobra.ExactArgs(1),
		Example: "  metacrypt slot add password\n  metacrypt slot add recovery --out code.txt",
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "recovery" {
				if out == "" {
					return fault.Field1("out", "is needed: the new recovery code is written there")
				}
				if err := canCreate(out); err != nil {
					return err
				}
			}
			pr, err := p.read(e)
			if err != nil {
				return err
			}
			sec, err := newSlotSecret(e, args[0], file)
			if err != nil {
				return err
			}
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewSlotsClient(conn).Add(cmd.Context(), &metacryptv1.SlotsAddRequest{Proof: pr, Kind: args[0], Secret: sec})
				if err != nil {
					return err
				}
				return emitSlot(e, res.GetSlot(), res.GetRecoveryCode(), out)
			})
		}}
	p.flags(c)
	c.Flags().StringVar(&file, "new-file", "", "file with the new password or credential, - for standard input")
	c.Flags().StringVar(&out, "out", "", "new file for the recovery code")
	return c
}

func slotReplace(e *cli.Env) *cobra.Command {
	var p proof
	var file, out, kind string
	c := &cobra.Command{Use: "replace ID", Short: "Give a slot a new secret; the old one opens nothing any more", Args: cobra.ExactArgs(1),
		Example: "  metacrypt slot replace 4f1c… --kind password\n  metacrypt slot replace 9a07… --kind recovery --out code.txt",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := canCreate(out); err != nil {
				return err
			}
			if kind == "recovery" && out == "" {
				return fault.Field1("out", "is needed: the new recovery code is written there")
			}
			pr, err := p.read(e)
			if err != nil {
				return err
			}
			sec, err := newSlotSecret(e, kind, file)
			if err != nil {
				return err
			}
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewSlotsClient(conn).Replace(cmd.Context(), &metacryptv1.SlotsReplaceRequest{Proof: pr, Id: args[0], Secret: sec})
				if err != nil {
					return err
				}
				return emitSlot(e, res.GetSlot(), res.GetRecoveryCode(), out)
			})
		}}
	p.flags(c)
	c.Flags().StringVar(&kind, "kind", "password", "kind of the slot: password, recovery or credential")
	c.Flags().StringVar(&file, "new-file", "", "file with the new password or credential, - for standard input")
	c.Flags().StringVar(&out, "out", "", "new file for the recovery code")
	return c
}

func slotRemove(e *cli.Env) *cobra.Command {
	var p proof
	c := &cobra.Command{Use: "remove ID", Aliases: []string{"rm"}, Short: "Remove a slot and rotate the master key", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := e.Confirm("Slot " + args[0] + " will open nothing any more"); err != nil {
				return err
			}
			pr, err := p.read(e)
			if err != nil {
				return err
			}
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewSlotsClient(conn).Remove(cmd.Context(), &metacryptv1.SlotsRemoveRequest{Proof: pr, Id: args[0]})
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintf(w, "Removed slot %s and rotated the master key.\n", args[0]) })
			})
		}}
	p.flags(c)
	return c
}

func slotRehearse(e *cli.Env) *cobra.Command {
	var p proof
	c := &cobra.Command{Use: "rehearse", Short: "Test a password or recovery code; changes nothing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pr, err := p.read(e)
			if err != nil {
				return err
			}
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewSlotsClient(conn).Rehearse(cmd.Context(), &metacryptv1.SlotsRehearseRequest{Proof: pr})
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintf(w, "It opens slot %s.\n", res.GetId()) })
			})
		}}
	p.flags(c)
	return c
}
