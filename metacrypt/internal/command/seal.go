package command

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
)

func initCommand(e *cli.Env) *cobra.Command {
	var password, recovery, credential string
	c := &cobra.Command{Use: "init", Short: "Make the keys of a new store, once, over the local socket", Args: cobra.NoArgs,
		Example: "  metacrypt init --recovery-out recovery.txt\n  metacrypt init --password-file pw --recovery-out recovery.txt --credential-out /srv/metacrypt/unseal.key",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if recovery == "" {
				return fault.Field1("recovery-out", "is needed: without the recovery code a lost password loses everything").WithNext("metacrypt init --recovery-out FILE")
			}
			for _, f := range []string{recovery, credential} {
				if err := canCreate(f); err != nil {
					return err
				}
			}
			pw, err := e.NewSecret(password, "--password-file", "New unseal password")
			if err != nil {
				return err
			}
			defer pw.Wipe()
			req := &metacryptv1.InitRequest{Password: pw.Reveal()}
			if credential != "" {
				req.Credential = make([]byte, 32)
				_, _ = rand.Read(req.Credential) // never fails: it ends the process instead
				if err := secret.WriteFile(credential, req.Credential); err != nil {
					return fault.New(fault.Invalid, "cannot write %s", credential).Wrap(err)
				}
			}
			conn, err := e.DialLocal(name)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }() // nothing is left to lose
			res, err := metacryptv1.NewSystemClient(conn).Init(cmd.Context(), req)
			if err != nil {
				if credential != "" {
					_ = os.Remove(credential) // it opens nothing
				}
				return err
			}
			if err := e.WriteSecret(recovery, secret.FromString(sheet(res))); err != nil {
				return fault.New(fault.Internal, "the keys are made, but the recovery code could not be written to %s", recovery).Wrap(err).
					WithNext("metacrypt unseal, then metacrypt slot list and metacrypt slot replace ID --out FILE")
			}
			return e.Emit(map[string]string{"instance_id": res.GetInstanceId(), "recovery_file": recovery}, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "Made the keys of instance %s. The recovery code is in %s: print it, keep it away from this machine, delete the file.\nnext: metacrypt unseal\n",
					res.GetInstanceId(), recovery)
			})
		}}
	c.Flags().StringVar(&password, "password-file", "", "file with the new unseal password, - for standard input; asked for if absent")
	c.Flags().StringVar(&recovery, "recovery-out", "", "new file for the recovery code (required)")
	c.Flags().StringVar(&credential, "credential-out", "", "new file with which the server unseals by itself ([seal] credential_file)")
	return c
}

// canCreate finds out before anything is made whether a file can be.
func canCreate(file string) error {
	if file == "" {
		return nil
	}
	if _, err := os.Lstat(file); err == nil {
		return fault.New(fault.Invalid, "%s exists already", file).WithNext("name a new file")
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".probe-*")
	if err != nil {
		return fault.New(fault.Invalid, "cannot write to the folder of %s", file).Wrap(err)
	}
	_ = f.Close() // an empty probe
	return os.Remove(f.Name())
}

// sheet is the recovery sheet.
func sheet(res *metacryptv1.InitResponse) string {
	return fmt.Sprintf(`%s

This is the recovery code of Metacrypt, instance %s.
It opens the store when the unseal password is lost:

    metacrypt unseal --recovery

To restore on another machine: install metacrypt there, "metacrypt restore SNAPSHOT",
start it, then unseal with this code. Without the password and without this code
nothing opens the store.
`, res.GetRecoveryCode(), res.GetInstanceId())
}

func unsealCommand(e *cli.Env) *cobra.Command {
	var p proof
	c := &cobra.Command{Use: "unseal", Short: "Open the seal with the password or the recovery code", Args: cobra.NoArgs,
		Example: "  metacrypt unseal\n  metacrypt unseal --recovery\n  metacrypt --root ./srv unseal --password-file -",
		RunE: func(cmd *cobra.Command, _ []string) error {
			pr, err := p.read(e)
			if err != nil {
				return err
			}
			return withPublic(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewSystemClient(conn).Unseal(cmd.Context(), &metacryptv1.UnsealRequest{Proof: pr})
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) {
					_, _ = fmt.Fprintf(w, "Unsealed, generation %d.\n", res.GetGeneration())
					for m, why := range res.GetBrokenMounts() {
						_, _ = fmt.Fprintf(w, "mount %s did not load: %s\n", m, why)
					}
				})
			})
		}}
	p.flags(c)
	return c
}

func sealCommand(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "seal", Short: "Close the seal until a person opens it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.Confirm("Nothing new is signed and no secret is read until somebody unseals"); err != nil {
				return err
			}
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewSystemClient(conn).Seal(cmd.Context(), &metacryptv1.SealRequest{})
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintln(w, "Sealed. next: metacrypt unseal") })
			})
		}}
}
