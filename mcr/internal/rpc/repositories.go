package rpc

import (
	"context"
	"fmt"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/page"
	mcrv1 "metacircular.net/mcr/api/mcr/v1"
	"metacircular.net/mcr/internal/image"
	"metacircular.net/mcr/internal/policy"
	"metacircular.net/mcr/internal/store"
)

type repositories struct {
	mcrv1.UnimplementedRepositoryServiceServer
	*Server
}

func (s repositories) List(ctx context.Context, req *mcrv1.RepositoryListRequest) (*mcrv1.RepositoryListResponse, error) {
	if err := auth.Decide(ctx, "list", "repositories", true, "shows only what the caller may pull"); err != nil {
		return nil, err
	}
	p, err := page.Parse(req.GetPageSize(), req.GetPageToken(), "repositories", req.GetContains())
	if err != nil {
		return nil, err
	}
	names, _, err := s.Store.VisibleRepos(ctx, p.After(0), req.GetContains(), p.Limit(), s.mayPull(ctx))
	if err != nil {
		return nil, err
	}
	names, next := page.Next(p, names, func(n string) []string { return []string{n} })
	res := &mcrv1.RepositoryListResponse{NextPageToken: next}
	for _, n := range names {
		r, err := s.Store.Repo(ctx, n)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		res.Repositories = append(res.Repositories, repository(r))
	}
	return res, nil
}

func (s repositories) Get(ctx context.Context, req *mcrv1.RepositoryGetRequest) (*mcrv1.RepositoryGetResponse, error) {
	if err := s.decideRepo(ctx, policy.Pull, req.GetRepository(), ""); err != nil {
		return nil, err
	}
	r, err := s.Store.Repo(ctx, req.GetRepository())
	if err != nil {
		return nil, err
	}
	return &mcrv1.RepositoryGetResponse{Repository: repository(r)}, nil
}

func repository(r store.Repo) *mcrv1.Repository {
	return &mcrv1.Repository{Name: r.Name, Tags: r.Tags, Manifests: r.Manifests, Bytes: r.Bytes, Created: timestamp(r.Created),
		LastPush: timestamp(r.LastPush), LastPull: timestamp(r.LastPull)}
}

func (s repositories) Delete(ctx context.Context, req *mcrv1.RepositoryDeleteRequest) (*mcrv1.RepositoryDeleteResponse, error) {
	repo := req.GetRepository()
	if err := s.decideRepo(ctx, policy.Delete, repo, ""); err != nil {
		return nil, err
	}
	if req.GetForce() {
		if err := s.decide(ctx, policy.Admin, repo, ""); err != nil {
			return nil, err
		}
	}
	op := store.NewID()
	m, t, err := s.Store.DeleteManifests(ctx, store.Deletion{Repo: repo, Op: op, Who: who(ctx), Immutable: s.Book.Holder, Force: req.GetForce()})
	if err != nil {
		return nil, err
	}
	return &mcrv1.RepositoryDeleteResponse{Operation: op, Manifests: m, Tags: t}, nil
}

func (s repositories) ListManifests(ctx context.Context, req *mcrv1.RepositoryListManifestsRequest) (*mcrv1.RepositoryListManifestsResponse, error) {
	repo := req.GetRepository()
	if err := s.decideRepo(ctx, policy.Pull, repo, ""); err != nil {
		return nil, err
	}
	p, err := page.Parse(req.GetPageSize(), req.GetPageToken(), "manifests", repo, fmt.Sprint(req.GetUntaggedOnly()))
	if err != nil {
		return nil, err
	}
	rows, err := s.Store.Manifests(ctx, repo, p.After(0), req.GetUntaggedOnly(), p.Limit())
	if err != nil {
		return nil, err
	}
	rows, next := page.Next(p, rows, func(m store.Manifest) []string { return []string{m.Digest.String()} })
	res := &mcrv1.RepositoryListManifestsResponse{NextPageToken: next}
	digests := make([]string, len(rows))
	for i, m := range rows {
		digests[i] = m.Digest.String()
	}
	sizes, err := s.Store.TotalBytes(ctx, digests...)
	if err != nil {
		return nil, err
	}
	for _, m := range rows {
		out := manifest(m)
		out.TotalBytes = sizes[out.Digest]
		if out.Tags, err = s.Store.TagsOf(ctx, repo, out.Digest); err != nil {
			return nil, err
		}
		res.Manifests = append(res.Manifests, out)
	}
	return res, nil
}

func manifest(m store.Manifest) *mcrv1.Manifest {
	return &mcrv1.Manifest{Repository: m.Repo, Digest: m.Digest.String(), MediaType: m.MediaType, ArtifactType: m.ArtifactType,
		Size: m.Size, Subject: m.Subject, Annotations: m.Annotations, PushedBy: m.PushedBy, PushedAt: timestamp(m.PushedAt),
		LastPull: timestamp(m.LastPulled)}
}

