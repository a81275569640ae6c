package revoke

import (
	"context"
	"fmt"
	"log/slog"
	"sort"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/store"
)

// Limits of the hub.
const (
	ring           = 1024 // messages a subscriber may lag behind before it is cut off
	maxSubs        = 256
	maxPerInstance = 4
	readBatch      = 1000
	maxLive        = 1 << 20
	heal           = 2 * time.Second // how soon a wake-up lost in a crash is made good
	expectedWithin = 24 * time.Hour
)

// KeySource is what the hub needs of the keys.
type KeySource interface{ Set() *mciasv1.KeySet }

// Config of the hub.
type Config struct {
	DB       *db.DB
	Keys     KeySource
	Clock    clock.Clock
	Log      *slog.Logger
	MaxStale time.Duration
}

// Hub is the one reader of the log that tells all others. Safe for concurrent use.
type Hub struct {
	cfg    Config
	clock  clock.Clock
	log    *slog.Logger
	wake   chan struct{}
	stream string

	mu      sync.Mutex // guards all below
	seq     int64
	digest  string
	locals  []*auth.LocalSource
	subs    map[*Sub]struct{}
	seen    map[string]*store.Watcher // by service/instance
	dirty   map[string]bool
	changed chan struct{} // closed and replaced at every acknowledgement
}

// Sub is one open Watch stream.
type Sub struct {
	C       <-chan *mciasv1.WatchResponse // closed when the hub cuts the subscriber off
	c       chan *mciasv1.WatchResponse
	key     string
	service string
	hub     *Hub
	closed  bool // guarded by hub.mu
}

// NewHub reads where the log stands.
func NewHub(ctx context.Context, cfg Config) (*Hub, error) {
	h := &Hub{cfg: cfg, clock: clock.Or(cfg.Clock), log: log.Or(cfg.Log), wake: make(chan struct{}, 1), subs: map[*Sub]struct{}{},
		seen: map[string]*store.Watcher{}, dirty: map[string]bool{}, changed: make(chan struct{})}
	err := cfg.DB.Read(ctx, func(v *db.View) (err error) {
		if h.stream, err = store.Meta(v, store.MetaStreamID); err != nil {
			return err
		}
		if h.seq, err = store.LastSeq(v); err != nil {
			return err
		}
		ws, err := store.Watchers(v, h.clock.Now().Add(-expectedWithin))
		for _, w := range ws {
			h.seen[w.Service+"/"+w.Instance] = &w
		}
		return err
	})
	if err == nil && h.stream == "" {
		err = fmt.Errorf("the database has no stream id: run mcias init")
	}
	h.digest = cfg.Keys.Set().GetDigest()
	return h, err
}

// StreamID returns the id under which numbers never go back.
func (h *Hub) StreamID() string { return h.stream }

// Seq returns the newest number that was told.
func (h *Hub) Seq() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seq
}

// AddLocal feeds a verifier of this process.
func (h *Hub) AddLocal(ctx context.Context, src *auth.LocalSource) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	snap, err := h.snapshot(ctx)
	if err != nil {
		return err
	}
	if err := src.Reset(snap); err != nil {
		return err
	}
	h.locals = append(h.locals, src)
	return nil
}

// Wake says that rows or keys were committed.
func (h *Hub) Wake() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Flush tells everybody now what is committed, and returns when MCIAS's own verifiers have it in force. Killers call
// it after COMMIT so that their answer is true here too.
func (h *Hub) Flush(ctx context.Context) {
	if err := h.pump(ctx); err != nil {
		h.log.Error("revocations not told yet, trying again", log.Err(err))
		h.Wake()
	}
}

// Run tells what is committed until ctx ends; heartbeats are the streams' own.
func (h *Hub) Run(ctx context.Context) error {
	t := time.NewTicker(heal)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			h.cutAll()
			return nil
		case <-h.wake:
		case <-t.C:
			h.saveWatchers(ctx)
		}
		if err := h.pump(ctx); err != nil && ctx.Err() == nil {
			h.log.Error("read revocations", log.Err(err))
		}
	}
}

