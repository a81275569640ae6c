package rpc

import (
	"context"
	"time"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/page"
	mcrv1 "metacircular.net/mcr/api/mcr/v1"
	"metacircular.net/mcr/internal/image"
	"metacircular.net/mcr/internal/policy"
	"metacircular.net/mcr/internal/store"
)

const (
	maxPins  = 10_000
	pinLease = 2 * time.Hour // from plan to the node's next SyncPins
	maxText  = 200
)

type pins struct {
	mcrv1.UnimplementedPinServiceServer
	*Server
}

// owner returns whose pins a call is about: the caller's own account, or with admin anybody's.
func (s pins) owner(ctx context.Context, asked string) (string, error) {
	c := auth.From(ctx)
	if asked == "" || asked == c.Name {
		return c.Name, auth.Decide(ctx, "pin", c.Name, true, "an account manages its own pins")
	}
	if len(asked) > maxText {
		return "", fault.Field1("owner", "over %d characters", maxText)
	}
	return asked, s.decide(ctx, policy.Admin, global, "")
}

func (s pins) SyncPins(ctx context.Context, req *mcrv1.PinSyncPinsRequest) (*mcrv1.PinSyncPinsResponse, error) {
	owner, err := s.owner(ctx, req.GetOwner())
	if err != nil {
		return nil, err
	}
	if len(req.GetPins()) > maxPins {
		return nil, fault.Field1("pins", "%d pins; at most %d", len(req.GetPins()), maxPins)
	}
	if req.GetGeneration() < 0 {
		return nil, fault.Field1("generation", "is negative")
	}
	set := make([]store.Pin, 0, len(req.GetPins()))
	for _, t := range req.GetPins() {
		if err := image.CheckRepository(t.GetRepository()); err != nil {
			return nil, fault.Field1("pins.repository", "%v", err)
		}
		d, err := image.ParseDigest(t.GetDigest())
		if err != nil {
			return nil, fault.Field1("pins.digest", "%v", err)
		}
		// A pin blocks deletions, so the repository's rules must allow it.
		if err := s.decide(ctx, policy.Pin, t.GetRepository(), ""); err != nil {
			return nil, err
		}
		set = append(set, store.Pin{Repo: t.GetRepository(), Digest: d.String(), Reason: cut(t.GetReason())})
	}
	missing, changed, err := s.Store.SyncPins(ctx, owner, req.GetGeneration(), set)
	if err != nil {
		return nil, err
	}
	res := &mcrv1.PinSyncPinsResponse{Generation: req.GetGeneration(), Changed: changed}
	for _, m := range missing {
		res.Missing = append(res.Missing, &mcrv1.PinTarget{Repository: m.Repo, Digest: m.Digest, Reason: m.Reason})
	}
	return res, nil
}

func cut(s string) string {
	if len(s) > maxText {
		return s[:maxText]
	}
	return s
}

func (s pins) ResolveAndPin(ctx context.Context, req *mcrv1.PinResolveAndPinRequest) (*mcrv1.PinResolveAndPinResponse, error) {
	owner, err := s.owner(ctx, req.GetOwner())
	if err != nil {
		return nil, err
	}
	repo := req.GetRepository()
	if err := s.decideRepo(ctx, policy.Pull, repo, ""); err != nil {
		return nil, err
	}
	if err := s.decide(ctx, policy.Pin, repo, ""); err != nil {
		return nil, err
	}
	if f := req.GetFor(); f != nil {
		who, err := subject("for", f)
		if err != nil {
			return nil, err
		}
		d := s.Book.Decide(policy.Request{Subject: who, Action: policy.Pull, Repository: repo}, s.Clock.Now())
		if !d.Allow {
			return nil, fault.New(fault.Denied, "%s may not pull %s: %s", who.Name, repo, d.Why).WithReason(auth.ReasonDenied).
				WithNext("mcr policy explain --as %s pull %s", who.Name, repo)
		}
	}
	if err := checkReference(req.GetReference()); err != nil {
		return nil, err
	}
	m, expires, err := s.Store.ResolveAndPin(ctx, owner, repo, req.GetReference(), cut(req.GetReason()), pinLease)
	if err != nil {
		return nil, err
	}
	return &mcrv1.PinResolveAndPinResponse{Digest: m.Digest.String(), MediaType: m.MediaType, Size: m.Size, Expires: timestamp(expires)}, nil
}

func (s pins) List(ctx context.Context, req *mcrv1.PinListRequest) (*mcrv1.PinListResponse, error) {
	owner := req.GetOwner()
	if owner != "" {
		if _, err := s.owner(ctx, owner); err != nil {
			return nil, err
		}
	} else if err := s.decide(ctx, policy.Admin, global, ""); err != nil {
		return nil, err
	}
	p, err := page.Parse(req.GetPageSize(), req.GetPageToken(), "pins", owner, req.GetRepository())
	if err != nil {
		return nil, err
	}
	after := store.Pin{}
	if !p.First() {
		after = store.Pin{Owner: p.After(0), Repo: p.After(1), Digest: p.After(2)}
	}
	rows, err := s.Store.Pins(ctx, owner, req.GetRepository(), after, p.Limit())
	if err != nil {
		return nil, err
	}
	rows, next := page.Next(p, rows, func(r store.Pin) []string { return []string{r.Owner, r.Repo, r.Digest} })
	res := &mcrv1.PinListResponse{NextPageToken: next}
	for _, r := range rows {
		res.Pins = append(res.Pins, &mcrv1.Pin{Owner: r.Owner, Repository: r.Repo, Digest: r.Digest, Reason: r.Reason,
			SetAt: timestamp(r.SetAt), Expires: timestamp(r.Expires)})
	}
	return res, nil
}

func (s pins) Release(ctx context.Context, req *mcrv1.PinReleaseRequest) (*mcrv1.PinReleaseResponse, error) {
	owner, err := s.owner(ctx, req.GetOwner())
	if err != nil {
		return nil, err
	}
	n, err := s.Store.ReleasePins(ctx, owner)
	if err != nil {
		return nil, err
	}
	return &mcrv1.PinReleaseResponse{Released: n}, nil
}