func (s repositories) GetManifest(ctx context.Context, req *mcrv1.RepositoryGetManifestRequest) (*mcrv1.RepositoryGetManifestResponse, error) {
	repo := req.GetRepository()
	if err := s.decideRepo(ctx, policy.Pull, repo, ""); err != nil {
		return nil, err
	}
	if err := checkReference(req.GetReference()); err != nil {
		return nil, err
	}
	m, err := s.Store.Manifest(ctx, repo, req.GetReference())
	if err != nil {
		return nil, err
	}
	out := manifest(m)
	parsed, err := image.Parse(m.MediaType, m.Body)
	if err != nil {
		return nil, fmt.Errorf("stored manifest %s: %w", m.Digest, err)
	}
	for _, c := range parsed.Children {
		d := descriptor(c)
		switch c.Kind {
		case image.Config:
			out.Config = d
		case image.Child:
			out.Manifests = append(out.Manifests, d)
		default:
			out.Layers = append(out.Layers, d)
		}
	}
	sizes, err := s.Store.TotalBytes(ctx, out.Digest)
	if err != nil {
		return nil, err
	}
	out.TotalBytes = sizes[out.Digest]
	if out.Tags, err = s.Store.TagsOf(ctx, repo, out.Digest); err != nil {
		return nil, err
	}
	if out.WhyKept, err = s.whyKept(ctx, m, out.Tags); err != nil {
		return nil, err
	}
	res := &mcrv1.RepositoryGetManifestResponse{Manifest: out}
	if req.GetRaw() {
		res.Raw = m.Body
	}
	return res, nil
}

// whyKept lists everything that keeps a manifest from the collector.
func (s repositories) whyKept(ctx context.Context, m store.Manifest, tags []string) (why []string, err error) {
	d := m.Digest.String()
	for _, t := range tags {
		why = append(why, "tag "+t)
	}
	owners, err := s.Store.PinsOn(ctx, m.Repo, d)
	if err != nil {
		return nil, err
	}
	for _, o := range owners {
		why = append(why, "pin "+o)
	}
	parents, err := s.Store.Parents(ctx, m.Repo, d)
	if err != nil {
		return nil, err
	}
	for _, p := range parents {
		why = append(why, "child of "+p)
	}
	if m.Subject != "" {
		if _, err := s.Store.Manifest(ctx, m.Repo, m.Subject); err == nil {
			why = append(why, "refers to "+m.Subject)
		} else if !fault.Is(err, fault.NotFound) {
			return nil, err
		}
	}
	if len(why) == 0 {
		last := m.PushedAt
		if m.UntaggedAt.After(last) {
			last = m.UntaggedAt
		}
		if m.LastPulled.After(last) {
			last = m.LastPulled
		}
		why = append(why, "untagged, until "+last.Add(s.Untagged).UTC().Format("2006-01-02 15:04 UTC"))
	}
	return why, nil
}

func descriptor(d image.Descriptor) *mcrv1.Descriptor {
	return &mcrv1.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, ArtifactType: d.ArtifactType,
		Annotations: d.Annotations, Platform: d.Platform}
}

func checkReference(ref string) error {
	if image.IsDigest(ref) {
		if _, err := image.ParseDigest(ref); err != nil {
			return fault.Field1("reference", "%v", err)
		}
		return nil
	}
	if err := image.CheckTag(ref); err != nil {
		return fault.Field1("reference", "%v", err)
	}
	return nil
}

func (s repositories) ListReferrers(ctx context.Context, req *mcrv1.RepositoryListReferrersRequest) (*mcrv1.RepositoryListReferrersResponse, error) {
	if err := s.decideRepo(ctx, policy.Pull, req.GetRepository(), ""); err != nil {
		return nil, err
	}
	d, err := image.ParseDigest(req.GetDigest())
	if err != nil {
		return nil, fault.Field1("digest", "%v", err)
	}
	p, err := page.Parse(req.GetPageSize(), req.GetPageToken(), "referrers", req.GetRepository(), d.String(), req.GetArtifactType())
	if err != nil {
		return nil, err
	}
	rows, err := s.Store.Referrers(ctx, req.GetRepository(), d, req.GetArtifactType(), p.After(0), p.Limit())
	if err != nil {
		return nil, err
	}
	rows, next := page.Next(p, rows, func(m store.Manifest) []string { return []string{m.Digest.String()} })
	res := &mcrv1.RepositoryListReferrersResponse{NextPageToken: next}
	for _, m := range rows {
		res.Referrers = append(res.Referrers, &mcrv1.Descriptor{MediaType: m.MediaType, Digest: m.Digest.String(), Size: m.Size,
			ArtifactType: m.ArtifactType, Annotations: m.Annotations})
	}
	return res, nil
}
