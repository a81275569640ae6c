package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/fault"
)

// Progress is told how many bytes of a blob are done; it may go back when an upload begins anew.
type Progress func(done int64)

// Content opens a blob's bytes from the start; it is called again after a broken connection.
type Content func() (io.ReadCloser, error)

// PutBlob uploads a blob. After a broken connection it goes on at the offset the server has.
func (g *Registry) PutBlob(ctx context.Context, repo string, d digest.Digest, size int64, content Content, progress Progress) error {
	what := "push " + d.String()
	location := ""
	last := int64(0)
	return g.retry(ctx, what, func() (bool, error) {
		if location == "" {
			res, err := g.do(ctx, http.MethodPost, "/v2/"+repo+"/blobs/uploads/?"+url.Values{"digest-algorithm": {d.Algorithm().String()}}.Encode(), nil, nil)
			if err != nil {
				return false, err
			}
			if res.StatusCode != http.StatusAccepted {
				return false, refusal(res, "push to "+repo)
			}
			location = res.Header.Get("Location")
			last = 0
			if err := res.Body.Close(); err != nil {
				return false, err
			}
		} else {
			at, err := g.uploadOffset(ctx, location)
			if fault.Is(err, fault.NotFound) {
				location = ""
				return false, fault.New(fault.Unavailable, "the upload is gone")
			}
			if err != nil {
				return false, err
			}
			moved := at > last
			last = at
			if err := g.finish(ctx, location, d, at, size, content, progress); err != nil {
				return moved, err
			}
			return true, nil
		}
		return false, g.finish(ctx, location, d, 0, size, content, progress)
	})
}

func (g *Registry) uploadOffset(ctx context.Context, location string) (int64, error) {
	res, err := g.do(ctx, http.MethodGet, location, nil, nil)
	if err != nil {
		return 0, err
	}
	if res.StatusCode != http.StatusNoContent {
		return 0, refusal(res, "ask for the upload")
	}
	n, err := offset(res.Header)
	return n, errors.Join(err, res.Body.Close())
}

// finish sends what the server lacks and ends the upload.
func (g *Registry) finish(ctx context.Context, location string, d digest.Digest, at, size int64, content Content, progress Progress) error {
	r, err := content()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	if s, ok := r.(io.Seeker); ok {
		_, err = s.Seek(at, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, r, at)
	}
	if err != nil {
		return fmt.Errorf("read what is pushed: %w", err)
	}
	u, err := url.Parse(location)
	if err != nil {
		return err
	}
	q := u.Query()
	q.Set("digest", d.String())
	u.RawQuery = q.Encode()
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	if at > 0 && at < size {
		header.Set("Content-Range", strconv.FormatInt(at, 10)+"-"+strconv.FormatInt(size-1, 10))
	}
	body := io.Reader(&counter{r: r, n: at, tell: progress})
	res, err := g.do(ctx, http.MethodPut, u.String(), header, func() (io.Reader, int64) { return body, size - at })
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusCreated {
		return refusal(res, "push "+d.String())
	}
	return res.Body.Close()
}

type counter struct {
	r    io.Reader
	n    int64
	tell Progress
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	if c.tell != nil && n > 0 {
		c.tell(c.n)
	}
	return n, err
}

// GetBlob downloads a blob into a file, which then holds exactly what the digest says, or is removed. After a
// broken connection it goes on at the bytes that are there.
func (g *Registry) GetBlob(ctx context.Context, repo string, d digest.Digest, file string, progress Progress) (err error) {
	part := file + ".part"
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(part) // half a blob is of no use to anybody
		}
	}()
	h := d.Algorithm().Hash()
	at := int64(0)
	err = g.retry(ctx, "pull "+d.String(), func() (bool, error) {
		header := http.Header{}
		if at > 0 {
			header.Set("Range", "bytes="+strconv.FormatInt(at, 10)+"-")
		}
		res, err := g.do(ctx, http.MethodGet, "/v2/"+repo+"/blobs/"+d.String(), header, nil)
		if err != nil {
			return false, err
		}
		if res.StatusCode == http.StatusOK && at > 0 { // it does not do ranges: from the start
			at = 0
			h.Reset()
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return false, errors.Join(err, res.Body.Close())
			}
		} else if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusPartialContent {
			return false, refusal(res, "pull from "+repo)
		}
		n, err := io.Copy(io.MultiWriter(f, h), &counter{r: res.Body, n: at, tell: progress})
		at += n
		return n > 0, errors.Join(err, res.Body.Close())
	})
	if err != nil {
		return err
	}
	if got := digest.NewDigest(d.Algorithm(), h); got != d {
		return fmt.Errorf("blob %s is %s: %w", d, got, errContent)
	}
	if err := f.Truncate(at); err != nil {
		return err
	}
	return os.Rename(part, file)
}
