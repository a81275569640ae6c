package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcr/internal/image"
)

const (
	tries      = 6 // of one blob or request, before the connection counts as gone
	firstPause = 250 * time.Millisecond
	maxReply   = 1 << 20         // of an error
	keepClient = 2 * time.Minute // a token lives ten; the command line renews it when near its end
)

// Registry is one registry as one caller.
type Registry struct {
	// Connect returns a client that shows who is asking, and the base URL. It is called again when a token
	// was refused, so it must ask for a new one then.
	Connect func(ctx context.Context) (*http.Client, string, error)
	Say     func(format string, args ...any) // told of retries; nil = nobody
}

// answer is a response whose body is read or closed by the caller.
type answer struct {
	*http.Response
	base string
}

// do sends a request; a refused token is renewed once. path is absolute or below /v2/.
func (g *Registry) do(ctx context.Context, method, path string, header http.Header, body func() (io.Reader, int64)) (*answer, error) {
	for again := true; ; again = false {
		c, base, err := g.Connect(ctx)
		if err != nil {
			return nil, err
		}
		var r io.Reader
		size := int64(0)
		if body != nil {
			r, size = body()
		}
		target, err := resolve(base, path)
		if err != nil {
			return nil, err
		}
		req, err := http.NewRequestWithContext(ctx, method, target, r)
		if err != nil {
			return nil, err
		}
		if r != nil {
			req.ContentLength = size
		}
		for k, v := range header {
			req.Header[k] = v
		}
		res, err := c.Do(req)
		if err != nil {
			return nil, err
		}
		if res.StatusCode == http.StatusUnauthorized && again && body == nil {
			_ = res.Body.Close()
			continue
		}
		return &answer{res, base}, nil
	}
}

// resolve makes the URL of a request. What a server names stays on the server: a Location elsewhere would get
// our token.
func resolve(base, path string) (string, error) {
	b, err := url.Parse(base)
	if err != nil {
		return "", err
	}
	ref, err := url.Parse(path)
	if err != nil {
		return "", fmt.Errorf("address %q: %w", path, err)
	}
	u := b.ResolveReference(ref)
	if u.Host != b.Host || u.Scheme != b.Scheme {
		return "", fmt.Errorf("the registry sends us to %s; its token is not for there", u.Host)
	}
	return u.String(), nil
}

// refusal makes a fault of an error answer and closes it.
func refusal(res *answer, what string) error {
	defer func() { _ = res.Body.Close() }()
	b, _ := io.ReadAll(io.LimitReader(res.Body, maxReply)) // a cut answer still has its status
	var doc struct {
		Errors []struct {
			Code, Message string
		}
	}
	msg := http.StatusText(res.StatusCode)
	if json.Unmarshal(b, &doc) == nil && len(doc.Errors) > 0 && doc.Errors[0].Message != "" {
		msg = doc.Errors[0].Message
	}
	kind := fault.Internal
	switch res.StatusCode {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusMethodNotAllowed:
		kind = fault.Invalid
	case http.StatusUnauthorized:
		kind = fault.Unauthenticated
	case http.StatusForbidden:
		kind = fault.Denied
	case http.StatusNotFound:
		kind = fault.NotFound
	case http.StatusConflict:
		kind = fault.Conflict
	case http.StatusTooManyRequests, http.StatusInsufficientStorage:
		kind = fault.Exhausted
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		kind = fault.Unavailable
	}
	f := fault.New(kind, "%s: %s", what, msg)
	if kind == fault.Internal {
		f.RequestID = res.Header.Get("X-Request-Id") // so that the message, which came from there, is shown
		if f.RequestID == "" {
			f.RequestID = "unknown"
		}
	}
	return f
}

// passing reports whether trying again may help: the connection broke, or the server is busy.
func passing(err error) bool {
	var f *fault.Error
	if errors.As(err, &f) {
		return f.Kind == fault.Unavailable || f.Kind == fault.Timeout
	}
	var local *fs.PathError // our own disk does not get better
	return !errors.Is(err, context.Canceled) && !errors.Is(err, errContent) && !errors.As(err, &local)
}

// errContent is content that is not what its digest says.
var errContent = errors.New("the content is not what its digest says")

