package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"metacircular.net/mc-proxy/internal/proxyhdr"
	"metacircular.net/mc-proxy/internal/route"
)

// startChecks begins the periodic checks unless they run already or the route wants none.
func (b *Backend) startChecks(r *Route) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopChecks != nil || b.draining || b.settings.Check.Kind == route.CheckNone {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.stopChecks = cancel
	s := b.settings
	go func() {
		for {
			// Spread by 20 %, so that checks of many backends do not fall into step.
			timer := time.NewTimer(time.Duration(float64(s.Check.Interval) * (0.8 + 0.4*rand.Float64())))
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
			err := b.env.Probe(ctx, b.Addr, s)
			// While the route is held its instance is being replaced: that is no verdict.
			if ctx.Err() == nil && !r.Gate.Held() {
				b.checked(err)
			}
		}
	}()
}

// Probe looks once whether a backend does its work.
func (e *Env) Probe(ctx context.Context, addr string, s Settings) error {
	ctx, cancel := context.WithTimeout(ctx, s.Check.Timeout)
	defer cancel()
	switch s.Check.Kind {
	case route.CheckTLS:
		c, err := e.probeTLS(ctx, addr, s)
		if err != nil {
			return err
		}
		return c.Close()
	case route.CheckHTTP:
		return e.probeHTTP(ctx, addr, s)
	case route.CheckGRPC:
		return e.probeGRPC(ctx, addr, s)
	}
	c, err := e.Dial.Dial(ctx, addr, s.Check.Timeout)
	if err != nil {
		return err
	}
	return c.Close()
}

// open dials for a probe and says the PROXY header a backend behind proxy_out expects: a LOCAL one, since
// there is no client.
func (e *Env) open(ctx context.Context, addr string, s Settings) (net.Conn, error) {
	c, err := e.Dial.Dial(ctx, addr, s.Check.Timeout)
	if err != nil || s.ProxyOut == route.ProxyNone {
		return c, err
	}
	var key []byte
	if s.ProxyKey != "" {
		if key, err = e.HopKey(s.ProxyKey); err != nil {
			c.Close()
			return nil, err
		}
	}
	h, err := proxyhdr.Local(s.ProxyOut, key)
	if err == nil {
		_, err = c.Write(h)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (e *Env) tlsConfig(s Settings, protos ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: e.Roots(), ServerName: s.ServerName, NextProtos: protos}
}

func (e *Env) probeTLS(ctx context.Context, addr string, s Settings, protos ...string) (net.Conn, error) {
	raw, err := e.open(ctx, addr, s)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, e.tlsConfig(s, protos...))
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

// encrypted reports whether a backend speaks TLS: an L4 route's always does.
func (s Settings) encrypted() bool { return s.TLS || !s.L7 }

func (e *Env) probeHTTP(ctx context.Context, addr string, s Settings) error {
	scheme := "http"
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return e.open(ctx, addr, s) }}
	if s.encrypted() {
		scheme = "https"
		tr.DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return e.probeTLS(ctx, addr, s, "http/1.1") }
	}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+s.ServerName+s.Check.Path, http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "mc-proxy-check")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("GET %s: %s", s.Check.Path, resp.Status)
	}
	return nil
}

func (e *Env) probeGRPC(ctx context.Context, addr string, s Settings) error {
	creds := insecure.NewCredentials()
	if s.encrypted() {
		creds = credentials.NewTLS(e.tlsConfig(s, "h2"))
	}
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds), grpc.WithDisableServiceConfig(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return e.open(ctx, addr, s) }))
	if err != nil {
		return err
	}
	defer cc.Close()
	resp, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return errors.New("grpc.health.v1 says " + resp.GetStatus().String())
	}
	return nil
}

// Await probes addr until it is healthy or ctx ends, at 25 ms rising to 500 ms. tell hears each result.
// It returns the last probe's error, which says more than the deadline.
func (e *Env) Await(ctx context.Context, addr string, s Settings, tell func(error)) error {
	var last error
	for wait := 25 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		err := e.Probe(ctx, addr, s)
		if err != nil && ctx.Err() != nil && last != nil {
			return last // this probe only ran out of time
		}
		last = err
		tell(err)
		if err == nil {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// SettingsOf derives how the backends of a definition are reached, for a probe before it is in the table.
func SettingsOf(s route.Spec, connect, responseHeader time.Duration) Settings {
	return settingsOf(&route.Route{Spec: s}, connect, responseHeader)
}
