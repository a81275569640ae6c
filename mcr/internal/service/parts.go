package service

import (
	"context"
	"errors"
	"log/slog"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/gateway"
	"metacircular.net/mcdsl/run"
	mcrv1 "metacircular.net/mcr/api/mcr/v1"
	"metacircular.net/mcr/internal/cas"
	"metacircular.net/mcr/internal/disk"
	"metacircular.net/mcr/internal/gc"
	"metacircular.net/mcr/internal/oci"
	"metacircular.net/mcr/internal/policy"
	"metacircular.net/mcr/internal/rpc"
	"metacircular.net/mcr/internal/store"
	"metacircular.net/mcr/internal/verify"
)

// Parts are the registry's own parts, without transports.
type Parts struct {
	Store     *store.Store
	Blobs     *cas.Store
	Book      *policy.Book
	Disk      *disk.Gauge
	Registry  *oci.Registry
	Collector *gc.Collector
	Verifier  *verify.Verifier
	RPC       *rpc.Server
}

// NewParts makes the parts on an open database and puts the configuration's rules in force.
func NewParts(ctx context.Context, cfg Config, d *db.DB, logger *slog.Logger, c clock.Clock) (_ *Parts, err error) {
	p := &Parts{Book: &policy.Book{}}
	if p.Store, err = store.New(ctx, d, c); err != nil {
		return nil, err
	}
	if p.Blobs, err = cas.Open(cfg.Storage.Root); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Blobs.Close())
		}
	}()
	p.Disk = &disk.Gauge{Measure: p.Blobs.Disk, Warn: cfg.Disk.Warn, Refuse: cfg.Disk.Refuse, Floor: cfg.Disk.Floor.Bytes()}
	p.Registry, err = oci.New(oci.Config{Store: p.Store, Blobs: p.Blobs, Book: p.Book, Disk: p.Disk, Realm: cfg.Registry.TokenRealm,
		Service: cfg.MCIAS.ServiceName, Grace: cfg.GC.Grace.D(), MaxManifest: cfg.Registry.MaxManifest.Bytes(),
		UploadsPerOwner: cfg.Limits.UploadsPerSubject, UploadsTotal: cfg.Limits.UploadsTotal, RequestsPerUser: cfg.Limits.RequestsAtOnce,
		Log: logger, Clock: c})
	if err != nil {
		return nil, err
	}
	p.Collector, err = gc.New(gc.Config{Store: p.Store, Blobs: p.Blobs, Every: cfg.GC.Every.D(), Grace: cfg.GC.Grace.D(),
		UntaggedAfter: cfg.GC.UntaggedAfter.D(), Trash: cfg.GC.Trash.D(), UploadIdle: cfg.Limits.UploadIdle.D(), Log: logger, Clock: c})
	if err != nil {
		return nil, err
	}
	p.Verifier, err = verify.New(verify.Config{Store: p.Store, Blobs: p.Blobs, Every: cfg.Verify.Every.D(), Rate: cfg.Verify.Rate.Bytes(),
		Log: logger, Clock: c})
	if err != nil {
		return nil, err
	}
	p.RPC, err = rpc.New(rpc.Config{Store: p.Store, Blobs: p.Blobs, Book: p.Book, Collector: p.Collector, Verifier: p.Verifier,
		Trash: cfg.GC.Trash.D(), Untagged: cfg.GC.UntaggedAfter.D(), Clock: c})
	if err != nil {
		return nil, err
	}
	return p, p.ApplyRules(ctx, cfg)
}

// ApplyRules makes the configuration's rules those of the database and puts all in force.
func (p *Parts) ApplyRules(ctx context.Context, cfg Config) error {
	if err := p.Store.ReconcileRules(ctx, cfg.Policy, cfg.Immutable); err != nil {
		return err
	}
	return p.RPC.Reload(ctx)
}

// Workers are the parts that run beside the requests.
func (p *Parts) Workers() []run.Component {
	return []run.Component{
		{Name: "content", Stop: func(context.Context) error { return p.Blobs.Close() }},
		run.Background("last pulls", p.Registry.FlushPulls),
		run.Background("collector", p.Collector.Run),
		run.Background("verifier", p.Verifier.Run),
	}
}

// REST are the generated REST handlers.
func REST() []gateway.Register {
	return []gateway.Register{
		mcrv1.RegisterRepositoryServiceHandler, mcrv1.RegisterTagServiceHandler, mcrv1.RegisterPolicyServiceHandler,
		mcrv1.RegisterPinServiceHandler, mcrv1.RegisterStorageServiceHandler, mcrv1.RegisterEventServiceHandler,
	}
}
