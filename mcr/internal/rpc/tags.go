package rpc

import (
	"context"
	"strconv"
	"time"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/page"
	mcrv1 "metacircular.net/mcr/api/mcr/v1"
	"metacircular.net/mcr/internal/image"
	"metacircular.net/mcr/internal/policy"
	"metacircular.net/mcr/internal/store"
)

type tags struct {
	mcrv1.UnimplementedTagServiceServer
	*Server
}

func (s tags) List(ctx context.Context, req *mcrv1.TagListRequest) (*mcrv1.TagListResponse, error) {
	repo := req.GetRepository()
	if err := s.decideRepo(ctx, policy.Pull, repo, ""); err != nil {
		return nil, err
	}
	p, err := page.Parse(req.GetPageSize(), req.GetPageToken(), "tags", repo)
	if err != nil {
		return nil, err
	}
	rows, err := s.Store.Tags(ctx, repo, p.After(0), p.Limit())
	if err != nil {
		return nil, err
	}
	rows, next := page.Next(p, rows, func(t store.Tag) []string { return []string{t.Name} })
	digests := make([]string, len(rows))
	for i, t := range rows {
		digests[i] = t.Digest
	}
	sizes, err := s.Store.TotalBytes(ctx, digests...)
	if err != nil {
		return nil, err
	}
	res := &mcrv1.TagListResponse{NextPageToken: next}
	for _, t := range rows {
		res.Tags = append(res.Tags, &mcrv1.Tag{Repository: repo, Name: t.Name, Digest: t.Digest, MediaType: t.MediaType,
			TotalBytes: sizes[t.Digest], SetBy: t.SetBy, SetAt: timestamp(t.SetAt), ImmutableBy: s.Book.Holder(repo, t.Name)})
	}
	return res, nil
}

func (s tags) Resolve(ctx context.Context, req *mcrv1.TagResolveRequest) (*mcrv1.TagResolveResponse, error) {
	repo := req.GetRepository()
	if err := s.decideRepo(ctx, policy.Pull, repo, ""); err != nil {
		return nil, err
	}
	if err := checkTag(req.GetName()); err != nil {
		return nil, err
	}
	t, err := s.get(ctx, repo, req.GetName())
	if err != nil {
		return nil, err
	}
	return &mcrv1.TagResolveResponse{Tag: t}, nil
}

func (s tags) get(ctx context.Context, repo, name string) (*mcrv1.Tag, error) {
	m, err := s.Store.Manifest(ctx, repo, name)
	if err != nil {
		return nil, err
	}
	sizes, err := s.Store.TotalBytes(ctx, m.Digest.String())
	if err != nil {
		return nil, err
	}
	t := &mcrv1.Tag{Repository: repo, Name: name, Digest: m.Digest.String(), MediaType: m.MediaType,
		TotalBytes: sizes[m.Digest.String()], ImmutableBy: s.Book.Holder(repo, name)}
	history, err := s.Store.History(ctx, repo, name, 0, 1)
	if err != nil {
		return nil, err
	}
	if len(history) > 0 {
		t.SetBy, t.SetAt = history[0].Who, timestamp(history[0].At)
	}
	return t, nil
}

func checkTag(name string) error {
	if err := image.CheckTag(name); err != nil {
		return fault.Field1("name", "%v", err)
	}
	return nil
}

func checkExpect(expect string) error {
	if expect == "" || expect == "none" {
		return nil
	}
	if _, err := image.ParseDigest(expect); err != nil {
		return fault.Field1("expect", "%v", err)
	}
	return nil
}

func (s tags) Set(ctx context.Context, req *mcrv1.TagSetRequest) (*mcrv1.TagSetResponse, error) {
	repo := req.GetRepository()
	if err := s.decideRepo(ctx, policy.Tag, repo, req.GetName()); err != nil {
		return nil, err
	}
	if req.GetForce() {
		if err := s.decide(ctx, policy.Admin, repo, ""); err != nil {
			return nil, err
		}
	}
	if err := checkTag(req.GetName()); err != nil {
		return nil, err
	}
	if _, err := image.ParseDigest(req.GetDigest()); err != nil {
		return nil, fault.Field1("digest", "%v", err)
	}
	if err := checkExpect(req.GetExpect()); err != nil {
		return nil, err
	}
	_, changed, err := s.Store.ChangeTag(ctx, store.TagChange{Repo: repo, Name: req.GetName(), Digest: req.GetDigest(), Expect: req.GetExpect(),
		Who: who(ctx), Immutable: s.Book.Holder, Force: req.GetForce()})
	if err != nil {
		return nil, err
	}
	t, err := s.get(ctx, repo, req.GetName())
	if err != nil {
		return nil, err
	}
	return &mcrv1.TagSetResponse{Tag: t, Changed: changed}, nil
}

