package auth

import "metacircular.net/mcdsl/fault"

func (v *Verifier) gauges() {
	v.conf.Metrics.Gauge("mc_auth_stale_seconds", "Time since MCIAS was last heard; -1 = never.", nil, func() float64 {
		age, ok := v.Age()
		if !ok {
			return -1
		}
		return age.Seconds()
	})
	v.conf.Metrics.Gauge("mc_auth_revocations", "Live revocations held.", nil, func() float64 {
		return float64(v.Report().Revocations)
	})
}

// outcome is the metric's word for how a check ended.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	switch fault.From(err).Reason {
	case ReasonBadToken:
		return "bad"
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
