package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcr/internal/image"
	"metacircular.net/mcr/internal/policy"
)

// maxRanges bounds what one request may ask for: lazy-pulling formats ask for a few, an attacker for thousands.
const maxRanges = 16

func (g *Registry) getBlob(w http.ResponseWriter, r *http.Request, t target) error {
	if err := g.authorize(r, t, "", policy.Pull); err != nil {
		return err
	}
	d, err := image.ParseDigest(t.ref)
	if err != nil {
		return errDigest(err)
	}
	ctx := r.Context()
	b, err := g.Store.Blob(ctx, t.repo, d)
	if err != nil {
		return err
	}
	f, err := g.openWhole(r, d, b.Size)
	if err != nil {
		return err
	}
	defer f.Close()
	// Whoever may push here skips the upload after this answer, so the blob must outlive the push.
	if byPolicy, byToken := g.may(auth.From(ctx), policy.Push, t.repo); byPolicy && byToken {
		if err := g.Store.Renew(ctx, t.repo, b, g.Grace/2); err != nil {
			return err
		}
	}
	if strings.Count(r.Header.Get("Range"), ",") >= maxRanges {
		return refuse(http.StatusRequestedRangeNotSatisfiable, "UNSUPPORTED", "over %d ranges in one request", maxRanges)
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Etag", `"`+d.String()+`"`)
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	h.Set("X-Content-Type-Options", "nosniff")
	out := newProgressWriter(w)
	defer out.end()
	http.ServeContent(out, r, "", time.Time{}, f)
	return nil
}

// openWhole opens a blob and compares its length with the row before anything is promised. A file that is
// missing or cut is quarantined: 404 now, so that the next push of any image with it heals it.
func (g *Registry) openWhole(r *http.Request, d digest.Digest, size int64) (*os.File, error) {
	f, err := g.Blobs.OpenBlob(d)
	if err == nil {
		info, serr := f.Stat()
		if serr == nil && info.Size() == size {
			return f, nil
		}
		_ = f.Close()
		if err = serr; err == nil {
			err = fmt.Errorf("blob %s has %d bytes, its row says %d", d, info.Size(), size)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err // too many open files is no damage
	}
	g.Log.ErrorContext(r.Context(), "blob is damaged", "digest", d.String(), "err", err.Error())
	unlock := g.Blobs.Lock(d)
	defer unlock()
	if qerr := g.Store.QuarantineBlob(r.Context(), d); qerr != nil {
		return nil, qerr
	}
	if qerr := g.Blobs.Quarantine(d, g.Clock.Now()); qerr != nil {
		return nil, qerr
	}
	return nil, refuse(http.StatusNotFound, "BLOB_UNKNOWN", "blob %s is damaged and was put aside; push it again", d)
}

func (g *Registry) deleteBlob(w http.ResponseWriter, r *http.Request, t target) error {
	if err := g.authorize(r, t, "", policy.Delete); err != nil {
		return err
	}
	d, err := image.ParseDigest(t.ref)
	if err != nil {
		return errDigest(err)
	}
	if err := g.Store.DeleteBlob(r.Context(), t.repo, d, auth.From(r.Context()).String()); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}
