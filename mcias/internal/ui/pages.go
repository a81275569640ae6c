package ui

import (
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/web"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"
)

//go:embed templates/*.html
var files embed.FS

// Templates returns the page templates.
func Templates() fs.FS {
	sub, err := fs.Sub(files, "templates")
	if err != nil {
		panic(err) // the folder is compiled in
	}
	return sub
}

// Sections are the pages in the second line of the navigation.
func Sections() []web.Link {
	return []web.Link{{Name: "Account", URL: "/account"}, {Name: "Accounts", URL: "/accounts"}, {Name: "Sessions", URL: "/sessions"},
		{Name: "Clients", URL: "/clients"}, {Name: "Policy", URL: "/policy"}, {Name: "Audit", URL: "/audit"}}
}

// Routes registers the pages behind the sign-in.
func (u *UI) Routes(s *web.Site, r chi.Router, conn *grpc.ClientConn) {
	u.auth, u.token, u.acct = mciasv1.NewAuthClient(conn), mciasv1.NewTokenClient(conn), mciasv1.NewAccountClient(conn)
	u.client, u.audit, u.policy = mciasv1.NewClientClient(conn), mciasv1.NewAuditClient(conn), mciasv1.NewPolicyClient(conn)
	r.Get("/", s.Page(func(w http.ResponseWriter, r *http.Request) error {
		http.Redirect(w, r, "/account", http.StatusSeeOther)
		return nil
	}))
	r.Get("/account", s.Page(u.account))
	r.Post("/account/password", s.Page(u.password))
	r.Post("/account/sessions", s.Page(u.endSession("/account")))
	r.Post("/account/grants", s.Page(u.revokeGrant))
	r.Get("/accounts", s.Page(u.accounts))
	r.Get("/accounts/new", s.Page(u.accountNew))
	r.Post("/accounts", s.Page(u.accountCreate))
	r.Get("/accounts/{name}", s.Page(u.accountShow))
	r.Post("/accounts/{name}/status", s.Page(u.accountStatus))
	r.Post("/accounts/{name}/roles", s.Page(u.accountRoles))
	r.Post("/accounts/{name}/invite", s.Page(u.accountInvite))
	r.Get("/sessions", s.Page(u.sessions))
	r.Post("/sessions", s.Page(u.endSession("/sessions")))
	r.Get("/clients", s.Page(u.clients))
	r.Get("/clients/new", s.Page(u.clientNew))
	r.Post("/clients", s.Page(u.clientCreate))
	r.Get("/clients/show", s.Page(u.clientShow))
	r.Post("/clients/status", s.Page(u.clientStatus))
	r.Post("/clients/secret", s.Page(u.clientSecret))
	r.Get("/policy", s.Page(u.rules))
	r.Get("/audit", s.Page(u.auditList))
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

type accountView struct {
	Name, Roles string
	Sessions    []*mciasv1.SessionRecord
	Grants      []*mciasv1.GrantRecord
}

func (u *UI) account(w http.ResponseWriter, r *http.Request) error {
	return u.drawAccount(w, r, web.NewForm(), 0)
}

func (u *UI) drawAccount(w http.ResponseWriter, r *http.Request, form *web.Form, status int) error {
	c := auth.From(r.Context())
	if c.Kind != auth.Human {
		return fault.New(fault.NotFound, "you are %s and have no account here", c).WithNext("open /accounts")
	}
	ss, err := u.auth.ListSessions(r.Context(), &mciasv1.ListSessionsRequest{PageSize: 100})
	if err != nil {
		return err
	}
	gs, err := u.auth.ListGrants(r.Context(), &mciasv1.ListGrantsRequest{})
	if err != nil {
		return err
	}
	v := accountView{Name: c.Name, Roles: strings.Join(c.Roles, ", "), Sessions: ss.GetSessions(), Grants: gs.GetGrants()}
	state := "Signed in with " + plural(len(v.Sessions), "session", "sessions") + "; " + plural(len(v.Grants), "app sign-in", "app sign-ins") + "."
	return u.site.Render(w, r, "account.html", web.Page{Title: c.Name, State: state, Status: status, Data: v, Form: form})
}

func (u *UI) password(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return fault.New(fault.Invalid, "the form is malformed or too long")
	}
	var err error
	var res *mciasv1.ChangePasswordResponse
	if r.PostForm.Get("new") != r.PostForm.Get("again") {
		err = fault.Field1("again", "the two are not the same")
	} else {
		res, err = u.auth.ChangePassword(outgoing(r), &mciasv1.ChangePasswordRequest{OldPassword: r.PostForm.Get("old"), NewPassword: r.PostForm.Get("new")})
	}
	if err == nil {
		return u.site.Redirect(w, r, "/account", "Password changed; "+plural(int(res.GetSessionsEnded()), "other session", "other sessions")+" ended.")
	}
	form := web.Refused(r, err, "old", "new", "again")
	if fault.HasReason(err, "BAD_CREDENTIALS") {
		form = web.NewForm()
		form.Problem = "The present password is not right, or there were too many attempts: wait a minute."
	}
	if form == nil {
		return err
	}
	for i, f := range form.Fields {
		if f.Name == "password" {
			form.Fields[i].Name = "new"
		}
	}
	return u.drawAccount(w, r, form, http.StatusUnprocessableEntity)
}

func (u *UI) endSession(back string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, err := u.auth.EndSession(r.Context(), &mciasv1.EndSessionRequest{Sid: r.PostFormValue("sid")}); err != nil {
			return err
		}
		return u.site.Redirect(w, r, back, "Session ended; its tokens are dead.")
	}
}

