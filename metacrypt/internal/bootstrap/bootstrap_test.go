package bootstrap_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/bootstrap"
)

func TestFirstRunSecondRunAndRenewal(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ca")
	clk := clock.NewFake(time.Now())
	opt := bootstrap.Options{Dir: dir, Domain: "MC.localhost", Services: []string{"mcias", "mc-proxy"}, PublicURL: "http://metacrypt.mc.localhost/pki", Clock: clk}
	first, err := bootstrap.Run(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range first.Leaves {
		if l.State != "made" || l.Name != l.Service+".mc.localhost" {
			t.Errorf("leaf = %+v", l)
		}
		openssl(t, "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", l.Name, "-CAfile", first.CAFile, "-untrusted", l.CertFile, l.CertFile)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
	second, err := bootstrap.Run(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if second.State != "unchanged" || second.Fingerprint != first.Fingerprint {
		t.Errorf("second run = %+v", second)
	}
	clk.Advance(12 * 24 * time.Hour)
	third, err := bootstrap.Run(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if third.Fingerprint != first.Fingerprint || third.Leaves[0].State != "made" {
		t.Errorf("near the end = %+v", third)
	}
}

func TestAfterAdoptNothingIsRemade(t *testing.T) {
	t.Parallel()
	opt := bootstrap.Options{Dir: t.TempDir(), Domain: "mc.localhost", Services: []string{"mcias"}}
	first, err := bootstrap.Run(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{bootstrap.RootKey, bootstrap.IssuerKey} {
		if err := os.Remove(filepath.Join(opt.Dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	again, err := bootstrap.Run(t.Context(), opt)
	if err != nil || again.State != "unchanged" || !again.Adopted {
		t.Fatalf("after adopt = %+v, %v", again, err)
	}
	if diff := cmp.Diff(first.Fingerprint, again.Fingerprint); diff != "" {
		t.Error(diff)
	}
	opt.Services = append(opt.Services, "mcns")
	if _, err := bootstrap.Run(t.Context(), opt); !fault.Is(err, fault.Precondition) {
		t.Errorf("a new service after adopt = %v, want Precondition", err)
	}
}

func TestInterruptedAnywhere(t *testing.T) {
	t.Parallel()
	opt := bootstrap.Options{Dir: t.TempDir(), Domain: "mc.localhost", Services: []string{"mcias"}}
	first, err := bootstrap.Run(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	// The order of writing backwards: each prefix is a state that a kill leaves.
	for _, f := range []string{"mcias.crt", "mcias.key", bootstrap.IssuerCert, bootstrap.IssuerKey} {
		if err := os.Remove(filepath.Join(opt.Dir, f)); err != nil {
			t.Fatal(err)
		}
		again, err := bootstrap.Run(t.Context(), opt)
		if err != nil || again.Fingerprint != first.Fingerprint || again.State != "done" {
			t.Fatalf("after a kill before %s: %+v, %v", f, again, err)
		}
	}
	if err := os.WriteFile(filepath.Join(opt.Dir, bootstrap.RootKey), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := bootstrap.Run(t.Context(), opt); err == nil {
		t.Error("a damaged root key was not noticed")
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, opt := range map[string]bootstrap.Options{
		"domain": {Dir: t.TempDir(), Domain: "no domain"}, "service": {Dir: t.TempDir(), Domain: "x.org", Services: []string{"../x"}},
		"folder": {Dir: filepath.Join(file, "ca"), Domain: "x.org"},
	} {
		if _, err := bootstrap.Run(t.Context(), opt); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}

func openssl(t *testing.T, args ...string) {
	t.Helper()
	bin, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	if out, err := exec.CommandContext(t.Context(), bin, args...).CombinedOutput(); err != nil {
		t.Errorf("openssl %v: %v\n%s", args, err, out)
	}
}
