package mctest

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
)

// heartbeat is how often the fake's streams say that they live.
const heartbeat = time.Second

// Watch implements the contract.
func (f *MCIAS) Watch(stream grpc.BidiStreamingServer[mciasv1.WatchRequest, mciasv1.WatchResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "hello comes first")
	}
	f.mu.Lock()
	_, err = f.assertion(hello.GetAssertion())
	f.mu.Unlock()
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	refresh := make(chan struct{}, 1)
	gone := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				gone <- err
				return
			}
			if ack := m.GetAck(); ack != nil {
				f.mu.Lock()
				f.acks[hello.GetService()] = max(f.acks[hello.GetService()], ack.GetSeq())
				f.mu.Unlock()
			}
			if m.GetRefresh() != nil {
				select {
				case refresh <- struct{}{}:
				default:
				}
			}
		}
	}()
	w := &watcher{f: f, streamID: hello.GetStreamId(), seq: hello.GetLastSeq(), digest: hello.GetKeysetDigest()}
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		m, wake := w.next(false)
		for m != nil {
			if err := stream.Send(m); err != nil {
				return err
			}
			m, wake = w.next(false)
		}
		select {
		case <-wake:
		case <-refresh:
			if m, _ := w.next(true); m != nil {
				if err := stream.Send(m); err != nil {
					return err
				}
			}
		case <-tick.C:
			if m := w.beat(); m != nil {
				if err := stream.Send(m); err != nil {
					return err
				}
			}
		case err := <-gone:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// watcher is how far one stream is.
type watcher struct {
	f        *MCIAS
	streamID string
	seq      int64
	digest   string
}

// next returns what the stream must send, nil for nothing, and the channel that tells of the next change.
func (w *watcher) next(keys bool) (*mciasv1.WatchResponse, <-chan struct{}) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	f := w.f
	set := f.keySet()
	switch {
	case f.paused:
		return nil, f.changed
	case w.streamID != f.streamID || w.seq > f.seq:
		w.streamID, w.seq, w.digest = f.streamID, f.seq, set.GetDigest()
		snap := &mciasv1.WatchSnapshot{StreamId: f.streamID, Seq: f.seq, Keys: set, Revocations: slices.Clone(f.rows), Time: f.time()}
		if f.maxStale > 0 {
			snap.MaxStale = durationpb.New(f.maxStale)
		}
		return &mciasv1.WatchResponse{Message: &mciasv1.WatchResponse_Snapshot{Snapshot: snap}}, f.changed
	case w.seq < f.seq || w.digest != set.GetDigest() || keys:
		d := &mciasv1.WatchDelta{StreamId: f.streamID, PrevSeq: w.seq, Seq: f.seq, Time: f.time(), Keys: set}
		for _, r := range f.rows {
			if r.GetSeq() > w.seq {
				d.Revocations = append(d.Revocations, r)
			}
		}
		w.seq, w.digest = f.seq, set.GetDigest()
		return &mciasv1.WatchResponse{Message: &mciasv1.WatchResponse_Delta{Delta: d}}, f.changed
	}
	return nil, f.changed
}

func (w *watcher) beat() *mciasv1.WatchResponse {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if w.f.paused {
		return nil
	}
	return &mciasv1.WatchResponse{Message: &mciasv1.WatchResponse_Heartbeat{Heartbeat: &mciasv1.WatchHeartbeat{
		Seq: w.f.seq, KeysetDigest: w.f.keySet().GetDigest(), Time: w.f.time()}}}
}

func (f *MCIAS) time() *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(f.skew)) }

// assertion checks a service assertion and returns the account. f.mu is held.
func (f *MCIAS) assertion(token string) (*account, error) {
	bad := fault.New(fault.Unauthenticated, "assertion refused")
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return nil, bad
	}
	for _, a := range f.accounts {
		if a.kid != jws.Signatures[0].Header.KeyID {
			continue
		}
		payload, err := jws.Verify(a.key.Public().(ed25519.PublicKey))
		if err != nil {
			return nil, bad
		}
		var c struct {
			Iss, Sub, Jti string
			Aud           []string
			Iat, Exp      int64
		}
		if json.Unmarshal(payload, &c) != nil || c.Iss != a.claims["name"] || c.Sub != c.Iss || c.Jti == "" || f.seen[c.Jti] ||
			len(c.Aud) != 1 || c.Aud[0] != f.Issuer || c.Exp-c.Iat > 60 || time.Now().Unix() > c.Exp {
			return nil, bad
		}
		f.seen[c.Jti] = true
		return a, nil
	}
	return nil, bad
}