func (u *UI) revokeGrant(w http.ResponseWriter, r *http.Request) error {
	if _, err := u.auth.RevokeGrant(r.Context(), &mciasv1.RevokeGrantRequest{Id: r.PostFormValue("id")}); err != nil {
		return err
	}
	return u.site.Redirect(w, r, "/account", "The app is signed out.")
}

type sessionsView struct {
	Sessions []*mciasv1.SessionRecord
	Next     string
}

func (u *UI) sessions(w http.ResponseWriter, r *http.Request) error {
	res, err := u.auth.ListSessions(r.Context(), &mciasv1.ListSessionsRequest{All: true, PageToken: r.URL.Query().Get("page")})
	if err != nil {
		return err
	}
	state := plural(len(res.GetSessions()), "session", "sessions") + "."
	if res.GetNextPageToken() != "" {
		state = "More than " + state
	}
	return u.site.Render(w, r, "sessions.html", web.Page{Title: "Sessions", State: state, Data: sessionsView{res.GetSessions(), more(r, res.GetNextPageToken())}})
}

// more returns the address of the next page, "" at the end.
func more(r *http.Request, token string) string {
	if token == "" {
		return ""
	}
	q := r.URL.Query()
	q.Set("page", token)
	return r.URL.Path + "?" + q.Encode()
}

type auditView struct {
	Records               []*mciasv1.AuditRecord
	Actor, Action, Target string
	Next                  string
}

func (u *UI) auditList(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	v := auditView{Actor: q.Get("actor"), Action: q.Get("action"), Target: q.Get("target")}
	res, err := u.audit.List(r.Context(), &mciasv1.AuditListRequest{PageToken: q.Get("page"), Actor: v.Actor, Action: v.Action, Target: v.Target})
	if err != nil {
		return err
	}
	v.Records, v.Next = res.GetRecords(), more(r, res.GetNextPageToken())
	state := "No records."
	if len(v.Records) > 0 {
		state = fmt.Sprintf("Records %d to %d, newest first; each holds the hash of the one before.", v.Records[len(v.Records)-1].GetSeq(), v.Records[0].GetSeq())
	}
	return u.site.Render(w, r, "audit.html", web.Page{Title: "Audit", State: state, Data: v})
}

func (u *UI) rules(w http.ResponseWriter, r *http.Request) error {
	res, err := u.policy.GetRules(r.Context(), &mciasv1.PolicyGetRulesRequest{})
	if err != nil {
		return err
	}
	state := fmt.Sprintf("%s, revision %d. What no rule allows is denied; a deny always wins.", plural(len(res.GetRules()), "rule", "rules"), res.GetRevision())
	return u.site.Render(w, r, "policy.html", web.Page{Title: "Policy", State: state, Data: res.GetRules()})
}

// Error, SignIn to SignedOut draw what the OpenID Connect endpoints show.

// Error shows why a sign-in goes no further; never a redirect.
func (u *UI) Error(w http.ResponseWriter, r *http.Request, err error) {
	if fault.Is(err, fault.Unauthenticated) && !fault.HasReason(err, auth.ReasonStepUp) {
		u.ToSignIn(w, r, r.URL.RequestURI())
		return
	}
	f := fault.From(err)
	kind := f.Kind
	if kind == fault.Unauthenticated { // a step-up nobody can make yet: shown, not looped
		kind = fault.Denied
	}
	shown := fault.New(kind, "%s", f.Public()).WithReason(f.Reason).Wrap(err)
	shown.Next, shown.RetryAfter = f.Next, f.RetryAfter
	u.site.Refuse(w, r, shown)
}

// ToSignIn sends the browser to the sign-in page and from there to next.
func (u *UI) ToSignIn(w http.ResponseWriter, r *http.Request, next string) {
	http.Redirect(w, r, "/login?"+url.Values{"next": {next}}.Encode(), http.StatusSeeOther)
}

type consentView struct {
	Client, User, Request string
	Sees                  []string
}

// Consent asks whether an app may know who somebody is.
func (u *UI) Consent(w http.ResponseWriter, r *http.Request, client, user string, scopes []string, request string) {
	v := consentView{Client: client, User: user, Request: request}
	for _, s := range scopes {
		switch s {
		case "profile":
			v.Sees = append(v.Sees, "your name and user name")
		case "email":
			v.Sees = append(v.Sees, "your mail address")
		case "groups":
			v.Sees = append(v.Sees, "your roles and tags")
		case "offline_access":
			v.Sees = append(v.Sees, "this also later, while you are away, until the session ends")
		}
	}
	u.draw(w, r, "consent.html", web.Page{Title: "Sign in to " + client, Center: true, Data: v})
}

// AskLogout asks before ending the session.
func (u *UI) AskLogout(w http.ResponseWriter, r *http.Request, request string) {
	u.draw(w, r, "logout.html", web.Page{Title: "Sign out?", Center: true, Data: request})
}

// SignedOut says that it is done.
func (u *UI) SignedOut(w http.ResponseWriter, r *http.Request) {
	u.draw(w, r, "signedout.html", web.Page{Title: "Signed out", Center: true})
}

// GoOn is Continue for callers that cannot return an error.
func (u *UI) GoOn(w http.ResponseWriter, r *http.Request, target string) {
	if err := u.Continue(w, r, target); err != nil {
		u.site.Refuse(w, r, err)
	}
}

func (u *UI) draw(w http.ResponseWriter, r *http.Request, name string, p web.Page) {
	if err := u.site.Render(w, r, name, p); err != nil {
		u.site.Refuse(w, r, err)
	}
}
