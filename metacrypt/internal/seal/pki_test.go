package seal_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/bootstrap"
	"metacircular.net/metacrypt/internal/ca"
	"metacircular.net/metacrypt/internal/engine/pki"
	"metacircular.net/metacrypt/internal/ident"
	"metacircular.net/metacrypt/internal/seal"
)

// adoption reads what bootstrap made.
func adoption(t *testing.T, dir string) pki.Adoption {
	t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var a pki.Adoption
	var err error
	if a.Root.Cert, err = ca.ParseCertificate(read(bootstrap.RootCert)); err != nil {
		t.Fatal(err)
	}
	if a.Root.Key, err = ca.ParseKey(read(bootstrap.RootKey)); err != nil {
		t.Fatal(err)
	}
	if a.Issuer.Cert, err = ca.ParseCertificate(read(bootstrap.IssuerCert)); err != nil {
		t.Fatal(err)
	}
	if a.Issuer.Key, err = ca.ParseKey(read(bootstrap.IssuerKey)); err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.ParseCertificate(read("mcias.crt"))
	if err != nil {
		t.Fatal(err)
	}
	a.Leaves = []*x509.Certificate{leaf}
	return a
}

type authority struct {
	*fixture
	dir string
	a   pki.Adoption
	clk *clock.Fake
}

func adopted(t *testing.T) *authority {
	t.Helper()
	dir := t.TempDir()
	clk := clock.NewFake(time.Now())
	if _, err := bootstrap.Run(t.Context(), bootstrap.Options{Dir: dir, Domain: "mc.localhost", Services: []string{"mcias"}, Clock: clk}); err != nil {
		t.Fatal(err)
	}
	f := open(t, filepath.Join(t.TempDir(), "m.db"), "", clk)
	var err error
	if f.code, _, err = f.seal.Init(t.Context(), password, nil); err != nil {
		t.Fatal(err)
	}
	f.unseal(t)
	au := &authority{fixture: f, dir: dir, a: adoption(t, dir), clk: clk}
	au.with(t, func(l *seal.Lease, e *pki.Engine) error {
		changed, err := e.Adopt(l.Ctx, au.a)
		if err == nil && !changed {
			t.Error("adopt changed nothing")
		}
		return err
	})
	return au
}

func (au *authority) with(t *testing.T, f func(*seal.Lease, *pki.Engine) error) {
	t.Helper()
	if err := au.try(t, f); err != nil {
		t.Fatal(err)
	}
}

func (au *authority) try(t *testing.T, f func(*seal.Lease, *pki.Engine) error) error {
	t.Helper()
	return au.seal.With(t.Context(), func(l *seal.Lease) error {
		e, err := l.Engines.PKI("pki")
		if err != nil {
			return err
		}
		return f(l, e)
	})
}

func (au *authority) sign(t *testing.T, key *ecdsa.PrivateKey, name string) *x509.Certificate {
	t.Helper()
	var out *x509.Certificate
	au.with(t, func(l *seal.Lease, e *pki.Engine) error {
		names, _ := ident.ParseAll([]string{name})
		is, err := e.Issue(l.Ctx, pki.Requester{Subject: "u1", Name: "mcp-agent"}, key.Public(), names, "server", 0)
		if err == nil {
			out = is.Chain[0]
		}
		return err
	})
	return out
}

func (au *authority) renew(t *testing.T, old *x509.Certificate, oldKey, newKey *ecdsa.PrivateKey, names []string, allow pki.Allow) (*pki.Issued, error) {
	t.Helper()
	var out *pki.Issued
	err := au.try(t, func(l *seal.Lease, e *pki.Engine) error {
		nonce, _ := e.Challenge()
		req := csr(t, newKey, names...)
		sig, err := pki.SignRenewal(oldKey, nonce, old.Raw, req)
		if err != nil {
			return err
		}
		out, err = e.Renew(l.Ctx, pki.Renewal{OldLeaf: old.Raw, CSR: req, Nonce: nonce, Signature: sig}, allow)
		if err == nil {
			if _, err := e.Renew(l.Ctx, pki.Renewal{OldLeaf: old.Raw, CSR: req, Nonce: nonce, Signature: sig}, allow); !fault.HasReason(err, "BAD_NONCE") {
				t.Errorf("the nonce works twice: %v", err)
			}
		}
		return err
	})
	return out, err
}

