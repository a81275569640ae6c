package service_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"metacircular.net/mcdsl/mctest"
	"metacircular.net/mcdsl/web/webtest"
)

// TestInChromium goes through every page in a real browser, in both themes and at two widths. MC_SHOTS names a folder
// that keeps the pictures.
func TestInChromium(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: images are pushed over the socket")
	}
	shots := os.Getenv("MC_SHOTS")
	if shots == "" {
		shots = t.TempDir()
	}
	srv := serve(t)
	dir := t.TempDir()
	hostile := map[string]string{"org.opencontainers.image.title": `<script>alert(1)</script>`, "note": "ünïcode ☃"}
	for _, ref := range []string{"team/app:v1", "team/app:pr-42-a-rather-long-branch-name-about-tail-calls-in-templates", "core/mcns:1.0", "users/alice/a-repository-with-a-name-that-goes-on/and/on/for/a/while:x"} {
		img, err := random.Image(20000, 3)
		if err != nil {
			t.Fatal(err)
		}
		annotated, ok := mutate.Annotations(img, hostile).(v1.Image)
		if !ok {
			t.Fatal("no image")
		}
		tag, _ := name.NewTag("x:y")
		file := filepath.Join(dir, "a.tar")
		if err := tarball.WriteToFile(file, tag, annotated); err != nil {
			t.Fatal(err)
		}
		must(t, srv, "push", file, ref)
	}
	must(t, srv, "tag", "delete", "team/app:v1")
	must(t, srv, "push", filepath.Join(dir, "a.tar"), "team/app:v2")
	srv.OP.SignedIn("alice", mctest.Human("alice", "admin"))
	b := webtest.NewBrowser(t, srv.CA)
	b.Open(srv.URL + "/login")
	for _, theme := range []string{"dark", "light"} {
		b.Submit("button[value=" + theme + "]")
		for page, path := range map[string]string{"list": "/repositories", "repository": "/repositories/show?name=team/app", "manifest": "/repositories/manifest?name=team/app&reference=v2",
			"delete": "/repositories/tag/delete?name=team/app&tag=v2", "policy": "/policy?repository=team/app&action=push&who=bob&kind=human&roles=user", "storage": "/storage"} {
			b.Open(srv.URL + path)
			if strings.Contains(b.Text(), "internal error") {
				t.Errorf("%s: %s", path, b.Text())
			}
			b.Shoot(filepath.Join(shots, page+"-"+theme+"-1280.png"), 1280)
			b.Shoot(filepath.Join(shots, page+"-"+theme+"-390.png"), 390)
			if over := webtest.Eval[bool](b, "document.documentElement.scrollWidth > document.documentElement.clientWidth"); over {
				t.Errorf("%s scrolls sideways", path)
			}
		}
	}
	b.Open(srv.URL + "/repositories/tag/delete?name=team/app&tag=v2")
	b.Submit("main form button")
	if text := b.Text(); !strings.Contains(text, "Tag v2 is deleted") {
		t.Errorf("after deleting a tag: %s", text)
	}
	b.Submit("form[action='/repositories/restore'] button")
	if text := b.Text(); !strings.Contains(text, "Restored") {
		t.Errorf("after restoring: %s", text)
	}
}
