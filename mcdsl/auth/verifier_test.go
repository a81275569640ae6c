package auth_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/mctest"
)

func TestNegativeTokens(t *testing.T) {
	t.Parallel()
	idp := mctest.NewMCIAS(t, mctest.NewCA(t))
	v := idp.Verifier(t, "mcns")
	now := time.Now()
	good := mctest.Human("alice", "user").For("mcns")
	kid := idp.KeyID()
	payload := func(change func(map[string]any)) []byte {
		m := map[string]any{"iss": idp.Issuer, "sub": "id-alice", "name": "alice", "aud": []string{"mcns"}, "iat": now.Unix(), "nbf": now.Unix(),
			"exp": now.Add(time.Minute).Unix(), "jti": "j", "sid": "s", "typ": "human", "ep": 1}
		if change != nil {
			change(m)
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	h := func(kv ...any) map[string]any {
		m := map[string]any{"typ": "at+jwt", "alg": "EdDSA", "kid": kid}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i].(string)] = kv[i+1]
		}
		return m
	}
	if _, err := v.Verify(idp.Sign(h(), payload(nil))); err != nil {
		t.Fatalf("the good token: %v", err)
	}
	other := mctest.NewMCIAS(t, mctest.NewCA(t))
	tok := idp.Token(good)
	parts := strings.Split(tok, ".")
	stray := func(s string) string { // another spelling of the last character's unused bits
		const abc = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		return s[:len(s)-1] + string(abc[strings.IndexByte(abc, s[len(s)-1])^1])
	}
	tests := []struct{ name, token, reason string }{
		{"empty", "", auth.ReasonBadToken},
		{"alg none", idp.Sign(h("alg", "none"), payload(nil)), auth.ReasonBadToken},
		{"alg HS256", idp.Sign(h("alg", "HS256"), payload(nil)), auth.ReasonBadToken},
		{"alg RS256", idp.Sign(h("alg", "RS256"), payload(nil)), auth.ReasonBadToken},
		{"alg Ed25519", idp.Sign(h("alg", "Ed25519"), payload(nil)), auth.ReasonBadToken},
		{"typ JWT", idp.Sign(h("typ", "JWT"), payload(nil)), auth.ReasonBadToken},
		{"typ AT+JWT", idp.Sign(h("typ", "AT+JWT"), payload(nil)), auth.ReasonBadToken},
		{"no typ", idp.SignRaw([]byte(`{"alg":"EdDSA","kid":"`+kid+`"}`), payload(nil)), auth.ReasonBadToken},
		{"no kid", idp.SignRaw([]byte(`{"alg":"EdDSA","typ":"at+jwt"}`), payload(nil)), auth.ReasonBadToken},
		{"unknown kid", idp.Sign(h("kid", "nobody"), payload(nil)), auth.ReasonBadToken},
		{"crit", idp.Sign(h("crit", []string{"exp"}), payload(nil)), auth.ReasonBadToken},
		{"jku", idp.Sign(h("jku", "https://evil"), payload(nil)), auth.ReasonBadToken},
		{"jwk", idp.Sign(h("jwk", map[string]string{"kty": "OKP"}), payload(nil)), auth.ReasonBadToken},
		{"x5c", idp.Sign(h("x5c", []string{"AA"}), payload(nil)), auth.ReasonBadToken},
		{"x5u", idp.Sign(h("x5u", "https://evil"), payload(nil)), auth.ReasonBadToken},
		{"b64", idp.Sign(h("b64", false), payload(nil)), auth.ReasonBadToken},
		{"case-twisted alg", idp.SignRaw([]byte(`{"Alg":"EdDSA","typ":"at+jwt","kid":"`+kid+`"}`), payload(nil)), auth.ReasonBadToken},
		{"duplicate header", idp.SignRaw([]byte(`{"alg":"EdDSA","alg":"EdDSA","typ":"at+jwt","kid":"`+kid+`"}`), payload(nil)), auth.ReasonBadToken},
		{"header not an object", idp.SignRaw([]byte(`[]`), payload(nil)), auth.ReasonBadToken},
		{"duplicate claim", idp.Sign(h(), []byte(strings.Replace(string(payload(nil)), `"sub":`, `"sub":"id-bob","sub":`, 1))), auth.ReasonBadToken},
		{"case-twisted exp", idp.Sign(h(), payload(func(m map[string]any) { m["EXP"] = m["exp"]; delete(m, "exp") })), auth.ReasonBadToken},
		{"claims not an object", idp.Sign(h(), []byte(`"x"`)), auth.ReasonBadToken},
		{"exp a string", idp.Sign(h(), payload(func(m map[string]any) { m["exp"] = "never" })), auth.ReasonBadToken},
		{"exp absurd", idp.Sign(h(), payload(func(m map[string]any) { m["exp"] = int64(1) << 62 })), auth.ReasonBadToken},
		{"other audience", idp.Token(good.For("mcr")), auth.ReasonBadToken},
		{"audience prefix", idp.Token(good.For("mcns2")), auth.ReasonBadToken},
		{"no audience", idp.Token(good.For()), auth.ReasonBadToken},
		{"other issuer", idp.Token(good.With("iss", "https://evil")), auth.ReasonBadToken},
		{"issuer with slash", idp.Token(good.With("iss", idp.Issuer+"/")), auth.ReasonBadToken},
		{"other's key", other.Token(good.With("iss", idp.Issuer)), auth.ReasonBadToken},
		{"kind unknown", idp.Token(good.With("typ", "robot")), auth.ReasonBadToken},
		{"kind local", idp.Token(good.With("typ", "local")), auth.ReasonBadToken},
		{"expired", idp.Token(good.Expires(now.Add(-6 * time.Second))), auth.ReasonExpired},
		{"from the future", idp.Token(good.With("iat", now.Add(2*time.Minute).Unix())), auth.ReasonBadToken},
		{"not before the future", idp.Token(good.With("nbf", now.Add(2*time.Minute).Unix())), auth.ReasonBadToken},
		{"truncated", tok[:len(tok)-2], auth.ReasonBadToken},
		{"two parts", parts[0] + "." + parts[1], auth.ReasonBadToken},
		{"four parts", tok + ".x", auth.ReasonBadToken},
		{"empty signature", parts[0] + "." + parts[1] + ".", auth.ReasonBadToken},
		{"other signature", parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])), auth.ReasonBadToken},
		{"stray bits", parts[0] + "." + parts[1] + "." + stray(parts[2]), auth.ReasonBadToken},
		{"padding", tok + "=", auth.ReasonBadToken},
		{"line break", parts[0] + "." + parts[1] + "." + parts[2][:4] + "\n" + parts[2][4:], auth.ReasonBadToken},
		{"standard alphabet", strings.ReplaceAll(strings.ReplaceAll(tok, "-", "+"), "_", "/") + "+", auth.ReasonBadToken},
		{"over-long", tok + strings.Repeat("A", auth.MaxToken), auth.ReasonBadToken},
		{"dots", strings.Repeat(".", auth.MaxToken), auth.ReasonBadToken},
	}
	for _, claim := range []string{"iss", "sub", "aud", "iat", "nbf", "exp", "jti", "sid", "typ", "ep"} {
		tests = append(tests, struct{ name, token, reason string }{"without " + claim, idp.Token(good.With(claim, nil)), auth.ReasonBadToken})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := v.Verify(tt.token)
			if f := fault.From(err); f == nil || f.Kind != fault.Unauthenticated || f.Reason != tt.reason {
				t.Fatalf("Verify = %v, %v, want Unauthenticated %s", c, err, tt.reason)
			}
			if c.Known() {
				t.Error("a refused token made a caller")
			}
			if err != nil && tt.token != "" && len(tt.token) > 40 && strings.Contains(err.Error(), tt.token[:40]) {
				t.Error("the error shows the token")
			}
		})
	}
}