func (s tags) Delete(ctx context.Context, req *mcrv1.TagDeleteRequest) (*mcrv1.TagDeleteResponse, error) {
	repo := req.GetRepository()
	if err := s.decideRepo(ctx, policy.Delete, repo, req.GetName()); err != nil {
		return nil, err
	}
	if req.GetForce() {
		if err := s.decide(ctx, policy.Admin, repo, ""); err != nil {
			return nil, err
		}
	}
	if err := checkTag(req.GetName()); err != nil {
		return nil, err
	}
	if err := checkExpect(req.GetExpect()); err != nil {
		return nil, err
	}
	op := store.NewID()
	old, _, err := s.Store.ChangeTag(ctx, store.TagChange{Repo: repo, Name: req.GetName(), Expect: req.GetExpect(), Who: who(ctx), Op: op,
		Immutable: s.Book.Holder, Force: req.GetForce()})
	if err != nil {
		return nil, err
	}
	return &mcrv1.TagDeleteResponse{Operation: op, Digest: old}, nil
}

func (s tags) History(ctx context.Context, req *mcrv1.TagHistoryRequest) (*mcrv1.TagHistoryResponse, error) {
	repo := req.GetRepository()
	if err := s.decideRepo(ctx, policy.Pull, repo, ""); err != nil {
		return nil, err
	}
	p, err := page.Parse(req.GetPageSize(), req.GetPageToken(), "history", repo, req.GetName())
	if err != nil {
		return nil, err
	}
	before, err := sequence(p)
	if err != nil {
		return nil, err
	}
	rows, err := s.Store.History(ctx, repo, req.GetName(), before, p.Limit())
	if err != nil {
		return nil, err
	}
	rows, next := page.Next(p, rows, func(e store.TagEvent) []string { return []string{strconv.FormatInt(e.Seq, 10)} })
	res := &mcrv1.TagHistoryResponse{NextPageToken: next}
	for _, e := range rows {
		res.Events = append(res.Events, &mcrv1.TagEvent{Seq: e.Seq, Repository: repo, Name: e.Name, OldDigest: e.Old, NewDigest: e.New,
			By: e.Who, At: timestamp(e.At), Verb: e.Verb, Operation: e.Operation})
	}
	return res, nil
}

// sequence reads the number that a page begins before, 0 for the first.
func sequence(p page.Page) (int64, error) {
	if p.First() {
		return 0, nil
	}
	n, err := strconv.ParseInt(p.After(0), 10, 64)
	if err != nil {
		return 0, fault.Field1("page_token", "not a token of this list")
	}
	return n, nil
}

func (s tags) ListTrash(ctx context.Context, req *mcrv1.TagListTrashRequest) (*mcrv1.TagListTrashResponse, error) {
	repo := req.GetRepository()
	if err := s.decideRepo(ctx, policy.Pull, repo, ""); err != nil {
		return nil, err
	}
	p, err := page.Parse(req.GetPageSize(), req.GetPageToken(), "trash", repo)
	if err != nil {
		return nil, err
	}
	at, err := sequence(p)
	if err != nil {
		return nil, err
	}
	var before time.Time
	if at != 0 {
		before = time.UnixMicro(at)
	}
	rows, err := s.Store.Trash(ctx, repo, before, p.Limit())
	if err != nil {
		return nil, err
	}
	rows, next := page.Next(p, rows, func(e store.TrashEntry) []string { return []string{strconv.FormatInt(e.At.UnixMicro(), 10)} })
	res := &mcrv1.TagListTrashResponse{NextPageToken: next}
	for _, e := range rows {
		res.Entries = append(res.Entries, &mcrv1.TrashEntry{Operation: e.Operation, Repository: repo, By: e.Who, At: timestamp(e.At),
			Expires: timestamp(e.At.Add(s.Trash)), Tags: e.Tags, Digests: e.Digests})
	}
	return res, nil
}

func (s tags) Restore(ctx context.Context, req *mcrv1.TagRestoreRequest) (*mcrv1.TagRestoreResponse, error) {
	if err := s.decideRepo(ctx, policy.Delete, req.GetRepository(), ""); err != nil {
		return nil, err
	}
	out, err := s.Store.Restore(ctx, req.GetRepository(), req.GetOperation(), who(ctx), req.GetOverwrite())
	if err != nil {
		return nil, err
	}
	return &mcrv1.TagRestoreResponse{Digests: out.Digests, Tags: out.Tags, Kept: out.Kept}, nil
}
