package authn

import (
	"crypto/hmac"
	"crypto/sha256"
	"net/netip"
	"time"

	"metacircular.net/mcias/internal/store"
)

// Throttle settings.
type Throttle struct {
	Free int           // failures before the first delay
	Max  time.Duration // longest delay
}

// everywhere is how many times Free a name may fail over all networks together.
const everywhere = 10

// prefix returns the network that is counted: /24 or /56.
func prefix(ip netip.Addr) string {
	ip = ip.Unmap()
	if !ip.IsValid() {
		return "local"
	}
	bits := 24
	if ip.Is6() {
		bits = 56
	}
	p, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return "local"
	}
	return p.String()
}

// keys are the counters of an attempt: HMAC of the submitted name with and without the network, so that unknown names
// do the same and a password typed into the name field is not stored.
func keys(mac []byte, name, network string) (here, all []byte) {
	sum := func(parts ...string) []byte {
		h := hmac.New(sha256.New, mac)
		for _, p := range parts {
			h.Write([]byte{byte(len(p) >> 8), byte(len(p))})
			h.Write([]byte(p))
		}
		return h.Sum(nil)
	}
	return sum("here", name, network), sum("all", name)
}

// count counts an attempt on one counter and reports whether it may be verified. It does not extend a running delay.
func (t Throttle) count(w store.Writer, key []byte, free int, now time.Time) (bool, error) {
	c, err := store.ThrottleOf(w, key)
	if err != nil {
		return false, err
	}
	if now.Sub(c.Last) > 24*time.Hour {
		c = store.Throttle{Told: c.Told}
	}
	// A clock that went back must not lock anybody out for longer than the longest delay.
	blocked := now.Before(c.NextOK) && c.NextOK.Sub(now) <= t.Max
	c.Last = now
	if !blocked {
		c.Fails++
		c.NextOK = now.Add(t.delay(c.Fails, free))
	}
	return !blocked, store.SetThrottle(w, key, c)
}

// delay is 0 for the free failures, then 1 s doubling.
func (t Throttle) delay(fails, free int) time.Duration {
	over := fails - free
	switch {
	case over <= 0:
		return 0
	case over > 20:
		return t.Max
	}
	return min(time.Second<<(over-1), t.Max)
}
