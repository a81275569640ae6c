package oci_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/mctest"
	"metacircular.net/mcr/internal/policy"
	"metacircular.net/mcr/internal/service"
	"metacircular.net/mcr/internal/store"
)

// reply is an answer with its body read.
type reply struct {
	*http.Response
	body []byte
}

// code is the first error code of the body.
func (a reply) code() string {
	var doc struct{ Errors []struct{ Code string } }
	if json.Unmarshal(a.body, &doc) != nil || len(doc.Errors) == 0 {
		return ""
	}
	return doc.Errors[0].Code
}

func (r *registry) token(c mctest.Claims) string { return r.idp.Token(c.For("mcr")) }

// as sends a request with a token; "" shows none. Pairs are header names and values.
func (r *registry) as(t *testing.T, token, method, path string, body []byte, pairs ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+r.addr+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(pairs); i += 2 {
		req.Header.Set(pairs[i], pairs[i+1])
	}
	res, err := r.web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.Header.Get("Docker-Distribution-Api-Version") == "" {
		t.Errorf("%s %s: no version header", method, path)
	}
	return reply{res, b}
}

func noise(t *testing.T, n int) ([]byte, digest.Digest) {
	t.Helper()
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b, digest.FromBytes(b)
}

// blob pushes a blob by a single POST.
func (r *registry) blob(t *testing.T, token, repo string, b []byte) digest.Digest {
	t.Helper()
	d := digest.FromBytes(b)
	if a := r.as(t, token, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), b); a.StatusCode != 201 {
		t.Fatalf("push blob = %d %s", a.StatusCode, a.body)
	}
	return d
}

// manifest pushes a minimal image under a tag.
func (r *registry) manifest(t *testing.T, token, repo, tag string, layers ...digest.Digest) digest.Digest {
	t.Helper()
	config := r.blob(t, token, repo, []byte(`{"architecture":"amd64","os":"linux","x":"`+tag+repo+`"}`))
	type desc struct {
		MediaType string        `json:"mediaType"`
		Digest    digest.Digest `json:"digest"`
		Size      int64         `json:"size"`
	}
	list := []desc{}
	for _, l := range layers {
		list = append(list, desc{"application/vnd.oci.image.layer.v1.tar", l, 1})
	}
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": desc{"application/vnd.oci.image.config.v1+json", config, 10}, "layers": list})
	if err != nil {
		t.Fatal(err)
	}
	a := r.as(t, token, "PUT", "/v2/"+repo+"/manifests/"+tag, b, "Content-Type", "application/vnd.oci.image.manifest.v1+json")
	if a.StatusCode != 201 {
		t.Fatalf("push manifest = %d %s", a.StatusCode, a.body)
	}
	return digest.FromBytes(b)
}

func TestRanges(t *testing.T) {
	t.Parallel()
	r := start(t)
	tok := r.token(mctest.System("ci"))
	data, _ := noise(t, 100_000)
	path := "/v2/lib/a/blobs/" + r.blob(t, tok, "lib/a", data).String()
	for _, tc := range []struct {
		header string
		code   int
		want   []byte
	}{
		{"bytes=0-9", 206, data[:10]}, {"bytes=99990-", 206, data[99990:]}, {"bytes=-5", 206, data[99995:]},
		{"bytes=100000-", 416, nil}, {"", 200, data}, {"bytes=" + strings.Repeat("0-1,", 20) + "0-1", 416, nil},
	} {
		a := r.as(t, tok, "GET", path, nil, "Range", tc.header)
		if a.StatusCode != tc.code || tc.want != nil && !bytes.Equal(a.body, tc.want) {
			t.Errorf("Range %q = %d with %d bytes, want %d with %d", tc.header, a.StatusCode, len(a.body), tc.code, len(tc.want))
		}
	}
	if a := r.as(t, tok, "GET", path, nil, "Range", "bytes=0-1,5-6"); a.StatusCode != 206 || !strings.HasPrefix(a.Header.Get("Content-Type"), "multipart/byteranges") {
		t.Errorf("two ranges = %d %s", a.StatusCode, a.Header.Get("Content-Type"))
	}
	a := r.as(t, tok, "HEAD", path, nil)
	if a.Header.Get("Content-Length") != "100000" || a.Header.Get("Cache-Control") != "private, max-age=31536000, immutable" || a.Header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("HEAD = %v", a.Header)
	}
}

