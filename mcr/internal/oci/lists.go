package oci

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcr/internal/image"
	"metacircular.net/mcr/internal/policy"
	"metacircular.net/mcr/internal/store"
)

const (
	maxPage      = 1000
	referrerPage = 200
	maxReferrers = 1 << 20 // bytes of one page of descriptors
)

// pageSize reads n: absent = the most, too large = the most; zero is a list of none.
func pageSize(r *http.Request) (int, error) {
	text := r.URL.Query().Get("n")
	if text == "" {
		return maxPage, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, refuse(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n=%.40q is not a number of entries", text)
	}
	return int(min(n, maxPage)), nil
}

func linkNext(w http.ResponseWriter, path string, n int, last string) {
	q := url.Values{"n": {strconv.Itoa(n)}, "last": {last}}
	w.Header().Set("Link", "<"+path+"?"+q.Encode()+`>; rel="next"`)
}

func writeJSON(w http.ResponseWriter, contentType string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b)
	return nil
}

func (g *Registry) tags(w http.ResponseWriter, r *http.Request, t target) error {
	if err := g.authorize(r, t, "", policy.Pull); err != nil {
		return err
	}
	n, err := pageSize(r)
	if err != nil {
		return err
	}
	list, err := g.Store.Tags(r.Context(), t.repo, r.URL.Query().Get("last"), n+1)
	if err != nil {
		return err
	}
	names := make([]string, 0, min(n, len(list)))
	for _, tag := range list[:min(n, len(list))] {
		names = append(names, tag.Name)
	}
	if n > 0 && len(list) > n {
		linkNext(w, "/v2/"+t.repo+"/tags/list", n, names[n-1])
	}
	return writeJSON(w, "application/json", map[string]any{"name": t.repo, "tags": names})
}

// catalog lists the repositories the caller may pull.
func (g *Registry) catalog(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	caller := auth.From(ctx)
	if err := auth.Decide(ctx, "catalog", "registry", true, "shows only what the caller may pull"); err != nil {
		return err
	}
	if !caller.Permits("registry", "catalog", "*") {
		return errScope("registry:catalog:*")
	}
	n, err := pageSize(r)
	if err != nil {
		return err
	}
	visible := func(name string) bool { ok, _ := g.may(caller, policy.Pull, name); return ok }
	names, more, err := g.Store.VisibleRepos(ctx, r.URL.Query().Get("last"), "", n, visible)
	if err != nil {
		return err
	}
	if n > 0 && more {
		linkNext(w, "/v2/_catalog", n, names[n-1])
	}
	return writeJSON(w, "application/json", map[string]any{"repositories": names})
}

// descriptor is one entry of a referrers answer.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

func (g *Registry) referrers(w http.ResponseWriter, r *http.Request, t target) error {
	if err := g.authorize(r, t, "", policy.Pull); err != nil {
		return err
	}
	d, err := image.ParseDigest(t.ref)
	if err != nil {
		return errDigest(err)
	}
	q := r.URL.Query()
	filter := q.Get("artifactType")
	list, err := g.Store.Referrers(r.Context(), t.repo, d, filter, q.Get("last"), referrerPage+1)
	if err != nil {
		return err
	}
	out, last := referrersPage(list)
	if last != "" {
		next := url.Values{"last": {last}}
		if filter != "" {
			next.Set("artifactType", filter)
		}
		w.Header().Set("Link", "</v2/"+t.repo+"/referrers/"+d.String()+"?"+next.Encode()+`>; rel="next"`)
	}
	if filter != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeJSON(w, image.OCIIndex, map[string]any{"schemaVersion": 2, "mediaType": image.OCIIndex, "manifests": out})
}

// referrersPage cuts a list at the limits of a page; last is where the next one begins, "" if there is none.
func referrersPage(list []store.Manifest) (out []descriptor, last string) {
	out = []descriptor{}
	size := 0
	for _, m := range list {
		for k, v := range m.Annotations {
			size += len(k) + len(v) + 8
		}
		size += 300
		if len(out) > 0 && (len(out) == referrerPage || size > maxReferrers) {
			return out, out[len(out)-1].Digest
		}
		out = append(out, descriptor{MediaType: m.MediaType, Digest: m.Digest.String(), Size: m.Size,
			ArtifactType: m.ArtifactType, Annotations: m.Annotations})
	}
	return out, ""
}
