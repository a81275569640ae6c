package rpc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"

	"github.com/go-chi/chi/v5"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/engine/pki"
)

// document is a public file of a mount.
type document struct {
	path string // below the mount
	typ  string
	read func(ctx context.Context, p *pki.Public, r *http.Request) ([]byte, error)
}

func documents() []document {
	const pem, crl = "application/x-pem-file", "application/pkix-crl"
	mount := func(r *http.Request) string { return chi.URLParam(r, "mount") }
	return []document{
		{"ca", pem, func(ctx context.Context, p *pki.Public, r *http.Request) ([]byte, error) {
			return p.Root(ctx, mount(r))
		}},
		{"ca/chain", pem, func(ctx context.Context, p *pki.Public, r *http.Request) ([]byte, error) {
			return p.Chain(ctx, mount(r))
		}},
		{"bundle", pem, func(ctx context.Context, p *pki.Public, r *http.Request) ([]byte, error) {
			return p.Bundle(ctx, mount(r))
		}},
		{"issuer/{name}", pem, func(ctx context.Context, p *pki.Public, r *http.Request) ([]byte, error) {
			return p.Issuer(ctx, mount(r), chi.URLParam(r, "name"))
		}},
		{"crl/{issuer}", crl, func(ctx context.Context, p *pki.Public, r *http.Request) ([]byte, error) {
			return p.CRL(ctx, mount(r), chi.URLParam(r, "issuer"))
		}},
	}
}

// PublicRoutes returns the patterns of the public files on the HTTPS listener.
func PublicRoutes() []string {
	var out []string
	for _, d := range documents() {
		out = append(out, "/v1/pki/{mount}/"+d.path)
	}
	return out
}

// Routes adds the public files to the HTTPS listener; each has its rule in the map.
func Routes(p *pki.Public) func(chi.Router) {
	return func(r chi.Router) { mountAll(r, "/v1/pki/{mount}/", p) }
}

// PlainHTTP serves the public files, and nothing else, without TLS: whoever checks a certificate cannot be asked to check
// one first. The paths are those in the certificates, below /pki/.
func PlainHTTP(p *pki.Public) http.Handler {
	r := chi.NewRouter()
	mountAll(r, "/pki/{mount}/", p)
	return r
}

func mountAll(r chi.Router, prefix string, p *pki.Public) {
	for _, d := range documents() {
		r.Get(prefix+d.path, serve(p, d))
	}
}

func serve(p *pki.Public, d document) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, err := d.read(r.Context(), p, r)
		if err != nil {
			f := fault.From(err)
			http.Error(w, f.Public(), f.Kind.HTTPStatus())
			return
		}
		h := sha256.Sum256(b)
		etag := `"` + hex.EncodeToString(h[:16]) + `"`
		w.Header().Set("ETag", etag)
		w.Header().Set("Cache-Control", "public, max-age=300")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Content-Type", d.typ)
		_, _ = w.Write(b) // the client went away
	}
}