// Mint implements the contract for assertion, grant and exchange.
func (f *MCIAS) Mint(_ context.Context, req *mciasv1.MintRequest) (*mciasv1.MintResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp, err := f.mint(req)
	if err != nil {
		return nil, fault.Status(err, fault.Origin{Service: "mcias"}).Err()
	}
	f.minted++
	return resp, nil
}

func (f *MCIAS) mint(req *mciasv1.MintRequest) (*mciasv1.MintResponse, error) {
	if f.sealed {
		return nil, fault.New(fault.Unavailable, "MCIAS is sealed").WithReason(auth.ReasonSealed).WithNext("mcias unseal")
	}
	aud := req.GetAudiences()
	var c Claims
	grant := ""
	switch cred := req.GetCredential().(type) {
	case *mciasv1.MintRequest_Assertion:
		a, err := f.assertion(cred.Assertion)
		if err != nil {
			return nil, err
		}
		c = a.claims
	case *mciasv1.MintRequest_Grant:
		a, err := f.assertion(cred.Grant.GetAssertion())
		if err != nil {
			return nil, err
		}
		grant = cred.Grant.GetGrantId() + cred.Grant.GetAccessToken()
		var ok bool
		if c, ok = f.grants[grant]; !ok {
			return nil, fault.New(fault.Unauthenticated, "no such grant").WithReason("GRANT")
		}
		aud = []string{a.claims["name"].(string)}
	case *mciasv1.MintRequest_Token:
		if _, err := f.assertion(cred.Token.GetAssertion()); err != nil {
			return nil, err
		}
		var ok bool
		if c, ok = f.presented(cred.Token.GetToken()); !ok {
			return nil, fault.New(fault.Unauthenticated, "token refused")
		}
	default:
		return nil, fault.New(fault.Invalid, "this credential is not faked")
	}
	if len(aud) == 0 {
		return nil, fault.Field1("audiences", "name one")
	}
	if f.deny != nil {
		name, _ := c["name"].(string)
		for _, a := range aud {
			if err := f.deny(name, a); err != nil {
				return nil, err
			}
		}
	}
	c = c.For(aud...)
	exp := time.Now().Add(f.skew).Add(time.Hour)
	if c["typ"] == "human" {
		exp = time.Now().Add(f.skew).Add(10 * time.Minute)
	}
	c = c.Expires(exp)
	return &mciasv1.MintResponse{Token: f.token(c), ExpiresAt: timestamppb.New(exp.Truncate(time.Second)), GrantId: grant, Outcome: "allow", RuleId: "fake"}, nil
}

// presented returns the claims of a token of ours. f.mu is held.
func (f *MCIAS) presented(token string) (Claims, bool) {
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return nil, false
	}
	for _, k := range f.keys {
		if payload, err := jws.Verify(k.priv.Public().(ed25519.PublicKey)); err == nil {
			c := Claims{}
			if json.Unmarshal(payload, &c) != nil {
				return nil, false
			}
			delete(c, "jti")
			return c, true
		}
	}
	return nil, false
}

// registryToken serves the token realm that docker and its kin use (wire format: mcr).
func (f *MCIAS) registryToken(w http.ResponseWriter, r *http.Request) {
	user, secret, ok := r.BasicAuth()
	if err := r.ParseForm(); err != nil {
		http.Error(w, "form", http.StatusBadRequest)
		return
	}
	if r.Method == http.MethodPost && !ok {
		user, secret, ok = r.PostForm.Get("username"), r.PostForm.Get("password"), r.PostForm.Get("grant_type") == "password"
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sealed {
		http.Error(w, "sealed", http.StatusServiceUnavailable)
		return
	}
	var c Claims
	if ok && f.realm != nil {
		if u, err := url.QueryUnescape(user); err == nil {
			user = u
		}
		var err error
		if c, err = f.realm(user, secret); err != nil {
			ok = false
		}
	}
	if !ok || f.realm == nil {
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
		return
	}
	scopes, err := auth.ParseScopes(r.Form["scope"]...)
	if err != nil {
		http.Error(w, "scope", http.StatusBadRequest)
		return
	}
	if scopes == nil {
		scopes = []auth.Scope{}
	}
	now := time.Now().Add(f.skew)
	token := f.token(c.For("mcr").With("access", scopes).Expires(now.Add(5 * time.Minute)))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 300, "issued_at": now.UTC().Format(time.RFC3339)})
}
