package rpc

import (
	"context"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/page"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/directory"
	"metacircular.net/mcias/internal/store"
)

type accountServer struct {
	mciasv1.UnimplementedAccountServer
	*Servers
}

// record returns an account as told, with its factors.
func (s *Servers) record(ctx context.Context, a *account.Account, err error) (*mciasv1.AccountRecord, error) {
	if err != nil {
		return nil, err
	}
	f, err := s.Directory.Factors(ctx, a.ID)
	if err != nil {
		return nil, err
	}
	return &mciasv1.AccountRecord{Id: a.ID, Name: a.Name, Display: a.Display, Email: a.Email, Type: a.Type, Status: a.Status, Roles: a.Roles,
		Tags: a.Tags, Epoch: a.Epoch, CreatedAt: stamp(a.Created), LastLogin: stamp(a.LastLogin), Factors: f}, nil
}

func link(l *directory.Link) *mciasv1.SetupLink {
	return &mciasv1.SetupLink{Url: l.URL, Secret: l.Secret, ExpiresAt: stamp(l.Expires)}
}

// Create makes an account.
func (s accountServer) Create(ctx context.Context, r *mciasv1.AccountCreateRequest) (*mciasv1.AccountCreateResponse, error) {
	if err := s.may(ctx, "accounts:create", resource{name: r.GetName(), typ: "account"}); err != nil {
		return nil, err
	}
	n := directory.NewAccount{Name: r.GetName(), Type: r.GetType(), Display: r.GetDisplay(), Email: r.GetEmail(), Roles: r.GetRoles(), Tags: r.GetTags()}
	if r.GetPassword() != "" {
		phc, err := s.Authn.HashNew(ctx, account.CanonicalName(r.GetName()), r.GetPassword(), auth.Client(ctx))
		if err != nil {
			return nil, err
		}
		n.PHC = phc
	}
	a, err := s.Directory.Create(ctx, by(ctx), n)
	rec, err := s.record(ctx, a, err)
	return &mciasv1.AccountCreateResponse{Account: rec}, err
}

// Get returns an account.
func (s accountServer) Get(ctx context.Context, r *mciasv1.AccountGetRequest) (*mciasv1.AccountGetResponse, error) {
	if err := s.may(ctx, "accounts:read", resource{name: r.GetName(), typ: "account"}); err != nil {
		return nil, err
	}
	a, err := s.Directory.Find(ctx, r.GetName())
	rec, err := s.record(ctx, a, err)
	return &mciasv1.AccountGetResponse{Account: rec}, err
}

// List returns accounts by name.
func (s accountServer) List(ctx context.Context, r *mciasv1.AccountListRequest) (*mciasv1.AccountListResponse, error) {
	if err := s.may(ctx, "accounts:list", resource{name: "accounts", typ: "account"}); err != nil {
		return nil, err
	}
	out := &mciasv1.AccountListResponse{}
	var err error
	out.Accounts, out.NextPageToken, err = s.list(ctx, r.GetPageSize(), r.GetPageToken(), r.GetType(), r.GetIncludeDeleted())
	return out, err
}

func (s *Servers) list(ctx context.Context, size int32, tok, typ string, deleted bool) (out []*mciasv1.AccountRecord, next string, err error) {
	q := "live"
	if deleted {
		q = "all"
	}
	p, err := page.Parse(size, tok, "accounts", typ, q)
	if err != nil {
		return nil, "", err
	}
	var rows []*account.Account
	err = s.DB.Read(ctx, func(v *db.View) (err error) {
		rows, err = store.Accounts(v, p.After(0), typ, deleted, p.Limit())
		return err
	})
	if err != nil {
		return nil, "", err
	}
	rows, next = page.Next(p, rows, func(a *account.Account) []string { return []string{a.Name} })
	for _, a := range rows {
		rec, err := s.record(ctx, a, nil)
		if err != nil {
			return nil, "", err
		}
		out = append(out, rec)
	}
	return out, next, nil
}

// Update changes display name and e-mail.
func (s accountServer) Update(ctx context.Context, r *mciasv1.AccountUpdateRequest) (*mciasv1.AccountUpdateResponse, error) {
	if err := s.may(ctx, "accounts:update", resource{name: r.GetName(), typ: "account"}); err != nil {
		return nil, err
	}
	a, err := s.Directory.Update(ctx, by(ctx), r.GetName(), r.Display, r.Email)
	rec, err := s.record(ctx, a, err)
	return &mciasv1.AccountUpdateResponse{Account: rec}, err
}