func anybody(pki.Requester, string, []ident.Name) error { return nil }

func TestAdoptIsIdempotentAndKeepsTheRoot(t *testing.T) {
	t.Parallel()
	au := adopted(t)
	au.with(t, func(l *seal.Lease, e *pki.Engine) error {
		again := au.a
		again.Root.Key, again.Issuer.Key = nil, nil
		changed, err := e.Adopt(l.Ctx, again)
		if err != nil || changed {
			t.Errorf("second adopt = %v, %v", changed, err)
		}
		if !e.Root().Equal(au.a.Root.Cert) {
			t.Error("the root changed")
		}
		other, err := ca.NewRoot("Other", time.Now())
		if err != nil {
			return err
		}
		if _, err := e.Adopt(l.Ctx, pki.Adoption{Root: other}); !fault.HasReason(err, "OTHER_ROOT") {
			t.Errorf("another root: %v", err)
		}
		row, err := e.Cert(l.Ctx, ca.SerialText(au.a.Leaves[0].SerialNumber))
		if err != nil || row.Issuer != pki.BootstrapName {
			t.Errorf("the bootstrap leaf is not recorded: %+v, %v", row, err)
		}
		return nil
	})
	pub := pki.NewPublic(au.db)
	if err := au.seal.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	rootCRL, err := pub.CRL(t.Context(), "pki", "root")
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(rootCRL)
	if err != nil || crl.CheckSignatureFrom(au.a.Root.Cert) != nil || len(crl.RevokedCertificateEntries) != 1 ||
		crl.RevokedCertificateEntries[0].SerialNumber.Cmp(au.a.Issuer.Cert.SerialNumber) != 0 {
		t.Errorf("the root's list does not hold the bootstrap issuer: %v", err)
	}
	for _, f := range []func() ([]byte, error){
		func() ([]byte, error) { return pub.Root(t.Context(), "pki") }, func() ([]byte, error) { return pub.Chain(t.Context(), "pki") },
		func() ([]byte, error) { return pub.CRL(t.Context(), "pki", "issuer-1") },
	} {
		if b, err := f(); err != nil || len(b) == 0 {
			t.Errorf("public data while sealed: %v", err)
		}
	}
}