func TestChunkedUpload(t *testing.T) {
	t.Parallel()
	r := start(t)
	tok := r.token(mctest.System("ci"))
	data, d := noise(t, 3000)
	a := r.as(t, tok, "POST", "/v2/lib/a/blobs/uploads/", nil)
	at := a.Header.Get("Location")
	if a.StatusCode != 202 || !strings.HasPrefix(at, "/v2/lib/a/blobs/uploads/") || a.Header.Get("Range") != "0-0" {
		t.Fatalf("POST = %d %v", a.StatusCode, a.Header)
	}
	if a = r.as(t, tok, "PATCH", at, data[:1000], "Content-Range", "0-999"); a.StatusCode != 202 || a.Header.Get("Range") != "0-999" {
		t.Fatalf("PATCH = %d %v %s", a.StatusCode, a.Header, a.body)
	}
	for _, wrong := range []string{"0-999", "1001-1999", "500-1499"} {
		if a = r.as(t, tok, "PATCH", at, data[1000:2000], "Content-Range", wrong); a.StatusCode != 416 || a.Header.Get("Range") != "0-999" {
			t.Errorf("PATCH with %s = %d, want 416 with Range 0-999", wrong, a.StatusCode)
		}
	}
	for _, wrong := range []string{"bytes 1000-1999/3000", "1999-1000", "a-b", "1000-1500"} {
		if a = r.as(t, tok, "PATCH", at, data[1000:2000], "Content-Range", wrong); a.StatusCode != 400 {
			t.Errorf("PATCH with %q = %d, want 400", wrong, a.StatusCode)
		}
	}
	if a = r.as(t, tok, "GET", at, nil); a.StatusCode != 204 || a.Header.Get("MCR-Upload-Offset") != "1000" {
		t.Errorf("GET upload = %d %v", a.StatusCode, a.Header)
	}
	other := r.token(mctest.Human("alice", "admin"))
	if a = r.as(t, other, "GET", at, nil); a.StatusCode != 404 || a.code() != "BLOB_UPLOAD_UNKNOWN" {
		t.Errorf("another's upload = %d %s, want 404", a.StatusCode, a.body)
	}
	if a = r.as(t, tok, "PUT", at+"?digest="+d.String(), data[1000:], "Content-Range", "1000-2999"); a.StatusCode != 201 || a.Header.Get("Docker-Content-Digest") != d.String() {
		t.Fatalf("PUT = %d %s", a.StatusCode, a.body)
	}
	if a = r.as(t, tok, "GET", "/v2/lib/a/blobs/"+d.String(), nil); !bytes.Equal(a.body, data) {
		t.Error("content is another after chunks")
	}
	if a = r.as(t, tok, "GET", at, nil); a.StatusCode != 404 {
		t.Errorf("upload after its end = %d, want 404", a.StatusCode)
	}
}

