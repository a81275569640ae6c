package server_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/mctest"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"
)

func TestFirstHour(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	path := func(n string) string { return filepath.Join(p.root, n) }

	// Sealed: keys, discovery and status are served, sign-in is refused with one word.
	_, err := mciasv1.NewAuthClient(p.public).Login(t.Context(), &mciasv1.LoginRequest{Username: "alice", Password: adminPassword})
	if !fault.HasReason(err, "SEALED") {
		t.Errorf("login while sealed: %v, want SEALED", err)
	}
	keys, err := mciasv1.NewWatchClient(p.public).GetKeys(t.Context(), &mciasv1.GetKeysRequest{})
	if err != nil || len(keys.GetKeys().GetKeys()) != 1 || keys.GetIssuer() != p.issuer {
		t.Errorf("GetKeys while sealed = %v, %v", keys, err)
	}
	c := p.browser()
	for url, want := range map[string]int{"/.well-known/openid-configuration": 200, "/oidc/jwks": 200, "/login": 200, "/registry/token": 503, "/healthz": 200} {
		if res, _ := p.do(c, "GET", url, nil); res.StatusCode != want {
			t.Errorf("%s while sealed: %d, want %d", url, res.StatusCode, want)
		}
	}
	if code, _, _ := p.run("--addr", "local", "status"); code != 5 {
		t.Errorf("status while sealed: exit %d, want 5", code)
	}
	if code, _, e := p.run("init", "--admin", "x", "--unseal-password-file", path("pw"), "--setup-out", path("l2"), "--operator-key-out", path("o2")); code != 3 {
		t.Errorf("init twice: exit %d (%s), want 3", code, e)
	}
	p.file("wrong", "not the unseal password at all")
	if code, _, e := p.run("--addr", "local", "unseal", "--password-file", path("wrong")); code != 4 {
		t.Errorf("wrong unseal password: exit %d (%s), want 4", code, e)
	}
	mctest.Eventually(t, "the back-off passes", func() bool {
		code, _, _ := p.run("--addr", "local", "unseal", "--password-file", path("pw"))
		return code == 0
	})

	// The link sets the first password once.
	if code, _, e := p.run("--addr", "local", "setup", "--link-file", path("link"), "--password-file", path("admin")); code != 0 {
		t.Fatalf("setup: %s", e)
	}
	if code, _, e := p.run("--addr", "local", "setup", "--link-file", path("link"), "--password-file", path("admin")); code != 4 {
		t.Errorf("setup twice: exit %d (%s), want 4", code, e)
	}
	r := p.login("alice", adminPassword, "mcias")
	if _, err := mciasv1.NewAccountClient(p.public).List(as(t.Context(), r.GetToken()), &mciasv1.AccountListRequest{}); err != nil {
		t.Errorf("the admin lists accounts: %v", err)
	}

	// A credential slot lets a killed service come back by itself; a seal by hand holds.
	if code, _, e := p.run("--addr", "local", "slot", "add", "credential", "--proof-file", path("pw"), "--out", path("mcias/credential")); code != 0 {
		t.Fatalf("slot add: %s", e)
	}
	p.stop()
	p.start()
	state := func() string {
		st, err := mciasv1.NewVaultClient(p.public).Status(t.Context(), &mciasv1.VaultStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return st.GetState()
	}
	if got := state(); got != "unsealed" {
		t.Errorf("after a restart with a credential: %s", got)
	}
	if code, _, e := p.run("--addr", "local", "--yes", "seal"); code != 0 {
		t.Fatalf("seal: %s", e)
	}
	p.stop()
	p.start()
	if got := state(); got != "sealed" {
		t.Errorf("after a seal by hand and a restart: %s", got)
	}
	if code, _, e := p.run("--addr", "local", "audit", "verify"); code != 0 {
		t.Errorf("audit verify: %s", e)
	}
	for _, s := range []string{unsealPassword, adminPassword, r.GetToken(), r.GetSession()} {
		mctest.Canary{Secret: s}.InData(t, "the log", p.log.Bytes())
	}
	mctest.Canary{Secret: adminPassword}.InFiles(t, filepath.Join(p.root, "mcias"))
	mctest.Canary{Secret: r.GetSession()}.InFiles(t, filepath.Join(p.root, "mcias"))
	for _, f := range []string{"operator.json", "mcias-recovery-code", "link", "mcias/mcias.db"} {
		if info, err := os.Stat(path(f)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want 0600", f, info.Mode(), err)
		}
	}
}

func TestSignInIsOneAnswer(t *testing.T) {
	t.Parallel()
	p := newPlatform(t).ready()
	p.person("bob", bobPassword, "user")
	p.person("off", bobPassword, "user")
	if _, err := mciasv1.NewAccountClient(p.local).SetStatus(t.Context(), &mciasv1.AccountSetStatusRequest{Name: "off", Status: "disabled"}); err != nil {
		t.Fatal(err)
	}
	p.service("robot", nil)
	try := func(name, pw string) string {
		_, err := mciasv1.NewAuthClient(p.public).Login(t.Context(), &mciasv1.LoginRequest{Username: name, Password: pw})
		if err == nil {
			return "in"
		}
		f := fault.From(err)
		return f.Kind.String() + " " + f.Reason + " " + f.Message
	}
	want := try("bob", "not the password")
	for _, tc := range [][2]string{{"nobody", bobPassword}, {"off", bobPassword}, {"robot", bobPassword}, {"", ""}, {strings.Repeat("x", 80), "x"}, {"bob' OR 1=1", "x"}} {
		if got := try(tc[0], tc[1]); got != want {
			t.Errorf("%q: %s, want what a wrong password gets: %s", tc[0], got, want)
		}
	}
	if got := try("BOB ", bobPassword); got != "in" {
		t.Errorf("right password: %s", got)
	}
	// Five failures are free, then the right one is not verified either; others are not touched.
	for range 6 {
		try("bob", "not the password")
	}
	if got := try("bob", bobPassword); got != want {
		t.Errorf("throttled: %s, want the ordinary refusal", got)
	}
	if got := try("alice", adminPassword); got != "in" {
		t.Errorf("somebody else: %s", got)
	}
	res, err := mciasv1.NewAuditClient(p.local).List(t.Context(), &mciasv1.AuditListRequest{Action: "login.refused"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range res.GetRecords() {
		if strings.Contains(r.GetActor()+r.GetTarget(), "nobody") || strings.Contains(r.GetTarget(), "OR 1=1") {
			t.Errorf("what was typed into the name field is in audit: %v", r)
		}
	}
}

func TestRevocationReachesASubscriber(t *testing.T) {
	t.Parallel()
	p := newPlatform(t).ready()
	key, _ := p.service("mcr", []string{"core"}, "https://mcr.mc.localhost/login/callback")
	v, err := auth.New(auth.Config{Service: "mcr", Issuer: p.issuer, Source: auth.Watch(p.public, key), StateFile: filepath.Join(p.root, "state.json")})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer v.Stop(context.Background())
	mctest.Eventually(t, "the verifier has keys", v.Live)
	revoke := func(r *mciasv1.RevokeRequest) *mciasv1.RevokeResponse {
		t.Helper()
		r.Wait = durationpb.New(5 * time.Second)
		res, err := mciasv1.NewTokenClient(p.local).Revoke(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if len(res.GetMissing()) != 0 || len(res.GetAcknowledged()) != 1 || res.GetAcknowledged()[0].GetService() != "mcr" {
			t.Errorf("Revoke = %v, want mcr to have acknowledged", res)
		}
		return res
	}
	alive := func(tok string, want bool, what string) {
		t.Helper()
		if _, err := v.Verify(tok); (err == nil) != want {
			t.Errorf("%s: Verify = %v, want alive %t", what, err, want)
		}
	}
	one, other := p.login("alice", adminPassword, "mcr"), p.login("alice", adminPassword, "mcr")
	alive(one.GetToken(), true, "a fresh token")
	revoke(&mciasv1.RevokeRequest{Target: &mciasv1.RevokeRequest_Sid{Sid: one.GetSid()}})
	alive(one.GetToken(), false, "after its session was revoked")
	alive(other.GetToken(), true, "another session")
	if _, err := p.mint(&mciasv1.MintRequest{Credential: &mciasv1.MintRequest_Session{Session: one.GetSession()}, Audiences: []string{"mcr"}}); !fault.HasReason(err, "NO_SESSION") {
		t.Errorf("mint from a revoked session: %v", err)
	}
	revoke(&mciasv1.RevokeRequest{Target: &mciasv1.RevokeRequest_Account{Account: "alice"}})
	alive(other.GetToken(), false, "after the account was revoked")
	fresh := p.login("alice", adminPassword, "mcr")
	alive(fresh.GetToken(), true, "a token minted in the second of the kill")
	revoke(&mciasv1.RevokeRequest{Target: &mciasv1.RevokeRequest_Client{Client: "mcr"}})
	alive(fresh.GetToken(), false, "after the client was revoked")
	alive(p.login("alice", adminPassword, "mcr").GetToken(), true, "minted after the bound")

	// A rotated key verifies on; a compromised one is dead everywhere.
	tok := p.login("alice", adminPassword, "mcr").GetToken()
	rot, err := mciasv1.NewKeyClient(p.local).Rotate(t.Context(), &mciasv1.KeyRotateRequest{Use: "platform"})
	if err != nil {
		t.Fatal(err)
	}
	mctest.Eventually(t, "the new key arrives", func() bool { _, err := v.Verify(p.login("alice", adminPassword, "mcr").GetToken()); return err == nil })
	alive(tok, true, "signed by the retiring key")
	if _, err := mciasv1.NewKeyClient(p.local).Compromise(t.Context(), &mciasv1.KeyCompromiseRequest{Kid: rot.GetRetiring().GetKid()}); err != nil {
		t.Fatal(err)
	}
	mctest.Eventually(t, "the old key is dead", func() bool { _, err := v.Verify(tok); return err != nil })

	// Sealed, the stream goes on and a new one opens.
	if _, err := mciasv1.NewVaultClient(p.local).Seal(t.Context(), &mciasv1.VaultSealRequest{}); err != nil {
		t.Fatal(err)
	}
	v2, err := auth.New(auth.Config{Service: "mcr", Issuer: p.issuer, Source: auth.Watch(p.public, key)})
	if err != nil {
		t.Fatal(err)
	}
	if err := v2.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer v2.Stop(context.Background())
	mctest.Eventually(t, "a new watch opens while sealed", v2.Live)
	res, err := mciasv1.NewWatchClient(p.local).ListWatchers(t.Context(), &mciasv1.ListWatchersRequest{})
	if err != nil || len(res.GetWatchers()) != 2 {
		t.Errorf("ListWatchers = %v, %v, want both", res, err)
	}
}

func TestMint(t *testing.T) {
	t.Parallel()
	p := newPlatform(t).ready()
	p.person("bob", bobPassword, "user")
	mcr, _ := p.service("mcr", []string{"core"}, "https://mcr.mc.localhost/login/callback")
	mcp, _ := p.service("mcp", []string{"core"}, "https://mcp.mc.localhost/login/callback")
	stray, _ := p.service("stray", nil)
	as := func(k *auth.ServiceKey, aud ...string) *mciasv1.MintRequest {
		return &mciasv1.MintRequest{Credential: &mciasv1.MintRequest_Assertion{Assertion: p.assertion(k)}, Audiences: aud}
	}
	res, err := p.mint(as(mcp, "mcr"))
	if err != nil || res.GetRuleId() != "core-services" || res.GetOutcome() != "allow" {
		t.Errorf("core service to core service = %v, %v", res, err)
	}
	replay := as(mcp, "mcr")
	if _, err := p.mint(replay); err != nil {
		t.Fatal(err)
	}
	bob, alice := p.login("bob", bobPassword), p.login("alice", adminPassword, "mcp")
	session := func(s string, aud ...string) *mciasv1.MintRequest {
		return &mciasv1.MintRequest{Credential: &mciasv1.MintRequest_Session{Session: s}, Audiences: aud}
	}
	exchange := func(k *auth.ServiceKey, tok, aud string) *mciasv1.MintRequest {
		return &mciasv1.MintRequest{Credential: &mciasv1.MintRequest_Token{Token: &mciasv1.ExchangeCredential{Assertion: p.assertion(k), Token: tok}}, Audiences: []string{aud}}
	}
	if r, err := p.mint(exchange(mcp, alice.GetToken(), "mcp/node-a")); err != nil || r.GetExpiresAt().AsTime().After(alice.GetExpiresAt().AsTime()) {
		t.Errorf("exchange for a node = %v, %v, want one that ends no later than %v", r, err, alice.GetExpiresAt().AsTime())
	}
	for name, tc := range map[string]struct {
		req    *mciasv1.MintRequest
		reason string
	}{
		"assertion twice":        {replay, "BAD_ASSERTION"},
		"untagged service":       {as(stray, "mcr"), "POLICY_DENIED"},
		"unknown service":        {as(mcp, "nope"), "POLICY_DENIED"},
		"user at a core service": {session(bob.GetSession(), "mcr"), "POLICY_DENIED"},
		"no such session":        {session(bob.GetSession()+"x", "mcias"), "NO_SESSION"},
		"cut session":            {session(bob.GetSession()[:40], "mcias"), "NO_SESSION"},
		"access key":             {&mciasv1.MintRequest{Credential: &mciasv1.MintRequest_AccessKey{AccessKey: "mck_x"}, Audiences: []string{"mcr"}}, "BAD_CREDENTIALS"},
		"garbage assertion":      {&mciasv1.MintRequest{Credential: &mciasv1.MintRequest_Assertion{Assertion: "a.b.c"}, Audiences: []string{"mcr"}}, "BAD_ASSERTION"},
		"a token as assertion":   {&mciasv1.MintRequest{Credential: &mciasv1.MintRequest_Assertion{Assertion: alice.GetToken()}, Audiences: []string{"mcr"}}, "BAD_ASSERTION"},
		"exchange by another":    {exchange(mcr, alice.GetToken(), "mcp/node-a"), "POLICY_DENIED"},
		"exchange for another":   {exchange(mcp, alice.GetToken(), "mcr"), "POLICY_DENIED"},
		"exchange of another":    {exchange(mcp, p.login("alice", adminPassword, "mcr").GetToken(), "mcp/node-a"), "INVALID_TOKEN"},
		"nobody":                 {&mciasv1.MintRequest{Audiences: []string{"mcr"}}, ""},
		"no audience":            {session(alice.GetSession()), ""},
		"nine audiences":         {session(alice.GetSession(), "mcr", "mcp", "mcr", "mcp", "mcr", "mcp", "mcr", "mcp", "mcr"), ""},
	} {
		if r, err := p.mint(tc.req); err == nil || tc.reason != "" && !fault.HasReason(err, tc.reason) {
			t.Errorf("%s: %v, %v, want %s", name, r, err, tc.reason)
		}
	}
	// Retiring a key ends it and what was minted from it.
	res, err = p.mint(as(mcp, "mcr"))
	if err != nil {
		t.Fatal(err)
	}
	ks, err := mciasv1.NewServiceAccountClient(p.local).ListKeys(t.Context(), &mciasv1.ServiceAccountListKeysRequest{Name: "mcp"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mciasv1.NewServiceAccountClient(p.local).RetireKey(t.Context(), &mciasv1.ServiceAccountRetireKeyRequest{Name: "mcp", Kid: ks.GetKeys()[0].GetKid()}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.mint(as(mcp, "mcr")); !fault.HasReason(err, "BAD_ASSERTION") {
		t.Errorf("mint with a retired key: %v", err)
	}
	in, err := mciasv1.NewTokenClient(p.local).Introspect(t.Context(), &mciasv1.IntrospectRequest{Token: res.GetToken()})
	if err != nil || in.GetActive() {
		t.Errorf("token of a retired key = %v, %v, want dead", in, err)
	}
}

func TestLockoutGuardAndPolicy(t *testing.T) {
	t.Parallel()
	p := newPlatform(t).ready()
	p.person("bob", bobPassword, "user")
	p.service("mcr", []string{"core"}, "https://mcr.mc.localhost/login/callback")
	acct, pol := mciasv1.NewAccountClient(p.local), mciasv1.NewPolicyClient(p.local)
	deny := []*mciasv1.Rule{{Id: "no", Effect: "deny", Services: []string{"mcias"}}}
	rev := func() int64 {
		r, err := pol.GetRules(t.Context(), &mciasv1.PolicyGetRulesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetRevision()
	}
	_, e1 := acct.SetStatus(t.Context(), &mciasv1.AccountSetStatusRequest{Name: "alice", Status: "disabled"})
	_, e2 := acct.RemoveRole(t.Context(), &mciasv1.AccountRemoveRoleRequest{Name: "alice", Role: "admin"})
	_, e3 := acct.ResetFactors(t.Context(), &mciasv1.AccountResetFactorsRequest{Name: "alice"})
	_, e4 := acct.Delete(t.Context(), &mciasv1.AccountDeleteRequest{Name: "alice"})
	_, e5 := pol.Apply(t.Context(), &mciasv1.PolicyApplyRequest{Rules: deny, BaseRevision: rev()})
	for i, err := range []error{e1, e2, e3, e4, e5} {
		if !fault.HasReason(err, "LOCKOUT") {
			t.Errorf("change %d: %v, want LOCKOUT", i+1, err)
		}
	}
	if _, err := pol.Apply(t.Context(), &mciasv1.PolicyApplyRequest{BaseRevision: rev() - 1}); !fault.Is(err, fault.Conflict) {
		t.Errorf("stale revision: %v, want conflict", err)
	}
	// A role counts at the next mint; its removal kills what was minted.
	in := p.login("bob", bobPassword, "mcias")
	ctx := as(t.Context(), in.GetToken())
	if _, err := mciasv1.NewAccountClient(p.public).List(ctx, &mciasv1.AccountListRequest{}); !fault.Is(err, fault.Denied) {
		t.Errorf("user lists accounts: %v, want denied", err)
	}
	if _, err := acct.AddRole(t.Context(), &mciasv1.AccountAddRoleRequest{Name: "bob", Role: "admin"}); err != nil {
		t.Fatal(err)
	}
	if _, err := mciasv1.NewAccountClient(p.public).List(ctx, &mciasv1.AccountListRequest{}); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("token from before the role: %v, want dead", err)
	}
	m, err := p.mint(&mciasv1.MintRequest{Credential: &mciasv1.MintRequest_Session{Session: in.GetSession()}, Audiences: []string{"mcias"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mciasv1.NewAccountClient(p.public).List(as(t.Context(), m.GetToken()), &mciasv1.AccountListRequest{}); err != nil {
		t.Errorf("admin lists accounts: %v", err)
	}
	if _, err := acct.SetStatus(t.Context(), &mciasv1.AccountSetStatusRequest{Name: "alice", Status: "disabled"}); err != nil {
		t.Errorf("with a second admin: %v", err)
	}
	// Break-glass over the socket brings her back, and is in audit.
	if code, out, e := p.run("--yes", "--json", "break-glass", "alice"); code != 0 || !strings.Contains(out, "/setup#") {
		t.Errorf("break-glass: %d %s %s", code, out, e)
	}
	au, err := mciasv1.NewAuditClient(p.local).List(t.Context(), &mciasv1.AuditListRequest{Action: "break-glass"})
	if err != nil || len(au.GetRecords()) != 1 || au.GetRecords()[0].GetActor() != "local:root" {
		t.Errorf("break-glass in audit = %v, %v", au, err)
	}
	if _, err := mciasv1.NewAccountClient(p.public).BreakGlass(as(t.Context(), m.GetToken()), &mciasv1.AccountBreakGlassRequest{Name: "alice"}); !fault.Is(err, fault.Denied) {
		t.Errorf("break-glass over TLS: %v, want denied", err)
	}
}
