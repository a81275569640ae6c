package rpc

import (
	"context"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/directory"
)

type serviceServer struct {
	mciasv1.UnimplementedServiceAccountServer
	*Servers
}

func keyRecord(name string, k *account.ServiceKey) *mciasv1.ServiceKeyRecord {
	if k == nil {
		return nil
	}
	return &mciasv1.ServiceKeyRecord{Kid: k.KID, Account: name, PublicKey: k.Public, Services: k.Services, CreatedAt: stamp(k.Created),
		NotAfter: stamp(k.NotAfter), Retired: !k.Retired.IsZero()}
}

// Create makes a system account.
func (s serviceServer) Create(ctx context.Context, r *mciasv1.ServiceAccountCreateRequest) (*mciasv1.ServiceAccountCreateResponse, error) {
	if err := s.may(ctx, "accounts:create", resource{name: r.GetName(), typ: "account"}); err != nil {
		return nil, err
	}
	a, k, err := s.Directory.CreateService(ctx, by(ctx), directory.NewAccount{Name: r.GetName(), Display: r.GetDisplay(), Tags: r.GetTags()}, r.GetPublicKey())
	rec, err := s.record(ctx, a, err)
	if err != nil {
		return nil, err
	}
	return &mciasv1.ServiceAccountCreateResponse{Account: rec, Key: keyRecord(a.Name, k)}, nil
}

// List returns the system accounts.
func (s serviceServer) List(ctx context.Context, r *mciasv1.ServiceAccountListRequest) (*mciasv1.ServiceAccountListResponse, error) {
	if err := s.may(ctx, "accounts:list", resource{name: "accounts", typ: "account"}); err != nil {
		return nil, err
	}
	out := &mciasv1.ServiceAccountListResponse{}
	var err error
	out.Accounts, out.NextPageToken, err = s.list(ctx, r.GetPageSize(), r.GetPageToken(), account.System, false)
	return out, err
}

// AddKey registers a public key.
func (s serviceServer) AddKey(ctx context.Context, r *mciasv1.ServiceAccountAddKeyRequest) (*mciasv1.ServiceAccountAddKeyResponse, error) {
	if err := s.may(ctx, "accounts:manage", resource{name: r.GetName(), typ: "account"}); err != nil {
		return nil, err
	}
	k, err := s.Directory.AddKey(ctx, by(ctx), r.GetName(), r.GetPublicKey(), r.GetServices(), instant(r.GetNotAfter()))
	if err != nil {
		return nil, err
	}
	return &mciasv1.ServiceAccountAddKeyResponse{Key: keyRecord(r.GetName(), k)}, nil
}

// RetireKey ends a key.
func (s serviceServer) RetireKey(ctx context.Context, r *mciasv1.ServiceAccountRetireKeyRequest) (*mciasv1.ServiceAccountRetireKeyResponse, error) {
	if err := s.may(ctx, "accounts:manage", resource{name: r.GetName(), typ: "account"}); err != nil {
		return nil, err
	}
	if err := s.Directory.RetireKey(ctx, by(ctx), r.GetName(), r.GetKid()); err != nil {
		return nil, err
	}
	return &mciasv1.ServiceAccountRetireKeyResponse{Seq: s.Hub.Seq()}, nil
}

// ListKeys lists an account's keys.
func (s serviceServer) ListKeys(ctx context.Context, r *mciasv1.ServiceAccountListKeysRequest) (*mciasv1.ServiceAccountListKeysResponse, error) {
	if err := s.may(ctx, "accounts:read", resource{name: r.GetName(), typ: "account"}); err != nil {
		return nil, err
	}
	keys, err := s.Directory.Keys(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	out := &mciasv1.ServiceAccountListKeysResponse{}
	for _, k := range keys {
		out.Keys = append(out.Keys, keyRecord(r.GetName(), k))
	}
	return out, nil
}
