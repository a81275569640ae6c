package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/keyslot"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
)

type slots struct {
	metacryptv1.UnimplementedSlotsServer
	*Server
}

func slotOf(r keyslot.Row) *metacryptv1.Slot {
	out := &metacryptv1.Slot{Id: r.ID, Kind: string(r.Kind), Params: r.Params.String(), CreatedAt: timestamppb.New(r.CreatedAt)}
	if !r.LastUsedAt.IsZero() {
		out.LastUsedAt = timestamppb.New(r.LastUsedAt)
	}
	return out
}

func (s slots) List(ctx context.Context, _ *metacryptv1.SlotsListRequest) (*metacryptv1.SlotsListResponse, error) {
	rows, err := s.Seal.Slots(ctx)
	if err != nil {
		return nil, err
	}
	out := &metacryptv1.SlotsListResponse{}
	for _, r := range rows {
		out.Slots = append(out.Slots, slotOf(r))
	}
	return out, nil
}

func (s slots) Add(ctx context.Context, r *metacryptv1.SlotsAddRequest) (*metacryptv1.SlotsAddResponse, error) {
	defer clear(r.GetSecret())
	if err := s.prove(ctx, r.GetProof()); err != nil {
		return nil, err
	}
	row, code, err := s.Seal.AddSlot(ctx, keyslot.Secret{Kind: keyslot.Kind(r.GetKind()), Value: r.GetSecret()})
	if err != nil {
		return nil, err
	}
	return &metacryptv1.SlotsAddResponse{Slot: slotOf(row), RecoveryCode: code}, nil
}

func (s slots) Remove(ctx context.Context, r *metacryptv1.SlotsRemoveRequest) (*metacryptv1.SlotsRemoveResponse, error) {
	if err := s.prove(ctx, r.GetProof()); err != nil {
		return nil, err
	}
	return &metacryptv1.SlotsRemoveResponse{}, s.Seal.RemoveSlot(ctx, r.GetId())
}

func (s slots) Replace(ctx context.Context, r *metacryptv1.SlotsReplaceRequest) (*metacryptv1.SlotsReplaceResponse, error) {
	defer clear(r.GetSecret())
	if err := s.prove(ctx, r.GetProof()); err != nil {
		return nil, err
	}
	row, code, err := s.Seal.ReplaceSlot(ctx, r.GetId(), r.GetSecret())
	if err != nil {
		return nil, err
	}
	return &metacryptv1.SlotsReplaceResponse{Slot: slotOf(row), RecoveryCode: code}, nil
}

func (s slots) Rehearse(ctx context.Context, r *metacryptv1.SlotsRehearseRequest) (*metacryptv1.SlotsRehearseResponse, error) {
	defer clear(r.GetProof().GetSecret())
	id, err := s.Seal.Prove(ctx, secretOf(r.GetProof()), origin(ctx))
	if err != nil {
		return nil, err
	}
	return &metacryptv1.SlotsRehearseResponse{Id: id}, nil
}
