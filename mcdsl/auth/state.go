package auth

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"
)

// maxRows bounds the live revocations a service keeps: far above what MCIAS can have live at once.
const maxRows = 1 << 20

// state is what MCIAS said, up to one sequence number. It is immutable: an update makes a new one that shares
// the old layers, so that it costs what the update costs and not what the whole set does.
type state struct {
	streamID string
	seq      int64
	digest   string
	keys     map[string]ed25519.PublicKey
	keySet   *mciasv1.KeySet
	maxStale time.Duration

	layers []layer // oldest and largest first; each less than half of the one before
	rows   int
	all    int64 // kills iat <= all
	client int64 // the same, for this service's tokens
}

type layer map[string]*mciasv1.Revocation

// Probe keys: one byte of kind, then the value.
const (
	probeJTI = "j"
	probeSID = "s"
	probeSub = "u"
	probeKID = "k"
	probeKey = "y"
)

// empty reports whether no token can be judged.
func (s *state) empty() bool { return s == nil || len(s.keys) == 0 }

// fromSnapshot makes a state from nothing but what MCIAS sent.
func fromSnapshot(snap *mciasv1.WatchSnapshot, service string, now time.Time) (*state, error) {
	s := &state{streamID: snap.GetStreamId(), seq: snap.GetSeq(), maxStale: snap.GetMaxStale().AsDuration()}
	if err := s.setKeys(snap.GetKeys()); err != nil {
		return nil, err
	}
	if err := s.add(snap.GetRevocations(), service, now); err != nil {
		return nil, err
	}
	return s, nil
}

// with returns the state after a delta. The caller has checked that it fits.
func (s *state) with(d *mciasv1.WatchDelta, service string, now time.Time) (*state, error) {
	next := *s
	next.layers = slices.Clone(s.layers)
	next.seq = d.GetSeq()
	if d.GetKeys() != nil {
		if err := next.setKeys(d.GetKeys()); err != nil {
			return nil, err
		}
	}
	if err := next.add(d.GetRevocations(), service, now); err != nil {
		return nil, err
	}
	return &next, nil
}

func (s *state) setKeys(set *mciasv1.KeySet) error {
	keys := make(map[string]ed25519.PublicKey, len(set.GetKeys()))
	for _, k := range set.GetKeys() {
		if k.GetAlg() != "EdDSA" {
			continue // a family of keys this version doesn't know
		}
		if len(k.GetPublicKey()) != ed25519.PublicKeySize || k.GetKid() == "" {
			return fmt.Errorf("key set: key %q is not an Ed25519 key", k.GetKid())
		}
		keys[k.GetKid()] = ed25519.PublicKey(k.GetPublicKey())
	}
	s.keys, s.keySet, s.digest = keys, set, set.GetDigest()
	return nil
}

// add puts a layer on top and merges neighbours of like size, so that there are at most log2(rows) layers.
func (s *state) add(rows []*mciasv1.Revocation, service string, now time.Time) error {
	top := make(layer, len(rows))
	for _, r := range rows {
		switch r.GetKind() {
		case mciasv1.RevocationKind_REVOCATION_KIND_ALL:
			s.all = max(s.all, r.GetBound())
			top["a"] = newer(top["a"], r) // kept for the state file
		case mciasv1.RevocationKind_REVOCATION_KIND_CLIENT:
			if r.GetValue() == service {
				s.client = max(s.client, r.GetBound())
				top["c"] = newer(top["c"], r)
			}
		case mciasv1.RevocationKind_REVOCATION_KIND_SID:
			if r.GetAud() == "" || r.GetAud() == service {
				top[probeSID+r.GetValue()] = r
			}
		case mciasv1.RevocationKind_REVOCATION_KIND_SUB:
			k := probeSub + r.GetValue()
			top[k] = newer(top[k], r)
		case mciasv1.RevocationKind_REVOCATION_KIND_JTI:
			top[probeJTI+r.GetValue()] = r
		case mciasv1.RevocationKind_REVOCATION_KIND_KID:
			top[probeKID+r.GetValue()] = r
		case mciasv1.RevocationKind_REVOCATION_KIND_KEY:
			top[probeKey+r.GetValue()] = r
		default:
			return fmt.Errorf("revocation %d is of a kind this version doesn't know (%d): upgrade this service", r.GetSeq(), r.GetKind())
		}
	}
	if len(top) == 0 {
		return nil
	}
	s.layers = append(s.layers, top)
	for n := len(s.layers); n > 1 && len(s.layers[n-1])*2 >= len(s.layers[n-2]); n = len(s.layers) {
		s.layers = append(s.layers[:n-2], merge(s.layers[n-2], s.layers[n-1], now))
	}
	s.rows = 0
	for _, l := range s.layers {
		s.rows += len(l)
	}
	if s.rows > maxRows {
		return fmt.Errorf("more than %d live revocations", maxRows)
	}
	return nil
}

// merge returns the rows of both that can still hit a token.
func merge(a, b layer, now time.Time) layer {
	out := make(layer, len(a)+len(b))
	for _, l := range []layer{a, b} {
		for k, r := range l {
			if exp := r.GetExpiresAt(); exp == nil || now.Before(exp.AsTime()) {
				out[k] = newer(out[k], r)
			}
		}
	}
	return out
}

// newer returns the row that kills more.
func newer(a, b *mciasv1.Revocation) *mciasv1.Revocation {
	if a == nil || b.GetBound() >= a.GetBound() {
		return b
	}
	return a
}

// revoked reports whether a verified token is dead under this state.
func (s *state) revoked(e *entry) bool {
	if iat := e.caller.IssuedAt.Unix(); iat <= s.all || iat <= s.client {
		return true
	}
	if _, ok := s.keys[e.caller.kid]; !ok {
		return true // compromised or long gone: its tokens have outlived it
	}
	for _, l := range s.layers {
		for _, p := range e.probes {
			if _, ok := l[p]; ok {
				return true
			}
		}
		if r, ok := l[e.sub]; ok && e.caller.Epoch < r.GetBound() {
			return true
		}
	}
	return false
}

// snapshot returns the state as MCIAS would send it, for the state file.
func (s *state) snapshot() *mciasv1.WatchSnapshot {
	snap := &mciasv1.WatchSnapshot{StreamId: s.streamID, Seq: s.seq, Keys: s.keySet, MaxStale: durationProto(s.maxStale)}
	for _, l := range s.layers {
		for _, r := range l {
			snap.Revocations = append(snap.Revocations, r)
		}
	}
	return snap
}
