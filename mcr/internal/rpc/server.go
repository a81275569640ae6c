package rpc

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	mcrv1 "metacircular.net/mcr/api/mcr/v1"
	"metacircular.net/mcr/internal/cas"
	"metacircular.net/mcr/internal/gc"
	"metacircular.net/mcr/internal/image"
	"metacircular.net/mcr/internal/policy"
	"metacircular.net/mcr/internal/store"
	"metacircular.net/mcr/internal/verify"
)

// Config names the parts that answer.
type Config struct {
	Store     *store.Store
	Blobs     *cas.Store
	Book      *policy.Book
	Collector *gc.Collector
	Verifier  *verify.Verifier
	Trash     time.Duration // how long a deletion can be undone
	Untagged  time.Duration // life of an untagged manifest
	Clock     clock.Clock
}

// Server answers every service of the contract.
type Server struct {
	Config
}

// New returns a server.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Blobs == nil || cfg.Book == nil || cfg.Collector == nil || cfg.Verifier == nil {
		return nil, errors.New("rpc: every part is needed")
	}
	cfg.Clock = clock.Or(cfg.Clock)
	return &Server{cfg}, nil
}

// Register registers the services.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	mcrv1.RegisterRepositoryServiceServer(r, repositories{Server: s})
	mcrv1.RegisterTagServiceServer(r, tags{Server: s})
	mcrv1.RegisterPolicyServiceServer(r, rules{Server: s})
	mcrv1.RegisterPinServiceServer(r, pins{Server: s})
	mcrv1.RegisterStorageServiceServer(r, storage{Server: s})
	mcrv1.RegisterEventServiceServer(r, events{Server: s})
}

// global is the repository of decisions that are about none: only a rule for ** covers it.
const global = ""

// decide asks policy for the caller and records the answer.
func (s *Server) decide(ctx context.Context, a policy.Action, repo, tag string) error {
	d := s.Book.Decide(policy.Request{Subject: caller(ctx), Action: a, Repository: repo, Tag: tag}, s.Clock.Now())
	name := repo
	if name == global {
		name = "the registry"
	}
	return auth.Decide(ctx, string(a), name, d.Allow, d.Why)
}

// decideRepo checks a repository's name, then asks policy.
func (s *Server) decideRepo(ctx context.Context, a policy.Action, repo, tag string) error {
	if err := image.CheckRepository(repo); err != nil {
		return fault.Field1("repository", "%v", err)
	}
	return s.decide(ctx, a, repo, tag)
}

// mayPull reports whether the caller may see a repository, for filtering lists.
func (s *Server) mayPull(ctx context.Context) func(repo string) bool {
	who, now := caller(ctx), s.Clock.Now()
	return func(repo string) bool {
		return s.Book.Decide(policy.Request{Subject: who, Action: policy.Pull, Repository: repo}, now).Allow
	}
}

func caller(ctx context.Context) policy.Subject {
	c := auth.From(ctx)
	return policy.Subject{Name: c.Name, Kind: string(c.Kind), Roles: c.Roles, Local: c.LocalAdmin()}
}

func who(ctx context.Context) string { return auth.From(ctx).String() }

// timestamp returns nil for the zero time, so that "never" is absent and not 1970.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
