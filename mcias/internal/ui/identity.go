package ui

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc/metadata"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/web"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"
)

// cookieName is the session cookie; the __Host- prefix keeps sibling hosts from setting it.
const cookieName = "__Host-mcias"

// audience of the tokens the pages use.
const audience = "mcias"

// Rules returns the rules of all page routes.
func Rules() auth.Map {
	m := auth.Map{}
	for _, k := range []string{"GET /login", "GET /setup", "GET /setup.js", "POST /logout"} {
		m["HTTP "+k] = auth.Public()
	}
	for _, k := range []string{"POST /login", "POST /setup"} {
		m["HTTP "+k] = auth.Public().Unsealed().Body(maxForm)
	}
	for _, k := range []string{"GET /", "GET /account", "GET /accounts", "GET /accounts/new", "GET /accounts/{name}", "GET /sessions", "GET /clients",
		"GET /clients/new", "GET /clients/show", "GET /audit", "GET /policy"} {
		m["HTTP "+k] = auth.Authenticated()
	}
	for _, k := range []string{"POST /account/password", "POST /account/sessions", "POST /account/grants", "POST /accounts", "POST /accounts/{name}/status",
		"POST /accounts/{name}/roles", "POST /accounts/{name}/invite", "POST /sessions", "POST /clients", "POST /clients/status", "POST /clients/secret"} {
		m["HTTP "+k] = auth.Authenticated().Body(maxForm)
	}
	return m
}

// maxForm bounds what a form may post.
const maxForm = 16 << 10

// UI is the identity and the pages.
type UI struct {
	issuer string
	site   *web.Site
	auth   mciasv1.AuthClient
	token  mciasv1.TokenClient
	acct   mciasv1.AccountClient
	client mciasv1.ClientClient
	audit  mciasv1.AuditClient
	policy mciasv1.PolicyClient
}

// New returns the pages of an issuer.
func New(issuer string) *UI { return &UI{issuer: issuer} }

// Rules implements web's extension of Identity: the ways in and out.
func (u *UI) Rules() auth.Map { return Rules() }

// Mount implements web.Identity.
func (u *UI) Mount(s *web.Site, r chi.Router) {
	u.site = s
	r.Get("/login", s.Page(u.loginPage))
	r.Post("/login", s.Page(u.login))
	r.Post("/logout", s.Page(u.logout))
	r.Get("/setup", s.Page(u.setupPage))
	r.Get("/setup.js", setupScript)
	r.Post("/setup", s.Page(u.setup))
}

// User implements web.Identity: whom the check before the page has verified.
func (u *UI) User(r *http.Request) *web.User {
	c := auth.From(r.Context())
	if !c.Known() {
		return nil
	}
	if c.Kind == auth.Socket {
		return &web.User{Name: c.String()}
	}
	return &web.User{Name: c.Name, Roles: c.Roles, Account: "/account", Logout: "/logout"}
}

// secretOf returns the session secret of a request. Two cookies of the name are none: one of them was planted.
func secretOf(r *http.Request) string {
	value := ""
	for _, c := range r.Cookies() {
		if c.Name != cookieName {
			continue
		}
		if value != "" {
			return ""
		}
		value = c.Value
	}
	if len(value) > 256 {
		return ""
	}
	return value
}

// Token implements web.Identity: a token for MCIAS itself, made anew for each request.
func (u *UI) Token(r *http.Request) (string, error) {
	secret := secretOf(r)
	if secret == "" || u.token == nil {
		return "", nil
	}
	res, err := u.token.Mint(r.Context(), &mciasv1.MintRequest{Credential: &mciasv1.MintRequest_Session{Session: secret}, Audiences: []string{audience}})
	if fault.HasReason(err, "NO_SESSION") {
		return "", nil
	}
	return res.GetToken(), err
}

