package rpc

import (
	"context"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/page"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/directory"
	"metacircular.net/mcias/internal/store"
)

type clientServer struct {
	mciasv1.UnimplementedClientServer
	*Servers
}

func clientOut(c *account.Client) *mciasv1.ClientRecord {
	return &mciasv1.ClientRecord{Id: c.ID, Kind: c.Kind, Owner: c.OwnerName, RedirectUris: c.Redirects, PostLogoutUris: c.PostLogout, Tags: c.Tags,
		Enabled: c.Enabled, HasSecret: len(c.SecretHash) > 0, CreatedAt: stamp(c.Created)}
}

// mayTouch asks policy about an existing client; whoever may not even know of it gets the same answer.
func (s clientServer) mayTouch(ctx context.Context, action, id string) (*account.Client, error) {
	c, err := s.Directory.Client(ctx, id)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	owner := ""
	if c != nil {
		owner = c.Owner
	}
	if perr := s.may(ctx, action, resource{name: "client " + id, typ: "client", owner: owner}); perr != nil {
		return nil, perr
	}
	return c, err
}

// Create makes a client.
func (s clientServer) Create(ctx context.Context, r *mciasv1.ClientCreateRequest) (*mciasv1.ClientCreateResponse, error) {
	b := by(ctx)
	if err := s.may(ctx, "clients:create", resource{name: "client " + r.GetId(), typ: "client", owner: b.ID}); err != nil {
		return nil, err
	}
	c, secret, err := s.Directory.CreateClient(ctx, b, directory.NewClient{ID: r.GetId(), Kind: r.GetKind(), Redirects: r.GetRedirectUris(),
		PostLogout: r.GetPostLogoutUris(), Tags: r.GetTags(), Allow: r.GetAllow()})
	if err != nil {
		return nil, err
	}
	return &mciasv1.ClientCreateResponse{Client: clientOut(c), ClientSecret: secret, Issuer: s.Issuer}, nil
}

// Get returns a client.
func (s clientServer) Get(ctx context.Context, r *mciasv1.ClientGetRequest) (*mciasv1.ClientGetResponse, error) {
	c, err := s.mayTouch(ctx, "clients:read", r.GetId())
	if err != nil {
		return nil, err
	}
	return &mciasv1.ClientGetResponse{Client: clientOut(c), Issuer: s.Issuer}, nil
}

// List returns clients by id.
func (s clientServer) List(ctx context.Context, r *mciasv1.ClientListRequest) (*mciasv1.ClientListResponse, error) {
	if err := s.may(ctx, "clients:list", resource{name: "clients", typ: "client"}); err != nil {
		return nil, err
	}
	p, err := page.Parse(r.GetPageSize(), r.GetPageToken(), "clients")
	if err != nil {
		return nil, err
	}
	out := &mciasv1.ClientListResponse{Issuer: s.Issuer}
	err = s.DB.Read(ctx, func(v *db.View) error {
		rows, err := store.Clients(v, p.After(0), p.Limit())
		if err != nil {
			return err
		}
		rows, out.NextPageToken = page.Next(p, rows, func(c *account.Client) []string { return []string{c.ID} })
		for _, c := range rows {
			out.Clients = append(out.Clients, clientOut(c))
		}
		return nil
	})
	return out, err
}

// Update replaces lists.
func (s clientServer) Update(ctx context.Context, r *mciasv1.ClientUpdateRequest) (*mciasv1.ClientUpdateResponse, error) {
	if _, err := s.mayTouch(ctx, "clients:update", r.GetId()); err != nil {
		return nil, err
	}
	c, err := s.Directory.UpdateClient(ctx, by(ctx), r.GetId(), r.GetFields(), r.GetRedirectUris(), r.GetPostLogoutUris(), r.GetTags())
	if err != nil {
		return nil, err
	}
	return &mciasv1.ClientUpdateResponse{Client: clientOut(c)}, nil
}

// RotateSecret makes a new secret.
func (s clientServer) RotateSecret(ctx context.Context, r *mciasv1.ClientRotateSecretRequest) (*mciasv1.ClientRotateSecretResponse, error) {
	if _, err := s.mayTouch(ctx, "clients:update", r.GetId()); err != nil {
		return nil, err
	}
	secret, err := s.Directory.RotateSecret(ctx, by(ctx), r.GetId())
	if err != nil {
		return nil, err
	}
	return &mciasv1.ClientRotateSecretResponse{ClientId: r.GetId(), ClientSecret: secret, Issuer: s.Issuer}, nil
}

// SetEnabled opens or closes a client.
func (s clientServer) SetEnabled(ctx context.Context, r *mciasv1.ClientSetEnabledRequest) (*mciasv1.ClientSetEnabledResponse, error) {
	if _, err := s.mayTouch(ctx, "clients:update", r.GetId()); err != nil {
		return nil, err
	}
	c, err := s.Directory.SetClientEnabled(ctx, by(ctx), r.GetId(), r.GetEnabled())
	if err != nil {
		return nil, err
	}
	return &mciasv1.ClientSetEnabledResponse{Client: clientOut(c)}, nil
}

// Delete removes a client.
func (s clientServer) Delete(ctx context.Context, r *mciasv1.ClientDeleteRequest) (*mciasv1.ClientDeleteResponse, error) {
	if _, err := s.mayTouch(ctx, "clients:delete", r.GetId()); err != nil {
		return nil, err
	}
	removed, err := s.Directory.DeleteClient(ctx, by(ctx), r.GetId())
	return &mciasv1.ClientDeleteResponse{RulesRemoved: removed}, err
}