func TestCallerOfToken(t *testing.T) {
	t.Parallel()
	idp := mctest.NewMCIAS(t, mctest.NewCA(t))
	v := idp.Verifier(t, "mcr")
	c, err := v.Verify(idp.Token(mctest.System("mcp", "core").For("mcr").With("roles", []string{"admin"})))
	if err != nil {
		t.Fatal(err)
	}
	if c.Kind != auth.System || c.HasRole("admin") || !c.HasTag("core") || c.String() != "system:mcp" {
		t.Errorf("caller = %+v; a system account must carry no role", c)
	}
	c, err = v.Verify(idp.Token(mctest.Human("bob", "user").For("mcr").With("access", []auth.Scope{{Type: "repository", Name: "a/b", Actions: []string{"pull"}}})))
	if err != nil {
		t.Fatal(err)
	}
	if !c.Permits("repository", "a/b", "pull") || c.Permits("repository", "a/b", "push") || !c.Scoped() {
		t.Errorf("access = %+v", c.Access)
	}
	if err := auth.Authenticated().Admit(c, time.Now()); !fault.HasReason(err, "SCOPED_TOKEN") {
		t.Errorf("a registry token passed an ordinary rule: %v", err)
	}
	if err := auth.Policy("pull").WithScoped().Admit(c, time.Now()); err != nil {
		t.Errorf("a registry token was refused by a scoped rule: %v", err)
	}
	c, err = v.Verify(idp.Token(mctest.Human("bob", "user").For("mcr").With("access", []auth.Scope{})))
	if err != nil || !c.Scoped() {
		t.Errorf("an empty access claim must bind, too: %+v, %v", c, err)
	}
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	idp := mctest.NewMCIAS(t, mctest.NewCA(t))
	v := idp.Verifier(t, "mcns")
	alice := mctest.Human("alice", "user").For("mcns")
	kind := func(k mciasv1.RevocationKind, value string, bound int64, aud ...string) *mciasv1.Revocation {
		r := &mciasv1.Revocation{Kind: k, Value: value, Bound: bound}
		if len(aud) > 0 {
			r.Aud = aud[0]
		}
		return r
	}
	past := time.Now().Add(-time.Minute).Unix()
	tests := []struct {
		name string
		c    mctest.Claims
		row  func(tok string) *mciasv1.Revocation
		dies bool
	}{
		{"jti", alice.With("jti", "x1"), func(string) *mciasv1.Revocation { return kind(mciasv1.RevocationKind_REVOCATION_KIND_JTI, "x1", 0) }, true},
		{"sid", alice.Session("x2"), func(string) *mciasv1.Revocation { return kind(mciasv1.RevocationKind_REVOCATION_KIND_SID, "x2", 0) }, true},
		{"sid here", alice.Session("x3"), func(string) *mciasv1.Revocation {
			return kind(mciasv1.RevocationKind_REVOCATION_KIND_SID, "x3", 0, "mcns")
		}, true},
		{"sid elsewhere", alice.Session("x4"), func(string) *mciasv1.Revocation {
			return kind(mciasv1.RevocationKind_REVOCATION_KIND_SID, "x4", 0, "mcr")
		}, false},
		{"epoch below", mctest.Human("carol").For("mcns").With("ep", 4), func(string) *mciasv1.Revocation {
			return kind(mciasv1.RevocationKind_REVOCATION_KIND_SUB, "id-carol", 5)
		}, true},
		{"epoch at bound", mctest.Human("dora").For("mcns").With("ep", 5), func(string) *mciasv1.Revocation {
			return kind(mciasv1.RevocationKind_REVOCATION_KIND_SUB, "id-dora", 5)
		}, false},
		{"key", mctest.System("mcp").For("mcns").Session("key-7"), func(string) *mciasv1.Revocation {
			return kind(mciasv1.RevocationKind_REVOCATION_KIND_KEY, "key-7", 0)
		}, true},
		{"other client", alice, func(string) *mciasv1.Revocation {
			return kind(mciasv1.RevocationKind_REVOCATION_KIND_CLIENT, "mcr", time.Now().Add(time.Hour).Unix())
		}, false},
		{"client before", alice.With("iat", past-10), func(string) *mciasv1.Revocation {
			return kind(mciasv1.RevocationKind_REVOCATION_KIND_CLIENT, "mcns", past)
		}, true},
		{"all before", alice.With("iat", past+5), func(string) *mciasv1.Revocation {
			return kind(mciasv1.RevocationKind_REVOCATION_KIND_ALL, "", past+10)
		}, true},
	}
	for _, tt := range tests { // one after the other: they share the stream
		tok := idp.Token(tt.c)
		if _, err := v.Verify(tok); err != nil {
			t.Fatalf("%s: before: %v", tt.name, err)
		}
		seq := idp.Publish(tt.row(tok))
		mctest.Eventually(t, "the revocation is acknowledged", func() bool { return idp.Acked("mcns") >= seq })
		_, err := v.Verify(tok)
		if dead := fault.HasReason(err, auth.ReasonRevoked); dead != tt.dies {
			t.Errorf("%s: Verify = %v, dies = %v, want %v", tt.name, err, dead, tt.dies)
		}
	}
	// A key that is compromised takes its tokens along.
	tok := idp.Token(alice)
	kid := idp.KeyID()
	if _, err := v.Verify(tok); err != nil {
		t.Fatal(err)
	}
	idp.Rotate()
	seq := idp.Publish(kind(mciasv1.RevocationKind_REVOCATION_KIND_KID, kid, 0))
	mctest.Eventually(t, "the key's end is acknowledged", func() bool { return idp.Acked("mcns") >= seq })
	if _, err := v.Verify(tok); !fault.HasReason(err, auth.ReasonRevoked) {
		t.Errorf("token of a compromised key: %v", err)
	}
	if _, err := v.Verify(idp.Token(alice)); err != nil {
		t.Errorf("token of the new key: %v", err)
	}
}

