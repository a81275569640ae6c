package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/keyslot"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
	"metacircular.net/metacrypt/internal/ca"
	"metacircular.net/metacrypt/internal/seal"
)

type system struct {
	metacryptv1.UnimplementedSystemServer
	*Server
}

var states = map[seal.State]metacryptv1.SealState{ //nolint:gochecknoglobals // a constant table
	seal.Uninitialized: metacryptv1.SealState_SEAL_STATE_UNINITIALIZED, seal.Initializing: metacryptv1.SealState_SEAL_STATE_INITIALIZING,
	seal.Sealed: metacryptv1.SealState_SEAL_STATE_SEALED, seal.Unsealing: metacryptv1.SealState_SEAL_STATE_UNSEALING,
	seal.Unsealed: metacryptv1.SealState_SEAL_STATE_UNSEALED, seal.Sealing: metacryptv1.SealState_SEAL_STATE_SEALING,
}

func (s system) Status(ctx context.Context, _ *metacryptv1.StatusRequest) (*metacryptv1.StatusResponse, error) {
	st := s.Server.Seal.Status(ctx)
	out := &metacryptv1.StatusResponse{State: states[st.State], Reason: st.Reason, Hold: st.Hold, InstanceId: st.Instance,
		Generation: st.Generation, Version: s.Version}
	if !st.RetryAt.IsZero() {
		out.RetryAt = timestamppb.New(st.RetryAt)
	}
	if b, err := s.Public.Root(ctx, "pki"); err == nil {
		if c, err := ca.ParseCertificate(b); err == nil {
			out.RootFingerprint = ca.Fingerprint(c)
		}
	}
	return out, nil
}

func (s system) Init(ctx context.Context, r *metacryptv1.InitRequest) (*metacryptv1.InitResponse, error) {
	defer clear(r.Password)
	defer clear(r.Credential)
	code, id, err := s.Server.Seal.Init(ctx, r.GetPassword(), r.GetCredential())
	if err != nil {
		return nil, err
	}
	return &metacryptv1.InitResponse{RecoveryCode: code, InstanceId: id}, nil
}

func (s system) Unseal(ctx context.Context, r *metacryptv1.UnsealRequest) (*metacryptv1.UnsealResponse, error) {
	sec := secretOf(r.GetProof())
	defer clear(sec.Value)
	if sec.Kind == keyslot.Credential {
		return nil, fault.Field1("proof.kind", "a credential is read by the server itself, at its start")
	}
	slot, err := s.Server.Seal.Unseal(ctx, sec, origin(ctx))
	if err != nil {
		return nil, err
	}
	st := s.Server.Seal.Status(ctx)
	return &metacryptv1.UnsealResponse{State: states[st.State], Generation: st.Generation, SlotId: slot, BrokenMounts: st.Broken}, nil
}

func (s system) Seal(ctx context.Context, _ *metacryptv1.SealRequest) (*metacryptv1.SealResponse, error) {
	if err := s.Server.Seal.Seal(ctx); err != nil {
		return nil, err
	}
	return &metacryptv1.SealResponse{State: states[s.Server.Seal.Status(ctx).State]}, nil
}
