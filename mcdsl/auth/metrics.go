package auth

import (
	"github.com/prometheus/client_golang/prometheus"

	"metacircular.net/mcdsl/fault"
)

// verifierMetrics counts what the verifier does; nil counts nothing.
type verifierMetrics struct {
	ok   prometheus.Counter
	bad  *prometheus.CounterVec
	hits prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, v *Verifier) *verifierMetrics {
	if reg == nil {
		return nil
	}
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mc_auth_verify_total", Help: "Tokens looked at, by outcome."}, []string{"outcome"})
	hits := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "mc_auth_cache_hits_total", Help: "Tokens found verified already."})
	stale := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "mc_auth_stale_seconds", Help: "Time since MCIAS was last heard; -1 = never."}, func() float64 {
		age, ok := v.Age()
		if !ok {
			return -1
		}
		return age.Seconds()
	})
	rows := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "mc_auth_revocations", Help: "Live revocations held."}, func() float64 {
		return float64(v.Report().Revocations)
	})
	reg.MustRegister(vec, hits, stale, rows)
	return &verifierMetrics{ok: vec.WithLabelValues("ok"), bad: vec, hits: hits}
}

func (m *verifierMetrics) verified(err error) {
	switch {
	case m == nil:
	case err == nil:
		m.ok.Inc()
	default:
		m.bad.WithLabelValues(outcome(fault.From(err).Reason)).Inc()
	}
}

func (m *verifierMetrics) hit() {
	if m != nil {
		m.hits.Inc()
	}
}

func outcome(reason string) string {
	switch reason {
	case ReasonBadToken:
		return "invalid"
	case ReasonExpired:
		return "expired"
	case ReasonRevoked:
		return "revoked"
	case ReasonNoKeys:
		return "no_keys"
	default:
		return "other"
	}
}
