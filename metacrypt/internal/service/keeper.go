package service

import (
	"context"
	"crypto/x509"
	"log/slog"
	"time"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/health"
	"metacircular.net/metacrypt/internal/engine/pki"
	"metacircular.net/metacrypt/internal/seal"
)

const (
	crlEvery    = 10 * time.Minute // how often due lists are looked for
	crlCoalesce = time.Second      // revocations that come together make one list
)

// keeper makes revocation lists: soon after a revocation, and when they are due.
type keeper struct {
	log    *slog.Logger
	seal   *seal.Seal
	kicked chan struct{}
}

func newKeeper(log *slog.Logger) *keeper { return &keeper{log: log, kicked: make(chan struct{}, 1)} }

// kick asks for new lists; it never blocks.
func (k *keeper) kick() {
	select {
	case k.kicked <- struct{}{}:
	default:
	}
}

func (k *keeper) run(ctx context.Context) error {
	tick := time.NewTicker(crlEvery)
	defer tick.Stop()
	for {
		all := false
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-k.kicked:
			all = true
			wait := time.NewTimer(crlCoalesce)
			select {
			case <-ctx.Done():
				wait.Stop()
				return nil
			case <-wait.C:
			}
			select { // what came meanwhile is in this list
			case <-k.kicked:
			default:
			}
		}
		err := k.seal.With(ctx, func(l *seal.Lease) error {
			for _, e := range l.Engines.PKIs() {
				if err := e.RefreshCRLs(l.Ctx, all); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && ctx.Err() == nil && !fault.HasReason(err, "SEALED") && !fault.HasReason(err, "UNINITIALIZED") {
			k.log.Error("revocation lists were not made", "err", err)
		}
	}
}

// crlCheck says when a list goes stale.
func crlCheck(s *seal.Seal, public *pki.Public, now func() time.Time) health.Check {
	return health.Check{Code: "crl", Title: "revocation lists", DependsOn: []string{"seal"}, Run: func(ctx context.Context) health.Result {
		der, err := public.CRL(ctx, "pki", pki.RootName)
		if fault.Is(err, fault.NotFound) {
			return health.OK("no authority yet")
		}
		if err != nil {
			return health.Failed("the root's list cannot be read")
		}
		crl, err := x509.ParseRevocationList(der)
		if err != nil {
			return health.Failed("the root's list cannot be read")
		}
		left := crl.NextUpdate.Sub(now())
		if left < 0 {
			return health.Failed("the root's list is stale since %s", crl.NextUpdate.UTC().Format(time.RFC3339)).Do("metacrypt unseal")
		}
		if s.Status(ctx).State == seal.Unsealed {
			return health.OK("the root's list is good until %s", crl.NextUpdate.UTC().Format("2006-01-02"))
		}
		return health.OK("served while sealed; the issuers' lists go stale after three days")
	}}
}