// SignIn implements web.Identity.
func (u *UI) SignIn(r *http.Request, err error) string {
	v := url.Values{}
	if fault.HasReason(err, auth.ReasonStepUp) {
		v.Set("reauth", "1")
	}
	if r.Method == http.MethodGet && r.URL.Path != "/" {
		v.Set("next", r.URL.RequestURI())
	}
	if len(v) == 0 {
		return "/login"
	}
	return "/login?" + v.Encode()
}

// outgoing marks a call as one of a browser's, and who the browser says it is.
func outgoing(r *http.Request, kv ...string) context.Context {
	kv = append(kv, "mc-session-kind", "browser")
	if ua := r.UserAgent(); ua != "" && len(ua) < 512 {
		kv = append(kv, "mc-user-agent", strings.ToValidUTF8(ua, ""))
	}
	return metadata.AppendToOutgoingContext(r.Context(), kv...)
}

// local returns p if it is a path of ours, else "".
func local(p string) string {
	if len(p) > 8<<10 || !strings.HasPrefix(p, "/") || strings.HasPrefix(p, "//") || strings.ContainsAny(p, "\\\r\n\t") {
		return ""
	}
	if x, err := url.Parse(p); err != nil || x.Host != "" || x.Scheme != "" {
		return ""
	}
	return p
}

// appOf names the app a sign-in is for: the client of the authorize request one comes from.
func appOf(next string) string {
	x, err := url.Parse(next)
	if err != nil || x.Path != "/oidc/authorize" {
		return ""
	}
	id := x.Query().Get("client_id")
	if len(id) > 129 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789._-/") != "" {
		return ""
	}
	return id
}

type loginView struct {
	App, Next, Reauth string
}

func (u *UI) loginPage(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	next := local(q.Get("next"))
	reauth := q.Get("reauth") != "" || strings.HasPrefix(next, "/oidc/authorize?")
	name := ""
	if tok, err := u.Token(r); err == nil && tok != "" {
		if !reauth {
			http.Redirect(w, r, orHome(next), http.StatusSeeOther)
			return nil
		}
		name = u.nameOf(r, tok)
	}
	return u.drawLogin(w, r, next, web.NewForm("username", name), 0)
}

// nameOf returns who a token speaks for, "" if it cannot be told.
func (u *UI) nameOf(r *http.Request, tok string) string {
	res, err := u.auth.ListSessions(metadata.AppendToOutgoingContext(r.Context(), "authorization", "Bearer "+tok), &mciasv1.ListSessionsRequest{PageSize: 1})
	if err != nil || len(res.GetSessions()) == 0 {
		return ""
	}
	return res.GetSessions()[0].GetAccount()
}

func orHome(next string) string {
	if next == "" {
		return "/account"
	}
	return next
}

func (u *UI) drawLogin(w http.ResponseWriter, r *http.Request, next string, form *web.Form, status int) error {
	v := loginView{App: appOf(next), Next: next}
	title := "Sign in"
	if v.App != "" {
		title = "Sign in to " + v.App
	}
	if form.Value("username") != "" && !form.Bad() {
		v.Reauth = "Your sign-in has to be renewed."
	}
	return u.site.Render(w, r, "login.html", web.Page{Title: title, Center: true, Status: status, Data: v, Form: form})
}

func (u *UI) login(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return fault.New(fault.Invalid, "the form is malformed or too long")
	}
	next := local(r.PostForm.Get("next"))
	secret, expires, err := u.prove(r, r.PostForm.Get("username"), r.PostForm.Get("password"))
	if err != nil {
		f := fault.From(err)
		switch f.Kind {
		case fault.Unauthenticated, fault.Unavailable, fault.Invalid, fault.Exhausted:
			form := web.NewForm("username", r.PostForm.Get("username"))
			form.Problem, form.Next = sentence(f.Public()), f.Next
			status := f.Kind.HTTPStatus()
			if f.Kind == fault.Invalid {
				status = http.StatusUnprocessableEntity
			}
			return u.drawLogin(w, r, next, form, status)
		}
		return err
	}
	setCookie(w, secret, expires)
	return u.Continue(w, r, orHome(next))
}