func TestManyRevocations(t *testing.T) {
	t.Parallel()
	src := &auth.LocalSource{}
	idp := mctest.NewMCIAS(t, mctest.NewCA(t))
	snap := idp.Snapshot()
	if err := src.Reset(snap); err != nil {
		t.Fatal(err)
	}
	v, err := auth.New(auth.Config{Service: "mcias", Issuer: idp.Issuer, Source: src})
	if err != nil {
		t.Fatal(err)
	}
	toks := map[string]bool{}
	seq := snap.GetSeq()
	for i := range 500 {
		sid := fmt.Sprintf("many-%d", i)
		tok := idp.Token(mctest.Human("alice").For("mcias").Session(sid))
		if _, err := v.Verify(tok); err != nil {
			t.Fatal(err)
		}
		toks[tok] = i%2 == 0
		if i%2 == 0 {
			if err := src.Publish(&mciasv1.WatchDelta{StreamId: snap.GetStreamId(), PrevSeq: seq, Seq: seq + 1, Revocations: []*mciasv1.Revocation{
				{Seq: seq + 1, Kind: mciasv1.RevocationKind_REVOCATION_KIND_SID, Value: sid}}}); err != nil {
				t.Fatal(err)
			}
			seq++
		}
	}
	for tok, dead := range toks {
		if _, err := v.Verify(tok); (err != nil) != dead {
			t.Fatalf("Verify = %v, want dead = %v", err, dead)
		}
	}
	if got := v.Report().Revocations; got != 250 {
		t.Errorf("revocations = %d, want 250", got)
	}
	if err := src.Publish(&mciasv1.WatchDelta{StreamId: snap.GetStreamId(), PrevSeq: seq + 1, Seq: seq + 2}); err == nil {
		t.Error("a gap went unnoticed")
	}
}

