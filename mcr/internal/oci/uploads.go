package oci

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcr/internal/cas"
	"metacircular.net/mcr/internal/image"
	"metacircular.net/mcr/internal/policy"
	"metacircular.net/mcr/internal/store"
)

// mountCandidates bounds how many repositories are looked at for a mount without a source.
const mountCandidates = 64

var (
	uploadID     = regexp.MustCompile(`^[0-9a-f]{32}$`)
	contentRange = regexp.MustCompile(`^([0-9]{1,18})-([0-9]{1,18})$`)
)

// startUpload answers POST: a mount, a single-request push, or a new upload.
func (g *Registry) startUpload(w http.ResponseWriter, r *http.Request, t target) error {
	if err := g.authorize(r, t, "", policy.Push); err != nil {
		return err
	}
	q := r.URL.Query()
	if q.Has("mount") {
		done, err := g.mount(w, r, t)
		if done || err != nil {
			return err
		}
	}
	if err := g.Disk.Admit(); err != nil {
		return err
	}
	alg := digest.Algorithm(q.Get("digest-algorithm"))
	if alg == "" {
		alg = digest.SHA256
	}
	if alg != digest.SHA256 && alg != digest.SHA512 {
		return refuse(http.StatusBadRequest, "DIGEST_INVALID", "digest algorithm %.40q is not served; sha256 and sha512 are", alg)
	}
	if text := q.Get("digest"); text != "" && !q.Has("mount") {
		d, err := image.ParseDigest(text)
		if err != nil {
			return errDigest(err)
		}
		return g.singlePost(w, r, t, d)
	}
	c := auth.From(r.Context())
	u := store.Upload{ID: store.NewID(), Reference: store.NewID()[:12], Repo: t.repo, Owner: c.Subject, OwnerName: c.String(), Algorithm: alg}
	if err := g.Store.OpenUpload(r.Context(), u, g.UploadsPerOwner, g.UploadsTotal); err != nil {
		return err
	}
	uploadHeaders(w, u, 0)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// mount links a blob from another repository; done = answered. What it cannot mount becomes an ordinary
// upload, so that nobody learns why.
func (g *Registry) mount(w http.ResponseWriter, r *http.Request, t target) (done bool, err error) {
	q := r.URL.Query()
	d, err := image.ParseDigest(q.Get("mount"))
	if err != nil {
		return false, errDigest(err)
	}
	ctx := r.Context()
	caller := auth.From(ctx)
	sources := []string{q.Get("from")}
	if sources[0] == "" {
		if sources, err = g.Store.ReposWithBlob(ctx, d, mountCandidates); err != nil {
			return false, err
		}
	}
	narrow := ""
	for _, from := range sources {
		if image.CheckRepository(from) != nil {
			continue
		}
		byPolicy, byToken := g.may(caller, policy.Pull, from)
		if !byPolicy {
			continue
		}
		if !byToken {
			if narrow == "" {
				narrow = from
			}
			continue
		}
		if err := g.Store.Mount(ctx, from, t.repo, d); fault.Is(err, fault.NotFound) {
			continue
		} else if err != nil {
			return false, err
		}
		blobCreated(w, t.repo, d)
		return true, nil
	}
	if narrow != "" {
		return false, errScope(withPull("repository:"+t.repo+":pull,push", narrow))
	}
	return false, nil
}

// singlePost takes a whole blob in the POST. It needs no row: nobody can come back to it.
func (g *Registry) singlePost(w http.ResponseWriter, r *http.Request, t target, d digest.Digest) error {
	u, err := g.Blobs.Create(store.NewID(), d.Algorithm())
	if err != nil {
		return err
	}
	defer u.Close()
	body := newProgressReader(w, r.Body)
	defer body.end()
	n, err := u.Append(body)
	if err == nil && r.ContentLength >= 0 && n != r.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return errors.Join(bodyError(err), u.Discard())
	}
	return g.commit(w, r, t, u, d, "")
}

