package cli_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/cli/clitest"
	"metacircular.net/mcdsl/mctest"
)

// run runs a command line against the service and returns what it said.
func run(t *testing.T, srv *clitest.Server, args ...string) (code int, out, errs string) {
	t.Helper()
	e := srv.Env()
	var o, x bytes.Buffer
	e.Out, e.Err = &o, &x
	code = cli.Run(t.Context(), exampleService(), e, append([]string{"--root", srv.Dir}, args...))
	return code, o.String(), x.String()
}

func TestOneVerdictOnEveryWay(t *testing.T) {
	t.Parallel()
	srv := clitest.Serve(t, exampleService(), clitest.Options{})
	token := srv.IDP.Token(mctest.Human("alice", "user").For("mcex"))

	// gRPC
	res, err := mciasv1.NewKeyClient(srv.Conn(t, token)).List(t.Context(), &mciasv1.KeyListRequest{})
	if err != nil || res.GetKeys()[0].GetKid() != "key-of-alice" {
		t.Fatalf("gRPC List = %v, %v\n%s", res, err, srv.Log)
	}
	_, err = mciasv1.NewKeyClient(srv.Conn(t, "")).List(t.Context(), &mciasv1.KeyListRequest{})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("gRPC without a token = %v, want Unauthenticated", err)
	}
	_, err = mciasv1.NewKeyClient(srv.Conn(t, token)).Rotate(t.Context(), &mciasv1.KeyRotateRequest{})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("Rotate as a user = %v, want PermissionDenied", err)
	}

	// REST
	b := srv.Browser(t)
	rest := func(token string) int {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/v1/signing-keys", nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		res, err := b.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	if got := []int{rest(token), rest("")}; !cmp.Equal(got, []int{200, 401}) {
		t.Errorf("REST with and without a token = %v, want 200 and 401", got)
	}

	// Page: whoever is not signed in comes back from MCIAS to where they wanted to go.
	srv.OP.SignedIn("bob", mctest.Human("bob", "user"))
	page, err := b.Get(srv.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(page.Body)
	_ = page.Body.Close()
	if page.StatusCode != 200 || !strings.Contains(string(body), "key-of-bob") {
		t.Errorf("page = %d\n%s\n%s", page.StatusCode, body, srv.Log)
	}
	// REST ignores the cookie that the browser now has.
	if got := rest(""); got != 401 {
		t.Errorf("REST with a cookie only = %d, want 401", got)
	}
}

