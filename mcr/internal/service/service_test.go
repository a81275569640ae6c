package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/cli/clitest"
	"metacircular.net/mcdsl/mctest"
	"metacircular.net/mcr/internal/service"
)

const settings = `
[registry]
public_url = "https://mcr.mc.localhost:8443"

[disk]
warn = 0.999
refuse = 1.0
floor = "1MiB"
`

// mcr runs a command against the server's Unix socket and returns what it printed.
func mcr(t *testing.T, srv *clitest.Server, args ...string) (out string, code int) {
	t.Helper()
	e := srv.Env()
	var o, errs bytes.Buffer
	e.Out, e.Err = &o, &errs
	code = cli.Run(context.WithoutCancel(t.Context()), service.New(), e, append([]string{"--yes", "--addr", "unix:" + srv.Socket}, args...))
	if code != 0 {
		t.Logf("mcr %s: %d\n%s", strings.Join(args, " "), code, errs.String())
	}
	return o.String(), code
}

func must(t *testing.T, srv *clitest.Server, args ...string) string {
	t.Helper()
	out, code := mcr(t, srv, args...)
	if code != 0 {
		t.Fatalf("mcr %s = %d\n%s", strings.Join(args, " "), code, srv.Log)
	}
	return out
}

func serve(t *testing.T) *clitest.Server {
	t.Helper()
	return clitest.Serve(t, service.New(), clitest.Options{Config: settings})
}

