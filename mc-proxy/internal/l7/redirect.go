package l7

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"metacircular.net/mc-proxy/internal/route"
	"metacircular.net/mc-proxy/internal/table"
	"metacircular.net/mc-proxy/internal/upstream"
)

// Plain is a prefix of a host that is served over plain HTTP: revocation lists and issuer certificates, which a client
// must get before it can trust TLS.
type Plain struct {
	Host    string
	Prefix  string
	Backend string
}

// Rules say what a redirect listener answers.
type Rules struct {
	To          string // name of the tls listener
	HTTPSPort   int
	ACMEBackend string
	Plain       []Plain
}

const acmePrefix = "/.well-known/acme-challenge/"

// Redirect serves a plain HTTP listener: a few prefixes are passed on, everything else is told to use HTTPS.
type Redirect struct {
	rules  atomic.Pointer[Rules]
	cfg    Config
	dial   *upstream.Dialer
	feed   *Feed
	server *http.Server
	proxy  *httputil.ReverseProxy
	done   chan struct{}
}

type plainKey struct{}

// NewRedirect returns a running Redirect; Shutdown ends it.
func NewRedirect(listener string, cfg Config, dial *upstream.Dialer, rules Rules) *Redirect {
	d := &Redirect{cfg: cfg, dial: dial, feed: NewFeed(nil), done: make(chan struct{})}
	d.rules.Store(&rules)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return dial.Dial(ctx, addr, 5*time.Second)
		},
		DisableCompression: true, MaxIdleConnsPerHost: 8, IdleConnTimeout: idleTimeout,
		ResponseHeaderTimeout: 30 * time.Second, MaxResponseHeaderBytes: maxHeader,
	}
	d.proxy = &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme = "http"
			pr.Out.URL.Host, _ = pr.In.Context().Value(plainKey{}).(string)
			pr.Out.Host = pr.In.Host
			for _, name := range forwarding {
				pr.Out.Header.Del(name)
			}
			if c := ConnOf(pr.In.Context()); c != nil {
				pr.Out.Header.Set("X-Forwarded-For", c.Client.Addr().String())
			}
			pr.Out.Header.Set("X-Forwarded-Proto", "http")
		},
		Transport:  transport,
		BufferPool: &bufferPool{},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			cfg.Log.Warn("plain backend failed", "listener", listener, "path", r.URL.Path, "err", err)
			http.Error(w, "the backend cannot be reached", http.StatusBadGateway)
		},
		ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	d.server = newServer(d, cfg.Log)
	d.server.WriteTimeout = 2 * time.Minute
	go func() {
		defer close(d.done)
		if err := d.server.Serve(d.feed); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			cfg.Log.Error("serving HTTP ended", "listener", listener, "err", err)
		}
		transport.CloseIdleConnections()
	}()
	return d
}

// SetRules replaces the rules for new requests.
func (d *Redirect) SetRules(r Rules) { d.rules.Store(&r) }

// Give hands a connection over.
func (d *Redirect) Give(c net.Conn) bool { return d.feed.Give(c) }

// Shutdown ends the server.
func (d *Redirect) Shutdown(ctx context.Context) error {
	err := d.server.Shutdown(ctx)
	if err != nil {
		_ = d.server.Close()
	}
	<-d.done
	return err
}

// ServeHTTP answers one plain request.
func (d *Redirect) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rules := d.rules.Load()
	if backend := rules.backend(r); backend != "" {
		r.Body = http.NoBody
		d.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), plainKey{}, backend)))
		return
	}
	code, location := RedirectTo(d.cfg.Snapshot(), rules.To, rules.HTTPSPort, r.Host, r.URL)
	if code != http.StatusPermanentRedirect {
		http.Error(w, "no such host here", code)
		return
	}
	w.Header().Set("Location", location)
	w.WriteHeader(code)
}

// backend returns where a request is passed on to; empty: it is redirected.
func (rules *Rules) backend(r *http.Request) string {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return ""
	}
	name, ok := table.HostName(r.Host)
	// A path with dots or doubled slashes could leave the prefix at the backend; it is not passed on.
	if clean := path.Clean(r.URL.Path); !ok || clean != strings.TrimSuffix(r.URL.Path, "/") && r.URL.Path != "/" || strings.Contains(r.URL.EscapedPath(), "%2f") || strings.Contains(r.URL.EscapedPath(), "%2F") {
		return ""
	}
	for _, p := range rules.Plain {
		if p.Host == name && strings.HasPrefix(r.URL.Path, p.Prefix) {
			return p.Backend
		}
	}
	if rules.ACMEBackend != "" && strings.HasPrefix(r.URL.Path, acmePrefix) {
		return rules.ACMEBackend
	}
	return ""
}

// RedirectTo returns 308 and the address a plain request for host belongs to, or 404 for a name that no route of the
// listener serves. The address is built from the normalised name, never from what the client wrote.
func RedirectTo(s *table.Snapshot, listener string, port int, host string, u *url.URL) (code int, location string) {
	name, ok := table.HostName(host)
	if !ok || s.Index.Lookup(listener, route.Offer{Name: name}) == nil {
		return http.StatusNotFound, ""
	}
	if port != 443 {
		name = net.JoinHostPort(name, strconv.Itoa(port))
	}
	to := url.URL{Scheme: "https", Host: name, Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}
	return http.StatusPermanentRedirect, to.String()
}