// heardAt makes a verifier without a network whose last heartbeat was at the clock's present time.
func heardAt(t *testing.T, clk clock.Clock, idp *mctest.MCIAS, file string) (*auth.Verifier, *stuckSource) {
	t.Helper()
	src := &stuckSource{}
	v, err := auth.New(auth.Config{Service: "mcns", Issuer: idp.Issuer, Source: src, StateFile: file, Clock: clk})
	if err != nil {
		t.Fatal(err)
	}
	return v, src
}

type stuckSource struct{}

func (*stuckSource) Run(ctx context.Context, _ auth.Sink) error { <-ctx.Done(); return nil }

func TestStaleness(t *testing.T) {
	t.Parallel()
	idp := mctest.NewMCIAS(t, mctest.NewCA(t))
	start := time.Now()
	clk := clock.NewFake(start)
	file := t.TempDir() + "/state.json"
	v, _ := heardAt(t, clk, idp, file)
	tok := idp.Token(mctest.Human("alice", "admin").For("mcns").Expires(start.Add(time.Hour)))

	check := func(v *auth.Verifier, r auth.Rule) error {
		return v.Check(&auth.Call{Rule: r}, tok)
	}
	if err := check(v, auth.Authenticated()); !fault.HasReason(err, auth.ReasonNoKeys) || !fault.Is(err, fault.Unavailable) {
		t.Errorf("without any state: %v, want Unavailable NO_KEYS", err)
	}
	if err := check(v, auth.Public()); err != nil {
		t.Errorf("Public without any state: %v", err)
	}
	if err := v.Snapshot(idp.Snapshot()); err != nil {
		t.Fatal(err)
	}
	if err := v.Persist(); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		after              time.Duration
		normal, privileged bool
	}{{0, true, true}, {30 * time.Second, true, true}, {31 * time.Second, true, false}, {15 * time.Minute, true, false}, {15*time.Minute + time.Second, false, false}}
	for _, tt := range tests {
		clk.Set(start.Add(tt.after))
		restarted, _ := heardAt(t, clk, idp, file) // a restart keeps the rest of the budget
		for name, v := range map[string]*auth.Verifier{"running": v, "restarted": restarted} {
			for rule, want := range map[string]bool{"normal": tt.normal, "privileged": tt.privileged} {
				r := auth.Authenticated()
				if rule == "privileged" {
					r = r.Privileged()
				}
				err := check(v, r)
				if (err == nil) != want || err != nil && (!fault.HasReason(err, auth.ReasonStale) || !fault.Is(err, fault.Unavailable)) {
					t.Errorf("%s, %s after %s: %v, want ok = %v and never Unauthenticated", name, rule, tt.after, err, want)
				}
			}
		}
	}
	v.Heartbeat(&mciasv1.WatchHeartbeat{Seq: v.Report().Seq}) // recovery needs nothing
	if err := check(v, auth.Authenticated().Privileged()); err != nil {
		t.Errorf("after the next heartbeat: %v", err)
	}
	clk.Set(start.Add(-2 * time.Minute)) // the file comes from the future now
	restarted, _ := heardAt(t, clk, idp, file)
	if restarted.Report().Known {
		t.Error("a state file from the future was used")
	}
}