func TestRenewByProofOfTheOldKey(t *testing.T) {
	t.Parallel()
	au := adopted(t)
	key, next := newKey(t), newKey(t)
	leaf := au.sign(t, key, "blog.mc.localhost")
	is, err := au.renew(t, leaf, key, next, []string{"blog.mc.localhost"}, anybody)
	if err != nil || is.Cert.Replaces != ca.SerialText(leaf.SerialNumber) {
		t.Fatalf("renew = %+v, %v", is, err)
	}
	for name, try := range map[string]func() error{
		"other key": func() error {
			_, err := au.renew(t, leaf, next, next, []string{"blog.mc.localhost"}, anybody)
			return err
		},
		"other names": func() error {
			_, err := au.renew(t, leaf, key, next, []string{"blog.mc.localhost", "x.mc.localhost"}, anybody)
			return err
		},
		"policy": func() error {
			_, err := au.renew(t, leaf, key, next, []string{"blog.mc.localhost"}, func(by pki.Requester, _ string, _ []ident.Name) error {
				return fault.New(fault.Denied, "no rule lets %s", by.Name)
			})
			return err
		},
		"foreign": func() error {
			q, err := ca.NewRoot("x", time.Now())
			if err != nil {
				return err
			}
			k := newKey(t)
			iss, err := ca.NewIssuer(q, ca.IssuerSpec{Name: "y", Zones: []string{"mc.localhost"}, Life: time.Hour * 48}, time.Now())
			if err != nil {
				return err
			}
			names, _ := ident.ParseAll([]string{"blog.mc.localhost"})
			prof, _ := ca.ProfileByName("server")
			forged, err := ca.NewLeaf(q.Cert, iss, ca.LeafSpec{Profile: prof, Names: names, Key: k.Public()}, time.Now())
			if err != nil {
				return err
			}
			_, err = au.renew(t, forged, k, next, []string{"blog.mc.localhost"}, anybody)
			return err
		},
	} {
		if err := try(); err == nil || fault.Is(err, fault.Internal) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	for i := 1; i < 5; i++ {
		if _, err := au.renew(t, leaf, key, newKey(t), []string{"blog.mc.localhost"}, anybody); err != nil {
			t.Fatalf("successor %d: %v", i+1, err)
		}
	}
	if _, err := au.renew(t, leaf, key, newKey(t), []string{"blog.mc.localhost"}, anybody); !fault.HasReason(err, "SUCCESSORS") {
		t.Errorf("sixth successor: %v", err)
	}
	// The bootstrap leaf renews too, and is signed by the platform's issuer then.
	bootKey, err := os.ReadFile(filepath.Join(au.dir, "mcias.key"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := ca.ParseKey(bootKey)
	if err != nil {
		t.Fatal(err)
	}
	is, err = au.renew(t, au.a.Leaves[0], k.(*ecdsa.PrivateKey), next, []string{"mcias.mc.localhost"}, func(by pki.Requester, _ string, _ []ident.Name) error {
		if !by.Admin || by.Name != "local:root" {
			t.Errorf("requester of the bootstrap leaf = %+v", by)
		}
		return nil
	})
	if err != nil || is.Cert.Issuer != "issuer-1" {
		t.Errorf("bootstrap leaf: %+v, %v", is, err)
	}
}

func TestRenewAfterExpiryAndAfterRevocation(t *testing.T) {
	t.Parallel()
	au := adopted(t)
	key := newKey(t)
	leaf := au.sign(t, key, "blog.mc.localhost")
	gone := newKey(t)
	revoked := au.sign(t, gone, "gone.mc.localhost")
	au.with(t, func(l *seal.Lease, e *pki.Engine) error {
		if _, err := e.Revoke(l.Ctx, ca.SerialText(revoked.SerialNumber), 1); err != nil {
			return err
		}
		return e.RefreshCRLs(l.Ctx, true)
	})
	exec(t, au.path, `UPDATE certs SET revoked_at = 0`) // the index alone decides nothing
	if _, err := au.renew(t, revoked, gone, gone, []string{"gone.mc.localhost"}, anybody); !fault.HasReason(err, "REVOKED") {
		t.Errorf("after revocation: %v", err)
	}
	exec(t, au.path, `UPDATE certs SET requester = '{"sub":"x","name":"x","admin":true}'`)
	if _, err := au.renew(t, leaf, key, key, []string{"blog.mc.localhost"}, anybody); !fault.HasReason(err, "INTEGRITY") {
		t.Errorf("an edited requester: %v", err)
	}
	fresh := au.sign(t, key, "blog.mc.localhost")
	au.clk.Advance(50 * 24 * time.Hour)
	if _, err := au.renew(t, fresh, key, key, []string{"blog.mc.localhost"}, anybody); err != nil {
		t.Errorf("20 days after expiry: %v", err)
	}
	au.clk.Advance(11 * 24 * time.Hour)
	if _, err := au.renew(t, fresh, key, key, []string{"blog.mc.localhost"}, anybody); !fault.HasReason(err, "EXPIRED") {
		t.Errorf("31 days after expiry: %v", err)
	}
	au.clk.Advance(-61 * 24 * time.Hour)
	err := au.try(t, func(l *seal.Lease, e *pki.Engine) error {
		names, _ := ident.ParseAll([]string{"late.mc.localhost"})
		_, err := e.Issue(l.Ctx, pki.LocalRoot, newKey(t).Public(), names, "server", 0)
		return err
	})
	if !fault.HasReason(err, "CLOCK") {
		t.Errorf("with the clock gone back: %v", err)
	}
}
