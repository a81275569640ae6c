package rpc

import (
	"context"

	"metacircular.net/mcdsl/page"
	mcrv1 "metacircular.net/mcr/api/mcr/v1"
	"metacircular.net/mcr/internal/cas"
	"metacircular.net/mcr/internal/policy"
	"metacircular.net/mcr/internal/store"
)

type storage struct {
	mcrv1.UnimplementedStorageServiceServer
	*Server
}

func (s storage) admin(ctx context.Context) error { return s.decide(ctx, policy.Admin, global, "") }

func (s storage) Usage(ctx context.Context, _ *mcrv1.StorageUsageRequest) (*mcrv1.StorageUsageResponse, error) {
	if err := s.admin(ctx); err != nil {
		return nil, err
	}
	u, err := s.Store.Usage(ctx)
	if err != nil {
		return nil, err
	}
	total, free, err := s.Blobs.Disk()
	if err != nil {
		return nil, err
	}
	return &mcrv1.StorageUsageResponse{Repositories: u.Repos, Tags: u.Tags, Manifests: u.Manifests, Blobs: u.Blobs, BlobBytes: u.BlobBytes,
		LinkedBytes: u.LinkedBytes, Quarantined: u.Quarantined, Uploads: u.Uploads, DiskTotal: total, DiskFree: free}, nil
}

func gcRun(r store.GCRun) *mcrv1.GCRun {
	return &mcrv1.GCRun{Id: r.ID, Started: timestamp(r.Started), Ended: timestamp(r.Ended), State: r.State, Stage: r.Stage,
		ManifestsExpired: r.ManifestsExpired, LinksRemoved: r.LinksRemoved, BlobsRemoved: r.BlobsRemoved, BytesFreed: r.BytesFreed,
		UploadsExpired: r.UploadsExpired, OrphansRemoved: r.OrphansRemoved, Error: r.Error}
}

func (s storage) StartGC(ctx context.Context, _ *mcrv1.StorageStartGCRequest) (*mcrv1.StorageStartGCResponse, error) {
	if err := s.admin(ctx); err != nil {
		return nil, err
	}
	r, err := s.Collector.Start(ctx)
	if err != nil {
		return nil, err
	}
	return &mcrv1.StorageStartGCResponse{Run: gcRun(r)}, nil
}

func (s storage) GetGC(ctx context.Context, req *mcrv1.StorageGetGCRequest) (*mcrv1.StorageGetGCResponse, error) {
	if err := s.admin(ctx); err != nil {
		return nil, err
	}
	r, err := s.Store.LastGC(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	return &mcrv1.StorageGetGCResponse{Run: gcRun(r)}, nil
}

func verifyRun(r store.VerifyRun) *mcrv1.VerifyRun {
	return &mcrv1.VerifyRun{Id: r.ID, Started: timestamp(r.Started), Ended: timestamp(r.Ended), State: r.State, Quick: r.Quick,
		BlobsChecked: r.Blobs, BytesChecked: r.Bytes, ManifestsChecked: r.Manifests, Quarantined: r.Quarantined, Error: r.Error}
}

func (s storage) StartVerify(ctx context.Context, req *mcrv1.StorageStartVerifyRequest) (*mcrv1.StorageStartVerifyResponse, error) {
	if err := s.admin(ctx); err != nil {
		return nil, err
	}
	r, err := s.Verifier.Start(ctx, req.GetQuick())
	if err != nil {
		return nil, err
	}
	return &mcrv1.StorageStartVerifyResponse{Run: verifyRun(r)}, nil
}

func (s storage) GetVerify(ctx context.Context, req *mcrv1.StorageGetVerifyRequest) (*mcrv1.StorageGetVerifyResponse, error) {
	if err := s.admin(ctx); err != nil {
		return nil, err
	}
	r, err := s.Store.LastVerify(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	return &mcrv1.StorageGetVerifyResponse{Run: verifyRun(r)}, nil
}

func (s storage) ListUploads(ctx context.Context, req *mcrv1.StorageListUploadsRequest) (*mcrv1.StorageListUploadsResponse, error) {
	if err := s.admin(ctx); err != nil {
		return nil, err
	}
	p, err := page.Parse(req.GetPageSize(), req.GetPageToken(), "uploads")
	if err != nil {
		return nil, err
	}
	rows, err := s.Store.Uploads(ctx, p.After(0), p.Limit())
	if err != nil {
		return nil, err
	}
	rows, next := page.Next(p, rows, func(u store.Upload) []string { return []string{u.Reference} })
	res := &mcrv1.StorageListUploadsResponse{NextPageToken: next}
	for _, u := range rows {
		res.Uploads = append(res.Uploads, &mcrv1.Upload{Reference: u.Reference, Repository: u.Repo, Owner: u.OwnerName, Offset: s.offset(u),
			Started: timestamp(u.Started), Touched: timestamp(u.Touched)})
	}
	return res, nil
}

// offset is how far an upload got; one whose file is gone shows what was synced.
func (s storage) offset(u store.Upload) int64 {
	n, err := s.Blobs.Offset(u.ID, cas.Synced{Offset: u.Synced, State: u.State})
	if err != nil {
		return u.Synced
	}
	return n
}

func (s storage) CancelUpload(ctx context.Context, req *mcrv1.StorageCancelUploadRequest) (*mcrv1.StorageCancelUploadResponse, error) {
	if err := s.admin(ctx); err != nil {
		return nil, err
	}
	u, err := s.Store.UploadByReference(ctx, req.GetReference())
	if err != nil {
		return nil, err
	}
	if _, err := s.Store.CloseUpload(ctx, u.ID); err != nil {
		return nil, err
	}
	if err := s.Blobs.DiscardUpload(u.ID); err != nil {
		return nil, err
	}
	return &mcrv1.StorageCancelUploadResponse{}, nil
}
