package oci

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"metacircular.net/mcdsl/fault"
)

func arch() string { return runtime.GOARCH }

// Registry is where images come from and go to.
type Registry struct {
	Host      string // host:port as in a reference
	Transport http.RoundTripper
	// Auth signs in; it is asked at each call, so that tokens stay fresh.
	Auth func(ctx context.Context) (authn.Authenticator, error)
}

func (r Registry) options(ctx context.Context) ([]remote.Option, error) {
	auth := authn.Anonymous
	if r.Auth != nil {
		var err error
		if auth, err = r.Auth(ctx); err != nil {
			return nil, err
		}
	}
	return []remote.Option{remote.WithContext(ctx), remote.WithTransport(r.Transport), remote.WithAuth(auth),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch()})}, nil
}

func (r Registry) ref(image string) (name.Reference, error) {
	ref, err := name.ParseReference(r.Host+"/"+image, name.StrictValidation)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%q is not an image reference", image).Wrap(err)
	}
	return ref, nil
}

// Resolve returns the digest the registry has for a reference; ok is false when it has none.
func (r Registry) Resolve(ctx context.Context, image string) (digest string, ok bool, err error) {
	ref, err := r.ref(image)
	if err != nil {
		return "", false, err
	}
	opts, err := r.options(ctx)
	if err != nil {
		return "", false, err
	}
	desc, err := remote.Head(ref, opts...)
	if err != nil {
		if isNotFound(err) {
			return "", false, nil
		}
		return "", false, fault.New(fault.Unavailable, "the registry did not answer for %s: %.200s", image, err.Error()).Wrap(err)
	}
	return desc.Digest.String(), true, nil
}

// Pull copies an image into the store; each blob is checked against its digest as it is written.
func (r Registry) Pull(ctx context.Context, s *Store, image string) (string, error) {
	ref, err := r.ref(image)
	if err != nil {
		return "", err
	}
	opts, err := r.options(ctx)
	if err != nil {
		return "", err
	}
	img, err := remote.Image(ref, opts...)
	if err != nil {
		if isNotFound(err) {
			return "", fault.New(fault.NotFound, "image %s is not in the registry", image).WithNext("mcr tag list %s", ref.Context().RepositoryStr())
		}
		return "", fault.New(fault.Unavailable, "pull %s", image).Wrap(err)
	}
	return s.Save(ctx, "", img)
}

// Push copies a stored image to the registry under a name.
func (r Registry) Push(ctx context.Context, s *Store, digest, image string) error {
	img, err := s.Image(digest)
	if err != nil {
		return err
	}
	ref, err := r.ref(image)
	if err != nil {
		return err
	}
	opts, err := r.options(ctx)
	if err != nil {
		return err
	}
	if err := remote.Write(ref, img, opts...); err != nil {
		return fmt.Errorf("push %s: %w", image, err)
	}
	return nil
}

func isNotFound(err error) bool {
	var te *transport.Error
	return errors.As(err, &te) && te.StatusCode == http.StatusNotFound
}
