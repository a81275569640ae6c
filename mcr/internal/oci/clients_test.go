package oci_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The tests of this file run clients that others wrote. Each is skipped where its client is not installed; the
// conformance suite is looked for in MCR_CONFORMANCE and crane in MCR_CRANE, since neither is packaged.

// clients runs commands in a mount namespace of their own, whose hosts file knows the registry's names; so no
// machine's resolver has to.
type clients struct {
	t     *testing.T
	r     *registry
	hosts string
	env   []string
}

func newClients(t *testing.T, r *registry) *clients {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give the client a hosts file")
	}
	c := &clients{t: t, r: r, hosts: filepath.Join(t.TempDir(), "hosts")}
	idp, _, _ := net.SplitHostPort(strings.TrimPrefix(r.idp.Issuer, "https://"))
	if err := os.WriteFile(c.hosts, []byte("127.0.0.1 localhost "+host+" "+idp+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return c
}

// run runs a command and returns what it printed.
func (c *clients) run(name string, args ...string) (string, error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	// The script's arguments are the command itself: nothing is quoted twice.
	sh := []string{"--mount", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, c.hosts, name}
	cmd := exec.CommandContext(ctx, "unshare", append(sh, args...)...)
	cmd.Env = append(append(os.Environ(), "HOME="+c.t.TempDir()), c.env...)
	cmd.Dir = c.t.TempDir()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *clients) must(name string, args ...string) string {
	c.t.Helper()
	out, err := c.run(name, args...)
	if err != nil {
		c.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func TestConformance(t *testing.T) {
	bin := os.Getenv("MCR_CONFORMANCE")
	if bin == "" {
		t.Skip("MCR_CONFORMANCE names no conformance binary")
	}
	for _, version := range []string{"1.1", "dev"} {
		t.Run(version, func(t *testing.T) {
			r := start(t)
			c := newClients(t, r)
			c.env = []string{"OCI_REGISTRY=" + r.addr, "OCI_TLS=enabled", "OCI_VERSION=" + version, "OCI_REPO1=conf/one", "OCI_REPO2=conf/two",
				"OCI_USERNAME=ci", "OCI_PASSWORD=pw-ci", "OCI_API_BLOBS_UPLOAD_CANCEL=true", "OCI_API_BLOBS_DIGEST_HEADER=true",
				"OCI_API_MANIFESTS_DIGEST_HEADER=true", "SSL_CERT_FILE=" + r.ca.RootFile, "OCI_RESULTS_DIR=" + t.TempDir()}
			out, err := c.run(bin)
			t.Log(out)
			if err != nil {
				t.Fatalf("conformance %s: %v", version, err)
			}
		})
	}
}