func TestWrongDigestKeepsNothing(t *testing.T) {
	t.Parallel()
	r := start(t)
	tok := r.token(mctest.System("ci"))
	data, _ := noise(t, 5000)
	_, wrong := noise(t, 10)
	if a := r.as(t, tok, "POST", "/v2/lib/a/blobs/uploads/?digest="+wrong.String(), data); a.StatusCode != 400 || a.code() != "DIGEST_INVALID" {
		t.Errorf("single POST = %d %s", a.StatusCode, a.body)
	}
	at := r.as(t, tok, "POST", "/v2/lib/a/blobs/uploads/", nil).Header.Get("Location")
	if a := r.as(t, tok, "PUT", at+"?digest="+wrong.String(), data); a.StatusCode != 400 || a.code() != "DIGEST_INVALID" {
		t.Errorf("PUT = %d %s", a.StatusCode, a.body)
	}
	for _, d := range []digest.Digest{wrong, digest.FromBytes(data)} {
		if a := r.as(t, tok, "HEAD", "/v2/lib/a/blobs/"+d.String(), nil); a.StatusCode != 404 {
			t.Errorf("HEAD %s = %d, want 404", d, a.StatusCode)
		}
	}
	files, err := r.Blobs.UploadFiles()
	if err != nil || len(files) != 0 {
		t.Errorf("upload files left: %v, %v", files, err)
	}
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	r := start(t)
	ci := r.token(mctest.System("ci"))
	layer, _ := noise(t, 100)
	l := r.blob(t, ci, "lib/a", layer)
	m := r.manifest(t, ci, "lib/a", "v1", l)
	access := func(actions ...string) []map[string]any {
		return []map[string]any{{"type": "repository", "name": "lib/a", "actions": actions}}
	}
	revoked := r.token(mctest.System("ci"))
	r.idp.RevokeToken(revoked)
	mctest.Eventually(t, "the revocation arrived", func() bool { return r.as(t, revoked, "GET", "/v2/", nil).StatusCode == 401 })
	routes := []struct{ method, path, scope string }{
		{"GET", "/v2/lib/a/blobs/" + l.String(), "repository:lib/a:pull"},
		{"HEAD", "/v2/lib/a/blobs/" + l.String(), "repository:lib/a:pull"},
		{"GET", "/v2/lib/a/manifests/v1", "repository:lib/a:pull"},
		{"GET", "/v2/lib/a/manifests/" + m.String(), "repository:lib/a:pull"},
		{"GET", "/v2/lib/a/tags/list", "repository:lib/a:pull"},
		{"GET", "/v2/lib/a/referrers/" + m.String(), "repository:lib/a:pull"},
		{"POST", "/v2/lib/a/blobs/uploads/", "repository:lib/a:pull,push"},
		{"POST", "/v2/lib/a/blobs/uploads/?mount=" + l.String() + "&from=lib/b", "repository:lib/a:pull,push repository:lib/b:pull"},
		{"PATCH", "/v2/lib/a/blobs/uploads/00000000000000000000000000000000", "repository:lib/a:pull,push"},
		{"PUT", "/v2/lib/a/manifests/v2", "repository:lib/a:pull,push"},
		{"DELETE", "/v2/lib/a/manifests/v9", "repository:lib/a:delete,pull"},
		{"DELETE", "/v2/lib/a/blobs/" + digest.FromString("x").String(), "repository:lib/a:delete,pull"},
	}
	for _, rt := range routes {
		for _, tc := range []struct {
			name, token string
			want        int
			err         string
		}{
			{"no token", "", 401, ""},
			{"garbage", "a.b.c", 401, `error="invalid_token"`},
			{"revoked", revoked, 401, `error="invalid_token"`},
			{"no rights", r.token(mctest.Human("bob", "user")), 403, ""},
			{"scoped to nothing", r.token(mctest.System("ci").With("access", access())), 401, `error="insufficient_scope"`},
		} {
			a := r.as(t, tc.token, rt.method, rt.path, nil)
			if a.StatusCode != tc.want {
				t.Errorf("%s %s, %s = %d, want %d: %s", rt.method, rt.path, tc.name, a.StatusCode, tc.want, a.body)
				continue
			}
			challenge := a.Header.Get("WWW-Authenticate")
			if tc.want == 401 && (!strings.Contains(challenge, `scope="`+rt.scope+`"`) || !strings.Contains(challenge, `realm="`+r.idp.Issuer+`/registry/token",service="mcr"`) || !strings.Contains(challenge, tc.err)) {
				t.Errorf("%s %s, %s: challenge %s", rt.method, rt.path, tc.name, challenge)
			}
			if tc.want == 403 && (a.code() != "DENIED" && rt.method != "HEAD") {
				t.Errorf("%s %s, %s: %s", rt.method, rt.path, tc.name, a.body)
			}
		}
	}
	// What is denied says nothing of whether it exists.
	bob := r.token(mctest.Human("bob", "user"))
	one, two := r.as(t, bob, "GET", "/v2/lib/a/manifests/v1", nil), r.as(t, bob, "GET", "/v2/lib/z/manifests/v1", nil)
	strip := func(a reply, repo string) string {
		var doc struct {
			Errors []struct{ Code, Message string }
		}
		_ = json.Unmarshal(a.body, &doc)
		return strings.ReplaceAll(fmt.Sprint(a.StatusCode, doc), repo, "REPO")
	}
	if strip(one, "lib/a") != strip(two, "lib/z") {
		t.Errorf("denials differ: %s and %s", one.body, two.body)
	}
	// A registry token opens nothing else.
	if a := r.as(t, "", "GET", "/v2/", nil); a.StatusCode != 401 || !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer realm=") {
		t.Errorf("GET /v2/ = %d %s", a.StatusCode, a.Header.Get("WWW-Authenticate"))
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+r.addr+"/v1/repositories", nil)
	req.Header.Set("Authorization", "Bearer "+r.token(mctest.System("ci").With("access", access("pull"))))
	res, err := r.web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != 401 && res.StatusCode != 403 {
		t.Errorf("GET /v1/repositories with a registry token = %d", res.StatusCode)
	}
	// A rule counts at the next request.
	if err := r.Book.Load([]policy.Rule{{Name: "bob", Effect: "allow", Subjects: []string{"user:bob"}, Actions: []string{"pull"}, Repositories: []string{"lib/*"}}}, nil); err != nil {
		t.Fatal(err)
	}
	if a := r.as(t, bob, "GET", "/v2/lib/a/manifests/v1", nil); a.StatusCode != 200 {
		t.Errorf("bob after the rule = %d", a.StatusCode)
	}
}

