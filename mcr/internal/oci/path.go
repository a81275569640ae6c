package oci

import (
	"errors"
	"net/url"
	"strings"

	"metacircular.net/mcr/internal/image"
)

// endpoint is what a path below /v2/ means.
type endpoint uint8

const (
	endBase      endpoint = iota // /v2/
	endCatalog                   // _catalog
	endBlob                      // <name>/blobs/<digest>
	endUploads                   // <name>/blobs/uploads/
	endUpload                    // <name>/blobs/uploads/<id>
	endManifest                  // <name>/manifests/<tag or digest>
	endTags                      // <name>/tags/list
	endReferrers                 // <name>/referrers/<digest>
)

// target is a parsed path.
type target struct {
	end  endpoint
	repo string
	ref  string // digest, tag or upload id, unescaped once, not yet checked
}

var (
	errNoRoute = errors.New("no such path below /v2/")
	errEscape  = errors.New("a repository name holds no percent signs")
)

// parsePath reads the escaped path below "/v2/" from the right, because a repository's name may hold slashes
// and every word the routes use: a/blobs/b and x/manifests/y are legal names. Only the last segment is
// unescaped (clients send %3A in digests), once.
func parsePath(escaped string) (target, error) {
	switch escaped {
	case "":
		return target{end: endBase}, nil
	case "_catalog":
		return target{end: endCatalog}, nil
	}
	segs := strings.Split(escaped, "/")
	n := len(segs)
	if n < 3 {
		return target{}, errNoRoute
	}
	last, err := url.PathUnescape(segs[n-1])
	if err != nil {
		return target{}, errNoRoute
	}
	t := target{ref: last}
	keep := n - 2 // segments that are the name
	switch {
	case n >= 4 && segs[n-3] == "blobs" && segs[n-2] == "uploads":
		keep, t.end = n-3, endUpload
		if last == "" {
			t.end = endUploads
		}
	case segs[n-2] == "blobs" && last == "uploads":
		t.end, t.ref = endUploads, ""
	case segs[n-2] == "blobs":
		t.end = endBlob
	case segs[n-2] == "manifests":
		t.end = endManifest
	case segs[n-2] == "referrers":
		t.end = endReferrers
	case segs[n-2] == "tags" && last == "list":
		t.end, t.ref = endTags, ""
	default:
		return target{}, errNoRoute
	}
	t.repo = strings.Join(segs[:keep], "/")
	if strings.Contains(t.repo, "%") {
		return target{}, errEscape
	}
	if err := image.CheckRepository(t.repo); err != nil {
		return target{}, err
	}
	return t, nil
}
