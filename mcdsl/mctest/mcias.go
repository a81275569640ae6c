package mctest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/httpserver"
)

// Name is the fake's host name; it resolves to loopback everywhere.
const Name = "mcias.mc.localhost"

// MCIAS is a fake of MCIAS: the real contract over real TLS, doing what the test says. Safe for concurrent use.
type MCIAS struct {
	mciasv1.UnimplementedWatchServer
	mciasv1.UnimplementedTokenServer

	ca     *CA
	Issuer string // issuer URL; also the base of its HTTPS side
	Addr   string // host:port of its gRPC side

	mu       sync.Mutex // guards all below
	changed  chan struct{}
	streamID string
	seq      int64
	rows     []*mciasv1.Revocation
	keys     []signingKey
	accounts map[string]*account
	grants   map[string]Claims
	acks     map[string]int64 // by service and instance
	seen     map[string]bool  // assertion ids
	sealed   bool
	paused   bool
	skew     time.Duration
	maxStale time.Duration
	realm    func(user, secret string) (Claims, error)
	deny     func(account, audience string) error
	minted   int

	grpc *grpc.Server
	http *http.Server
	id   int
}

type signingKey struct {
	kid  string
	priv ed25519.PrivateKey
}

type account struct {
	claims Claims
	kid    string
	key    ed25519.PrivateKey
}

// NewMCIAS starts a fake that ends with the test.
func NewMCIAS(t testing.TB, ca *CA) *MCIAS {
	t.Helper()
	f := Offline()
	f.ca = ca
	web, rpc := listen(t), listen(t)
	_, port, _ := net.SplitHostPort(web.Addr().String())
	f.Issuer = "https://" + net.JoinHostPort(Name, port)
	f.start(t, web, rpc)
	t.Cleanup(f.Stop)
	return f
}

// Offline returns a fake that is on no network: it signs tokens, and its Snapshot feeds a local source.
func Offline() *MCIAS {
	return &MCIAS{Issuer: "https://" + Name, changed: make(chan struct{}), streamID: "stream-1", accounts: map[string]*account{},
		grants: map[string]Claims{}, acks: map[string]int64{}, seen: map[string]bool{}, keys: []signingKey{newSigningKey()}}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func (f *MCIAS) start(t testing.TB, web, rpc net.Listener) {
	t.Helper()
	_, port, _ := net.SplitHostPort(rpc.Addr().String())
	f.Addr = net.JoinHostPort(Name, port)
	get := f.ca.Certificate(t, Name)
	f.grpc = grpc.NewServer(grpc.Creds(credentials.NewTLS(httpserver.TLSConfig(get, "h2"))))
	mciasv1.RegisterWatchServer(f.grpc, f)
	mciasv1.RegisterTokenServer(f.grpc, f)
	mux := http.NewServeMux()
	mux.HandleFunc("/registry/token", f.registryToken)
	f.http = &http.Server{Handler: mux, TLSConfig: httpserver.TLSConfig(get, "h2", "http/1.1"), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = f.grpc.Serve(rpc) }()
	go func() { _ = f.http.ServeTLS(web, "", "") }()
}

// Stop takes the fake off the network: MCIAS is down. Start brings it back at the same addresses.
func (f *MCIAS) Stop() {
	f.grpc.Stop()
	_ = f.http.Close()
}

// Start brings a stopped fake back with everything it knew.
func (f *MCIAS) Start(t testing.TB) {
	t.Helper()
	_, webPort, _ := net.SplitHostPort(f.Issuer[len("https://"):])
	_, rpcPort, _ := net.SplitHostPort(f.Addr)
	web, err := net.Listen("tcp", "127.0.0.1:"+webPort)
	if err != nil {
		t.Fatal(err)
	}
	rpc, err := net.Listen("tcp", "127.0.0.1:"+rpcPort)
	if err != nil {
		t.Fatal(err)
	}
	f.start(t, web, rpc)
}

func newSigningKey() signingKey {
	pub, priv, _ := ed25519.GenerateKey(rand.Reader)
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + base64.RawURLEncoding.EncodeToString(pub) + `"}`))
	return signingKey{base64.RawURLEncoding.EncodeToString(sum[:]), priv}
}

