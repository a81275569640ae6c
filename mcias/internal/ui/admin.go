package ui

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-chi/chi/v5"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/web"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"
)

type accountsView struct {
	Accounts []*mciasv1.AccountRecord
	Type     string
	Next     string
}

func (u *UI) accounts(w http.ResponseWriter, r *http.Request) error {
	typ := r.URL.Query().Get("type")
	if typ != "human" && typ != "system" {
		typ = ""
	}
	res, err := u.acct.List(r.Context(), &mciasv1.AccountListRequest{Type: typ, PageToken: r.URL.Query().Get("page")})
	if err != nil {
		return err
	}
	people, off := 0, 0
	for _, a := range res.GetAccounts() {
		if a.GetType() == "human" {
			people++
		}
		if a.GetStatus() != "active" {
			off++
		}
	}
	state := fmt.Sprintf("%s, %s.", plural(people, "person", "people"), plural(len(res.GetAccounts())-people, "service", "services"))
	if off > 0 {
		state += fmt.Sprintf(" %d disabled.", off)
	}
	return u.site.Render(w, r, "accounts.html", web.Page{Title: "Accounts", State: state,
		Action: &web.Action{Label: "Create an account", URL: "/accounts/new", CLI: "mcias account create NAME --role user"},
		Data:   accountsView{res.GetAccounts(), typ, more(r, res.GetNextPageToken())}})
}

func (u *UI) accountNew(w http.ResponseWriter, r *http.Request) error {
	return u.drawNew(w, r, web.NewForm("role", "user"), 0)
}

func (u *UI) drawNew(w http.ResponseWriter, r *http.Request, form *web.Form, status int) error {
	return u.site.Render(w, r, "account-new.html", web.Page{Title: "Create an account", State: "The person gets a link with which they set their password.",
		Crumbs: []web.Link{{Name: "Accounts", URL: "/accounts"}, {Name: "new"}}, Narrow: true, Status: status, Form: form})
}

func (u *UI) accountCreate(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return fault.New(fault.Invalid, "the form is malformed or too long")
	}
	f := r.PostForm
	req := &mciasv1.AccountCreateRequest{Name: f.Get("name"), Display: f.Get("display"), Email: f.Get("email")}
	if role := f.Get("role"); role != "" && role != "none" {
		req.Roles = []string{role}
	}
	res, err := u.acct.Create(outgoing(r), req)
	if err != nil {
		if form := web.Refused(r, err); form != nil {
			return u.drawNew(w, r, form, http.StatusUnprocessableEntity)
		}
		return err
	}
	name := res.GetAccount().GetName()
	return u.site.Redirect(w, r, "/accounts/"+url.PathEscape(name), "Account "+name+" is made. Invite them next.")
}

type oneView struct {
	Account  *mciasv1.AccountRecord
	Missing  []string // roles not held
	Sessions []*mciasv1.SessionRecord
	Link     *mciasv1.SetupLink
}

func (u *UI) accountShow(w http.ResponseWriter, r *http.Request) error { return u.drawOne(w, r, nil) }

