package command

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
	"metacircular.net/metacrypt/internal/ca"
	"metacircular.net/metacrypt/internal/engine/pki"
)

func pkiCommand(e *cli.Env) *cobra.Command {
	return group("pki", "Certificates", bootstrapCommand(e), adoptCommand(e), issueCommand(e), signCommand(e), renewCommand(e), revokeCommand(e),
		listCommand(e), showCommand(e), crlCommand(e), issuerCommand(e))
}

// files are the two files of a certificate.
func writePair(dir, base string, chain string, key []byte) (cert, keyFile string, err error) {
	cert, keyFile = filepath.Join(dir, base+".crt"), filepath.Join(dir, base+".key")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", "", fault.New(fault.Invalid, "cannot make %s", dir).Wrap(err)
	}
	if err := secret.WriteFile(keyFile, key); err != nil {
		return "", "", fault.New(fault.Invalid, "cannot write %s", keyFile).Wrap(err)
	}
	if err := secret.WriteFile(cert, []byte(chain)); err != nil {
		return "", "", fault.New(fault.Invalid, "cannot write %s", cert).Wrap(err)
	}
	return cert, keyFile, nil
}

func baseName(s string) string { return strings.NewReplacer("*", "_", ":", "_", "/", "_").Replace(s) }

func issueCommand(e *cli.Env) *cobra.Command {
	var dir, profile string
	var ttl time.Duration
	c := &cobra.Command{Use: "issue NAME...", Short: "Make a key and its certificate", Args: cobra.MinimumNArgs(1),
		Example: "  metacrypt pki issue --out-dir . blog.mc.localhost",
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewPKIClient(conn).Issue(cmd.Context(), &metacryptv1.IssueRequest{Identifiers: args, Profile: profile, TtlSeconds: seconds(ttl)})
				if err != nil {
					return err
				}
				cert, key, err := writePair(dir, baseName(args[0]), res.GetChainPem(), res.GetKeyPem())
				if err != nil {
					return err
				}
				return emitIssued(e, res.GetCertificate(), cert, key)
			})
		}}
	c.Flags().StringVar(&dir, "out-dir", ".", "folder for NAME.crt (full chain) and NAME.key")
	profileFlags(c, &profile, &ttl)
	return c
}

func profileFlags(c *cobra.Command, profile *string, ttl *time.Duration) {
	c.Flags().StringVar(profile, "profile", "server", "server, shortlived, client or peer")
	c.Flags().DurationVar(ttl, "ttl", 0, "lifetime, at most the profile's")
}

func seconds(d time.Duration) int32 { return int32(min(d/time.Second, 1<<30)) } //nolint:gosec // bounded

func emitIssued(e *cli.Env, c *metacryptv1.Certificate, cert, key string) error {
	doc := map[string]string{"serial": c.GetSerial(), "cert_file": cert, "key_file": key, "not_after": c.GetNotAfter().AsTime().Format(time.RFC3339)}
	return e.Emit(doc, func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "%s, serial %s, until %s: %s\n", strings.Join(c.GetIdentifiers(), " "), c.GetSerial(),
			c.GetNotAfter().AsTime().Format("2006-01-02 15:04 UTC"), cert)
	})
}

func signCommand(e *cli.Env) *cobra.Command {
	var out, profile string
	var ttl time.Duration
	c := &cobra.Command{Use: "sign CSR-FILE", Short: "Sign a certificate request; print the full chain", Args: cobra.ExactArgs(1),
		Example: "  metacrypt pki sign blog.csr --out blog.crt",
		RunE: func(cmd *cobra.Command, args []string) error {
			csr, err := readFile(args[0])
			if err != nil {
				return err
			}
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewPKIClient(conn).SignCSR(cmd.Context(), &metacryptv1.SignCSRRequest{Csr: csr, Profile: profile, TtlSeconds: seconds(ttl)})
				if err != nil {
					return err
				}
				if out == "" {
					return e.Emit(res, func(w io.Writer) { _, _ = io.WriteString(w, res.GetChainPem()) })
				}
				if err := secret.WriteFile(out, []byte(res.GetChainPem())); err != nil {
					return fault.New(fault.Invalid, "cannot write %s", out).Wrap(err)
				}
				return emitIssued(e, res.GetCertificate(), out, "")
			})
		}}
	c.Flags().StringVar(&out, "out", "", "file for the chain (default: print it)")
	profileFlags(c, &profile, &ttl)
	return c
}

