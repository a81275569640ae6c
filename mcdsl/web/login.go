package web

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"
)

const (
	signInLife   = 10 * time.Minute // from leaving for MCIAS to coming back
	renewMargin  = 30 * time.Second
	issuerTime   = 20 * time.Second
	maxNextBytes = 1024 // of the path to go back to
)

// LoginConfig says how people sign in at MCIAS.
type LoginConfig struct {
	Service   string
	Issuer    string
	Key       *auth.ServiceKey         // holds the OIDC client too
	MCIAS     grpc.ClientConnInterface // for Token.Mint
	Transport http.RoundTripper        // to the issuer: tlsutil.Roots.Transport
	Log       *slog.Logger
	Clock     clock.Clock
}

// Login is the Identity of a service: authorization code with PKCE, state and nonce at MCIAS, then a platform token
// for this service alone. Safe for concurrent use.
type Login struct {
	cfg      LoginConfig
	provider *provider
	minter   *auth.Minter
	sessions *sessions
	seal     cipher.AEAD // of the cookie between leaving and coming back; the key lives with the process
	site     *Site
}

// NewLogin returns the identity of a service with pages.
func NewLogin(cfg LoginConfig) (*Login, error) {
	if cfg.Service == "" || cfg.Issuer == "" || cfg.Key == nil || cfg.MCIAS == nil || cfg.Transport == nil {
		return nil, errors.New("web: a login needs service, issuer, service key, connection and transport")
	}
	cfg.Clock, cfg.Log = clock.Or(cfg.Clock), log.Or(cfg.Log)
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	seal, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Login{cfg: cfg, seal: seal, minter: auth.NewMinter(cfg.MCIAS, cfg.Key), sessions: &sessions{clock: cfg.Clock, all: map[string]*entry{}},
		provider: &provider{issuer: cfg.Issuer, clock: cfg.Clock,
			client: &http.Client{Transport: cfg.Transport, Timeout: issuerTime,
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}}, nil
}

// Rules implements Identity.
func (l *Login) Rules() auth.Map {
	return auth.Map{
		"HTTP GET /login":          auth.Public(),
		"HTTP GET /login/callback": auth.Public(),
		"HTTP POST /logout":        auth.Public(),
	}
}

// Mount implements Identity.
func (l *Login) Mount(s *Site, r chi.Router) {
	l.site = s
	r.Get("/login", s.Page(l.begin))
	r.Get("/login/callback", s.Page(l.finish))
	r.Post("/logout", s.Page(l.logout))
}

// Session returns the session of a request, nil if there is none.
func (l *Login) Session(r *http.Request) *Session {
	c, err := r.Cookie("__Host-" + l.cfg.Service)
	if err != nil {
		return nil
	}
	return l.sessions.get(c.Value)
}

// User implements Identity.
func (l *Login) User(r *http.Request) *User {
	sess := l.Session(r)
	if sess == nil {
		return nil
	}
	st := sess.State()
	return &User{Name: st.Name, Roles: st.Claims.Roles, Account: l.cfg.Issuer + "/account", Logout: "/logout"}
}

// SignIn implements Identity.
func (l *Login) SignIn(r *http.Request, err error) string {
	q := url.Values{}
	if r.Method == http.MethodGet && r.URL.Path != "/" && len(r.URL.RequestURI()) <= maxNextBytes {
		q.Set("next", r.URL.RequestURI())
	}
	if fault.HasReason(err, auth.ReasonStepUp) {
		age := time.Duration(0)
		if call := auth.CallFrom(r.Context()); call != nil {
			age = call.Rule.MaxAuthAge
		}
		q.Set("max_age", strconv.Itoa(int(age.Seconds())))
	}
	if len(q) == 0 {
		return "/login"
	}
	return "/login?" + q.Encode()
}

// journey is what must come back with the browser.
type journey struct {
	State    string    `json:"s"`
	Nonce    string    `json:"n"`
	Verifier string    `json:"v"`
	Next     string    `json:"x"`
	Redirect string    `json:"r"`
	Until    time.Time `json:"u"`
}

func (l *Login) journeyCookie(value string, age int) *http.Cookie {
	return sessionCookie(l.cfg.Service+"-login", value, age)
}

// begin sends the browser to MCIAS.
func (l *Login) begin(w http.ResponseWriter, r *http.Request) error {
	d, err := l.provider.discover(r.Context())
	if err != nil {
		return err
	}
	id, _, err := l.cfg.Key.Client()
	if err != nil {
		return err
	}
	j := journey{State: randomID(), Nonce: randomID(), Verifier: randomID(), Redirect: "https://" + r.Host + "/login/callback",
		Next: "/", Until: l.cfg.Clock.Now().Add(signInLife)}
	if next := r.URL.Query().Get("next"); len(next) <= maxNextBytes {
		j.Next = localPath(next)
	}
	plain, err := json.Marshal(j)
	if err != nil {
		return err
	}
	sealed := base64.RawURLEncoding.EncodeToString(l.seal.Seal(nil, nil, plain, []byte(l.cfg.Service)))
	http.SetCookie(w, l.journeyCookie(sealed, int(signInLife.Seconds())))
	challenge := sha256.Sum256([]byte(j.Verifier))
	q := url.Values{"response_type": {"code"}, "client_id": {id}, "redirect_uri": {j.Redirect}, "scope": {"openid profile email groups"},
		"state": {j.State}, "nonce": {j.Nonce}, "code_challenge_method": {"S256"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}}
	if age := r.URL.Query().Get("max_age"); age != "" {
		if n, err := strconv.Atoi(age); err == nil && n >= 0 {
			q.Set("max_age", strconv.Itoa(n))
		}
	}
	http.Redirect(w, r, d.AuthorizationEndpoint+"?"+q.Encode(), http.StatusSeeOther)
	return nil
}

// open returns the journey of the cookie.
func (l *Login) open(r *http.Request) (journey, error) {
	var j journey
	again := fault.New(fault.Unauthenticated, "the sign-in took too long or was started in another window; start it once more").
		WithReason("SIGN_IN_FAILED")
	c, err := r.Cookie("__Host-" + l.cfg.Service + "-login")
	if err != nil {
		return j, again
	}
	raw, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil {
		return j, again
	}
	plain, err := l.seal.Open(nil, nil, raw, []byte(l.cfg.Service))
	if err != nil || json.Unmarshal(plain, &j) != nil || l.cfg.Clock.Now().After(j.Until) {
		return j, again
	}
	return j, nil
}

// finish takes the browser back from MCIAS.
func (l *Login) finish(w http.ResponseWriter, r *http.Request) error {
	j, err := l.open(r)
	http.SetCookie(w, l.journeyCookie("", -1))
	if err != nil {
		return l.failed(w, r, err)
	}
	q := r.URL.Query()
	switch {
	case !same(q.Get("state"), j.State):
		return l.failed(w, r, fault.New(fault.Unauthenticated, "this answer belongs to another sign-in; start it once more").WithReason("SIGN_IN_FAILED"))
	case q.Has("iss") && q.Get("iss") != l.cfg.Issuer: // RFC 9207
		return l.failed(w, r, fault.New(fault.Unauthenticated, "this answer does not come from mcias").WithReason("SIGN_IN_FAILED"))
	case q.Get("error") == "access_denied":
		return l.failed(w, r, fault.New(fault.Denied, "no rule lets this account use %s; ask the operator, and name the reference below", l.cfg.Service).WithReason(auth.ReasonDenied))
	case q.Get("error") != "":
		return l.failed(w, r, fault.New(fault.Unauthenticated, "mcias ended the sign-in: %s", plainWord(q.Get("error"))).WithReason("SIGN_IN_FAILED"))
	}
	sess, err := l.establish(r.Context(), j, q.Get("code"))
	if err != nil {
		return l.failed(w, r, err)
	}
	if old, err := r.Cookie("__Host-" + l.cfg.Service); err == nil {
		l.sessions.drop(old.Value)
	}
	http.SetCookie(w, sessionCookie(l.cfg.Service, l.sessions.add(sess), 0))
	l.cfg.Log.InfoContext(r.Context(), "signed in", "user", sess.state.Name, "rule", sess.state.Decision.Rule)
	http.Redirect(w, r, j.Next, http.StatusSeeOther)
	return nil
}

// plainWord keeps an error code of OIDC readable and harmless.
func plainWord(s string) string {
	if len(s) > 40 {
		s = s[:40]
	}
	out := make([]rune, 0, len(s))
	for _, c := range s {
		if c >= 'a' && c <= 'z' || c == '_' {
			out = append(out, c)
		}
	}
	return string(out)
}

// establish exchanges the code, checks the ID token and mints the first platform token.
func (l *Login) establish(ctx context.Context, j journey, code string) (*Session, error) {
	id, secret, err := l.cfg.Key.Client()
	if err != nil {
		return nil, err
	}
	t, err := l.provider.exchange(ctx, id, secret, code, j.Verifier, j.Redirect)
	if err != nil {
		return nil, err
	}
	claims, err := l.provider.verify(ctx, t.IDToken, id, j.Nonce)
	if err != nil {
		return nil, err
	}
	name := claims.User
	if name == "" {
		name = claims.Name
	}
	sess := &Session{idToken: t.IDToken, state: SessionState{Subject: claims.Subject, Name: name, Email: claims.Email,
		Groups: claims.Groups, SignedIn: l.cfg.Clock.Now()}}
	m, err := l.minter.FirstGrant(ctx, t.AccessToken)
	if err != nil {
		return nil, err
	}
	return sess, sess.take(m)
}

// take puts a minted token into the session, whose lock is held or which nobody else has yet.
func (s *Session) take(m auth.Minted) error {
	claims, err := readClaims(m.Token)
	if err != nil {
		return err
	}
	st := &s.state
	st.Token, st.Expires, st.Claims, st.Decision = m.Token, m.Expires, claims, decisionOf(m)
	if m.GrantID != "" {
		st.GrantID = m.GrantID
	}
	if st.Name == "" {
		st.Name = claims.Name
	}
	return nil
}

// Token implements Identity: the session's token, renewed when near its end. Renewal is one at a time per session.
func (l *Login) Token(r *http.Request) (string, error) {
	c, err := r.Cookie("__Host-" + l.cfg.Service)
	if err != nil {
		return "", nil
	}
	sess := l.sessions.get(c.Value)
	if sess == nil {
		return "", nil
	}
	sess.mu.Lock()
	defer sess.mu.Unlock()
	now := l.cfg.Clock.Now()
	if now.Before(sess.state.Expires.Add(-renewMargin)) {
		return sess.state.Token, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), issuerTime)
	defer cancel()
	m, err := l.minter.Grant(ctx, sess.state.GrantID)
	if err == nil {
		err = sess.take(m)
	}
	switch {
	case err == nil:
		return sess.state.Token, nil
	case fault.Of(err).Retryable() && now.Before(sess.state.Expires):
		return sess.state.Token, nil // the old one to its end
	case fault.Is(err, fault.Unauthenticated), fault.Is(err, fault.Denied), fault.Is(err, fault.NotFound):
		l.sessions.drop(c.Value) // the session at MCIAS is over
		l.cfg.Log.InfoContext(r.Context(), "session ended at mcias", "user", sess.state.Name, "err", err)
		return "", nil
	}
	return "", err
}

