package oci

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"metacircular.net/mcdsl/fault"
)

// takeover is how long a newer request waits for the older writer of an upload to let go.
const takeover = 5 * time.Second

// errCut is the end of a body that a newer request took over.
var errCut = errors.New("another request took over this upload")

// writers lets one request at a time write to an upload. A newer one cuts the older, which may hang on a dead
// connection; otherwise its client could not go on for minutes.
type writers struct {
	mu   sync.Mutex
	open map[string]*writer
}

type writer struct {
	cut  func()
	done chan struct{}
}

// acquire waits for the upload; cut is called if a newer request comes. The caller calls release.
func (w *writers) acquire(ctx context.Context, id string, cut func()) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, takeover)
	defer cancel()
	me := &writer{cut: cut, done: make(chan struct{})}
	for {
		w.mu.Lock()
		if w.open == nil {
			w.open = map[string]*writer{}
		}
		older := w.open[id]
		if older == nil {
			w.open[id] = me
			w.mu.Unlock()
			return func() {
				w.mu.Lock()
				delete(w.open, id)
				w.mu.Unlock()
				close(me.done)
			}, nil
		}
		w.mu.Unlock()
		older.cut()
		select {
		case <-older.done:
		case <-ctx.Done():
			return nil, fault.New(fault.Unavailable, "another request is still writing to this upload").WithRetry(takeover)
		}
	}
}

// isNetError reports whether an error came from the connection rather than from our disk.
func isNetError(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.Canceled)
}
