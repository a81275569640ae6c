package oci_test

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func (r *registry) options(user string) []remote.Option {
	return []remote.Option{remote.WithTransport(r.web.Transport),
		remote.WithAuth(&authn.Basic{Username: user, Password: "pw-" + user})}
}

func (r *registry) ref(t *testing.T, s string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(r.addr + "/" + s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func push(t *testing.T, r *registry, to string, layers int64) v1.Image {
	t.Helper()
	img, err := random.Image(64<<10, layers)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r.ref(t, to), img, r.options("ci")...); err != nil {
		t.Fatalf("push %s: %v", to, err)
	}
	return img
}

func TestImageRoundTrip(t *testing.T) {
	t.Parallel()
	r := start(t)
	img := push(t, r, "lib/app:v1", 3)
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"ci", "rita"} {
		got, err := remote.Image(r.ref(t, "lib/app:v1"), r.options(user)...)
		if err != nil {
			t.Fatalf("pull as %s: %v", user, err)
		}
		if d, err := got.Digest(); err != nil || d != want {
			t.Errorf("digest as %s = %v, %v, want %v", user, d, err, want)
		}
		if err := validate.Image(got); err != nil {
			t.Errorf("pulled as %s: %v", user, err)
		}
	}
	if _, err := remote.Image(r.ref(t, "lib/app:v1"), r.options("bob")...); err == nil {
		t.Error("bob, whom no rule names, pulled")
	}
	if err := remote.Write(r.ref(t, "lib/app:v2"), img, r.options("rita")...); err == nil {
		t.Error("rita, who may only pull, pushed")
	}
}

func TestIndexRoundTrip(t *testing.T) {
	t.Parallel()
	r := start(t)
	idx, err := random.Index(4096, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(r.ref(t, "lib/multi:v1"), idx, r.options("ci")...); err != nil {
		t.Fatal(err)
	}
	got, err := remote.Index(r.ref(t, "lib/multi:v1"), r.options("ci")...)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(got); err != nil {
		t.Error(err)
	}
}
