package rpc

import (
	"context"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/page"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/authn"
	"metacircular.net/mcias/internal/session"
	"metacircular.net/mcias/internal/store"
)

type authServer struct {
	mciasv1.UnimplementedAuthServer
	*Servers
}

// Login opens a session and, for named audiences, mints.
func (s authServer) Login(ctx context.Context, r *mciasv1.LoginRequest) (*mciasv1.LoginResponse, error) {
	if len(r.GetUsername()) > 1024 || len(r.GetPassword()) > account.MaxPassword {
		return nil, fault.Field1("password", "longer than %d bytes", account.MaxPassword)
	}
	if err := s.Minter.CheckClock(); err != nil {
		return nil, err
	}
	ip := auth.Client(ctx)
	kind := session.CLI
	if fromPage(ctx) {
		kind = session.Browser
	}
	o, err := s.Authn.Login(ctx, authn.Attempt{Name: r.GetUsername(), Password: r.GetPassword(), IP: ip, UA: userAgent(ctx), Kind: kind})
	if err != nil {
		return nil, err
	}
	out := opened(o)
	if len(r.GetAudiences()) == 0 {
		return out, nil
	}
	m, err := s.Minter.BySession(ctx, o.Secret, r.GetAudiences(), ip)
	if err != nil {
		// The session stands; the caller has no way to use it without its secret, so it is ended again.
		if eerr := s.Directory.EndSession(ctx, audit.By{Name: o.Account.Name, IP: ip}, o.Session.SID, o.Account.ID, false); eerr != nil {
			return nil, eerr
		}
		return nil, err
	}
	out.Token, out.ExpiresAt = m.Token, stamp(m.Expires)
	return out, nil
}

func opened(o *authn.Opened) *mciasv1.LoginResponse {
	return &mciasv1.LoginResponse{Session: o.Secret, SessionExpiresAt: stamp(o.Session.Expires), Sid: o.Session.SID,
		AccountId: o.Account.ID, Username: o.Account.Name}
}

// RedeemSetupLink sets the password of the link's account.
func (s authServer) RedeemSetupLink(ctx context.Context, r *mciasv1.RedeemSetupLinkRequest) (*mciasv1.RedeemSetupLinkResponse, error) {
	name, err := s.Directory.LinkAccount(ctx, r.GetLink())
	if err != nil {
		return nil, err
	}
	phc, err := s.Authn.HashNew(ctx, name, r.GetPassword(), auth.Client(ctx))
	if err != nil {
		return nil, err
	}
	name, err = s.Directory.Redeem(ctx, r.GetLink(), phc, audit.By{IP: auth.Client(ctx)})
	if err != nil {
		return nil, err
	}
	return &mciasv1.RedeemSetupLinkResponse{Username: name}, nil
}

// live returns the caller's own session.
func (s authServer) live(ctx context.Context) (*session.Live, error) {
	c, err := person(ctx)
	if err != nil {
		return nil, err
	}
	return s.Sessions.BySID(ctx, c.SID)
}

// Reauthenticate renews the session's proof.
func (s authServer) Reauthenticate(ctx context.Context, r *mciasv1.ReauthenticateRequest) (*mciasv1.ReauthenticateResponse, error) {
	live, err := s.live(ctx)
	if err != nil {
		return nil, err
	}
	o, err := s.Authn.Reauthenticate(ctx, live, r.GetPassword(), auth.Client(ctx), userAgent(ctx))
	if err != nil {
		return nil, err
	}
	return &mciasv1.ReauthenticateResponse{Session: o.Secret, SessionExpiresAt: stamp(o.Session.Expires), Sid: o.Session.SID}, nil
}

// Logout ends the session of the caller's token.
func (s authServer) Logout(ctx context.Context, _ *mciasv1.LogoutRequest) (*mciasv1.LogoutResponse, error) {
	c, err := person(ctx)
	if err != nil {
		return nil, err
	}
	err = s.Directory.EndSession(ctx, by(ctx), c.SID, c.Subject, false)
	if fault.Is(err, fault.NotFound) {
		err = nil // it is over already
	}
	return &mciasv1.LogoutResponse{}, err
}