// logout forgets the session here and ends it at MCIAS.
func (l *Login) logout(w http.ResponseWriter, r *http.Request) error {
	hint := ""
	if sess := l.Session(r); sess != nil {
		sess.mu.Lock()
		hint = sess.idToken
		sess.mu.Unlock()
	}
	if c, err := r.Cookie("__Host-" + l.cfg.Service); err == nil {
		l.sessions.drop(c.Value)
	}
	http.SetCookie(w, sessionCookie(l.cfg.Service, "", -1))
	d, err := l.provider.discover(r.Context())
	if err != nil || d.EndSessionEndpoint == "" || hint == "" {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return nil
	}
	id, _, err := l.cfg.Key.Client()
	if err != nil {
		return err
	}
	q := url.Values{"id_token_hint": {hint}, "client_id": {id}, "post_logout_redirect_uri": {"https://" + r.Host + "/"}}
	http.Redirect(w, r, d.EndSessionEndpoint+"?"+q.Encode(), http.StatusSeeOther)
	return nil
}

// failed shows why a sign-in ended. It never starts the next one by itself: that could go round for ever.
func (l *Login) failed(w http.ResponseWriter, r *http.Request, err error) error {
	f := fault.From(err)
	l.cfg.Log.WarnContext(r.Context(), "sign-in failed", "err", err)
	title, state, signIn := "The sign-in was not completed", "You are not signed in.", "/login"
	if f.Kind == fault.Denied {
		title, state, signIn = "You may not use "+l.cfg.Service, "MCIAS knows you and did not let you in.", ""
	} else if f.Kind.Retryable() {
		title, state = "Signing in is not possible now", "It comes back by itself."
	}
	status := pageStatus(f.Kind)
	if f.Kind == fault.Unauthenticated {
		status = http.StatusBadRequest
	}
	ref := f.RequestID
	if ref == "" {
		ref = auth.RequestID(r.Context())
	}
	return l.site.Render(w, r, "error.page.html", Page{Title: title, State: state, Narrow: true, Status: status,
		Data: errorView{Message: sentence(f.Public()), Next: f.Next, Command: isCommand(f.Next), SignIn: signIn, Ref: ref}})
}