// Token mints a token. Missing claims get sensible values; a claim set to nil stays out.
func (f *MCIAS) Token(c Claims) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.token(c)
}

func (f *MCIAS) token(c Claims) string {
	now := time.Now().Add(f.skew)
	f.id++
	all := map[string]any{"iss": f.Issuer, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
		"jti": fmt.Sprintf("jti-%d", f.id), "sid": fmt.Sprintf("sid-%d", f.id), "auth_time": now.Unix(), "roles": []string{}, "tags": []string{}}
	if c["typ"] == "system" {
		delete(all, "auth_time")
		all["exp"] = now.Add(time.Hour).Unix()
	}
	for k, v := range c {
		if v == nil {
			delete(all, k)
		} else {
			all[k] = v
		}
	}
	payload, err := json.Marshal(all)
	if err != nil {
		panic(err) // a test's own claims
	}
	return f.sign(map[string]any{"typ": "at+jwt", "alg": "EdDSA", "kid": f.keys[0].kid}, payload)
}

// Sign signs any payload under any header with the active key: for tokens that must be refused.
func (f *MCIAS) Sign(header map[string]any, payload []byte) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sign(header, payload)
}

func (f *MCIAS) sign(header map[string]any, payload []byte) string {
	h, err := json.Marshal(header)
	if err != nil {
		panic(err) // a test's own header
	}
	return f.signRaw(h, payload)
}

// SignRaw is Sign with the header as bytes.
func (f *MCIAS) SignRaw(header, payload []byte) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.signRaw(header, payload)
}

func (f *MCIAS) signRaw(header, payload []byte) string {
	enc := base64.RawURLEncoding
	in := enc.EncodeToString(header) + "." + enc.EncodeToString(payload)
	return in + "." + enc.EncodeToString(ed25519.Sign(f.keys[0].priv, []byte(in)))
}

// KeyID returns the kid of the active signing key.
func (f *MCIAS) KeyID() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys[0].kid
}

// Rotate makes a new active signing key; the old one stays in the key set.
func (f *MCIAS) Rotate() {
	f.change(func() { f.keys = slices.Insert(f.keys, 0, newSigningKey()) })
}

// ServiceKey makes a service account with a key and returns the key file's path.
func (f *MCIAS) ServiceKey(t testing.TB, name string, tags ...string) string {
	t.Helper()
	_, priv, _ := ed25519.GenerateKey(rand.Reader)
	f.mu.Lock()
	f.id++
	kid := fmt.Sprintf("key-%s-%d", name, f.id)
	f.accounts[name] = &account{claims: System(name, tags...).Session(kid), kid: kid, key: priv}
	f.mu.Unlock()
	kf := auth.NewKeyFile(name, kid, priv)
	kf.ClientID, kf.ClientSecret = name, "secret-of-"+name
	data, err := json.MarshalIndent(kf, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name+"-key.json")
	write(t, path, data)
	return path
}

// Key returns the opened service key of an account, made if need be.
func (f *MCIAS) Key(t testing.TB, name string) *auth.ServiceKey {
	t.Helper()
	return auth.OpenServiceKey(f.ServiceKey(t, name), f.Issuer)
}