// sentence begins upper case and ends with a full stop.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// prove renews the session of this browser if it is the same person's, else opens a new one.
func (u *UI) prove(r *http.Request, name, password string) (secret string, expires time.Time, err error) {
	if tok, terr := u.Token(r); terr == nil && tok != "" && u.nameOf(r, tok) == strings.ToLower(strings.TrimSpace(name)) {
		res, err := u.auth.Reauthenticate(outgoing(r, "authorization", "Bearer "+tok), &mciasv1.ReauthenticateRequest{Password: password})
		if err != nil {
			return "", time.Time{}, err
		}
		return res.GetSession(), res.GetSessionExpiresAt().AsTime(), nil
	}
	res, err := u.auth.Login(outgoing(r), &mciasv1.LoginRequest{Username: name, Password: password})
	if err != nil {
		return "", time.Time{}, err
	}
	return res.GetSession(), res.GetSessionExpiresAt().AsTime(), nil
}

func setCookie(w http.ResponseWriter, secret string, expires time.Time) {
	// Lax: an app's authorize request arrives by cross-site navigation and must find the session.
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: secret, Path: "/", Expires: expires, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

func clearCookie(w http.ResponseWriter) {
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

func (u *UI) logout(w http.ResponseWriter, r *http.Request) error {
	tok, err := u.Token(r)
	if err == nil && tok != "" {
		_, err = u.auth.Logout(outgoing(r, "authorization", "Bearer "+tok), &mciasv1.LogoutRequest{})
	}
	if err != nil && !fault.Is(err, fault.Unauthenticated) {
		return err
	}
	clearCookie(w)
	return u.Continue(w, r, "/login")
}

// Continue answers a form post with a page that goes on by GET. Chromium applies form-action to the whole redirect
// chain of a form post, which would block the way to the app; a refresh is a navigation of its own.
func (u *UI) Continue(w http.ResponseWriter, r *http.Request, target string) error {
	w.Header().Set("Refresh", "0; url="+target)
	return u.site.Render(w, r, "continue.html", web.Page{Title: "Going on", Center: true, Data: target})
}

func (u *UI) setupPage(w http.ResponseWriter, r *http.Request) error {
	return u.site.Render(w, r, "setup.html", web.Page{Title: "Set your password", Center: true, Form: web.NewForm()})
}

// script moves the link's secret from the address into the form: the part after # is never sent to a server.
const script = `"use strict";
const code = location.hash.slice(1), field = document.getElementById("f-link");
if (code && field) {
  field.value = code;
  history.replaceState(null, "", location.pathname);
  document.getElementById("f-password").focus();
}
`

func setupScript(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
	_, _ = w.Write([]byte(script)) // the client is gone if this fails
}

func (u *UI) setup(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return fault.New(fault.Invalid, "the form is malformed or too long")
	}
	link := strings.TrimSpace(r.PostForm.Get("link"))
	if i := strings.LastIndexByte(link, '#'); i >= 0 {
		link = link[i+1:]
	}
	password := r.PostForm.Get("password")
	var err error
	var res *mciasv1.RedeemSetupLinkResponse
	if password != r.PostForm.Get("again") {
		err = fault.Field1("again", "the two are not the same")
	} else {
		res, err = u.auth.RedeemSetupLink(outgoing(r), &mciasv1.RedeemSetupLinkRequest{Link: link, Password: password})
	}
	if err != nil {
		f := fault.From(err)
		form := web.Refused(r, err, "password", "again")
		if form == nil && f.Kind == fault.Unauthenticated {
			form = web.NewForm()
			form.Problem, form.Next = sentence(f.Public()), f.Next
		}
		if form == nil {
			return err
		}
		return u.site.Render(w, r, "setup.html", web.Page{Title: "Set your password", Center: true, Status: http.StatusUnprocessableEntity, Form: form})
	}
	return u.site.Redirect(w, r, "/login?next=/account", "The password of "+res.GetUsername()+" is set. Sign in with it.")
}
