package oci

import (
	"net/url"
	"strings"
	"testing"

	"metacircular.net/mcr/internal/image"
)

func TestParsePath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]target{
		"":                                  {end: endBase},
		"_catalog":                          {end: endCatalog},
		"a/blobs/sha256:00":                 {endBlob, "a", "sha256:00"},
		"a/blobs/sha256%3A00":               {endBlob, "a", "sha256:00"},
		"a/blobs/uploads/":                  {endUploads, "a", ""},
		"a/blobs/uploads":                   {endUploads, "a", ""},
		"a/blobs/uploads/x":                 {endUpload, "a", "x"},
		"a/manifests/v1":                    {endManifest, "a", "v1"},
		"a/tags/list":                       {endTags, "a", ""},
		"a/referrers/d":                     {endReferrers, "a", "d"},
		"a/blobs/b/manifests/v1":            {endManifest, "a/blobs/b", "v1"},
		"x/manifests/y/tags/list":           {endTags, "x/manifests/y", ""},
		"a/tags/blobs/uploads/x":            {endUpload, "a/tags", "x"},
		"a/blobs/uploads/manifests/v":       {endManifest, "a/blobs/uploads", "v"},
		"blobs/uploads/blobs/uploads/":      {endUploads, "blobs/uploads", ""},
		"tags/list/manifests/tags":          {endManifest, "tags/list", "tags"},
		"a/b/c/d/e/f/manifests/sha256%3Aab": {endManifest, "a/b/c/d/e/f", "sha256:ab"},
	} {
		if got, err := parsePath(path); err != nil || got != want {
			t.Errorf("parsePath(%q) = %+v, %v, want %+v", path, got, err, want)
		}
	}
	for _, path := range []string{"a", "manifests/x", "a/b", "/manifests/x", "A/manifests/x", "a%2Fb/manifests/x", "a//manifests/x",
		"a/../manifests/x", "a/manifests/%zz", "_catalog/", strings.Repeat("a", 256) + "/manifests/x", "a/unknown/x", "blobs/uploads/x"} {
		if got, err := parsePath(path); err == nil {
			t.Errorf("parsePath(%q) = %+v, want an error", path, got)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"", "_catalog", "a/blobs/sha256%3A00", "a/blobs/uploads/", "a/manifests/v1", "a/tags/list", "a/%2e%2e/manifests/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parsePath(s)
		if err != nil || got.end == endBase || got.end == endCatalog {
			return
		}
		if err := image.CheckRepository(got.repo); err != nil {
			t.Errorf("parsePath(%q) let the name %q pass: %v", s, got.repo, err)
		}
		// Writing the target out again means the same.
		word := map[endpoint]string{endBlob: "/blobs/", endUpload: "/blobs/uploads/", endManifest: "/manifests/", endReferrers: "/referrers/"}[got.end]
		if word == "" || strings.Contains(got.ref, "/") || got.end == endBlob && got.ref == "uploads" {
			return
		}
		again, err := parsePath(got.repo + word + url.PathEscape(got.ref))
		if err != nil || again != got {
			t.Errorf("parsePath(%q) = %+v, written out again %+v, %v", s, got, again, err)
		}
	})
}