func TestVisibility(t *testing.T) {
	t.Parallel()
	r := start(t)
	ci := r.token(mctest.System("ci"))
	data, _ := noise(t, 1000)
	d := r.blob(t, ci, "secret/a", data)
	if a := r.as(t, ci, "GET", "/v2/lib/b/blobs/"+d.String(), nil); a.StatusCode != 404 {
		t.Errorf("a digest of another repository = %d, want 404", a.StatusCode)
	}
	if err := r.Book.Load([]policy.Rule{{Name: "rita", Effect: "allow", Subjects: []string{"user:rita"}, Actions: []string{"pull", "push"}, Repositories: []string{"lib/**"}},
		{Name: "ci", Effect: "allow", Subjects: []string{"system:ci"}, Actions: []string{"pull", "push", "tag", "delete"}, Repositories: []string{"**"}}}, nil); err != nil {
		t.Fatal(err)
	}
	rita := r.token(mctest.Human("rita", "user"))
	for _, q := range []string{"?mount=" + d.String() + "&from=secret/a", "?mount=" + d.String()} {
		if a := r.as(t, rita, "POST", "/v2/lib/b/blobs/uploads/"+q, nil); a.StatusCode != 202 {
			t.Errorf("mount without pull on the source, %s = %d, want 202", q, a.StatusCode)
		}
	}
	if a := r.as(t, ci, "POST", "/v2/lib/b/blobs/uploads/?mount="+d.String()+"&from=secret/a", nil); a.StatusCode != 201 {
		t.Errorf("mount = %d %s", a.StatusCode, a.body)
	}
	if a := r.as(t, ci, "DELETE", "/v2/secret/a/blobs/"+d.String(), nil); a.StatusCode != 202 {
		t.Errorf("delete = %d %s", a.StatusCode, a.body)
	}
	if a := r.as(t, ci, "GET", "/v2/secret/a/blobs/"+d.String(), nil); a.StatusCode != 404 {
		t.Errorf("deleted blob = %d", a.StatusCode)
	}
	if a := r.as(t, ci, "GET", "/v2/lib/b/blobs/"+d.String(), nil); a.StatusCode != 200 || !bytes.Equal(a.body, data) {
		t.Errorf("mounted blob = %d", a.StatusCode)
	}
}

