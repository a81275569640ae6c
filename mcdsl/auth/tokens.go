package auth

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"metacircular.net/mcdsl/clock"
)

const (
	renewTime   = 5 * time.Second  // for one attempt while the old token still works
	forcedPause = 10 * time.Second // between renewals because a peer refused the token
)

// TokenSource keeps this service's token for one audience: fetched at first use, renewed after two thirds of its
// life, one request at a time. While MCIAS is away the old one is used to its end. It is gRPC per-RPC
// credentials, and only for connections with TLS. Safe for concurrent use.
type TokenSource struct {
	minter   *Minter
	audience string
	clock    clock.Clock
	lock     chan struct{} // held by whoever renews; guards all below
	now      chan current  // holds the present value
}

type current struct {
	token           string
	expires, renew  time.Time
	forced, retryAt time.Time
}

// Tokens returns the source of this service's tokens for an audience, over a connection to MCIAS.
func Tokens(key *ServiceKey, conn grpc.ClientConnInterface, audience string) *TokenSource {
	t := &TokenSource{minter: NewMinter(conn, key), audience: audience, clock: clock.System(),
		lock: make(chan struct{}, 1), now: make(chan current, 1)}
	t.now <- current{}
	return t
}

func (t *TokenSource) load() current {
	c := <-t.now
	t.now <- c
	return c
}

func (t *TokenSource) store(c current) {
	<-t.now
	t.now <- c
}

// Token returns a token that is good now.
func (t *TokenSource) Token(ctx context.Context) (string, error) {
	c, now := t.load(), t.clock.Now()
	usable := c.token != "" && now.Before(c.expires)
	if usable && (now.Before(c.renew) || now.Before(c.retryAt)) {
		return c.token, nil
	}
	if usable {
		select {
		case t.lock <- struct{}{}: // this call renews; others go on with the old one
		default:
			return c.token, nil
		}
		defer func() { <-t.lock }()
		ctx, cancel := context.WithTimeout(ctx, renewTime)
		defer cancel()
		if token, err := t.renew(ctx, c); err == nil {
			return token, nil
		}
		c.retryAt = now.Add(firstPause*10 + rand.N(longPause)) //nolint:gosec // spread, not secrecy
		t.store(c)
		return c.token, nil
	}
	select {
	case t.lock <- struct{}{}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	defer func() { <-t.lock }()
	if c := t.load(); c.token != "" && t.clock.Now().Before(c.expires) {
		return c.token, nil // somebody else fetched it while we waited
	}
	return t.renew(ctx, c)
}

// renew fetches a token. t.lock is held.
func (t *TokenSource) renew(ctx context.Context, c current) (string, error) {
	m, err := t.minter.Service(ctx, t.audience)
	if err != nil {
		return "", err
	}
	now := t.clock.Now()
	life := m.Expires.Sub(now)
	// Two thirds, give or take a tenth of the life, so that a platform's services don't come all at once.
	share := 2.0/3 - 0.1 + 0.2*rand.Float64() //nolint:gosec // spread, not secrecy
	t.store(current{token: m.Token, expires: m.Expires, renew: now.Add(time.Duration(float64(life) * share)), forced: c.forced})
	return m.Token, nil
}

// Refused says that a peer did not accept this token. It fetches another, at most every 10 s, and reports
// whether trying again makes sense.
func (t *TokenSource) Refused(ctx context.Context, token string) bool {
	select {
	case t.lock <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-t.lock }()
	c, now := t.load(), t.clock.Now()
	if c.token != token {
		return c.token != ""
	}
	if now.Sub(c.forced) < forcedPause {
		return false
	}
	c.forced = now
	t.store(c)
	_, err := t.renew(ctx, c)
	return err == nil
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (t *TokenSource) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := t.Token(ctx)
	if err != nil {
		st := status.Convert(err)
		if st.Code() == codes.Unknown {
			st = status.New(codes.Unavailable, err.Error())
		}
		return nil, st.Err()
	}
	return map[string]string{mdToken: "Bearer " + token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: a token travels under TLS only.
func (t *TokenSource) RequireTransportSecurity() bool { return true }

var _ credentials.PerRPCCredentials = (*TokenSource)(nil)

// Unary makes one more try with a fresh token when a peer says Unauthenticated. Dial installs it.
func (t *TokenSource) Unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	used := t.load().token
	err := invoke(ctx, method, req, reply, cc, opts...)
	if status.Code(err) != codes.Unauthenticated || used == "" || !t.Refused(ctx, used) {
		return err
	}
	return invoke(ctx, method, req, reply, cc, opts...)
}

// WithToken returns a context whose calls show this token: for a caller's exchanged token, on connections with
// TLS and without credentials of their own.
func WithToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, mdToken, "Bearer "+token)
}
