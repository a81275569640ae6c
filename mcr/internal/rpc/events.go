package rpc

import (
	"slices"
	"time"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	mcrv1 "metacircular.net/mcr/api/mcr/v1"
	"metacircular.net/mcr/internal/policy"
	"metacircular.net/mcr/internal/store"
)

const (
	eventBatch = 100
	idleEvery  = 15 * time.Second
	maxKinds   = 32
)

type events struct {
	mcrv1.UnimplementedEventServiceServer
	*Server
}

// Watch reads the table, so a slow watcher costs no memory; between reads it waits for the next change.
func (s events) Watch(req *mcrv1.EventWatchRequest, stream grpc.ServerStreamingServer[mcrv1.EventWatchResponse]) error {
	ctx := stream.Context()
	if err := auth.Decide(ctx, "watch", "events", true, "shows only what the caller may pull"); err != nil {
		return err
	}
	if len(req.GetKinds()) > maxKinds || len(req.GetRepositories()) > maxKinds {
		return fault.Field1("kinds", "over %d entries", maxKinds)
	}
	for _, g := range req.GetRepositories() {
		if err := policy.CheckGlob(g); err != nil {
			return fault.Field1("repositories", "%v", err)
		}
	}
	epoch := s.Store.Epoch()
	after := req.GetAfter()
	_, oldest, newest, err := s.Store.Events(ctx, after, 0)
	if err != nil {
		return err
	}
	switch {
	case req.GetEpoch() == "" && after == 0:
		after = newest
	case req.GetEpoch() != epoch, after > newest, oldest > 0 && after < oldest-1, oldest == 0 && after < newest:
		after = newest
		if err := stream.Send(&mcrv1.EventWatchResponse{Epoch: epoch, Seq: after, What: &mcrv1.EventWatchResponse_Reset_{Reset_: true}}); err != nil {
			return err
		}
	}
	tick := time.NewTicker(idleEvery)
	defer tick.Stop()
	told := false // that the stream has caught up
	for {
		changed := s.Store.Changed()
		list, _, newest, err := s.Store.Events(ctx, after, eventBatch)
		if err != nil {
			return err
		}
		for _, e := range list {
			after = e.Seq
			if !s.wanted(req, e, caller(ctx)) {
				continue
			}
			if err := stream.Send(&mcrv1.EventWatchResponse{Epoch: epoch, Seq: e.Seq, What: &mcrv1.EventWatchResponse_Event{Event: event(e)}}); err != nil {
				return err
			}
		}
		if len(list) == eventBatch {
			continue
		}
		after = max(after, newest)
		if !told {
			if err := stream.Send(&mcrv1.EventWatchResponse{Epoch: epoch, Seq: after, What: &mcrv1.EventWatchResponse_Idle{Idle: true}}); err != nil {
				return err
			}
			told = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-tick.C:
			told = false
		}
	}
}

// wanted reports whether an event is asked for and may be seen. Events of the whole registry are for those who
// administer it.
func (s events) wanted(req *mcrv1.EventWatchRequest, e store.Event, who policy.Subject) bool {
	if k := req.GetKinds(); len(k) > 0 && !slices.Contains(k, e.Kind) {
		return false
	}
	action := policy.Pull
	if e.Repo == global {
		action = policy.Admin
	}
	if g := req.GetRepositories(); len(g) > 0 && !slices.ContainsFunc(g, func(g string) bool { return policy.Match(g, e.Repo) }) {
		return false
	}
	return s.Book.Decide(policy.Request{Subject: who, Action: action, Repository: e.Repo}, s.Clock.Now()).Allow
}

func event(e store.Event) *mcrv1.Event {
	return &mcrv1.Event{Kind: e.Kind, Repository: e.Repo, Tag: e.Tag, Digest: e.Digest, OldDigest: e.OldDigest, By: e.Who, At: timestamp(e.At)}
}
