package oci

import (
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcr/internal/image"
	"metacircular.net/mcr/internal/policy"
	"metacircular.net/mcr/internal/store"
)

// maxTags bounds the tags of one manifest PUT.
const maxTags = 64

// reference checks the last segment: a digest, or a tag.
func reference(t target) (d digest.Digest, tag string, err error) {
	if image.IsDigest(t.ref) {
		d, err = image.ParseDigest(t.ref)
		if err != nil {
			return "", "", errDigest(err)
		}
		return d, "", nil
	}
	if err := image.CheckTag(t.ref); err != nil {
		return "", "", refuse(http.StatusBadRequest, "TAG_INVALID", "%v", err)
	}
	return "", t.ref, nil
}

func (g *Registry) getManifest(w http.ResponseWriter, r *http.Request, t target) error {
	if err := g.authorize(r, t, "", policy.Pull); err != nil {
		return err
	}
	if _, _, err := reference(t); err != nil {
		return err
	}
	m, err := g.Store.Manifest(r.Context(), t.repo, t.ref)
	if err != nil {
		return err
	}
	h := w.Header()
	etag := `"` + m.Digest.String() + `"`
	h.Set("Content-Type", m.MediaType)
	h.Set("Docker-Content-Digest", m.Digest.String())
	h.Set("Etag", etag)
	h.Set("X-Content-Type-Options", "nosniff")
	if noneMatch(r.Header.Values("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Length", strconv.Itoa(len(m.Body)))
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	g.pulls.note(store.Pulled{Repo: t.repo, Digest: m.Digest}, g.Clock.Now())
	_, _ = w.Write(m.Body)
	return nil
}

// noneMatch reports whether one of the client's validators is the content's; weak ones compare equal (RFC 9110
// section 13.1.2).
func noneMatch(values []string, etag string) bool {
	for _, v := range values {
		for s := range strings.SplitSeq(v, ",") {
			s = strings.TrimPrefix(strings.TrimSpace(s), "W/")
			if s == etag || s == "*" {
				return true
			}
		}
	}
	return false
}

func (g *Registry) putManifest(w http.ResponseWriter, r *http.Request, t target) error {
	if err := g.authorize(r, t, "", policy.Push); err != nil {
		return err
	}
	d, tag, err := reference(t)
	if err != nil {
		return err
	}
	tags, d, err := wantedTags(r, tag, d)
	if err != nil {
		return err
	}
	for _, name := range tags {
		if err := g.authorize(r, t, name, policy.Tag); err != nil {
			return err
		}
	}
	if err := g.Disk.Admit(); err != nil {
		return err
	}
	body, err := g.readManifest(w, r)
	if err != nil {
		return err
	}
	if d == "" {
		d = digest.SHA256.FromBytes(body)
	} else if got := d.Algorithm().FromBytes(body); got != d {
		return refuse(http.StatusBadRequest, "DIGEST_INVALID", "the manifest's digest is %s, not %s", got, d)
	}
	m, err := image.Parse(r.Header.Get("Content-Type"), body)
	if err != nil {
		return refuse(http.StatusBadRequest, "MANIFEST_INVALID", "%v", err)
	}
	err = g.Store.PutManifest(r.Context(), store.Push{Repo: t.repo, Digest: d, Manifest: m, Body: body, Tags: tags,
		Who: auth.From(r.Context()).String(), Immutable: g.Book.Holder})
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Location", "/v2/"+t.repo+"/manifests/"+d.String())
	h.Set("Docker-Content-Digest", d.String())
	if m.Subject != "" {
		h.Set("OCI-Subject", m.Subject.String())
	}
	for _, name := range r.URL.Query()["tag"] {
		h.Add("OCI-Tag", name)
	}
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// wantedTags returns the tags of a PUT (of the path and of ?tag=) and the digest it must have.
func wantedTags(r *http.Request, tag string, d digest.Digest) ([]string, digest.Digest, error) {
	q := r.URL.Query()
	var tags []string
	if tag != "" {
		tags = append(tags, tag)
		if text := q.Get("digest"); text != "" {
			var err error
			if d, err = image.ParseDigest(text); err != nil {
				return nil, "", errDigest(err)
			}
		}
	}
	for _, name := range q["tag"] {
		if err := image.CheckTag(name); err != nil {
			return nil, "", refuse(http.StatusBadRequest, "TAG_INVALID", "%v", err)
		}
		tags = append(tags, name)
	}
	if len(tags) > maxTags {
		return nil, "", refuse(http.StatusBadRequest, "TAG_INVALID", "%d tags at once; at most %d", len(tags), maxTags)
	}
	return tags, d, nil
}

func (g *Registry) readManifest(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	tooBig := refuse(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "a manifest has at most %d bytes", g.MaxManifest)
	if r.ContentLength > g.MaxManifest {
		return nil, tooBig
	}
	in := newProgressReader(w, r.Body)
	defer in.end()
	body, err := io.ReadAll(io.LimitReader(in, g.MaxManifest+1))
	if err != nil {
		e := refuse(http.StatusBadRequest, "MANIFEST_INVALID", "the body ended early")
		e.cause = err
		return nil, e
	}
	if int64(len(body)) > g.MaxManifest {
		return nil, tooBig
	}
	return body, nil
}

func (g *Registry) deleteManifest(w http.ResponseWriter, r *http.Request, t target) error {
	d, tag, err := reference(t)
	if aerr := g.authorize(r, t, tag, policy.Delete); aerr != nil {
		return aerr
	}
	if err != nil {
		return err
	}
	who := auth.From(r.Context()).String()
	if tag != "" {
		_, _, err = g.Store.ChangeTag(r.Context(), store.TagChange{Repo: t.repo, Name: tag, Who: who, Op: store.NewID(), Immutable: g.Book.Holder})
	} else {
		_, _, err = g.Store.DeleteManifests(r.Context(), store.Deletion{Repo: t.repo, Digest: d.String(), Op: store.NewID(), Who: who, Immutable: g.Book.Holder})
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}