// ChangePassword replaces the caller's password.
func (s authServer) ChangePassword(ctx context.Context, r *mciasv1.ChangePasswordRequest) (*mciasv1.ChangePasswordResponse, error) {
	live, err := s.live(ctx)
	if err != nil {
		return nil, err
	}
	n, err := s.Authn.ChangePassword(ctx, live, r.GetOldPassword(), r.GetNewPassword(), auth.Client(ctx))
	if err != nil {
		return nil, err
	}
	return &mciasv1.ChangePasswordResponse{SessionsEnded: int32(n)}, nil //nolint:gosec // at most 100
}

// ListSessions lists the caller's sessions; others' need sessions:list.
func (s authServer) ListSessions(ctx context.Context, r *mciasv1.ListSessionsRequest) (*mciasv1.ListSessionsResponse, error) {
	c := auth.From(ctx)
	want := c.Subject
	if r.GetAll() || r.GetAccount() != "" && r.GetAccount() != c.Name || c.Kind == auth.Socket {
		if err := s.may(ctx, "sessions:list", resource{name: "sessions"}); err != nil {
			return nil, err
		}
		want = ""
		if r.GetAccount() != "" {
			a, err := s.Directory.Find(ctx, r.GetAccount())
			if err != nil {
				return nil, err
			}
			want = a.ID
		}
	}
	p, err := page.Parse(r.GetPageSize(), r.GetPageToken(), "sessions", want)
	if err != nil {
		return nil, err
	}
	out := &mciasv1.ListSessionsResponse{}
	err = s.DB.Read(ctx, func(v *db.View) error {
		rows, err := store.Sessions(v, want, p.After(0), p.Limit())
		if err != nil {
			return err
		}
		rows, out.NextPageToken = page.Next(p, rows, func(x *store.Session) []string { return []string{x.SID} })
		for _, x := range rows {
			a, err := store.AccountByID(v, x.Account)
			if err != nil {
				return err
			}
			out.Sessions = append(out.Sessions, &mciasv1.SessionRecord{Sid: x.SID, Account: a.Name, Kind: x.Kind, Amr: x.AMR, AuthTime: stamp(x.AuthTime),
				LastSeen: stamp(x.LastSeen), ExpiresAt: stamp(x.Expires), Ip: x.IP, UserAgent: x.UA, Current: x.SID == c.SID})
		}
		return nil
	})
	return out, err
}

// EndSession ends one session.
func (s authServer) EndSession(ctx context.Context, r *mciasv1.EndSessionRequest) (*mciasv1.EndSessionResponse, error) {
	c := auth.From(ctx)
	err := s.Directory.EndSession(ctx, by(ctx), r.GetSid(), c.Subject, false)
	if fault.Is(err, fault.NotFound) && s.may(ctx, "sessions:manage", resource{name: "session " + r.GetSid()}) == nil {
		err = s.Directory.EndSession(ctx, by(ctx), r.GetSid(), "", true)
	}
	if err != nil {
		return nil, err
	}
	return &mciasv1.EndSessionResponse{Seq: s.Hub.Seq()}, nil
}

// ListGrants lists the apps the caller is signed in to.
func (s authServer) ListGrants(ctx context.Context, _ *mciasv1.ListGrantsRequest) (*mciasv1.ListGrantsResponse, error) {
	c, err := person(ctx)
	if err != nil {
		return nil, err
	}
	out := &mciasv1.ListGrantsResponse{}
	err = s.DB.Read(ctx, func(v *db.View) error {
		rows, err := store.Grants(v, c.Subject, "")
		if err != nil {
			return err
		}
		for _, g := range rows {
			out.Grants = append(out.Grants, &mciasv1.GrantRecord{Id: g.ID, ClientId: g.Client, Scopes: g.Scopes, Sid: g.SID, CreatedAt: stamp(g.Created)})
		}
		return nil
	})
	return out, err
}

// RevokeGrant takes an app's access away.
func (s authServer) RevokeGrant(ctx context.Context, r *mciasv1.RevokeGrantRequest) (*mciasv1.RevokeGrantResponse, error) {
	c := auth.From(ctx)
	err := s.Directory.RevokeGrant(ctx, by(ctx), r.GetId(), c.Subject, false)
	if fault.Is(err, fault.NotFound) && s.may(ctx, "sessions:manage", resource{name: "grant " + r.GetId()}) == nil {
		err = s.Directory.RevokeGrant(ctx, by(ctx), r.GetId(), "", true)
	}
	if err != nil {
		return nil, err
	}
	return &mciasv1.RevokeGrantResponse{Seq: s.Hub.Seq()}, nil
}