func renewCommand(e *cli.Env) *cobra.Command {
	c := &cobra.Command{Use: "renew CERT-FILE KEY-FILE", Short: "Replace a certificate by its successor, with a new key, by proof of the old key; needs no login", Args: cobra.ExactArgs(2),
		Example: "  metacrypt pki renew blog.crt blog.key",
		RunE: func(cmd *cobra.Command, args []string) error {
			old, key, err := readPair(args[0], args[1])
			if err != nil {
				return err
			}
			fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				return fmt.Errorf("generate key: %w", err)
			}
			csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: old.DNSNames, IPAddresses: old.IPAddresses}, fresh)
			if err != nil {
				return fmt.Errorf("make request: %w", err)
			}
			return withPublic(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				client := metacryptv1.NewPKIClient(conn)
				ch, err := client.RenewChallenge(cmd.Context(), &metacryptv1.RenewChallengeRequest{})
				if err != nil {
					return err
				}
				sig, err := pki.SignRenewal(key, ch.GetNonce(), old.Raw, csr)
				if err != nil {
					return fmt.Errorf("sign with the old key: %w", err)
				}
				res, err := client.Renew(cmd.Context(), &metacryptv1.RenewRequest{OldLeaf: old.Raw, Csr: csr, Nonce: ch.GetNonce(), Signature: sig})
				if err != nil {
					return err
				}
				b, err := ca.KeyPEM(fresh)
				if err != nil {
					return fmt.Errorf("encode key: %w", err)
				}
				// Two files cannot change at once. The new ones are written beside the old, then both are renamed; whoever
				// reads between sees a pair that does not fit and tries again.
				if err := replacePair(args[0], []byte(res.GetChainPem()), args[1], b); err != nil {
					return err
				}
				return emitIssued(e, res.GetCertificate(), args[0], args[1])
			})
		}}
	return c
}

func replacePair(cert string, chain []byte, key string, keyPEM []byte) error {
	for file, b := range map[string][]byte{cert: chain, key: keyPEM} {
		if err := secret.WriteFile(file+".new", b); err != nil {
			return fault.New(fault.Invalid, "cannot write %s.new", file).Wrap(err)
		}
	}
	for _, file := range []string{key, cert} {
		if err := os.Rename(file+".new", file); err != nil {
			return fault.New(fault.Internal, "replace %s; the new pair lies in %s.new and %s.new", file, cert, key).Wrap(err)
		}
	}
	return secret.SyncDir(filepath.Dir(cert))
}

func readPair(certFile, keyFile string) (*x509.Certificate, crypto.Signer, error) {
	b, err := readFile(certFile)
	if err != nil {
		return nil, nil, err
	}
	cert, err := ca.ParseCertificate(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certFile, err)
	}
	v, err := secret.ReadFile(keyFile)
	if err != nil {
		return nil, nil, fault.New(fault.Invalid, "cannot use %s", keyFile).Wrap(err)
	}
	defer v.Wipe()
	key, err := ca.ParseKey(v.Reveal())
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	return cert, key, nil
}

func revokeCommand(e *cli.Env) *cobra.Command {
	var reason string
	c := &cobra.Command{Use: "revoke SERIAL", Short: "Revoke a certificate; there is no undo", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := e.Confirm("Certificate " + args[0] + " will be refused by whoever reads the list, and never renewed"); err != nil {
				return err
			}
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewPKIClient(conn).Revoke(cmd.Context(), &metacryptv1.RevokeRequest{Serial: args[0], Reason: reason})
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintf(w, "Revoked %s.\n", args[0]) })
			})
		}}
	c.Flags().StringVar(&reason, "reason", "unspecified", "keyCompromise, superseded, cessationOfOperation, …")
	return c
}