func TestVerbs(t *testing.T) {
	t.Parallel()
	srv := clitest.Serve(t, exampleService(), clitest.Options{Config: "[keys]\nprefix = \"k\"\n"})
	for _, tc := range []struct {
		args []string
		code int
		out  string // part of standard output
		errs string // part of standard error
	}{
		{[]string{"--addr", "local", "key", "list"}, 0, "KEY ", ""},
		{[]string{"--addr", "local", "--json", "key", "list"}, 0, `{"keys":[{"kid":"k-of-`, ""},
		{[]string{"key", "list"}, 4, "", "not logged in\n  next: mcp --root"},
		{[]string{"health"}, 0, "ok\n", ""},
		{[]string{"config", "check"}, 0, "", "is right"},
		{[]string{"config", "print"}, 0, "mcex.toml:", ""},
		{[]string{"snapshot"}, 0, "backups/", ""},
		{[]string{"version"}, 0, "mcex devel", ""},
		{[]string{"--json", "key", "list"}, 4, "", `{"error":{"code":"unauthenticated","reason":"NOT_LOGGED_IN"`},
		{[]string{"key", "lisst"}, 2, "", "did you mean"},
		{[]string{"key", "list", "--nope"}, 2, "", "unknown flag"},
		{[]string{"restore", "x"}, 2, "", "repeat with --yes"},
	} {
		code, out, errs := run(t, srv, tc.args...)
		if code != tc.code || !strings.Contains(out, tc.out) || !strings.Contains(errs, tc.errs) {
			t.Errorf("%v = %d\nout: %s\nerr: %s\nwant %d, out with %q, err with %q", tc.args, code, out, errs, tc.code, tc.out, tc.errs)
		}
	}
	code, out, errs := run(t, srv, "--json", "status")
	var doc struct{ Service, State string }
	if err := json.Unmarshal([]byte(out), &doc); err != nil || doc.Service != "mcex" {
		t.Errorf("status --json = %d %s %s: %v", code, out, errs, err)
	}
	if code, out, errs := run(t, srv, "doctor"); code > 1 || !strings.Contains(out, "listeners") {
		t.Errorf("doctor = %d %s %s", code, out, errs)
	}
	if code := srv.Stop(t); code != 0 {
		t.Errorf("the server ended with %d, want 0\n%s", code, srv.Log)
	}
	if code, out, _ := run(t, srv, "doctor"); code != 1 || !strings.Contains(out, "FAIL  server") {
		t.Errorf("doctor with the server down = %d %s", code, out)
	}
	if code, _, errs := run(t, srv, "status"); code != 5 || !strings.Contains(errs, "cannot reach mcex") {
		t.Errorf("status with the server down = %d %s, want 5", code, errs)
	}
	if code, _, _ := run(t, srv, "health"); code != 1 {
		t.Errorf("health with the server down = %d, want 1", code)
	}
	if code, _, errs := run(t, srv, "--addr", "local", "key", "list"); code != 5 || !strings.Contains(errs, "does not run here") {
		t.Errorf("a call with the server down = %d %s", code, errs)
	}
}

func TestStartRefusals(t *testing.T) {
	t.Parallel()
	srv := clitest.Serve(t, exampleService(), clitest.Options{})
	file := filepath.Join(srv.Dir, "mcex", "mcex.toml")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimPrefix(srv.GRPC, "mcex.mc.localhost")
	for _, tc := range []struct {
		name, old, new string
		code           int
		errs           string
	}{
		{"unknown key", "listen_addr", "listen_adr", 2, `did you mean "listen_addr"?`},
		{"bad address", `grpc_addr = "127.0.0.1:0"`, `grpc_addr = "nowhere"`, 2, "server.grpc_addr"},
		{"port taken", `grpc_addr = "127.0.0.1:0"`, `grpc_addr = "127.0.0.1` + addr + `"`, 3, "address already in use"},
	} {
		dir := filepath.Join(t.TempDir(), "mcex")
		if err := os.MkdirAll(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(good), tc.old, tc.new, 1)
		text = strings.Replace(text, filepath.Join(srv.Dir, "run"), dir, 1)
		if err := os.WriteFile(filepath.Join(dir, "mcex.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		e := srv.Env()
		var x bytes.Buffer
		e.Root, e.Err = "", &x
		code := cli.Run(t.Context(), exampleService(), e, []string{"server", "--config", filepath.Join(dir, "mcex.toml")})
		if code != tc.code || !strings.Contains(x.String(), tc.errs) {
			t.Errorf("%s: code %d, want %d\n%s", tc.name, code, tc.code, x.String())
		}
	}
}

func TestUnruledMethodStopsTheStart(t *testing.T) {
	t.Parallel()
	srv := clitest.Serve(t, exampleService(), clitest.Options{})
	srv.Stop(t)
	svc := exampleService()
	svc.Rules = rules()
	delete(svc.Rules, mciasv1.Key_Rotate_FullMethodName)
	e := srv.Env()
	var x bytes.Buffer
	e.Err = &x
	code := cli.Run(t.Context(), svc, e, []string{"server", "--config", filepath.Join(srv.Dir, "mcex", "mcex.toml")})
	if code == 0 || !strings.Contains(x.String(), "Rotate") {
		t.Errorf("code %d, want non-zero and the method's name\n%s", code, x.String())
	}
}
