package ingress

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"time"

	"metacircular.net/mc-proxy/internal/proxyhdr"
	"metacircular.net/mc-proxy/internal/relay"
	"metacircular.net/mc-proxy/internal/route"
	"metacircular.net/mc-proxy/internal/traffic"
	"metacircular.net/mc-proxy/internal/upstream"
)

const (
	maxTries   = 3
	maxReloads = 8
)

// relay passes the stream on to a backend of the route.
func (in *inbound) relay(r *route.Route, offer route.Offer, pre []byte) {
	defer in.finish()
	live := in.s.cfg.Snapshot().Live[r.ID]
	if live == nil {
		reset(in.raw)
		return
	}
	if err := in.enter(live); err != nil {
		reset(in.raw)
		return
	}
	defer live.Gate.Leave()
	in.rec.SetState(traffic.Dialling)
	work, far, spec, err := in.connect(r.ID, offer)
	if err != nil {
		in.s.cfg.Log.Warn("no backend took the connection", "route", r.Spec.Key.String(), "err", err)
		in.log(r, offer, "", relay.Result{Err: err})
		reset(in.raw)
		return
	}
	defer work.Release()
	idle := spec.Timeouts.Idle
	if idle == 0 {
		idle = in.set.Timeouts.Idle
	}
	in.rec.SetBackend(work.Backend.Addr, far, idle)
	if _, err := far.Write(pre); err != nil {
		reset(far)
		reset(in.raw)
		in.log(r, offer, work.Backend.Addr, relay.Result{Err: err})
		return
	}
	sent := int64(len(pre))
	in.dropReader() // an idle relay keeps no buffer
	in.rec.SetState(traffic.Active)
	res := relay.Run(in.raw, far, func() { in.rec.SetState(traffic.HalfClosed) })
	res.Up += sent
	in.s.cfg.Metrics.Bytes(r.Spec.Key.String(), res.Up, res.Down)
	in.log(r, offer, work.Backend.Addr, res)
}

// enter passes the gate of the route. While it waits, a client that leaves gives its place up.
func (in *inbound) enter(live *upstream.Route) error {
	if !live.Gate.Held() {
		return live.Gate.Enter(in.s.stopping)
	}
	in.rec.SetState(traffic.Held)
	ctx, cancel := context.WithCancel(in.s.stopping)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if gone(in.raw) {
			cancel()
		}
	}()
	err := live.Gate.Enter(ctx)
	cancel()
	// A deadline in the past ends the watcher's read.
	_ = in.raw.SetReadDeadline(time.Unix(1, 0))
	<-watched
	_ = in.raw.SetReadDeadline(time.Time{})
	return err
}

// connect binds the connection to a backend and dials it; one that cannot be reached is followed by the next, since
// the hello is still in hand. The PROXY header of the route is sent as well.
func (in *inbound) connect(id int64, offer route.Offer) (*upstream.Work, *net.TCPConn, route.Spec, error) {
	var tried []string
	var last error = upstream.ErrNoBackend
	for reload := 0; len(tried) < maxTries && reload < maxReloads; {
		snap := in.s.cfg.Snapshot()
		r, live := snap.Index.Get(id), snap.Live[id]
		if r == nil || live == nil {
			return nil, nil, route.Spec{}, upstream.ErrNoBackend
		}
		work, err := live.Pick(r.Spec.Backends, tried, in.rec.Kill)
		if errors.Is(err, upstream.ErrStale) {
			reload++
			continue
		}
		if err != nil {
			if len(tried) > 0 {
				err = last
			}
			return nil, nil, route.Spec{}, err
		}
		start := time.Now()
		timeout := r.Spec.Timeouts.Connect
		if timeout == 0 {
			timeout = in.set.Timeouts.Connect
		}
		far, err := work.Backend.Dial(in.s.stopping, timeout)
		if err == nil {
			in.s.cfg.Metrics.Dial(r.Spec.Key.String(), "", time.Since(start))
			if err = in.announce(far, r.Spec, offer); err == nil {
				return work, far, r.Spec, nil
			}
			reset(far)
		} else {
			in.s.cfg.Metrics.Dial(r.Spec.Key.String(), "dial", 0)
		}
		work.Release()
		tried = append(tried, work.Backend.Addr)
		last = err
	}
	return nil, nil, route.Spec{}, last
}

// announce sends the PROXY header a route asks for.
func (in *inbound) announce(far *net.TCPConn, spec route.Spec, offer route.Offer) error {
	if spec.ProxyOut == route.ProxyNone || spec.ProxyOut == "" {
		return nil
	}
	f := proxyhdr.Facts{Client: in.client, Server: in.server, Authority: offer.Name, UniqueID: strconv.FormatUint(in.rec.ID, 10)}
	if len(offer.ALPN) > 0 {
		f.ALPN = offer.ALPN[0]
	}
	if spec.ProxyKey != "" {
		key, err := in.s.cfg.HopKey(spec.ProxyKey)
		if err != nil {
			return err
		}
		f.HopKey = key
	}
	h, err := proxyhdr.Header(spec.ProxyOut, f)
	if err != nil {
		return err
	}
	_, err = far.Write(h)
	return err
}

func (in *inbound) log(r *route.Route, offer route.Offer, backend string, res relay.Result) {
	attrs := []slog.Attr{slog.String("route", r.Spec.Key.String()), slog.String("client", in.client.String()), slog.String("sni", offer.Name),
		slog.String("backend", backend), slog.Int64("bytes_in", res.Up), slog.Int64("bytes_out", res.Down),
		slog.Float64("dur", float64(in.s.cfg.Now().Sub(in.start).Microseconds())/1000), slog.Uint64("conn", in.rec.ID)}
	if res.Err != nil {
		attrs = append(attrs, slog.String("err", res.Err.Error()))
	}
	in.s.cfg.Access.Add(context.Background(), "connection", attrs...)
}