// retry runs fn until it works or does not help any more, with growing pauses. progress reports whether the
// last try moved anything, which starts the count anew.
func (g *Registry) retry(ctx context.Context, what string, fn func() (progress bool, err error)) error {
	pause := firstPause
	for left := tries; ; {
		moved, err := fn()
		if err == nil || ctx.Err() != nil || !passing(err) {
			return err
		}
		if moved {
			left, pause = tries, firstPause
		}
		if left--; left <= 0 {
			return fault.New(fault.Unavailable, "%s: the connection broke %d times", what, tries).Wrap(err)
		}
		if g.Say != nil {
			g.Say("%s: %v; trying again", what, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// HasBlob reports whether the repository shows a blob.
func (g *Registry) HasBlob(ctx context.Context, repo string, d digest.Digest) (has bool, err error) {
	err = g.retry(ctx, "look for "+d.String(), func() (bool, error) {
		res, err := g.do(ctx, http.MethodHead, "/v2/"+repo+"/blobs/"+d.String(), nil, nil)
		if err != nil {
			return false, err
		}
		if res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusOK {
			has = res.StatusCode == http.StatusOK
			return false, res.Body.Close()
		}
		return false, refusal(res, "look for a blob in "+repo)
	})
	return has, err
}

// Mount links a blob from another repository; false = it must be uploaded.
func (g *Registry) Mount(ctx context.Context, repo, from string, d digest.Digest) (done bool, err error) {
	q := url.Values{"mount": {d.String()}, "from": {from}}
	err = g.retry(ctx, "mount "+d.String(), func() (bool, error) {
		res, err := g.do(ctx, http.MethodPost, "/v2/"+repo+"/blobs/uploads/?"+q.Encode(), nil, nil)
		if err != nil {
			return false, err
		}
		switch res.StatusCode {
		case http.StatusCreated:
			done = true
			return false, res.Body.Close()
		case http.StatusAccepted: // an upload was opened instead: it is not needed yet
			location := res.Header.Get("Location")
			if err := res.Body.Close(); err != nil {
				return false, err
			}
			del, err := g.do(ctx, http.MethodDelete, location, nil, nil)
			if err != nil {
				return false, err
			}
			return false, del.Body.Close()
		}
		return false, refusal(res, "mount into "+repo)
	})
	return done, err
}

// PutManifest stores a manifest under a tag or digest.
func (g *Registry) PutManifest(ctx context.Context, repo, ref, mediaType string, body []byte) (digest.Digest, error) {
	var d digest.Digest
	err := g.retry(ctx, "push manifest", func() (bool, error) {
		res, err := g.do(ctx, http.MethodPut, "/v2/"+repo+"/manifests/"+url.PathEscape(ref), http.Header{"Content-Type": {mediaType}},
			func() (io.Reader, int64) { return bytes.NewReader(body), int64(len(body)) })
		if err != nil {
			return false, err
		}
		if res.StatusCode != http.StatusCreated {
			return false, refusal(res, "push "+repo+" "+ref)
		}
		d, err = image.ParseDigest(res.Header.Get("Docker-Content-Digest"))
		return false, errors.Join(err, res.Body.Close())
	})
	return d, err
}

// Manifest returns a manifest's bytes and type, checked against its digest.
func (g *Registry) Manifest(ctx context.Context, repo, ref string) (body []byte, mediaType string, d digest.Digest, err error) {
	accept := strings.Join([]string{image.OCIManifest, image.OCIIndex, image.DockerManifest, image.DockerList}, ", ")
	err = g.retry(ctx, "pull manifest", func() (bool, error) {
		res, err := g.do(ctx, http.MethodGet, "/v2/"+repo+"/manifests/"+url.PathEscape(ref), http.Header{"Accept": {accept}}, nil)
		if err != nil {
			return false, err
		}
		if res.StatusCode != http.StatusOK {
			return false, refusal(res, "pull "+repo+" "+ref)
		}
		defer func() { _ = res.Body.Close() }()
		if body, err = io.ReadAll(io.LimitReader(res.Body, image.MaxManifest+1)); err != nil {
			return false, err
		}
		mediaType = image.MediaType(res.Header.Get("Content-Type"))
		want := ref
		if !image.IsDigest(ref) {
			want = res.Header.Get("Docker-Content-Digest")
		}
		if d, err = image.ParseDigest(want); err != nil {
			return false, err
		}
		if d.Algorithm().FromBytes(body) != d {
			return false, fmt.Errorf("manifest %s: %w", d, errContent)
		}
		return false, nil
	})
	return body, mediaType, d, err
}

// offset reads how many bytes an upload has.
func offset(h http.Header) (int64, error) {
	if text := h.Get("MCR-Upload-Offset"); text != "" {
		return strconv.ParseInt(text, 10, 64)
	}
	_, last, ok := strings.Cut(h.Get("Range"), "-")
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseInt(last, 10, 64)
	if err != nil || n == 0 {
		return 0, err
	}
	return n + 1, nil
}

// Once makes a Connect that keeps its client for a while, so that connections are reused; do asks it again
// after a refused token, and then it makes a new one.
func Once(connect func(ctx context.Context) (*http.Client, string, error)) func(ctx context.Context) (*http.Client, string, error) {
	var mu sync.Mutex
	var c *http.Client
	var base string
	var until time.Time
	return func(ctx context.Context) (*http.Client, string, error) {
		mu.Lock()
		defer mu.Unlock()
		if c != nil && time.Now().Before(until) {
			return c, base, nil
		}
		n, b, err := connect(ctx)
		if err != nil {
			return nil, "", err
		}
		c, base, until = n, b, time.Now().Add(keepClient)
		return c, base, nil
	}
}
