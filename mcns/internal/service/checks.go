package service

import (
	"context"
	"time"

	"github.com/miekg/dns"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/health"
	"metacircular.net/mcdsl/metrics"

	"metacircular.net/mcns/internal/rpc"
	"metacircular.net/mcns/internal/zone"
)

func checks(s *rpc.Server) []health.Check {
	return []health.Check{
		{Code: "dns", Title: "names are answered", Duty: true, Run: func(ctx context.Context) health.Result { return askOurselves(ctx, s) }},
		{Code: "changes", Title: "names can be changed", Run: func(context.Context) health.Result {
			if err := s.Catalog.Down(); err != nil {
				return health.Failed("%v", err).Do("%s", fault.From(err).Next)
			}
			return health.OK("%d zones", s.Catalog.View().Len())
		}},
		{Code: "upstreams", Title: "upstreams answer", Run: func(context.Context) health.Result {
			dead, all := 0, s.Resolver.Upstreams()
			for _, u := range all {
				if !u.Alive {
					dead++
				}
			}
			switch {
			case len(all) == 0:
				return health.OK("none configured: other names are refused")
			case dead == len(all):
				return health.Warning("no upstream answers; other names get old answers or none").Do("mcns upstreams")
			}
			return health.OK("%d of %d", len(all)-dead, len(all))
		}},
		{Code: "leases", Title: "registered services", DependsOn: []string{"changes"}, Run: func(context.Context) health.Result {
			stale, n := 0, 0
			for _, set := range s.Registry.List() {
				n += len(set.Instances)
				if s.Now().After(set.Expires()) {
					stale++
				}
			}
			if stale > 0 {
				return health.Warning("%d owner(s) have not renewed; their names stay as they are", stale).Do("mcns services")
			}
			return health.OK("%d instances", n)
		}},
	}
}

// askOurselves sends a real query to the first bound listener. Any reply will do.
func askOurselves(ctx context.Context, s *rpc.Server) health.Result {
	states := s.Listeners.States()
	if len(states) == 0 {
		return health.Warning("no [dns] listen address is configured: nothing is answered")
	}
	var unbound string
	for _, l := range states {
		if !l.Bound {
			unbound = l.Err
		}
	}
	for _, l := range states {
		if !l.Bound {
			continue
		}
		q := new(dns.Msg)
		q.SetQuestion(".", dns.TypeSOA)
		q.RecursionDesired = false
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if _, _, err := new(dns.Client).ExchangeContext(ctx, q, l.Addr.String()); err != nil {
			return health.Failed("%s does not answer: %v", l.Addr, err)
		}
		if unbound != "" {
			return health.Warning("%s answers, but: %s", l.Addr, unbound).Do("mcns status")
		}
		return health.OK("%s answers", l.Addr)
	}
	return health.Failed("no address is bound: %s", unbound).Do("ss -lunp 'sport = 53'")
}

func measure(s *rpc.Server, m *metrics.Registry) {
	m.Gauge("mcns_responses_total", "DNS replies sent.", nil, func() float64 { return float64(s.Handler.Answers.Load()) })
	m.Gauge("mcns_forwarded_total", "Questions given to the forwarder.", nil, func() float64 { return float64(s.Handler.Forwarded.Load()) })
	m.Gauge("mcns_cache_entries", "Answers in the forwarding cache.", nil, func() float64 { return float64(s.Resolver.Entries()) })
	m.Gauge("mcns_snapshot_age_seconds", "Age of the served snapshot file.", nil, func() float64 {
		t := s.Catalog.SnapshotTime()
		if t.IsZero() {
			return 0
		}
		return s.Now().Sub(t).Seconds()
	})
	m.Gauge("mcns_records", "Records served.", nil, func() float64 {
		n := 0
		s.Catalog.View().All(func(z *zone.Compiled) { n += z.Count })
		return float64(n)
	})
}
