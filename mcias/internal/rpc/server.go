package rpc

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/gateway"
	"metacircular.net/mcdsl/log"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/authn"
	"metacircular.net/mcias/internal/directory"
	"metacircular.net/mcias/internal/mint"
	"metacircular.net/mcias/internal/policy"
	"metacircular.net/mcias/internal/revoke"
	"metacircular.net/mcias/internal/session"
	"metacircular.net/mcias/internal/token"
	"metacircular.net/mcias/internal/vault"
)

// Config of the servers.
type Config struct {
	DB        *db.DB
	Clock     clock.Clock
	Log       *slog.Logger
	Authn     *authn.Authn
	Sessions  *session.Sessions
	Directory *directory.Directory
	Minter    *mint.Minter
	Keys      *token.Keys
	Vault     *vault.Vault
	Hub       *revoke.Hub
	Killer    revoke.Killer
	Issuer    string
	// Done is closed when the process ends: open Watch streams stop.
	Done <-chan struct{}
}

// Servers are the implementations of all services.
type Servers struct {
	Config
	seen *seen
}

// New returns the implementations.
func New(cfg Config) *Servers {
	cfg.Clock, cfg.Log = clock.Or(cfg.Clock), log.Or(cfg.Log)
	return &Servers{Config: cfg, seen: newSeen()}
}

// Register registers them.
func (s *Servers) Register(r grpc.ServiceRegistrar) {
	mciasv1.RegisterAuthServer(r, authServer{Servers: s})
	mciasv1.RegisterAccountServer(r, accountServer{Servers: s})
	mciasv1.RegisterTokenServer(r, tokenServer{Servers: s})
	mciasv1.RegisterWatchServer(r, watchServer{Servers: s})
	mciasv1.RegisterServiceAccountServer(r, serviceServer{Servers: s})
	mciasv1.RegisterPolicyServer(r, policyServer{Servers: s})
	mciasv1.RegisterClientServer(r, clientServer{Servers: s})
	mciasv1.RegisterAuditServer(r, auditServer{Servers: s})
	mciasv1.RegisterKeyServer(r, keyServer{Servers: s})
	mciasv1.RegisterVaultServer(r, vaultServer{Servers: s})
}

// REST returns the generated handlers.
func REST() []gateway.Register {
	return []gateway.Register{mciasv1.RegisterAuthHandler, mciasv1.RegisterAccountHandler, mciasv1.RegisterTokenHandler,
		mciasv1.RegisterWatchHandler, mciasv1.RegisterServiceAccountHandler, mciasv1.RegisterPolicyHandler, mciasv1.RegisterClientHandler,
		mciasv1.RegisterAuditHandler, mciasv1.RegisterKeyHandler, mciasv1.RegisterVaultHandler}
}

// by says who acts, from the verified caller.
func by(ctx context.Context) audit.By {
	c := auth.From(ctx)
	b := audit.By{ID: c.Subject, Name: c.String(), Admin: c.HasRole(auth.RoleAdmin), IP: auth.Client(ctx)}
	if c.Kind == auth.Socket {
		b.ID = ""
	}
	if !c.Known() {
		b.Name = "unknown"
	}
	return b
}

// resource is what a decision is about, beside the action.
type resource struct {
	name  string
	typ   string
	owner string // account id
}

// may asks policy whether the caller may do something and records the answer.
func (s *Servers) may(ctx context.Context, action string, res resource) error {
	c := auth.From(ctx)
	q := policy.Request{Action: action, Service: policy.Self, ClientKind: policy.KindService, Account: c.Name, AccountID: c.Subject,
		AccountType: string(c.Kind), Roles: c.Roles, AccountTags: c.Tags, ResourceType: res.typ, ResourceOwner: res.owner,
		IP: auth.Client(ctx), Time: s.Clock.Now(), AMR: c.AMR, AuthTime: c.AuthTime}
	d := s.Directory.Policy().Decide(q)
	why := "rule " + d.Rule()
	if len(d.Deciding) == 0 {
		why = "no rule allows it"
	}
	err := auth.Decide(ctx, action, res.name, d.Allowed(), why)
	if err != nil && d.Outcome == policy.OutcomeStepUp {
		return authn.Refusal(d, c.Name, policy.Self)
	}
	return err
}

// person refuses callers that have no session of their own.
func person(ctx context.Context) (auth.Caller, error) {
	c := auth.From(ctx)
	if c.Kind != auth.Human {
		return c, fault.New(fault.Precondition, "only people have sessions; you are %s", c).WithReason("NO_SESSION")
	}
	return c, nil
}

// fromPage reports whether one of our own pages calls. The metadata is believed in process alone; it is stripped from
// every other transport.
func fromPage(ctx context.Context) bool {
	md, _ := metadata.FromIncomingContext(ctx)
	v := md.Get("mc-session-kind")
	return len(v) == 1 && v[0] == session.Browser
}

// userAgent returns what the client calls itself.
func userAgent(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, k := range []string{"mc-user-agent", "grpcgateway-user-agent", "user-agent"} {
		if v := md.Get(k); len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func instant(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// overSocket reports whether a call came over the Unix socket.
func overSocket(ctx context.Context) bool {
	c := auth.CallFrom(ctx)
	return c != nil && c.Transport == auth.OverUnix
}
