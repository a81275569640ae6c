package app

import (
	"context"
	"fmt"
	"log/slog"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"metacircular.net/mcdsl/audit"
	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/health"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mc-proxy/internal/store"
	"metacircular.net/mc-proxy/internal/table"
)

func (a *App) snapshot() *table.Snapshot { return a.control.Snapshot() }

// checks are the proxy's own lines of status and doctor.
func (a *App) checks() []health.Check {
	return []health.Check{
		{Code: "ports", Title: "listening ports", Duty: true, Run: func(context.Context) health.Result {
			n := 0
			for _, l := range a.ingress.Listeners() {
				n += len(l.Bound)
			}
			if n == 0 && len(a.cfg.Listeners) > 0 {
				return health.Failed("no listener is bound").Do("mc-proxy config check")
			}
			return health.OK("%d addresses", n)
		}},
		{Code: "table", Title: "routing table", Run: func(context.Context) health.Result {
			s := a.control.Snapshot()
			if a.control.ReadOnly() {
				return health.Warning("%d routes are served read-only: %v", len(s.Index.All()), a.dbFault).Do("mc-proxy restore FILE")
			}
			return health.OK("%d routes at generation %d", len(s.Index.All()), s.Generation)
		}},
		{Code: "routes", Title: "routes", DependsOn: []string{"table"}, Run: a.checkRoutes},
	}
}

func (a *App) checkRoutes(context.Context) health.Result {
	ps := a.services.Status().GetProblems()
	var texts []string
	next := ""
	for _, p := range ps {
		if p.GetKind() == "database" {
			continue
		}
		texts = append(texts, p.GetKind()+" "+p.GetSubject()+": "+p.GetDetail())
		if next == "" {
			next = p.GetNext()
		}
	}
	if len(texts) == 0 {
		return health.OK("all serve")
	}
	const shown = 5
	more := ""
	if len(texts) > shown {
		more = fmt.Sprintf("; and %d more", len(texts)-shown)
		texts = texts[:shown]
	}
	r := health.Warning("%s", strings.Join(texts, "; ")+more)
	if next != "" {
		r = r.Do("%s", next)
	}
	return r
}

func name(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "uid-" + id
}

// auditSink keeps what was asked in the database as well as in the log. It never stops a call: the log has it.
type auditSink struct {
	db  *db.DB
	log *slog.Logger
}

func (auditSink) Begin(context.Context, *audit.Record) error { return nil }

func (s auditSink) End(ctx context.Context, r *audit.Record) {
	audit.Log(s.log).End(ctx, r)
	uid, err := strconv.ParseInt(strings.TrimPrefix(r.Subject, "local:"), 10, 64)
	if err != nil {
		uid = -1
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	row := store.AuditRow{At: r.Time, UID: uid, User: r.Who, Method: r.Method, Target: r.Target, Outcome: r.Outcome}
	if err := store.Audit(ctx, s.db, row); err != nil {
		s.log.Warn("audit row was not kept", "method", r.Method, "err", err)
	}
}

// measure adds the numbers that are read when somebody asks.
func (a *App) measure(b *cli.Builder) {
	b.Metrics.Gauge("mcproxy_config_generation", "Generation of the routing table.", nil, func() float64 { return float64(a.control.Snapshot().Generation) })
	b.Metrics.Gauge("mcproxy_access_log_dropped_total", "Access log lines that were lost.", nil, func() float64 { return float64(a.access.Dropped()) })
	b.Metrics.Gauge("mcproxy_cert_reload_errors_total", "Certificate loads that failed.", nil, func() float64 { return float64(a.certs.Failures()) })
	if reg := b.Metrics.Prometheus(); reg != nil {
		reg.MustRegister(newCollector(a))
	}
}

// collector reads the state of routes and listeners when scraped, so that nothing has to be kept in step.
type collector struct {
	a                                                         *App
	active, connections, up, draining, held, lapsed, notAfter *prometheus.Desc
}

func newCollector(a *App) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("mcproxy_"+name, help, labels, nil)
	}
	return &collector{a: a,
		active:      desc("active_connections", "Live connections.", "listener"),
		connections: desc("route_connections_active", "Connections or requests in flight.", "route"),
		up:          desc("backend_up", "1 if the backend may get work.", "route", "backend"),
		draining:    desc("backend_draining", "1 while a backend drains.", "route", "backend"),
		held:        desc("held", "1 while a route is held.", "route"),
		lapsed:      desc("route_lease_lapsed", "1 when the owner of a route has not renewed its lease.", "route"),
		notAfter:    desc("cert_not_after_seconds", "When a route's certificate ends, Unix seconds.", "route"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.active, c.connections, c.up, c.draining, c.held, c.lapsed, c.notAfter} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, l := range c.a.ingress.Listeners() {
		gauge(c.active, float64(l.Active), l.Name)
	}
	st := c.a.services.Status()
	ends := map[string]float64{}
	for _, crt := range st.GetCertificates() {
		for _, r := range crt.GetRoutes() {
			ends[r] = float64(crt.GetNotAfter().GetSeconds())
		}
	}
	for _, r := range st.GetRoutes() {
		key := r.GetSpec().GetListener() + "/" + r.GetSpec().GetHostname()
		if alpn := r.GetSpec().GetAlpn(); alpn != "" {
			key += "[" + alpn + "]"
		}
		n := int64(0)
		for _, b := range r.GetBackends() {
			n += b.GetInFlight()
			if b.GetState() == mcproxyv1.BackendState_BACKEND_STATE_DRAINING {
				gauge(c.draining, 1, key, b.GetAddr())
				continue
			}
			h := b.GetHealth()
			gauge(c.up, truth(h == mcproxyv1.BackendHealth_BACKEND_HEALTH_UP || h == mcproxyv1.BackendHealth_BACKEND_HEALTH_UNKNOWN), key, b.GetAddr())
		}
		gauge(c.connections, float64(n), key)
		gauge(c.held, truth(r.GetHold() != nil), key)
		gauge(c.lapsed, truth(r.GetStale()), key)
		if end, ok := ends[key]; ok {
			gauge(c.notAfter, end, key)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
