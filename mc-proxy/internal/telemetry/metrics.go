// Package telemetry holds the proxy's own metrics. The route label is the configured listener/hostname, never what a
// client sent. All methods work on a nil *Metrics and do nothing then.
package telemetry

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the counters of the data path.
type Metrics struct {
	connections, rejected, dialErrors, requests, swaps, bytes *prometheus.CounterVec
	dialSeconds, requestSeconds                               *prometheus.HistogramVec
}

// New registers the metrics; with a nil registerer it returns nil.
func New(reg *prometheus.Registry) *Metrics {
	if reg == nil {
		return nil
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mcproxy_" + name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "mcproxy_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9)}, labels)
		reg.MustRegister(h)
		return h
	}
	return &Metrics{
		connections:    counter("connections_total", "Connections that found a route.", "listener", "mode"),
		rejected:       counter("rejected_total", "Connections refused.", "listener", "reason"),
		bytes:          counter("route_bytes_total", "Bytes relayed by L4 routes.", "route", "direction"),
		dialErrors:     counter("dial_errors_total", "Failed dials to backends.", "route", "kind"),
		dialSeconds:    histogram("dial_seconds", "Time to connect to a backend.", "route"),
		requests:       counter("http_requests_total", "Requests answered by L7 routes.", "route", "code_class", "proto"),
		requestSeconds: histogram("http_request_seconds", "Time to answer a request.", "route"),
		swaps:          counter("swaps_total", "Swaps by outcome.", "result"),
	}
}

// Connection counts a connection that found its route.
func (m *Metrics) Connection(listener, mode string) {
	if m != nil {
		m.connections.WithLabelValues(listener, mode).Inc()
	}
}

// Rejected counts a refused connection.
func (m *Metrics) Rejected(listener, reason string) {
	if m != nil {
		m.rejected.WithLabelValues(listener, reason).Inc()
	}
}

// Bytes counts what an L4 connection relayed.
func (m *Metrics) Bytes(route string, up, down int64) {
	if m != nil {
		m.bytes.WithLabelValues(route, "up").Add(float64(up))
		m.bytes.WithLabelValues(route, "down").Add(float64(down))
	}
}

// Dial counts a dial; kind is empty when it succeeded.
func (m *Metrics) Dial(route, kind string, d time.Duration) {
	switch {
	case m == nil:
	case kind != "":
		m.dialErrors.WithLabelValues(route, kind).Inc()
	default:
		m.dialSeconds.WithLabelValues(route).Observe(d.Seconds())
	}
}

// Request counts an answered request.
func (m *Metrics) Request(route string, code, protoMajor int, d time.Duration) {
	if m != nil {
		m.requests.WithLabelValues(route, strconv.Itoa(code/100)+"xx", "h"+strconv.Itoa(protoMajor)).Inc()
		m.requestSeconds.WithLabelValues(route).Observe(d.Seconds())
	}
}

// Swap counts a swap: ok, conflict, unhealthy, failed.
func (m *Metrics) Swap(result string) {
	if m != nil {
		m.swaps.WithLabelValues(result).Inc()
	}
}

// Forget drops the series of a route that is gone.
func (m *Metrics) Forget(route string) {
	if m == nil {
		return
	}
	for _, v := range []*prometheus.CounterVec{m.bytes, m.dialErrors, m.requests} {
		v.DeletePartialMatch(prometheus.Labels{"route": route})
	}
	m.dialSeconds.DeletePartialMatch(prometheus.Labels{"route": route})
	m.requestSeconds.DeletePartialMatch(prometheus.Labels{"route": route})
}
