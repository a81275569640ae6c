package l7

import (
	"errors"
	"io"
	"net/http"
	"time"

	"metacircular.net/mc-proxy/internal/upstream"
)

const (
	// maxTries bounds the backends one request is offered to.
	maxTries = 3
	// maxReloads bounds how often a request looks again because the table moved while it chose.
	maxReloads = 8
)

// roundTripper binds a request to a backend and sends it. A dial that fails takes the next backend: nothing of the
// request has left yet.
type roundTripper struct{}

func (roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	t, ok := req.Context().Value(taskKey{}).(*task)
	if !ok {
		return nil, errors.New("request without a task")
	}
	body := req.Body
	var tried []string
	var last error = upstream.ErrNoBackend
	for reload := 0; len(tried) < maxTries && reload < maxReloads; {
		snap := t.snapshot()
		rt, live := snap.Index.Get(t.routeID), snap.Live[t.routeID]
		if rt == nil || live == nil {
			return nil, upstream.ErrNoBackend
		}
		work, err := live.Pick(rt.Spec.Backends, tried, func() { t.cancel(errCut) })
		if errors.Is(err, upstream.ErrStale) {
			reload++
			continue
		}
		if err != nil {
			if len(tried) > 0 {
				err = last
			}
			return nil, err
		}
		t.work, t.backend = work, work.Backend.Addr
		if body != nil && body != http.NoBody {
			// A failed round trip closes the body; the next try still needs it. The proxy closes it in the end.
			req.Body = io.NopCloser(body)
		}
		start := time.Now()
		resp, err := work.Backend.RoundTrip(req)
		if err == nil {
			t.front.cfg.Metrics.Dial(t.key, "", time.Since(start))
			return resp, nil
		}
		var dial *upstream.DialError
		if !errors.As(err, &dial) || req.Context().Err() != nil {
			return nil, err
		}
		t.front.cfg.Metrics.Dial(t.key, "dial", 0)
		work.Release()
		t.work = nil
		tried = append(tried, work.Backend.Addr)
		last = err
	}
	return nil, last
}
