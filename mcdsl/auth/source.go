package auth

import (
	"context"
	"errors"
	"sync"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"
)

// Source feeds a Verifier with keys, revocations and heartbeats. Watch is the one over the network; LocalSource the
// one inside MCIAS.
type Source interface {
	// Run feeds into until ctx ends. It returns only then, and handles every failure by trying again.
	Run(ctx context.Context, into Sink) error
}

// Sink is a Verifier as a Source sees it.
type Sink interface {
	// Have says what is in force: empty and 0 for nothing.
	Have() Position
	// Snapshot replaces everything.
	Snapshot(*mciasv1.WatchSnapshot) error
	// Deltas adds several deltas as one new state. ErrGap means that they don't fit what is in force.
	Deltas(...*mciasv1.WatchDelta) error
	// Heartbeat says that MCIAS was heard just now and that nothing is missing; clock is its time, nil if unsaid.
	Heartbeat(*mciasv1.WatchHeartbeat)
	// Immediate says that the source is this very process: nothing can be stale.
	Immediate()
	// Persist writes what is in force to the state file. An acknowledgement comes after it.
	Persist() error
	// Refresh fires when a token with an unknown key was seen.
	Refresh() <-chan struct{}
}

// Position is how far a verifier is.
type Position struct {
	Service  string
	Instance string
	StreamID string
	Seq      int64
	Digest   string
}

// ErrGap says that a delta does not follow what is in force; the source asks for a snapshot.
var ErrGap = errors.New("auth: gap in the revocation stream")

// LocalSource is the source of MCIAS itself: what it publishes is in force in its own verifier when Publish
// returns, with no stream between. The zero value has published nothing. Safe for concurrent use.
type LocalSource struct {
	mu   sync.Mutex // guards all below
	snap *mciasv1.WatchSnapshot
	sink Sink
}

// Reset publishes a whole state: at start, and after a restore.
func (l *LocalSource) Reset(snap *mciasv1.WatchSnapshot) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.snap = snap
	if l.sink == nil {
		return nil
	}
	return l.sink.Snapshot(snap)
}

// Publish adds a delta: revocations that were committed, or a changed key set. ErrGap asks for a Reset.
func (l *LocalSource) Publish(d *mciasv1.WatchDelta) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.snap == nil || d.GetPrevSeq() != l.snap.GetSeq() || d.GetStreamId() != l.snap.GetStreamId() {
		return ErrGap
	}
	if l.sink != nil {
		// The verifier has it from here on; the copy only remembers where it is.
		if err := l.sink.Deltas(d); err != nil {
			return err
		}
		l.snap = &mciasv1.WatchSnapshot{StreamId: d.GetStreamId(), Seq: d.GetSeq()}
		return nil
	}
	l.snap.Seq = d.GetSeq()
	l.snap.Revocations = append(l.snap.Revocations, d.GetRevocations()...)
	if d.GetKeys() != nil {
		l.snap.Keys = d.GetKeys()
	}
	return nil
}

// attach puts a verifier on the source; New does it.
func (l *LocalSource) attach(into Sink) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sink != nil {
		return errors.New("auth: a local source feeds one verifier")
	}
	into.Immediate()
	l.sink = into
	if l.snap == nil {
		return nil
	}
	return into.Snapshot(l.snap)
}

// Run waits for the end: Publish does the work.
func (l *LocalSource) Run(ctx context.Context, _ Sink) error {
	<-ctx.Done()
	return nil
}