func TestManifestRefusals(t *testing.T) {
	t.Parallel()
	r := start(t)
	ci := r.token(mctest.System("ci"))
	const oci = "application/vnd.oci.image.manifest.v1+json"
	c := `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest.FromString("absent").String() + `","size":2}`
	for _, tc := range []struct {
		name, mediaType, body string
		status                int
		code                  string
	}{
		{"no JSON", oci, "hello", 400, "MANIFEST_INVALID"},
		{"missing config", oci, `{"schemaVersion":2,"config":` + c + `,"layers":[]}`, 400, "MANIFEST_BLOB_UNKNOWN"},
		{"image and index", oci, `{"schemaVersion":2,"config":` + c + `,"layers":[],"manifests":[]}`, 400, "MANIFEST_INVALID"},
		{"duplicate key", oci, `{"schemaVersion":2,"config":` + c + `,"config":` + c + `,"layers":[]}`, 400, "MANIFEST_INVALID"},
		{"other type in the body", oci, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","config":` + c + `}`, 400, "MANIFEST_INVALID"},
		{"unknown type", "text/plain", `{"schemaVersion":2,"config":` + c + `}`, 400, "MANIFEST_INVALID"},
		{"schema 1", "application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1}`, 400, "MANIFEST_INVALID"},
		{"too large", oci, `{"schemaVersion":2,"x":"` + strings.Repeat("a", 5<<20) + `"}`, 413, "SIZE_INVALID"},
		{"trailing bytes", oci, `{"schemaVersion":2,"config":` + c + `,"layers":[]} {}`, 400, "MANIFEST_INVALID"},
	} {
		a := r.as(t, ci, "PUT", "/v2/lib/a/manifests/v1", []byte(tc.body), "Content-Type", tc.mediaType)
		if a.StatusCode != tc.status || a.code() != tc.code {
			t.Errorf("%s = %d %s, want %d %s", tc.name, a.StatusCode, a.body, tc.status, tc.code)
		}
	}
	for path, status := range map[string]int{
		"/v2/Lib/a/manifests/v1": 400, "/v2/lib%2Fa/manifests/v1": 400, "/v2/lib/a/manifests/-x": 400, "/v2/lib/a/what/v1": 404,
		"/v2/lib/a/tags/list?n=x": 400, "/v2/lib/a/blobs/sha256:zz": 400, "/v2/lib/a/referrers/sha256:zz": 400,
		"/v2/none/tags/list": 404, "/v2/none/referrers/" + digest.FromString("x").String(): 200,
	} {
		if a := r.as(t, ci, "GET", path, nil); a.StatusCode != status {
			t.Errorf("GET %s = %d, want %d: %s", path, a.StatusCode, status, a.body)
		}
	}
}

func TestTagsPage(t *testing.T) {
	t.Parallel()
	r := start(t)
	ci := r.token(mctest.System("ci"))
	var want []string
	for i := range 7 {
		tag := fmt.Sprintf("v%d", i)
		want = append(want, tag)
		r.manifest(t, ci, "lib/a", tag)
	}
	var got []string
	path := "/v2/lib/a/tags/list?n=3"
	for path != "" {
		a := r.as(t, ci, "GET", path, nil)
		var doc struct{ Tags []string }
		if err := json.Unmarshal(a.body, &doc); err != nil {
			t.Fatal(err)
		}
		got = append(got, doc.Tags...)
		link := a.Header.Get("Link")
		path = ""
		if link != "" {
			path = strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("tags = %v, want %v", got, want)
	}
	for q, n := range map[string]int{"n=0": 0, "n=1000000000000": 7, "last=v4": 2} {
		a := r.as(t, ci, "GET", "/v2/lib/a/tags/list?"+q, nil)
		var doc struct{ Tags []string }
		if err := json.Unmarshal(a.body, &doc); err != nil || doc.Tags == nil || len(doc.Tags) != n || a.Header.Get("Link") != "" {
			t.Errorf("%s = %s, Link %q", q, a.body, a.Header.Get("Link"))
		}
	}
}

func TestPinsAndImmutableTags(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *service.Config) {
		c.Immutable = []policy.Immutable{{Name: "releases", Repositories: []string{"lib/**"}, Tags: []string{"v*"}}}
	})
	ci := r.token(mctest.System("ci"))
	layer, _ := noise(t, 100)
	l := r.blob(t, ci, "lib/a", layer)
	d := r.manifest(t, ci, "lib/a", "v1", l)
	other := r.manifest(t, ci, "lib/a", "main", l)
	if a := r.as(t, ci, "DELETE", "/v2/lib/a/manifests/v1", nil); a.StatusCode != 409 || a.code() != "DENIED" {
		t.Errorf("delete of an immutable tag = %d %s", a.StatusCode, a.body)
	}
	if _, _, err := r.Store.ResolveAndPin(t.Context(), "node-a", "lib/a", "main", "blog generation 1", 1<<40); err != nil {
		t.Fatal(err)
	}
	if a := r.as(t, ci, "DELETE", "/v2/lib/a/manifests/"+other.String(), nil); a.StatusCode != 409 || !strings.Contains(string(a.body), "node-a") {
		t.Errorf("delete of a pinned digest = %d %s", a.StatusCode, a.body)
	}
	if a := r.as(t, ci, "DELETE", "/v2/lib/a/manifests/main", nil); a.StatusCode != 202 {
		t.Errorf("untag of a pinned digest = %d %s", a.StatusCode, a.body)
	}
	if a := r.as(t, ci, "DELETE", "/v2/lib/a/blobs/"+l.String(), nil); a.StatusCode != 405 || a.code() != "UNSUPPORTED" {
		t.Errorf("delete of a blob in use = %d %s", a.StatusCode, a.body)
	}
	if missing, changed, err := r.Store.SyncPins(t.Context(), "node-a", 2, []store.Pin{{Repo: "lib/a", Digest: d.String()}, {Repo: "lib/a", Digest: digest.FromString("no").String()}}); err != nil || !changed || len(missing) != 1 {
		t.Errorf("SyncPins = %v, %v, %v", missing, changed, err)
	}
	if _, _, err := r.Store.SyncPins(t.Context(), "node-a", 1, nil); err == nil {
		t.Error("an older generation was taken")
	}
}
