package rpc

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
	"metacircular.net/metacrypt/internal/engine/kv"
	"metacircular.net/metacrypt/internal/policy"
	"metacircular.net/metacrypt/internal/seal"
)

type kvService struct {
	metacryptv1.UnimplementedKVServer
	*Server
}

func kvMount(r interface{ GetMount() string }) string {
	if m := r.GetMount(); m != "" {
		return m
	}
	return kv.Type
}

// with asks policy about one path and runs f with the engine.
func (s kvService) with(ctx context.Context, action, mount, path string, f func(*seal.Lease, *kv.Engine) error) error {
	return s.Seal.With(ctx, func(l *seal.Lease) error {
		if err := decide(ctx, l, action, kv.Type+"/"+mount+"/"+path, nil, nil); err != nil {
			return err
		}
		e, err := l.Engines.KV(mount)
		if err != nil {
			return err
		}
		return f(l, e)
	})
}

func (s kvService) Put(ctx context.Context, r *metacryptv1.KVPutRequest) (*metacryptv1.KVPutResponse, error) {
	out := &metacryptv1.KVPutResponse{}
	err := s.with(ctx, policy.Write, kvMount(r), r.GetPath(), func(l *seal.Lease, e *kv.Engine) error {
		var err error
		out.Version, err = e.Put(l.Ctx, r.GetPath(), r.GetFields(), r.Cas)
		return err
	})
	return out, err
}

func versionOf(v kv.Version) *metacryptv1.KVVersion {
	out := &metacryptv1.KVVersion{Version: v.Number, CreatedAt: timestamppb.New(v.Created)}
	if v.Deleted != nil {
		out.DeletedAt = timestamppb.New(*v.Deleted)
	}
	return out
}

func (s kvService) Get(ctx context.Context, r *metacryptv1.KVGetRequest) (*metacryptv1.KVGetResponse, error) {
	out := &metacryptv1.KVGetResponse{}
	err := s.with(ctx, policy.Read, kvMount(r), r.GetPath(), func(l *seal.Lease, e *kv.Engine) error {
		fields, ver, all, err := e.Get(l.Ctx, r.GetPath(), r.GetVersion())
		if err != nil {
			return err
		}
		out.Fields, out.Version = fields, versionOf(ver)
		for _, v := range all {
			out.Versions = append(out.Versions, versionOf(v))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s kvService) Delete(ctx context.Context, r *metacryptv1.KVDeleteRequest) (*metacryptv1.KVDeleteResponse, error) {
	err := s.with(ctx, policy.Delete, kvMount(r), r.GetPath(), func(l *seal.Lease, e *kv.Engine) error {
		return e.Delete(l.Ctx, r.GetPath(), r.GetVersions())
	})
	return &metacryptv1.KVDeleteResponse{}, err
}

// List shows only what the caller may list, path by path; whoever may list nothing below the prefix is refused.
func (s kvService) List(ctx context.Context, r *metacryptv1.KVListRequest) (*metacryptv1.KVListResponse, error) {
	out := &metacryptv1.KVListResponse{}
	mount := kvMount(r)
	err := s.Seal.With(ctx, func(l *seal.Lease) error {
		e, err := l.Engines.KV(mount)
		if err != nil {
			return err
		}
		all, err := e.Paths(l.Ctx, r.GetPrefix())
		if err != nil {
			return err
		}
		set, sub := l.Engines.Policy.Set(), subject(requester(auth.From(ctx)))
		var seen []string
		for _, p := range all {
			if !set.Decide(policy.Request{Subject: sub, Action: policy.List, Resource: kv.Type + "/" + mount + "/" + p}).Allow {
				continue
			}
			if i := strings.IndexByte(p[len(r.GetPrefix()):], '/'); i >= 0 && !r.GetRecursive() {
				p = p[:len(r.GetPrefix())+i+1]
			}
			if len(seen) == 0 || seen[len(seen)-1] != p {
				seen = append(seen, p)
			}
		}
		if len(seen) == 0 { // nothing to show: then the prefix itself decides whether he may know that
			d := set.Decide(policy.Request{Subject: sub, Action: policy.List, Resource: kv.Type + "/" + mount + "/" + strings.Trim(r.GetPrefix(), "/")})
			return auth.Decide(ctx, policy.List, kv.Type+"/"+mount+"/"+r.GetPrefix(), d.Allow, d.Why)
		}
		if err := auth.Decide(ctx, policy.List, kv.Type+"/"+mount+"/"+r.GetPrefix(), true, "shows only what policy lets the caller list"); err != nil {
			return err
		}
		start, limit := 0, pageSize(r.GetPageSize())
		if t := r.GetPageToken(); t != "" {
			i, found := slices.BinarySearch(seen, t)
			if !found {
				return fault.Field1("page_token", "the path it names is gone; start again")
			}
			start = i + 1
		}
		end := min(len(seen), start+limit)
		out.Paths = seen[start:end]
		if end < len(seen) {
			out.NextPageToken = seen[end-1]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
