package image_test

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcr/internal/image"
)

func TestParseReference(t *testing.T) {
	t.Parallel()
	d := digest.FromString("x")
	for _, tc := range []struct {
		in, host, repo, tag string
		dgst                digest.Digest
	}{
		{"a", "", "a", "", ""}, {"a:1", "", "a", "1", ""}, {"team/app:v1", "", "team/app", "v1", ""},
		{"mcr.lab.example/team/app:v1", "mcr.lab.example", "team/app", "v1", ""},
		{"mcr.lab.example:8443/a", "mcr.lab.example:8443", "a", "", ""}, {"localhost/a:1", "localhost", "a", "1", ""},
		{"team/app@" + d.String(), "", "team/app", "", d}, {"team/app:v1@" + d.String(), "", "team/app", "v1", d},
	} {
		host, repo, tag, dgst, err := image.ParseReference(tc.in)
		if err != nil || host != tc.host || repo != tc.repo || tag != tc.tag || dgst != tc.dgst {
			t.Errorf("ParseReference(%q) = %q %q %q %q %v", tc.in, host, repo, tag, dgst, err)
		}
	}
	for _, bad := range []string{"", ":v1", "A", "a:", "a:-x", "a@sha256:1", "a@md5:d41d8cd98f00b204e9800998ecf8427e", "a//b", "a b"} {
		if _, _, _, _, err := image.ParseReference(bad); err == nil {
			t.Errorf("ParseReference(%q) was taken", bad)
		}
	}
}

func TestParseKinds(t *testing.T) {
	t.Parallel()
	d := digest.FromString("x").String()
	body := `{"schemaVersion":2,"config":{"mediaType":"c/c","digest":"` + d + `","size":1},"layers":[
		{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"` + d + `","size":1},
		{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar","digest":"` + d + `","size":1,"urls":["https://x"]}],
		"subject":{"mediaType":"m","digest":"` + d + `","size":3},"annotations":{"k":"v","K":"w"}}`
	m, err := image.Parse(image.OCIManifest+"; charset=utf-8", []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Children) != 3 || m.Children[0].Kind != image.Config || m.Children[1].Kind != image.Layer || m.Children[2].Kind != image.Foreign {
		t.Errorf("children = %+v", m.Children)
	}
	if m.ArtifactType != "c/c" || m.Subject.String() != d || len(m.Annotations) != 2 {
		t.Errorf("manifest = %+v", m)
	}
	// A key in another case is another key, whatever encoding/json thinks.
	if _, err := image.Parse(image.OCIManifest, []byte(strings.Replace(body, `"config"`, `"Config"`, 1))); err == nil {
		t.Error("Config counted as config")
	}
	deep := `{"schemaVersion":2,"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`
	if _, err := image.Parse(image.OCIIndex, []byte(deep)); err == nil {
		t.Error("a hundred levels were taken")
	}
}

func FuzzParse(f *testing.F) {
	d := digest.FromString("x").String()
	f.Add(image.OCIManifest, []byte(`{"schemaVersion":2,"config":{"digest":"`+d+`","size":1},"layers":[]}`))
	f.Add(image.OCIIndex, []byte(`{"schemaVersion":2,"manifests":[{"digest":"`+d+`","size":1,"platform":{"os":"linux"}}]}`))
	f.Add(image.DockerList, []byte(`{"schemaVersion":2,"manifests":null}`))
	f.Fuzz(func(t *testing.T, mediaType string, body []byte) {
		m, err := image.Parse(mediaType, body)
		if err != nil {
			return
		}
		for _, c := range m.Children {
			if _, err := image.ParseDigest(c.Digest.String()); err != nil {
				t.Errorf("child %q: %v", c.Digest, err)
			}
			if (c.Kind == image.Child) != image.IsIndex(m.MediaType) {
				t.Errorf("%s holds a %s", m.MediaType, c.Kind)
			}
		}
	})
}

func FuzzParseReference(f *testing.F) {
	f.Add("mcr.lab.example/team/app:v1@" + digest.FromString("x").String())
	f.Fuzz(func(t *testing.T, s string) {
		_, repo, tag, _, err := image.ParseReference(s)
		if err != nil {
			return
		}
		if err := image.CheckRepository(repo); err != nil {
			t.Error(err)
		}
		if tag != "" && image.CheckTag(tag) != nil {
			t.Errorf("tag %q", tag)
		}
	})
}