func TestCommandsOverSocket(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the socket believes nobody else here")
	}
	srv := serve(t)
	dir := t.TempDir()
	img, err := random.Image(200_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "layout")
	p, err := layout.Write(path, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	if out := must(t, srv, "push", path, "team/app:v1"); !strings.Contains(out, want.String()) {
		t.Errorf("push printed %q, want the digest %s", out, want)
	}
	// The same through a docker-save archive: other bytes, other digest, same commands.
	tag, _ := name.NewTag("team/app:v2")
	dockerTar := filepath.Join(dir, "docker.tar")
	if err := tarball.WriteToFile(dockerTar, tag, img); err != nil {
		t.Fatal(err)
	}
	must(t, srv, "push", dockerTar, "team/app:v2")

	out := filepath.Join(dir, "back.tar")
	must(t, srv, "pull", "team/app:v1", "-o", out)
	must(t, srv, "push", out, "team/again:v1")
	var tags struct {
		Tags []struct{ Name, Digest string }
	}
	if err := json.Unmarshal([]byte(must(t, srv, "--json", "tag", "list", "team/again")), &tags); err != nil {
		t.Fatal(err)
	}
	if len(tags.Tags) != 1 || tags.Tags[0].Digest != want.String() {
		t.Errorf("after a trip through an archive = %+v, want %s", tags.Tags, want)
	}
	loadable := filepath.Join(dir, "load.tar")
	must(t, srv, "pull", "team/app:v1", "-o", loadable, "--format", "docker")
	if _, err := tarball.ImageFromPath(loadable, nil); err != nil {
		t.Errorf("docker archive: %v", err)
	}
	if o := must(t, srv, "--json", "copy", "team/app:v1", "prod/app:v1"); strings.Count(o, `"mounted"`) != 4 {
		t.Errorf("copy moved bytes: %s", o)
	}

	must(t, srv, "repo", "list")
	must(t, srv, "repo", "show", "team/app")
	must(t, srv, "manifest", "show", "team/app:v1")
	must(t, srv, "tag", "history", "team/app")
	must(t, srv, "referrers", "team/app:v1")
	must(t, srv, "usage")
	must(t, srv, "pin", "list")
	must(t, srv, "upload", "list")

	must(t, srv, "tag", "delete", "team/app", "v2")
	if _, code := mcr(t, srv, "tag", "delete", "team/app", "v2"); code != 1 {
		t.Errorf("deleting a tag twice = %d, want 1", code)
	}
	var trash struct {
		Entries []struct{ Operation string }
	}
	if err := json.Unmarshal([]byte(must(t, srv, "--json", "trash", "list", "team/app")), &trash); err != nil || len(trash.Entries) != 1 {
		t.Fatalf("trash = %+v, %v", trash, err)
	}
	must(t, srv, "trash", "restore", "team/app", trash.Entries[0].Operation)
	must(t, srv, "manifest", "show", "team/app:v2")

	must(t, srv, "policy", "put", "team", "--who", "user:bob", "--may", "pull,push,tag", "--where", "team/**")
	if _, code := mcr(t, srv, "policy", "explain", "--as", "bob", "push", "team/app"); code != 0 {
		t.Errorf("explain of what is allowed = %d", code)
	}
	if _, code := mcr(t, srv, "policy", "explain", "--as", "bob", "push", "prod/app"); code != 1 {
		t.Errorf("explain of what is denied = %d, want 1", code)
	}
	if _, code := mcr(t, srv, "policy", "put", "bad", "--who", "bob", "--may", "pull", "--where", "x"); code != 2 {
		t.Errorf("a bad rule = %d, want 2", code)
	}
	must(t, srv, "policy", "list")
	must(t, srv, "policy", "delete", "team")
	must(t, srv, "immutable", "put", "releases", "--where", "team/**", "--tags", "v*")
	if _, code := mcr(t, srv, "tag", "delete", "team/app", "v1"); code != 3 {
		t.Errorf("deleting an immutable tag = %d, want 3", code)
	}
	must(t, srv, "immutable", "delete", "releases")
	must(t, srv, "verify")
	must(t, srv, "gc", "--wait")
	must(t, srv, "repo", "delete", "team/again")
	if _, code := mcr(t, srv, "push", filepath.Join(dir, "nothing"), "team/app:v9"); code != 2 {
		t.Errorf("pushing what is not there = %d, want 2", code)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	srv := serve(t)
	srv.OP.SignedIn("alice", mctest.Human("alice", "admin"))
	c := srv.Browser(t)
	if os.Geteuid() == 0 {
		dir := t.TempDir()
		img, err := random.Image(5000, 2)
		if err != nil {
			t.Fatal(err)
		}
		tag, _ := name.NewTag("team/app:v1")
		if err := tarball.WriteToFile(filepath.Join(dir, "a.tar"), tag, img); err != nil {
			t.Fatal(err)
		}
		must(t, srv, "push", filepath.Join(dir, "a.tar"), "team/app:v1")
	}
	get(t, c, srv.URL+"/login")
	for _, tc := range []struct {
		path, want string
		code       int
	}{
		{"/", "team/app", 200}, {"/storage", "Run collection", 200}, {"/policy", "builtin-admin", 200},
		{"/policy?repository=team/app&action=push&who=bob&kind=human&roles=user", "no rule allows it", 200},
		{"/policy?repository=Team&action=push", "lower-case", 422},
		{"/repositories/show?name=team/app", "mcr tag list team/app", 200},
		{"/repositories/manifest?name=team/app&reference=v1", "docker pull mcr.mc.localhost:8443/team/app:v1", 200},
		{"/repositories/tag/delete?name=team/app&tag=v1", "Delete tag v1", 200},
		{"/repositories/delete?name=team/app", "Keep it", 200},
		{"/repositories/show?name=no/such", "not known", 404},
	} {
		code, body := get(t, c, srv.URL+tc.path)
		if code != tc.code || !strings.Contains(body, tc.want) {
			t.Errorf("GET %s = %d, want %d with %q:\n%s", tc.path, code, tc.code, tc.want, body)
		}
	}
	res, err := c.PostForm(srv.URL+"/repositories/delete", url.Values{"name": {"team/app"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != 200 || !strings.Contains(string(body), "is in the trash") {
		t.Errorf("delete = %d\n%s", res.StatusCode, body)
	}
}

func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}
