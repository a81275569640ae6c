package command

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
	"metacircular.net/metacrypt/internal/bootstrap"
)

func bootstrapCommand(e *cli.Env) *cobra.Command {
	opt := bootstrap.Options{}
	var nets []string
	c := &cobra.Command{Use: "bootstrap", Short: "Make root, first issuer and first certificates, offline", Args: cobra.NoArgs,
		Long:    "Make what a platform needs before this service runs: ca.pem and root.key, issuer.pem and issuer.key, and <service>.crt (full chain) with <service>.key for each service.\nRunning it again completes what is missing and never remakes an existing root.",
		Example: "  metacrypt pki bootstrap --out ./srv/ca --domain mc.localhost --service mcns,mcias,metacrypt,mc-proxy",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, n := range nets {
				p, err := netip.ParsePrefix(n)
				if err != nil || p.Masked() != p {
					return fault.Field1("net", "%q is no network such as 10.8.0.0/24", n)
				}
				opt.Nets = append(opt.Nets, p)
			}
			opt.Clock, opt.PublicURL = e.Clock, strings.TrimSuffix(opt.PublicURL, "/")
			res, err := bootstrap.Run(cmd.Context(), opt)
			if err != nil {
				return err
			}
			return e.Emit(res, func(w io.Writer) {
				t := &cli.Table{Head: []string{"NAME", "STATE", "ENDS", "CERTIFICATE"}, Empty: "No service was named with --service."}
				for _, l := range res.Leaves {
					t.Row(l.Name, l.State, l.NotAfter.Format("2006-01-02"), l.CertFile)
				}
				_ = e.EmitTable(res, t) // a table to standard output
				_, _ = fmt.Fprintf(w, "root %s  sha256:%s\n", res.CAFile, res.Fingerprint)
			})
		}}
	f := c.Flags()
	f.StringVar(&opt.Dir, "out", "ca", "folder to write to")
	f.StringVar(&opt.Dir, "dir", "ca", "the same as --out")
	f.StringVar(&opt.Domain, "domain", "mc.localhost", "the platform's domain: the zone that may be signed for")
	f.StringVar(&opt.Domain, "zone", "mc.localhost", "the same as --domain")
	f.StringSliceVar(&opt.Services, "service", nil, "services that get a certificate <service>.<domain>")
	f.StringSliceVar(&nets, "net", nil, "networks whose addresses may be signed for (default none)")
	f.StringVar(&opt.PublicURL, "public-url", "", "where lists will be: http://metacrypt.<domain>/pki")
	_ = f.MarkHidden("dir")  // the flag exists
	_ = f.MarkHidden("zone") // the flag exists
	return c
}

func adoptCommand(e *cli.Env) *cobra.Command {
	var p proof
	var mount string
	var keep bool
	c := &cobra.Command{Use: "adopt DIR", Short: "Take the root of `pki bootstrap` into the store and remove its keys from the folder", Args: cobra.ExactArgs(1),
		Long:    "Take the root of `pki bootstrap` into the store, make the platform's issuer, retire the bootstrap issuer.\nAfterwards root.key and issuer.key are overwritten and removed: best effort on flash and copy-on-write disks. Running it again is safe.",
		Example: "  metacrypt pki adopt ./srv/ca",
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := args[0]
			req, err := adoption(dir)
			if err != nil {
				return err
			}
			req.Mount = mount
			if req.Proof, err = p.read(e); err != nil {
				return err
			}
			var res *metacryptv1.AdoptResponse
			if err := with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				var err error
				res, err = metacryptv1.NewPKIClient(conn).Adopt(cmd.Context(), req)
				return err
			}); err != nil {
				return err
			}
			if !keep {
				for _, f := range []string{bootstrap.RootKey, bootstrap.IssuerKey} {
					if err := shred(filepath.Join(dir, f)); err != nil {
						return err
					}
				}
			}
			return e.Emit(res, func(w io.Writer) {
				what := "Adopted"
				if !res.GetChanged() {
					what = "Nothing to do: it was adopted before. It is"
				}
				_, _ = fmt.Fprintf(w, "%s root sha256:%s; %s signs now.\n", what, res.GetFingerprint(), res.GetIssuer().GetName())
			})
		}}
	p.flags(c)
	c.Flags().StringVar(&mount, "mount", "pki", "mount to adopt into")
	c.Flags().BoolVar(&keep, "keep-keys", false, "leave root.key and issuer.key in the folder")
	return c
}

// adoption reads a folder that bootstrap made. Keys may be gone already.
func adoption(dir string) (*metacryptv1.AdoptRequest, error) {
	root, err := readFile(filepath.Join(dir, bootstrap.RootCert))
	if err != nil {
		return nil, err
	}
	issuer, err := readFile(filepath.Join(dir, bootstrap.IssuerCert))
	if err != nil {
		return nil, err
	}
	req := &metacryptv1.AdoptRequest{RootPem: string(root), IssuerPem: string(issuer)}
	for file, to := range map[string]*[]byte{bootstrap.RootKey: &req.RootKeyPem, bootstrap.IssuerKey: &req.IssuerKeyPem} {
		v, err := secret.ReadFile(filepath.Join(dir, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fault.New(fault.Invalid, "cannot use %s", filepath.Join(dir, file)).Wrap(err)
		}
		*to = v.Reveal()
	}
	leaves, err := filepath.Glob(filepath.Join(dir, "*.crt"))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	for _, f := range leaves {
		b, err := readFile(f)
		if err != nil {
			return nil, err
		}
		req.Leaves = append(req.Leaves, &metacryptv1.BootstrapLeaf{Pem: string(b)})
	}
	return req, nil
}

// shred overwrites and removes a file.
func shred(file string) error {
	info, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", file, err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("overwrite %s: %w", file, err)
	}
	_, werr := f.Write(make([]byte, info.Size()))
	err = errors.Join(werr, f.Sync(), f.Close(), os.Remove(file), secret.SyncDir(filepath.Dir(file)))
	if err != nil {
		return fmt.Errorf("overwrite %s: %w", file, err)
	}
	return nil
}