// pump reads rows after the last number and a changed key set, and tells them.
func (h *Hub) pump(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		rows, last, err := h.read(ctx, h.seq)
		if err != nil {
			return err
		}
		set := h.cfg.Keys.Set()
		if last == h.seq && set.GetDigest() == h.digest {
			return nil
		}
		d := &mciasv1.WatchDelta{StreamId: h.stream, PrevSeq: h.seq, Seq: last, Revocations: rows, Time: timestamppb.New(h.clock.Now())}
		if set.GetDigest() != h.digest {
			d.Keys = set
		}
		for _, l := range h.locals {
			if err := l.Publish(d); err != nil {
				if err := h.reset(ctx, l); err != nil {
					return err
				}
			}
		}
		h.seq, h.digest = last, set.GetDigest()
		msg := &mciasv1.WatchResponse{Message: &mciasv1.WatchResponse_Delta{Delta: d}}
		for s := range h.subs {
			s.send(msg)
		}
		if len(rows) < readBatch {
			return nil
		}
	}
}

// read returns live rows after a number and the number the log stands at: expired rows leave no gap.
func (h *Hub) read(ctx context.Context, after int64) (out []*mciasv1.Revocation, last int64, err error) {
	err = h.cfg.DB.Read(ctx, func(v *db.View) error {
		out = nil
		rows, err := store.Revocations(v, after, h.clock.Now(), readBatch)
		if err != nil {
			return err
		}
		for _, r := range rows {
			out = append(out, wire(r))
		}
		if len(rows) == readBatch {
			last = rows[len(rows)-1].Seq
			return nil
		}
		last, err = store.LastSeq(v)
		last = max(last, after)
		return err
	})
	return out, last, err
}

func (h *Hub) reset(ctx context.Context, l *auth.LocalSource) error {
	snap, err := h.snapshot(ctx)
	if err != nil {
		return err
	}
	return l.Reset(snap)
}

// snapshot returns everything up to h.seq. Called with mu held.
func (h *Hub) snapshot(ctx context.Context) (*mciasv1.WatchSnapshot, error) {
	snap := &mciasv1.WatchSnapshot{StreamId: h.stream, Seq: h.seq, Keys: h.cfg.Keys.Set(), MaxStale: durationpb.New(h.cfg.MaxStale), Time: timestamppb.New(h.clock.Now())}
	var after int64
	for len(snap.Revocations) < maxLive {
		rows, last, err := h.read(ctx, after)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			if r.Seq <= h.seq {
				snap.Revocations = append(snap.Revocations, r)
			}
		}
		if len(rows) < readBatch {
			return snap, nil
		}
		after = last
	}
	return nil, fmt.Errorf("more than %d live revocations", maxLive)
}

// Subscribe opens a stream: the snapshot or the delta that brings the caller up to date is its first message.
func (h *Hub) Subscribe(ctx context.Context, hello *mciasv1.WatchHello) (*Sub, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := hello.GetService() + "/" + hello.GetInstance()
	same := 0
	for s := range h.subs {
		if s.key == key {
			same++
		}
	}
	if len(h.subs) >= maxSubs || same >= maxPerInstance {
		return nil, fault.New(fault.Exhausted, "too many Watch streams").WithRetry(5 * time.Second)
	}
	first, err := h.first(ctx, hello)
	if err != nil {
		return nil, err
	}
	s := &Sub{c: make(chan *mciasv1.WatchResponse, ring), key: key, service: hello.GetService(), hub: h}
	s.C = s.c
	s.c <- first
	h.subs[s] = struct{}{}
	h.note(key, hello.GetService(), hello.GetInstance(), ackable(hello, h))
	return s, nil
}

// ackable is what the caller already had in force when it said hello: nothing if its stream was another.
func ackable(hello *mciasv1.WatchHello, h *Hub) int64 {
	if hello.GetStreamId() != h.stream {
		return 0
	}
	return min(hello.GetLastSeq(), h.seq)
}

func (h *Hub) first(ctx context.Context, hello *mciasv1.WatchHello) (*mciasv1.WatchResponse, error) {
	if hello.GetStreamId() != h.stream || hello.GetLastSeq() > h.seq || hello.GetLastSeq() <= 0 {
		snap, err := h.snapshot(ctx)
		return &mciasv1.WatchResponse{Message: &mciasv1.WatchResponse_Snapshot{Snapshot: snap}}, err
	}
	d := &mciasv1.WatchDelta{StreamId: h.stream, PrevSeq: hello.GetLastSeq(), Seq: h.seq, Time: timestamppb.New(h.clock.Now())}
	after := hello.GetLastSeq()
	for {
		rows, last, err := h.read(ctx, after)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			if r.Seq <= h.seq {
				d.Revocations = append(d.Revocations, r)
			}
		}
		if len(rows) < readBatch {
			break
		}
		after = last
	}
	if set := h.cfg.Keys.Set(); set.GetDigest() != hello.GetKeysetDigest() {
		d.Keys = set
	}
	return &mciasv1.WatchResponse{Message: &mciasv1.WatchResponse_Delta{Delta: d}}, nil
}