// Conn returns a connection to the fake as services have it.
func (f *MCIAS) Conn(t testing.TB) *grpc.ClientConn {
	t.Helper()
	conn, err := auth.Dial(auth.DialConfig{Target: f.Addr, Roots: f.ca.Roots(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Verifier returns a started verifier of a service that follows the fake and has its keys already.
func (f *MCIAS) Verifier(t testing.TB, service string) *auth.Verifier {
	t.Helper()
	v, err := auth.New(auth.Config{Service: service, Issuer: f.Issuer, Source: auth.Watch(f.Conn(t), f.Key(t, service), auth.WatchLog(slog.New(slog.NewTextHandler(t.Output(), nil)))),
		StateFile: filepath.Join(t.TempDir(), "auth-state.json")})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := v.Stop(ctx); err != nil {
			t.Errorf("stop verifier: %v", err)
		}
	})
	Eventually(t, "the verifier has keys", func() bool { return v.Report().Known && v.Live() })
	return v
}

// Eventually waits up to ten seconds for something that another goroutine brings about.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("still not so after 10 s: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// change changes the fake and wakes its streams.
func (f *MCIAS) change(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
	close(f.changed)
	f.changed = make(chan struct{})
}

// Seal makes minting fail with SEALED; Watch goes on.
func (f *MCIAS) Seal(sealed bool) { f.change(func() { f.sealed = sealed }) }

// Pause makes the streams silent, heartbeats included, without closing them.
func (f *MCIAS) Pause(paused bool) { f.change(func() { f.paused = paused }) }

// Skew moves the fake's clock.
func (f *MCIAS) Skew(d time.Duration) { f.change(func() { f.skew = d }) }

// MaxStale sets the operator's cap on budgets; it reaches services with their next snapshot.
func (f *MCIAS) MaxStale(d time.Duration) { f.change(func() { f.maxStale = d }) }

// Deny sets the policy of minting; nil allows all.
func (f *MCIAS) Deny(fn func(account, audience string) error) { f.change(func() { f.deny = fn }) }

// Forget is a restore from a backup: another stream id, the sequence goes back, revocations are gone.
func (f *MCIAS) Forget(streamID string) {
	f.change(func() { f.streamID, f.seq, f.rows = streamID, 0, nil })
}

// Minted returns how many tokens were minted over the contract.
func (f *MCIAS) Minted() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.minted
}

// Grant makes an OIDC access token and grant of a person for a service with pages; both are that string.
func (f *MCIAS) Grant(id string, c Claims) { f.change(func() { f.grants[id] = c }) }

// Realm sets who may use the registry token realm with which secret; the claims come back in the token.
func (f *MCIAS) Realm(fn func(user, secret string) (Claims, error)) {
	f.change(func() { f.realm = fn })
}

// Publish publishes a revocation and returns its sequence number.
func (f *MCIAS) Publish(r *mciasv1.Revocation) (seq int64) {
	f.change(func() {
		f.seq++
		r.Seq = f.seq
		f.rows = append(f.rows, r)
		seq = f.seq
	})
	return seq
}

// RevokeToken kills one token by its jti.
func (f *MCIAS) RevokeToken(token string) int64 {
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		panic(err) // not a token of Token
	}
	var c struct {
		Jti string `json:"jti"`
	}
	if err := json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &c); err != nil {
		panic(err)
	}
	return f.Publish(&mciasv1.Revocation{Kind: mciasv1.RevocationKind_REVOCATION_KIND_JTI, Value: c.Jti})
}

// RevokeSession kills the tokens of a session.
func (f *MCIAS) RevokeSession(sid string) int64 {
	return f.Publish(&mciasv1.Revocation{Kind: mciasv1.RevocationKind_REVOCATION_KIND_SID, Value: sid})
}

// RevokeAccount kills the tokens of an account whose epoch is below bound.
func (f *MCIAS) RevokeAccount(id string, bound int64) int64 {
	return f.Publish(&mciasv1.Revocation{Kind: mciasv1.RevocationKind_REVOCATION_KIND_SUB, Value: id, Bound: bound})
}

// Acked returns the highest sequence number that any instance of a service acknowledged.
func (f *MCIAS) Acked(service string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.acks[service]
}

func (f *MCIAS) keySet() *mciasv1.KeySet {
	set := &mciasv1.KeySet{}
	var kids []string
	for i, k := range f.keys {
		state := "retiring"
		if i == 0 {
			state = "active"
		}
		kids = append(kids, k.kid)
		set.Keys = append(set.Keys, &mciasv1.PublicKey{Kid: k.kid, Alg: "EdDSA", PublicKey: k.priv.Public().(ed25519.PublicKey), State: state})
	}
	slices.Sort(kids)
	h := sha256.New()
	for _, k := range kids {
		fmt.Fprintln(h, k)
	}
	set.Digest = hex.EncodeToString(h.Sum(nil))
	return set
}

// Snapshot returns what a stream would begin with: for a verifier that has no stream.
func (f *MCIAS) Snapshot() *mciasv1.WatchSnapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &mciasv1.WatchSnapshot{StreamId: f.streamID, Seq: f.seq, Keys: f.keySet(), Revocations: slices.Clone(f.rows)}
}