// SetStatus disables or enables.
func (s accountServer) SetStatus(ctx context.Context, r *mciasv1.AccountSetStatusRequest) (*mciasv1.AccountSetStatusResponse, error) {
	if err := s.may(ctx, "accounts:manage", resource{name: r.GetName(), typ: "account"}); err != nil {
		return nil, err
	}
	a, n, err := s.Directory.SetStatus(ctx, by(ctx), r.GetName(), r.GetStatus(), r.GetForce())
	rec, err := s.record(ctx, a, err)
	return &mciasv1.AccountSetStatusResponse{Account: rec, SessionsEnded: int32(n)}, err //nolint:gosec // at most 100
}

// Delete ends everything of an account.
func (s accountServer) Delete(ctx context.Context, r *mciasv1.AccountDeleteRequest) (*mciasv1.AccountDeleteResponse, error) {
	if err := s.may(ctx, "accounts:delete", resource{name: r.GetName(), typ: "account"}); err != nil {
		return nil, err
	}
	n, err := s.Directory.Delete(ctx, by(ctx), r.GetName(), r.GetForce())
	return &mciasv1.AccountDeleteResponse{SessionsEnded: int32(n)}, err //nolint:gosec // at most 100
}

// AddRole gives a role.
func (s accountServer) AddRole(ctx context.Context, r *mciasv1.AccountAddRoleRequest) (*mciasv1.AccountAddRoleResponse, error) {
	if err := s.may(ctx, "roles:manage", resource{name: r.GetName(), typ: "account"}); err != nil {
		return nil, err
	}
	a, err := s.Directory.AddRole(ctx, by(ctx), r.GetName(), r.GetRole())
	rec, err := s.record(ctx, a, err)
	return &mciasv1.AccountAddRoleResponse{Account: rec}, err
}

// RemoveRole takes it.
func (s accountServer) RemoveRole(ctx context.Context, r *mciasv1.AccountRemoveRoleRequest) (*mciasv1.AccountRemoveRoleResponse, error) {
	if err := s.may(ctx, "roles:manage", resource{name: r.GetName(), typ: "account"}); err != nil {
		return nil, err
	}
	a, err := s.Directory.RemoveRole(ctx, by(ctx), r.GetName(), r.GetRole(), r.GetForce())
	rec, err := s.record(ctx, a, err)
	return &mciasv1.AccountRemoveRoleResponse{Account: rec}, err
}

// SetTags replaces tags.
func (s accountServer) SetTags(ctx context.Context, r *mciasv1.AccountSetTagsRequest) (*mciasv1.AccountSetTagsResponse, error) {
	if err := s.may(ctx, "tags:manage", resource{name: r.GetName(), typ: "account"}); err != nil {
		return nil, err
	}
	a, err := s.Directory.SetTags(ctx, by(ctx), r.GetName(), r.GetTags(), r.GetForce())
	rec, err := s.record(ctx, a, err)
	return &mciasv1.AccountSetTagsResponse{Account: rec}, err
}

// CreateSetupLink makes a link.
func (s accountServer) CreateSetupLink(ctx context.Context, r *mciasv1.AccountCreateSetupLinkRequest) (*mciasv1.AccountCreateSetupLinkResponse, error) {
	if err := s.may(ctx, "accounts:manage", resource{name: r.GetName(), typ: "account"}); err != nil {
		return nil, err
	}
	l, err := s.Directory.Invite(ctx, by(ctx), r.GetName())
	if err != nil {
		return nil, err
	}
	return &mciasv1.AccountCreateSetupLinkResponse{Link: link(l)}, nil
}

// ResetFactors removes credentials and returns a link.
func (s accountServer) ResetFactors(ctx context.Context, r *mciasv1.AccountResetFactorsRequest) (*mciasv1.AccountResetFactorsResponse, error) {
	if err := s.may(ctx, "accounts:manage", resource{name: r.GetName(), typ: "account"}); err != nil {
		return nil, err
	}
	l, n, err := s.Directory.Reset(ctx, by(ctx), r.GetName(), r.GetForce())
	if err != nil {
		return nil, err
	}
	return &mciasv1.AccountResetFactorsResponse{Link: link(l), SessionsEnded: int32(n)}, nil //nolint:gosec // at most 100
}

// BreakGlass gives an account back.
func (s accountServer) BreakGlass(ctx context.Context, r *mciasv1.AccountBreakGlassRequest) (*mciasv1.AccountBreakGlassResponse, error) {
	l, n, err := s.Directory.BreakGlass(ctx, by(ctx), r.GetName())
	if err != nil {
		return nil, err
	}
	return &mciasv1.AccountBreakGlassResponse{Link: link(l), SessionsEnded: int32(n)}, nil //nolint:gosec // at most 100
}
