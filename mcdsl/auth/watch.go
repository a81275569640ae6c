package auth

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/log"
)

const (
	silence    = 12 * time.Second // a live stream is never quiet for so long: heartbeats come at most 5 s apart
	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second
	maxPending = 256 // messages received and not yet applied
)

// WatchSource keeps the stream to MCIAS over which keys and revocations come. It authenticates by the service
// key itself, since a sealed MCIAS serves Watch and cannot mint.
type WatchSource struct {
	conn   grpc.ClientConnInterface
	client mciasv1.WatchClient
	key    *ServiceKey
	clock  clock.Clock
	log    *slog.Logger
}

// WatchOption refines a WatchSource.
type WatchOption func(*WatchSource)

// WatchLog sets the logger.
func WatchLog(l *slog.Logger) WatchOption { return func(w *WatchSource) { w.log = log.Or(l) } }

// WatchClock sets the clock that dates assertions.
func WatchClock(c clock.Clock) WatchOption { return func(w *WatchSource) { w.clock = clock.Or(c) } }

// Watch returns the source that follows MCIAS over conn (see Dial). Nothing is sent before the verifier starts,
// and a key file that does not exist yet is looked for again.
func Watch(conn grpc.ClientConnInterface, key *ServiceKey, opts ...WatchOption) *WatchSource {
	w := &WatchSource{conn: conn, client: mciasv1.NewWatchClient(conn), key: key, clock: clock.System(), log: log.Discard()}
	for _, o := range opts {
		o(w)
	}
	return w
}

// Run keeps one stream open until ctx ends.
func (w *WatchSource) Run(ctx context.Context, into Sink) error {
	pause, full, said := firstPause, false, ""
	for {
		start := time.Now()
		err := w.once(ctx, into, full)
		if ctx.Err() != nil {
			return nil
		}
		full = errors.Is(err, ErrGap)
		if time.Since(start) > silence || full {
			pause = firstPause // it worked for a while
		}
		if msg := err.Error(); msg != said { // the same sentence every five seconds helps nobody
			w.log.Warn("stream of MCIAS ended, trying again", log.Err(err))
			said = msg
		}
		if c, ok := w.conn.(*grpc.ClientConn); ok {
			c.ResetConnectBackoff() // our own pause is the shorter one
		}
		jittered := pause/2 + rand.N(pause) //nolint:gosec // spread, not secrecy
		select {
		case <-time.After(jittered):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, longPause)
	}
}

// once runs one stream. With full set it asks for a snapshot whatever it has.
func (w *WatchSource) once(ctx context.Context, into Sink, full bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	assertion, err := w.key.Assertion(w.clock.Now())
	if err != nil {
		return err
	}
	stream, err := w.client.Watch(ctx)
	if err != nil {
		return err
	}
	have := into.Have()
	hello := &mciasv1.WatchHello{Assertion: assertion, Service: have.Service, Instance: have.Instance}
	if !full {
		hello.StreamId, hello.LastSeq, hello.KeysetDigest = have.StreamID, have.Seq, have.Digest
	}
	if err := stream.Send(&mciasv1.WatchRequest{Message: &mciasv1.WatchRequest_Hello{Hello: hello}}); err != nil {
		_, err = stream.Recv() // tells why
		return err
	}
	quiet := time.AfterFunc(silence, func() { cancel(errors.New("nothing heard from MCIAS for 12 s")) })
	defer quiet.Stop()

	incoming, failed := make(chan *mciasv1.WatchResponse, maxPending), make(chan error, 1)
	go func() { // ends with the stream, which ends with ctx
		for {
			m, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			quiet.Reset(silence)
			select {
			case incoming <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	f := follower{into: into, send: stream.Send}
	for {
		select {
		case m := <-incoming:
			batch := []*mciasv1.WatchResponse{m}
			for more := true; more && len(batch) < maxPending; {
				select {
				case m := <-incoming:
					batch = append(batch, m)
				default:
					more = false
				}
			}
			if err := f.apply(batch); err != nil {
				return err
			}
		case <-into.Refresh():
			if err := f.refresh(); err != nil {
				return err
			}
		case err := <-failed:
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// follower applies what one stream brings.
type follower struct {
	into   Sink
	send   func(*mciasv1.WatchRequest) error
	behind bool // the last heartbeat showed a gap
}

// apply puts a batch in force: neighbouring deltas as one new state, then the state file, then the
// acknowledgement, which therefore survives kill -9.
func (f *follower) apply(batch []*mciasv1.WatchResponse) error {
	var deltas []*mciasv1.WatchDelta
	changed := false
	flush := func() error {
		if len(deltas) == 0 {
			return nil
		}
		err := f.into.Deltas(deltas...)
		deltas, changed, f.behind = nil, true, false
		return err
	}
	for _, m := range batch {
		switch m := m.GetMessage().(type) {
		case *mciasv1.WatchResponse_Delta:
			deltas = append(deltas, m.Delta)
		case *mciasv1.WatchResponse_Snapshot:
			deltas, changed, f.behind = nil, true, false
			if err := f.into.Snapshot(m.Snapshot); err != nil {
				return err
			}
		case *mciasv1.WatchResponse_Heartbeat:
			if err := flush(); err != nil {
				return err
			}
			if err := f.heartbeat(m.Heartbeat); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if !changed {
		return nil
	}
	if err := f.into.Persist(); err != nil {
		return err // not acknowledged: it would not survive
	}
	return f.send(&mciasv1.WatchRequest{Message: &mciasv1.WatchRequest_Ack{Ack: &mciasv1.WatchAck{Seq: f.into.Have().Seq}}})
}

// heartbeat counts only if nothing is missing. One that is ahead may have overtaken its delta; two in a row
// are a gap.
func (f *follower) heartbeat(hb *mciasv1.WatchHeartbeat) error {
	have := f.into.Have()
	switch {
	case hb.GetSeq() < have.Seq: // MCIAS went back: restored from a backup
		return ErrGap
	case hb.GetSeq() > have.Seq:
		if f.behind {
			return ErrGap
		}
		f.behind = true
		return nil
	}
	f.behind = false
	f.into.Heartbeat(hb)
	if hb.GetKeysetDigest() != have.Digest {
		return f.refresh()
	}
	return nil
}

func (f *follower) refresh() error {
	return f.send(&mciasv1.WatchRequest{Message: &mciasv1.WatchRequest_Refresh{Refresh: &mciasv1.WatchRefresh{}}})
}