// Heartbeat returns the message of now.
func (h *Hub) Heartbeat() *mciasv1.WatchResponse {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &mciasv1.WatchResponse{Message: &mciasv1.WatchResponse_Heartbeat{Heartbeat: &mciasv1.WatchHeartbeat{
		Seq: h.seq, KeysetDigest: h.digest, Time: timestamppb.New(h.clock.Now())}}}
}

// Refresh sends the key set once more.
func (s *Sub) Refresh() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.send(&mciasv1.WatchResponse{Message: &mciasv1.WatchResponse_Delta{Delta: &mciasv1.WatchDelta{StreamId: h.stream,
		PrevSeq: h.seq, Seq: h.seq, Keys: h.cfg.Keys.Set(), Time: timestamppb.New(h.clock.Now())}}})
}

// send queues a message or cuts a subscriber off that lags too far. Called with hub.mu held.
func (s *Sub) send(m *mciasv1.WatchResponse) {
	if s.closed {
		return
	}
	select {
	case s.c <- m:
	default:
		s.cut()
	}
}

func (s *Sub) cut() {
	if !s.closed {
		s.closed = true
		close(s.c)
		delete(s.hub.subs, s)
	}
}

// Close ends the subscription.
func (s *Sub) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.cut()
}

func (h *Hub) cutAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		s.cut()
	}
}

// Ack records that the set up to seq is in force at an instance.
func (h *Hub) Ack(service, instance string, seq int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if seq > h.seq {
		return // it cannot have what was never told
	}
	h.note(service+"/"+instance, service, instance, seq)
	close(h.changed)
	h.changed = make(chan struct{})
}

// note records that an instance was heard. Called with mu held.
func (h *Hub) note(key, service, instance string, seq int64) {
	w := h.seen[key]
	if w == nil {
		w = &store.Watcher{Service: service, Instance: instance}
		h.seen[key] = w
	}
	w.Seq, w.LastSeen = max(w.Seq, seq), h.clock.Now()
	h.dirty[key] = true
}

// saveWatchers stores what changed; losing it costs nothing but knowledge of who to expect.
func (h *Hub) saveWatchers(ctx context.Context) {
	h.mu.Lock()
	var todo []store.Watcher
	for k := range h.dirty {
		todo = append(todo, *h.seen[k])
	}
	for s := range h.subs { // an open stream is seen
		if w := h.seen[s.key]; w != nil {
			w.LastSeen = h.clock.Now()
		}
	}
	clear(h.dirty)
	h.mu.Unlock()
	if len(todo) == 0 {
		return
	}
	err := h.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		for _, w := range todo {
			if err := store.SetWatcher(tx, w); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		h.log.Warn("store watchers", log.Err(err))
	}
}

// Watchers lists instances seen in the last 24 h, with what they acknowledged.
func (h *Hub) Watchers() []*mciasv1.WatcherRecord {
	h.mu.Lock()
	defer h.mu.Unlock()
	open := map[string]bool{}
	for s := range h.subs {
		open[s.key] = true
	}
	now := h.clock.Now()
	var out []*mciasv1.WatcherRecord
	for k, w := range h.seen {
		if !open[k] && now.Sub(w.LastSeen) > expectedWithin {
			delete(h.seen, k)
			continue
		}
		out = append(out, &mciasv1.WatcherRecord{Service: w.Service, Instance: w.Instance, Seq: w.Seq, LastSeen: timestamppb.New(w.LastSeen),
			Connected: open[k], Lag: max(0, h.seq-w.Seq)})
	}
	sort.Slice(out, func(i, j int) bool {
		a, b := out[i], out[j]
		return a.Service < b.Service || a.Service == b.Service && a.Instance < b.Instance
	})
	return out
}

// Wait waits until every expected instance acknowledged seq, at most d.
func (h *Hub) Wait(ctx context.Context, seq int64, d time.Duration) (acked, missing []*mciasv1.WatcherRecord) {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		acked, missing = nil, nil
		for _, w := range h.Watchers() {
			if w.Seq >= seq {
				acked = append(acked, w)
			} else {
				missing = append(missing, w)
			}
		}
		if len(missing) == 0 || d <= 0 {
			return acked, missing
		}
		select {
		case <-changed:
		case <-t.C:
			return acked, missing
		case <-ctx.Done():
			return acked, missing
		}
	}
}
