package service_test

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"metacircular.net/mcdsl/mctest"
	"metacircular.net/mcdsl/web/webtest"
)

func TestPages(t *testing.T) {
	t.Parallel()
	s := start(t)
	if code, out := s.run("zone", "create", "lab.test", "--ns", "ns.lab.test", "--address", "10.0.0.2"); code != 0 {
		t.Fatalf("%d\n%s", code, out)
	}
	s.OP.SignedIn("alice", mctest.Human("alice", "admin"))
	c := s.Browser(t)
	read := func(res *http.Response, err error) (int, string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	for path, want := range map[string]string{"/": "lab.test", "/zone?zone=lab.test": "10.0.0.2", "/services": "No service is registered", "/changes": "local:root"} {
		if code, body := read(c.Get(s.URL + path)); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d, lacks %q:\n%s", path, code, want, body)
		}
	}
	post := func(path string, kv ...string) (int, string) {
		v := url.Values{}
		for i := 0; i < len(kv); i += 2 {
			v.Set(kv[i], kv[i+1])
		}
		return read(c.PostForm(s.URL+path, v))
	}
	if code, body := post("/record/add", "zone", "lab.test", "name", "www", "type", "A", "value", "10.0.0.7"); code != http.StatusOK || !strings.Contains(body, "Added www A 10.0.0.7") {
		t.Errorf("add: %d\n%s", code, body)
	}
	if code, body := post("/record/add", "zone", "lab.test", "name", "w<b>", "type", "A", "value", "10.0.0.700"); code != http.StatusUnprocessableEntity || !strings.Contains(body, "w&lt;b&gt;") || strings.Contains(body, "w<b>") {
		t.Errorf("refused form: %d\n%s", code, body)
	}
	if code, body := read(c.Get(s.URL + "/record/delete?zone=lab.test&id=3")); code != http.StatusOK || !strings.Contains(body, "10.0.0.7") {
		t.Errorf("confirmation: %d\n%s", code, body)
	}
	if code, body := post("/record/delete", "zone", "lab.test", "id", "3"); code != http.StatusOK || strings.Contains(body, "10.0.0.7") {
		t.Errorf("delete: %d\n%s", code, body)
	}
	// Who has no grant gets the same verdict on the page as by gRPC.
	s.OP.SignedIn("bob", mctest.Human("bob", "user"))
	if code, _ := read(s.Browser(t).Get(s.URL + "/zone?zone=lab.test")); code != http.StatusForbidden {
		t.Errorf("bob sees the zone: %d", code)
	}
}

// TestScreenshots shoots the pages when MC_SHOTS names a folder.
func TestScreenshots(t *testing.T) {
	dir := os.Getenv("MC_SHOTS")
	if dir == "" {
		t.Skip("set MC_SHOTS to a folder")
	}
	s := start(t)
	for _, args := range [][]string{{"zone", "create", "lab.test", "--ns", "ns.lab.test", "--address", "10.0.0.2"}, {"record", "add", "lab.test", "www", "A", "10.0.0.3"},
		{"record", "add", "lab.test", "a-rather-long-name-of-some-service-that-somebody-made-up-here", "TXT", strings.Repeat("long value ", 12)}, {"record", "add", "lab.test", "@", "MX", "10", "gone.lab.test."}} {
		if code, out := s.run(args...); code != 0 {
			t.Fatalf("%v: %d\n%s", args, code, out)
		}
	}
	s.OP.SignedIn("alice", mctest.Human("alice", "admin"))
	b := webtest.NewBrowser(t, s.CA)
	for name, path := range map[string]string{"zones": "/", "zone": "/zone?zone=lab.test", "changes": "/changes", "services": "/services", "delete": "/record/delete?zone=lab.test&id=3"} {
		b.Open(s.URL + path)
		b.Shoot(filepath.Join(dir, name+".png"), 1280)
		b.Shoot(filepath.Join(dir, name+"-phone.png"), 390)
	}
}
