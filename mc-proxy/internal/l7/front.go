package l7

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync"
	"time"

	"metacircular.net/mc-proxy/internal/accesslog"
	"metacircular.net/mc-proxy/internal/table"
	"metacircular.net/mc-proxy/internal/telemetry"
)

// Limits of a front connection.
const (
	headerTimeout = 5 * time.Second
	idleTimeout   = 120 * time.Second
	maxHeader     = 64 << 10
	maxStreams    = 250
	// stallTimeout is how long one read or write of a body may stand still.
	stallTimeout = 60 * time.Second
)

// Config says what a Front serves from.
type Config struct {
	Snapshot func() *table.Snapshot
	Access   *accesslog.Log
	Metrics  *telemetry.Metrics
	Log      *slog.Logger
	// Trusted reports whether a peer's forwarding headers are believed on a listener.
	Trusted func(listener string, peer netip.Addr) bool
}

// Front serves HTTP for all L7 routes of one listener.
type Front struct {
	cfg      Config
	listener string
	feed     *Feed
	server   *http.Server
	proxy    *httputil.ReverseProxy
	stalls   stalls
	done     chan struct{}
	stop     context.CancelFunc
}

// NewFront returns a running Front; Shutdown ends it.
func NewFront(listener string, cfg Config) *Front {
	f := &Front{cfg: cfg, listener: listener, feed: NewFeed(nil), done: make(chan struct{})}
	f.proxy = &httputil.ReverseProxy{
		Rewrite:      f.rewrite,
		Transport:    roundTripper{},
		ErrorHandler: f.failed,
		BufferPool:   &bufferPool{},
		ErrorLog:     slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	f.server = newServer(f, cfg.Log)
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	go f.stalls.watch(ctx)
	go func() {
		defer close(f.done)
		if err := f.server.Serve(f.feed); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			cfg.Log.Error("serving HTTP ended", "listener", listener, "err", err)
		}
	}()
	return f
}

func newServer(h http.Handler, log *slog.Logger) *http.Server {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	return &http.Server{
		Handler:           h,
		Protocols:         &p,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       WithConn,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Give hands a handshaken connection over; false when the Front is shutting down.
func (f *Front) Give(c net.Conn) bool { return f.feed.Give(c) }

// Shutdown takes no new connection, tells clients to go elsewhere, and waits for requests until ctx ends.
func (f *Front) Shutdown(ctx context.Context) error {
	err := f.server.Shutdown(ctx)
	if err != nil {
		_ = f.server.Close()
	}
	f.stop()
	<-f.done
	return err
}

// bufferPool lends the copy buffers of the proxy.
type bufferPool struct{ p sync.Pool }

func (b *bufferPool) Get() []byte {
	if v, ok := b.p.Get().(*[]byte); ok {
		return *v
	}
	return make([]byte, 32<<10)
}

func (b *bufferPool) Put(v []byte) { b.p.Put(&v) }