func TestWatchSurvives(t *testing.T) {
	t.Parallel()
	idp := mctest.NewMCIAS(t, mctest.NewCA(t))
	v := idp.Verifier(t, "mcns")
	tok := idp.Token(mctest.Human("alice").For("mcns").Session("s-1"))
	if _, err := v.Verify(tok); err != nil {
		t.Fatal(err)
	}
	idp.Stop()
	if _, err := v.Verify(tok); err != nil {
		t.Errorf("MCIAS is down, a warm token: %v", err)
	}
	if _, err := v.Verify(idp.Token(mctest.Human("bob").For("mcns"))); err != nil {
		t.Errorf("MCIAS is down, a new token: %v", err)
	}
	idp.Start(t)
	seq := idp.RevokeSession("s-1")
	mctest.Eventually(t, "the stream is back", func() bool { return idp.Acked("mcns") >= seq })
	if _, err := v.Verify(tok); !fault.HasReason(err, auth.ReasonRevoked) {
		t.Errorf("revoked after the return: %v", err)
	}
	idp.Forget("stream-2") // restored from a backup
	mctest.Eventually(t, "the snapshot of the new stream arrives", func() bool { return v.Report().StreamID == "stream-2" })
	idp.Rotate()
	mctest.Eventually(t, "the new key arrives", func() bool { return v.Report().Keys == 2 })
	if _, err := v.Verify(idp.Token(mctest.Human("bob").For("mcns"))); err != nil {
		t.Errorf("token of the new key: %v", err)
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	idp := mctest.NewMCIAS(t, mctest.NewCA(t))
	v := idp.Verifier(t, "mcns")
	hold := func(tok string) (context.Context, func()) {
		call := &auth.Call{Rule: auth.Authenticated()}
		if err := v.Check(call, tok); err != nil {
			t.Fatal(err)
		}
		return v.Hold(t.Context(), call)
	}
	ctx, release := hold(idp.Token(mctest.Human("alice").For("mcns").Session("h-1")))
	defer release()
	other, release2 := hold(idp.Token(mctest.Human("alice").For("mcns").Session("h-2")))
	idp.RevokeSession("h-1")
	<-ctx.Done()
	if err := context.Cause(ctx); !fault.HasReason(err, auth.ReasonRevoked) {
		t.Errorf("cause = %v, want revoked", err)
	}
	if other.Err() != nil {
		t.Error("the other session's stream ended, too")
	}
	release2()
	short, release3 := hold(idp.Token(mctest.Human("alice").For("mcns").Expires(time.Now().Add(-4 * time.Second)))) // within the leeway
	defer release3()
	<-short.Done()
	if err := context.Cause(short); !fault.HasReason(err, auth.ReasonExpired) {
		t.Errorf("cause = %v, want expired", err)
	}
	if n := v.Held(); n != 2 {
		t.Errorf("held = %d, want the two that were not released", n)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	idp := mctest.NewMCIAS(t, mctest.NewCA(t))
	v := idp.Verifier(t, "mcr")
	src := auth.Tokens(idp.Key(t, "mcp"), idp.Conn(t), "mcr")
	first, err := src.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if tok, err := src.Token(t.Context()); err != nil || tok != first {
			t.Fatalf("Token = %q, %v, want the kept one", tok, err)
		}
	}
	if n := idp.Minted(); n != 1 {
		t.Errorf("minted %d, want 1", n)
	}
	if c, err := v.Verify(first); err != nil || c.Name != "mcp" || c.Kind != auth.System {
		t.Errorf("Verify = %v, %v", c, err)
	}
	if !src.Refused(t.Context(), first) {
		t.Error("the first refusal brings no new token")
	}
	second, _ := src.Token(t.Context())
	if second == first {
		t.Error("the refused token is still in use")
	}
	if src.Refused(t.Context(), second) {
		t.Error("a second refusal within 10 s brings a new token")
	}
	idp.Seal(true)
	if tok, err := src.Token(t.Context()); err != nil || tok != second {
		t.Errorf("sealed: Token = %q, %v, want the one we have", tok, err)
	}
	fresh := auth.Tokens(idp.Key(t, "mcat"), idp.Conn(t), "mcr")
	if _, err := fresh.Token(t.Context()); !fault.HasReason(err, auth.ReasonSealed) {
		t.Errorf("sealed, nothing kept: %v, want SEALED", err)
	}
}

func TestWarmCheckAllocates(t *testing.T) {
	idp := mctest.NewMCIAS(t, mctest.NewCA(t))
	v := idp.Verifier(t, "mcns")
	tok := idp.Token(mctest.Human("alice").For("mcns"))
	if n := testing.AllocsPerRun(100, func() {
		if _, err := v.Verify(tok); err != nil {
			t.Error(err)
		}
	}); n > 1 {
		t.Errorf("a warm check allocates %v times, want at most 1", n)
	}
}

func BenchmarkVerify(b *testing.B) {
	idp := mctest.NewMCIAS(b, mctest.NewCA(b))
	src := &auth.LocalSource{}
	if err := src.Reset(idp.Snapshot()); err != nil {
		b.Fatal(err)
	}
	v, err := auth.New(auth.Config{Service: "mcns", Issuer: idp.Issuer, Source: src})
	if err != nil {
		b.Fatal(err)
	}
	tok := idp.Token(mctest.Human("alice").For("mcns"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(tok); err != nil {
			b.Fatal(err)
		}
	}
}