// open returns the caller's upload and where it stands. Another's upload, or one of another repository, is
// as unknown as none.
func (g *Registry) open(r *http.Request, t target) (store.Upload, error) {
	if err := g.authorize(r, t, "", policy.Push); err != nil {
		return store.Upload{}, err
	}
	unknown := refuse(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload is open in %s", t.repo)
	if !uploadID.MatchString(t.ref) {
		return store.Upload{}, unknown
	}
	u, err := g.Store.Upload(r.Context(), t.ref)
	if fault.Is(err, fault.NotFound) {
		return u, unknown
	}
	if err != nil {
		return u, err
	}
	if u.Repo != t.repo || u.Owner != auth.From(r.Context()).Subject {
		return u, unknown
	}
	return u, nil
}

func (g *Registry) uploadStatus(w http.ResponseWriter, r *http.Request, t target) error {
	u, err := g.open(r, t)
	if err != nil {
		return err
	}
	off, err := g.offset(u)
	if err != nil {
		return err
	}
	uploadHeaders(w, u, off)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (g *Registry) offset(u store.Upload) (int64, error) {
	off, err := g.Blobs.Offset(u.ID, synced(u))
	if errors.Is(err, cas.ErrGone) && u.Synced == 0 {
		return 0, nil // nothing was sent yet
	}
	return off, lost(err)
}

func synced(u store.Upload) cas.Synced { return cas.Synced{Offset: u.Synced, State: u.State} }

func lost(err error) error {
	if errors.Is(err, cas.ErrGone) {
		return refuse(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "the upload's file is gone; begin again")
	}
	return err
}

// resume opens the upload's file where it can go on. The caller holds the upload.
func (g *Registry) resume(r *http.Request, u store.Upload) (*cas.Upload, error) {
	cu, err := g.Blobs.Resume(u.ID, u.Algorithm, synced(u))
	if errors.Is(err, cas.ErrGone) && u.Synced == 0 {
		cu, err = g.Blobs.Create(u.ID, u.Algorithm)
	}
	if err != nil {
		return nil, lost(err)
	}
	cu.OnSync = func(at cas.Synced) error {
		return g.Store.UploadSynced(r.Context(), u.ID, at.Offset, at.State)
	}
	return cu, nil
}

// take appends the request's body to the upload, checked against Content-Range.
func (g *Registry) take(r *http.Request, u store.Upload, cu *cas.Upload, body io.Reader) error {
	want := r.ContentLength // -1 = chunked: until it ends
	if cr := r.Header.Get("Content-Range"); cr != "" {
		m := contentRange.FindStringSubmatch(cr)
		if m == nil {
			return refuse(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "Content-Range %.60q is not first-last", cr)
		}
		first, err1 := strconv.ParseInt(m[1], 10, 64)
		last, err2 := strconv.ParseInt(m[2], 10, 64)
		if err1 != nil || err2 != nil || last < first {
			return refuse(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "Content-Range %.60q is not first-last", cr)
		}
		if first != cu.Offset() {
			e := refuse(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "the upload has %d bytes; the chunk begins at %d", cu.Offset(), first)
			return e.set("Range", rangeOf(cu.Offset())).set("Location", uploadPath(u)).set("MCR-Upload-Offset", strconv.FormatInt(cu.Offset(), 10))
		}
		if want >= 0 && want != last-first+1 {
			return refuse(http.StatusBadRequest, "SIZE_INVALID", "Content-Range has %d bytes, Content-Length %d", last-first+1, want)
		}
		want = last - first + 1
		body = io.LimitReader(body, want)
	}
	n, err := cu.Append(body)
	if err == nil && want >= 0 && n != want {
		err = io.ErrUnexpectedEOF
	}
	// What came stays: the client asks for the offset and goes on from there.
	if cerr := cu.Checkpoint(); cerr != nil {
		return errors.Join(cerr, bodyError(err))
	}
	return bodyError(err)
}

// bodyError says of an error while reading a body that it is the client's end that failed; errors of our
// disk pass through.
func bodyError(err error) error {
	var own *Error
	switch {
	case err == nil, errors.As(err, &own):
		return err
	case errors.Is(err, errCut):
		return refuse(http.StatusConflict, "BLOB_UPLOAD_INVALID", "another request took over this upload")
	case errors.Is(err, io.ErrUnexpectedEOF), isNetError(err):
		e := refuse(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "the body ended early")
		e.cause = err
		return e
	}
	return err
}

func (g *Registry) patchUpload(w http.ResponseWriter, r *http.Request, t target) error {
	u, err := g.open(r, t)
	if err != nil {
		return err
	}
	if err := g.Disk.Admit(); err != nil {
		return err
	}
	body := newProgressReader(w, r.Body)
	defer body.end()
	release, err := g.writers.acquire(r.Context(), u.ID, body.cut)
	if err != nil {
		return err
	}
	defer release()
	if u, err = g.open(r, t); err != nil { // it may have been finished while we waited
		return err
	}
	cu, err := g.resume(r, u)
	if err != nil {
		return err
	}
	defer cu.Close()
	if err := g.take(r, u, cu, body); err != nil {
		return g.spoiled(r, u, err)
	}
	if err := g.Store.TouchUpload(r.Context(), u); err != nil {
		return err
	}
	uploadHeaders(w, u, cu.Offset())
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// spoiled drops an upload whose disk failed, so that its space returns; other errors leave it for later.
func (g *Registry) spoiled(r *http.Request, u store.Upload, err error) error {
	if classify(err).Status != http.StatusInsufficientStorage {
		return err
	}
	_, cerr := g.Store.CloseUpload(r.Context(), u.ID)
	return errors.Join(err, cerr, g.Blobs.DiscardUpload(u.ID))
}

func (g *Registry) finishUpload(w http.ResponseWriter, r *http.Request, t target) error {
	u, err := g.open(r, t)
	if err != nil {
		return err
	}
	d, err := image.ParseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return errDigest(err)
	}
	if err := g.Disk.Admit(); err != nil {
		return err
	}
	body := newProgressReader(w, r.Body)
	defer body.end()
	release, err := g.writers.acquire(r.Context(), u.ID, body.cut)
	if err != nil {
		return err
	}
	defer release()
	if u, err = g.open(r, t); err != nil {
		return err
	}
	cu, err := g.resume(r, u)
	if err != nil {
		return err
	}
	defer cu.Close()
	if err := g.take(r, u, cu, body); err != nil {
		return g.spoiled(r, u, err)
	}
	return g.commit(w, r, t, cu, d, u.ID)
}

// commit makes an upload a blob: bytes on disk, file in place, row, then the answer.
func (g *Registry) commit(w http.ResponseWriter, r *http.Request, t target, cu *cas.Upload, want digest.Digest, upload string) error {
	ctx := r.Context()
	got, err := cu.Finish(want.Algorithm())
	if err != nil {
		return errors.Join(err, g.drop(r, cu, upload))
	}
	if got != want {
		e := refuse(http.StatusBadRequest, "DIGEST_INVALID", "the content's digest is %s, not %s", got, want)
		if err := g.drop(r, cu, upload); err != nil {
			e.cause = err
		}
		return e
	}
	size := cu.Offset()
	unlock := g.Blobs.Lock(want)
	defer unlock()
	has, err := g.Store.HasBlob(ctx, want)
	if err != nil {
		return err
	}
	if have, serr := g.Blobs.Size(want); has && serr == nil && have == size {
		err = cu.Discard()
	} else {
		err = g.Blobs.Place(cu, want)
	}
	if err != nil {
		return err
	}
	if err := g.Store.CommitBlob(ctx, t.repo, want, size, upload); err != nil {
		return fmt.Errorf("commit blob: %w", err)
	}
	blobCreated(w, t.repo, want)
	return nil
}

func (g *Registry) drop(r *http.Request, cu *cas.Upload, upload string) error {
	var err error
	if upload != "" {
		_, err = g.Store.CloseUpload(r.Context(), upload)
	}
	return errors.Join(err, cu.Discard())
}

func (g *Registry) cancelUpload(w http.ResponseWriter, r *http.Request, t target) error {
	u, err := g.open(r, t)
	if err != nil {
		return err
	}
	release, err := g.writers.acquire(r.Context(), u.ID, func() {})
	if err != nil {
		return err
	}
	defer release()
	if _, err := g.Store.CloseUpload(r.Context(), u.ID); err != nil {
		return err
	}
	if err := g.Blobs.DiscardUpload(u.ID); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func uploadPath(u store.Upload) string { return "/v2/" + u.Repo + "/blobs/uploads/" + u.ID }

// rangeOf writes what an upload has. Docker demands an end not before the start, so nothing and one byte read
// the same; MCR-Upload-Offset is exact.
func rangeOf(off int64) string { return "0-" + strconv.FormatInt(max(0, off-1), 10) }

func uploadHeaders(w http.ResponseWriter, u store.Upload, off int64) {
	h := w.Header()
	h.Set("Location", uploadPath(u))
	h.Set("Docker-Upload-UUID", u.ID)
	h.Set("Range", rangeOf(off))
	h.Set("MCR-Upload-Offset", strconv.FormatInt(off, 10))
	h.Set("Content-Length", "0")
}

func blobCreated(w http.ResponseWriter, repo string, d digest.Digest) {
	h := w.Header()
	h.Set("Location", "/v2/"+repo+"/blobs/"+d.String())
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
}
