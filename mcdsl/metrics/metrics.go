// Package metrics holds the names every service shares and the page they are scraped from.
//
// Each process has its own [Registry]; there is no global one. All methods work on a nil Registry and do
// nothing then, so that parts need no metrics in tests. Labels come from the contract (method, chi
// pattern, code); anything a user could choose is "other".
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Other is the label value for what is not in the contract.
const Other = "other"

// Registry holds a service's metrics. Safe for concurrent use.
type Registry struct {
	reg *prometheus.Registry

	rpcTotal, httpTotal, verify, rpcPanics, reloads *prometheus.CounterVec
	cacheHits                                       prometheus.Counter
	rpcSeconds, dbWait, dbWrite                     *prometheus.HistogramVec
}

// New returns a registry with mc_build_info and the shared names.
func New(service, version string) *Registry {
	reg := prometheus.NewRegistry()
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		reg.MustRegister(h)
		return h
	}
	fine := prometheus.ExponentialBuckets(0.0001, 4, 9) // 0.1 ms to 6.5 s
	m := &Registry{reg: reg,
		rpcTotal:   counter("mc_rpc_requests_total", "RPCs answered.", "method", "code", "transport"),
		httpTotal:  counter("mc_http_requests_total", "HTTP requests answered.", "route", "code"),
		verify:     counter("mc_auth_verify_total", "Tokens checked.", "outcome"),
		rpcPanics:  counter("mc_panics_total", "Requests that ended in a panic.", "method"),
		reloads:    counter("mc_reload_failures_total", "Reloads that failed and kept the old.", "what"),
		rpcSeconds: histogram("mc_rpc_seconds", "Time to answer an RPC.", fine, "method"),
		dbWait:     histogram("mc_db_write_wait_seconds", "Time a write waited for its turn.", fine),
		dbWrite:    histogram("mc_db_write_seconds", "Time a transaction took, commit included.", fine),
	}
	m.cacheHits = prometheus.NewCounter(prometheus.CounterOpts{Name: "mc_auth_cache_hits_total", Help: "Tokens found in the cache."})
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mc_build_info", Help: "1, with the version."}, []string{"service", "version"})
	info.WithLabelValues(service, version).Set(1)
	reg.MustRegister(m.cacheHits, info, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Prometheus returns the registry for a service's own metrics; nil on a nil Registry.
func (m *Registry) Prometheus() *prometheus.Registry {
	if m == nil {
		return nil
	}
	return m.reg
}

// RPC counts one answered RPC.
func (m *Registry) RPC(method, code, transport string, d time.Duration) {
	if m == nil {
		return
	}
	m.rpcTotal.WithLabelValues(method, code, transport).Inc()
	m.rpcSeconds.WithLabelValues(method).Observe(d.Seconds())
}

// HTTP counts one answered HTTP request; route is the chi pattern.
func (m *Registry) HTTP(route, code string) {
	if m != nil {
		m.httpTotal.WithLabelValues(route, code).Inc()
	}
}

// Verify counts one token check: ok, expired, revoked, bad, stale …
func (m *Registry) Verify(outcome string) {
	if m != nil {
		m.verify.WithLabelValues(outcome).Inc()
	}
}

// CacheHit counts a token that was known.
func (m *Registry) CacheHit() {
	if m != nil {
		m.cacheHits.Inc()
	}
}

// Panic counts a request that panicked.
func (m *Registry) Panic(method string) {
	if m != nil {
		m.rpcPanics.WithLabelValues(method).Inc()
	}
}

// ReloadFailed counts a reload (config, tls, roots) that kept the old.
func (m *Registry) ReloadFailed(what string) {
	if m != nil {
		m.reloads.WithLabelValues(what).Inc()
	}
}

// DBWait records how long a write waited.
func (m *Registry) DBWait(d time.Duration) {
	if m != nil {
		m.dbWait.WithLabelValues().Observe(d.Seconds())
	}
}

// DBWrite records how long a transaction took.
func (m *Registry) DBWrite(d time.Duration) {
	if m != nil {
		m.dbWrite.WithLabelValues().Observe(d.Seconds())
	}
}

// Gauge registers a value that is asked for at each scrape, e.g. mc_db_wal_bytes. Labels are constant.
// A name registered twice keeps the first.
func (m *Registry) Gauge(name, help string, labels map[string]string, value func() float64) {
	if m == nil {
		return
	}
	g := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value)
	_ = m.reg.Register(g) // AlreadyRegistered: the first stays
}

// Handler serves the text format.
func (m *Registry) Handler() http.Handler {
	if m == nil {
		return http.NotFoundHandler()
	}
	return promhttp.HandlerFor(m.reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}