func (u *UI) drawOne(w http.ResponseWriter, r *http.Request, link *mciasv1.SetupLink) error {
	name := chi.URLParam(r, "name")
	res, err := u.acct.Get(r.Context(), &mciasv1.AccountGetRequest{Name: name})
	if err != nil {
		return err
	}
	v := oneView{Account: res.GetAccount(), Link: link}
	if v.Account.GetType() == "human" {
		ss, err := u.auth.ListSessions(r.Context(), &mciasv1.ListSessionsRequest{Account: name, PageSize: 100})
		if err != nil {
			return err
		}
		v.Sessions = ss.GetSessions()
		for _, role := range []string{"admin", "user", "guest"} {
			if !contains(v.Account.GetRoles(), role) {
				v.Missing = append(v.Missing, role)
			}
		}
	}
	state := strings.ToUpper(v.Account.GetStatus()[:1]) + v.Account.GetStatus()[1:] + " " + map[string]string{"human": "person", "system": "service"}[v.Account.GetType()]
	if v.Account.GetType() == "human" {
		state += ", " + plural(len(v.Sessions), "session", "sessions")
		if len(v.Account.GetFactors()) == 0 {
			state += "; cannot sign in yet: no password"
		}
	}
	return u.site.Render(w, r, "account-one.html", web.Page{Title: v.Account.GetName(), State: state + ".",
		Crumbs: []web.Link{{Name: "Accounts", URL: "/accounts"}, {Name: v.Account.GetName()}}, Data: v})
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func (u *UI) accountStatus(w http.ResponseWriter, r *http.Request) error {
	name := chi.URLParam(r, "name")
	res, err := u.acct.SetStatus(r.Context(), &mciasv1.AccountSetStatusRequest{Name: name, Status: r.PostFormValue("status")})
	if err != nil {
		return err
	}
	return u.site.Redirect(w, r, "/accounts/"+url.PathEscape(name),
		fmt.Sprintf("%s is %s; %s ended.", name, res.GetAccount().GetStatus(), plural(int(res.GetSessionsEnded()), "session", "sessions")))
}

func (u *UI) accountRoles(w http.ResponseWriter, r *http.Request) error {
	name, role := chi.URLParam(r, "name"), r.PostFormValue("role")
	toast := name + " now has the role " + role + "."
	var err error
	if r.PostFormValue("verb") == "remove" {
		_, err = u.acct.RemoveRole(r.Context(), &mciasv1.AccountRemoveRoleRequest{Name: name, Role: role})
		toast = name + " no longer has the role " + role + "."
	} else {
		_, err = u.acct.AddRole(r.Context(), &mciasv1.AccountAddRoleRequest{Name: name, Role: role})
	}
	if err != nil {
		return err
	}
	return u.site.Redirect(w, r, "/accounts/"+url.PathEscape(name), toast)
}

func (u *UI) accountInvite(w http.ResponseWriter, r *http.Request) error {
	res, err := u.acct.CreateSetupLink(r.Context(), &mciasv1.AccountCreateSetupLinkRequest{Name: chi.URLParam(r, "name")})
	if err != nil {
		return err
	}
	return u.drawOne(w, r, res.GetLink()) // shown once, so no redirect
}

type clientsView struct {
	Clients []*mciasv1.ClientRecord
	Next    string
}

func (u *UI) clients(w http.ResponseWriter, r *http.Request) error {
	res, err := u.client.List(r.Context(), &mciasv1.ClientListRequest{PageToken: r.URL.Query().Get("page")})
	if err != nil {
		return err
	}
	state := plural(len(res.GetClients()), "client", "clients") + "; each admits whom a rule names, nobody else."
	if len(res.GetClients()) == 0 {
		state = "No clients yet."
	}
	return u.site.Render(w, r, "clients.html", web.Page{Title: "Clients", State: state,
		Action: &web.Action{Label: "Create a client", URL: "/clients/new", CLI: "mcias client create ID --redirect-uri URL --allow role:user --json"},
		Data:   clientsView{res.GetClients(), more(r, res.GetNextPageToken())}})
}

func (u *UI) clientNew(w http.ResponseWriter, r *http.Request) error {
	return u.drawNewClient(w, r, web.NewForm("kind", "web", "allow", "role:user"), 0)
}

func (u *UI) drawNewClient(w http.ResponseWriter, r *http.Request, form *web.Form, status int) error {
	return u.site.Render(w, r, "client-new.html", web.Page{Title: "Create a client", State: "An app people sign in to. Its secret is shown once.",
		Crumbs: []web.Link{{Name: "Clients", URL: "/clients"}, {Name: "new"}}, Narrow: true, Status: status, Form: form})
}

func (u *UI) clientCreate(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return fault.New(fault.Invalid, "the form is malformed or too long")
	}
	f := r.PostForm
	res, err := u.client.Create(r.Context(), &mciasv1.ClientCreateRequest{Id: f.Get("id"), Kind: f.Get("kind"), RedirectUris: strings.Fields(f.Get("redirect_uris")),
		Allow: strings.Fields(f.Get("allow"))})
	if err != nil {
		if form := web.Refused(r, err); form != nil {
			return u.drawNewClient(w, r, form, http.StatusUnprocessableEntity)
		}
		return err
	}
	return u.drawClient(w, r, res.GetClient(), res.GetIssuer(), res.GetClientSecret())
}

type clientView struct {
	Client         *mciasv1.ClientRecord
	Issuer, Secret string
}

func (u *UI) drawClient(w http.ResponseWriter, r *http.Request, c *mciasv1.ClientRecord, issuer, secret string) error {
	state := "Enabled"
	if !c.GetEnabled() {
		state = "Disabled: nobody signs in, every token for it is dead"
	}
	return u.site.Render(w, r, "client.html", web.Page{Title: c.GetId(), State: state + ".",
		Crumbs: []web.Link{{Name: "Clients", URL: "/clients"}, {Name: c.GetId()}}, Data: clientView{c, issuer, secret}})
}

func (u *UI) clientShow(w http.ResponseWriter, r *http.Request) error {
	res, err := u.client.Get(r.Context(), &mciasv1.ClientGetRequest{Id: r.URL.Query().Get("id")})
	if err != nil {
		return err
	}
	return u.drawClient(w, r, res.GetClient(), res.GetIssuer(), "")
}

func (u *UI) clientStatus(w http.ResponseWriter, r *http.Request) error {
	id, on := r.PostFormValue("id"), r.PostFormValue("enabled") == "yes"
	if _, err := u.client.SetEnabled(r.Context(), &mciasv1.ClientSetEnabledRequest{Id: id, Enabled: on}); err != nil {
		return err
	}
	toast := id + " is disabled; its tokens are dead."
	if on {
		toast = id + " is enabled."
	}
	return u.site.Redirect(w, r, "/clients/show?"+url.Values{"id": {id}}.Encode(), toast)
}

func (u *UI) clientSecret(w http.ResponseWriter, r *http.Request) error {
	id := r.PostFormValue("id")
	sec, err := u.client.RotateSecret(r.Context(), &mciasv1.ClientRotateSecretRequest{Id: id})
	if err != nil {
		return err
	}
	res, err := u.client.Get(r.Context(), &mciasv1.ClientGetRequest{Id: id})
	if err != nil {
		return err
	}
	return u.drawClient(w, r, res.GetClient(), res.GetIssuer(), sec.GetClientSecret())
}