func listCommand(e *cli.Env) *cobra.Command {
	req := &metacryptv1.ListCertsRequest{}
	var all bool
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List certificates, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req.Live = !all
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewPKIClient(conn).ListCerts(cmd.Context(), req)
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{"NAMES", "PROFILE", "ISSUER", "ENDS", "REQUESTER", "SERIAL"}, Empty: "No certificates. next: metacrypt pki issue NAME"}
				for _, c := range res.GetCertificates() {
					t.Row(strings.Join(c.GetIdentifiers(), " "), c.GetProfile(), c.GetIssuer(), c.GetNotAfter().AsTime().Format("2006-01-02"), c.GetRequester(), c.GetSerial())
				}
				if res.GetNextPageToken() != "" {
					t.Foot = "more: --page " + res.GetNextPageToken()
				}
				return e.EmitTable(res, t)
			})
		}}
	c.Flags().StringVar(&req.Search, "search", "", "only names that contain this")
	c.Flags().BoolVar(&all, "all", false, "expired, revoked and replaced ones too")
	c.Flags().StringVar(&req.PageToken, "page", "", "token of the next page")
	c.Flags().Int32Var(&req.PageSize, "page-size", 50, "rows of a page")
	return c
}

func showCommand(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "show SERIAL", Short: "Print a certificate", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewPKIClient(conn).GetCert(cmd.Context(), &metacryptv1.GetCertRequest{Serial: args[0]})
				if err != nil {
					return err
				}
				return e.Emit(res.GetCertificate(), func(w io.Writer) { _, _ = io.WriteString(w, res.GetCertificate().GetPem()) })
			})
		}}
}

func crlCommand(e *cli.Env) *cobra.Command {
	var out string
	c := &cobra.Command{Use: "crl ISSUER", Short: "Fetch a revocation list (DER)", Args: cobra.ExactArgs(1), Example: "  metacrypt pki crl root --out root.crl",
		RunE: func(cmd *cobra.Command, args []string) error {
			return withPublic(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewPKIClient(conn).GetCRL(cmd.Context(), &metacryptv1.GetCRLRequest{Issuer: args[0]})
				if err != nil {
					return err
				}
				if out == "" {
					_, err := e.Out.Write(res.GetDer())
					return err
				}
				return secret.WriteFile(out, res.GetDer())
			})
		}}
	c.Flags().StringVar(&out, "out", "", "file to write (default: standard output)")
	return c
}

func issuerCommand(e *cli.Env) *cobra.Command {
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the issuers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewPKIClient(conn).ListIssuers(cmd.Context(), &metacryptv1.ListIssuersRequest{})
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{"NAME", "STATE", "ZONES", "ENDS"}, Empty: "No issuers. next: metacrypt pki adopt DIR"}
				for _, i := range res.GetIssuers() {
					t.Row(i.GetName(), i.GetState(), strings.Join(i.GetPermittedDns(), " "), i.GetNotAfter().AsTime().Format("2006-01-02"))
				}
				return e.EmitTable(res, t)
			})
		}}
	var p proof
	req := &metacryptv1.CreateIssuerRequest{}
	create := &cobra.Command{Use: "create NAME", Short: "Make an issuer under the root; it signs from then on", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if req.Proof, err = p.read(e); err != nil {
				return err
			}
			req.Name = args[0]
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewPKIClient(conn).CreateIssuer(cmd.Context(), req)
				if err != nil {
					return err
				}
				return e.Emit(res.GetIssuer(), func(w io.Writer) { _, _ = fmt.Fprintf(w, "Made issuer %s.\n", res.GetIssuer().GetName()) })
			})
		}}
	p.flags(create)
	create.Flags().StringSliceVar(&req.PermittedDns, "zone", nil, "zones (default those of the present issuer)")
	create.Flags().StringSliceVar(&req.PermittedIps, "net", nil, "networks")
	create.Flags().Int32Var(&req.Days, "days", 0, "lifetime in days (default 730)")
	return group("issuer", "Issuers under the root", list, create)
}
