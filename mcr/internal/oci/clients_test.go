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

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
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
	if err := os.WriteFile(c.hosts, []byte("127.0.0.1 localhost "+idp+"\n"+r.ip+" "+host+"\n"), 0o644); err != nil {
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

// image writes a small image as a docker-save tar and returns its path.
func (c *clients) image() string {
	c.t.Helper()
	img, err := random.Image(100_000, 2)
	if err != nil {
		c.t.Fatal(err)
	}
	tag, err := name.NewTag("local/app:v1")
	if err != nil {
		c.t.Fatal(err)
	}
	file := filepath.Join(c.t.TempDir(), "app.tar")
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		c.t.Fatal(err)
	}
	return file
}

func TestSkopeo(t *testing.T) {
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("skopeo is not installed")
	}
	r := start(t)
	c := newClients(t, r)
	certs := t.TempDir()
	data, err := os.ReadFile(r.ca.RootFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "ca.crt"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	one, two := "docker://"+r.addr+"/lib/app:v1", "docker://"+r.addr+"/lib/copy:v1"
	c.must("skopeo", "--insecure-policy", "copy", "--dest-cert-dir", certs, "--dest-creds", "ci:pw-ci", "docker-archive:"+c.image(), one)
	c.must("skopeo", "--insecure-policy", "copy", "--src-cert-dir", certs, "--dest-cert-dir", certs, "--src-creds", "ci:pw-ci", "--dest-creds", "ci:pw-ci", one, two)
	if out := c.must("skopeo", "list-tags", "--cert-dir", certs, "--creds", "ci:pw-ci", "docker://"+r.addr+"/lib/copy"); !strings.Contains(out, `"v1"`) {
		t.Errorf("list-tags printed %s", out)
	}
	c.must("skopeo", "inspect", "--cert-dir", certs, "--creds", "rita:pw-rita", one)
	back := filepath.Join(t.TempDir(), "oci")
	c.must("skopeo", "--insecure-policy", "copy", "--src-cert-dir", certs, "--src-creds", "rita:pw-rita", one, "oci:"+back+":v1")
	c.must("skopeo", "delete", "--cert-dir", certs, "--creds", "ci:pw-ci", two)
	if out, err := c.run("skopeo", "inspect", "--cert-dir", certs, "--creds", "ci:pw-ci", two); err == nil {
		t.Errorf("inspect after delete: %s", out)
	}
	for _, tc := range []struct{ name, creds, certs string }{
		{"a wrong password", "ci:wrong", certs}, {"no rights", "bob:pw-bob", certs}, {"without the root", "ci:pw-ci", t.TempDir()},
	} {
		if out, err := c.run("skopeo", "inspect", "--cert-dir", tc.certs, "--creds", tc.creds, one); err == nil {
			t.Errorf("skopeo with %s worked: %s", tc.name, out)
		}
	}
	if out, err := c.run("skopeo", "--insecure-policy", "copy", "--dest-cert-dir", certs, "--dest-creds", "rita:pw-rita", "docker-archive:"+c.image(), one); err == nil {
		t.Errorf("rita pushed: %s", out)
	}
}

func TestCrane(t *testing.T) {
	crane := os.Getenv("MCR_CRANE")
	if crane == "" {
		t.Skip("MCR_CRANE names no crane binary")
	}
	r := start(t)
	c := newClients(t, r)
	c.env = []string{"SSL_CERT_FILE=" + r.ca.RootFile, "DOCKER_CONFIG=" + t.TempDir()}
	c.must(crane, "auth", "login", r.addr, "-u", "ci", "-p", "pw-ci")
	c.must(crane, "push", c.image(), r.addr+"/lib/app:v1")
	c.must(crane, "copy", r.addr+"/lib/app:v1", r.addr+"/lib/other:v2")
	c.must(crane, "tag", r.addr+"/lib/app:v1", "stable")
	if out := c.must(crane, "ls", r.addr+"/lib/app"); !strings.Contains(out, "stable") || !strings.Contains(out, "v1") {
		t.Errorf("ls = %q", out)
	}
	if out := c.must(crane, "catalog", r.addr); !strings.Contains(out, "lib/other") {
		t.Errorf("catalog = %q", out)
	}
	c.must(crane, "validate", "--remote", r.addr+"/lib/other:v2")
	c.must(crane, "pull", r.addr+"/lib/app:stable", filepath.Join(t.TempDir(), "out.tar"))
	c.must(crane, "delete", r.addr+"/lib/other:v2")
	c.env[0] = "SSL_CERT_FILE=/dev/null"
	if out, err := c.run(crane, "ls", r.addr+"/lib/app"); err == nil {
		t.Errorf("crane without the root worked: %s", out)
	}
}

// dockerScript runs an engine of its own with the registry's root in its certs.d, logs in, pushes, pulls back, and
// then does without the root. Arguments: registry, image archive, root certificate, work folder.
const dockerScript = `set -eu
reg=$1 tar=$2 root=$3 dir=$4
mount -t tmpfs none /etc/docker
mkdir -p "/etc/docker/certs.d/$reg"; cp "$root" "/etc/docker/certs.d/$reg/ca.crt"
dockerd --data-root "$dir/data" --exec-root "$dir/exec" -H "unix://$dir/d.sock" --pidfile "$dir/d.pid" --bridge=none --iptables=false --storage-driver=vfs >"$dir/log" 2>&1 &
pid=$!; trap 'kill $pid; wait $pid || true' EXIT
export DOCKER_HOST="unix://$dir/d.sock" DOCKER_CONFIG="$dir/config"
i=0; until docker version >/dev/null 2>&1; do i=$((i+1)); test $i -lt 60 || { tail "$dir/log"; exit 9; }; sleep 0.5; done
docker load -q -i "$tar"
docker tag local/app:v1 "$reg/lib/app:v1"
if docker push "$reg/lib/app:v1"; then echo "pushed without a login"; exit 1; fi
echo pw-ci | docker login -u ci --password-stdin "$reg"
docker push "$reg/lib/app:v1"
docker push "$reg/lib/app:v1" | grep -i 'already exists'
docker rmi "$reg/lib/app:v1" local/app:v1
docker pull "$reg/lib/app:v1"
docker tag "$reg/lib/app:v1" "$reg/lib/mounted:v1"
docker push "$reg/lib/mounted:v1" | grep -i 'mounted from\|already exists'
docker logout "$reg"
echo pw-bob | docker login -u bob --password-stdin "$reg"
if docker push "$reg/lib/bob:v1" 2>/dev/null || docker pull "$reg/lib/app:v1"; then echo "bob has no rights"; exit 1; fi
if echo wrong | docker login -u ci --password-stdin "$reg"; then echo "a wrong password logged in"; exit 1; fi
rm "/etc/docker/certs.d/$reg/ca.crt"
if docker pull "$reg/lib/app:v1"; then echo "pulled without the root"; exit 1; fi
echo all is well
`

func TestDocker(t *testing.T) {
	for _, bin := range []string{"dockerd", "docker"} {
		if _, err := exec.LookPath(bin); err != nil {
			t.Skip(bin + " is not installed")
		}
	}
	if os.Getenv("MCR_DOCKER") == "" {
		t.Skip("MCR_DOCKER is not set: it starts an engine of its own")
	}
	ip := outside()
	if ip == "" {
		t.Skip("this machine has no address but loopback")
	}
	r := startOn(t, ip, nil, t.TempDir())
	c := newClients(t, r)
	dir, err := os.MkdirTemp("", "mcr-docker") // short: the socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	out := c.must("sh", "-c", dockerScript, "sh", r.addr, c.image(), r.ca.RootFile, dir)
	if !strings.Contains(out, "all is well") {
		t.Error(out)
	}
}
