package oidc

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/authn"
	"metacircular.net/mcias/internal/directory"
	"metacircular.net/mcias/internal/opaque"
	"metacircular.net/mcias/internal/policy"
	"metacircular.net/mcias/internal/session"
	"metacircular.net/mcias/internal/store"
)

// maxQuery bounds an authorize request; it travels through the sign-in page.
const maxQuery = 8 << 10

// after is our own parameter on the way back from a sign-in that prompt=login or max_age asked for: the proof must be
// newer than this second. Whoever tampers with it tampers with their own sign-in.
const after = "mc_after"

// request is a checked authorize request.
type request struct {
	params    map[string]string
	client    *account.Client
	redirect  string
	state     string
	scopes    []string
	nonce     string
	challenge string
	prompt    []string
	maxAge    int // -1 = not asked
	after     int64
}

func (q *request) prompts(s string) bool { return slices.Contains(q.prompt, s) }

// authorize is the front door: it ends in a code, an error at the client's own URI, or a page.
func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	q, err := p.parse(r)
	if err != nil {
		p.stop(w, r, q, err)
		return
	}
	live, err := p.browser(r)
	if err != nil {
		p.pages.Error(w, r, err)
		return
	}
	if live == nil || p.stale(q, live) {
		p.signIn(w, r, q)
		return
	}
	ip := auth.Client(r.Context())
	d := p.decide(live.Account, q.client, live.AMR, live.AuthTime, ip)
	switch {
	case d.Outcome == policy.OutcomeStepUp && d.StepUp == "reauth":
		q.after = p.Clock.Now().Unix()
		p.signIn(w, r, q)
		return
	case d.Outcome != policy.OutcomeAllow:
		p.denied(w, r, q, live, d, ip)
		return
	}
	ask, err := p.mustAsk(r, q, live)
	if err != nil {
		p.pages.Error(w, r, err)
		return
	}
	if ask {
		if q.prompts("none") {
			p.redirectError(w, r, q, bad("consent_required", "the person has not agreed yet"))
			return
		}
		p.pages.Consent(w, r, q.client.ID, live.Account.Name, q.scopes, r.URL.RawQuery)
		return
	}
	target, err := p.issueCode(r, q, live, d, ip)
	if err != nil {
		p.pages.Error(w, r, err)
		return
	}
	noStore(w)
	http.Redirect(w, r, target, http.StatusSeeOther)
}

// stop answers a request that was refused: at the client's URI once that is known to be its own, else on a page.
func (p *Provider) stop(w http.ResponseWriter, r *http.Request, q *request, err error) {
	var e *oauthError
	if q != nil && q.redirect != "" && errors.As(err, &e) {
		p.redirectError(w, r, q, err)
		return
	}
	if errors.As(err, &e) {
		err = fault.New(fault.Invalid, "the app's sign-in request is refused: %s", e.Text).WithReason("BAD_REQUEST").
			WithNext("tell whoever set the app up; its client and redirect URI are in: mcias client list")
	}
	p.pages.Error(w, r, err)
}

// parse checks a request. With an error it returns what is known; redirect is set only once it is the client's own.
func (p *Provider) parse(r *http.Request) (*request, error) {
	if len(r.URL.RawQuery) > maxQuery {
		return nil, bad("invalid_request", "the request is too long")
	}
	params, err := query(r)
	if err != nil {
		return nil, err
	}
	q := &request{params: params, maxAge: -1}
	c, err := p.client(r.Context(), params["client_id"])
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, bad("invalid_client", "unknown client")
	}
	uri, has := params["redirect_uri"]
	if !has || !c.RedirectAllowed(uri) {
		return nil, bad("invalid_request", "the redirect URI is not registered for "+c.ID)
	}
	q.client, q.redirect, q.state = c, uri, params["state"]
	return q, q.check()
}

// check judges everything that may be answered at the client's URI.
func (q *request) check() error {
	v := q.params
	for _, k := range []string{"request", "request_uri", "registration"} {
		if _, has := v[k]; has {
			return bad(k+"_not_supported", k+" is not supported")
		}
	}
	if v["response_type"] != "code" {
		return bad("unsupported_response_type", "only code is supported")
	}
	if m, has := v["response_mode"]; has && m != "query" {
		return bad("invalid_request", "only response_mode query is supported")
	}
	if v["code_challenge_method"] != "S256" {
		return bad("invalid_request", "code_challenge_method must be S256")
	}
	q.challenge = v["code_challenge"]
	if b, err := base64.RawURLEncoding.Strict().DecodeString(q.challenge); err != nil || len(b) != 32 || len(q.challenge) != 43 {
		return bad("invalid_request", "code_challenge is not the S256 of a verifier")
	}
	for s := range strings.FieldsSeq(v["scope"]) {
		if slices.Contains(scopes, s) && !slices.Contains(q.scopes, s) {
			q.scopes = append(q.scopes, s)
		}
	}
	if !slices.Contains(q.scopes, "openid") {
		return bad("invalid_scope", "the scope must hold openid")
	}
	q.nonce = v["nonce"]
	if len(q.nonce) > 512 || len(q.state) > 4096 {
		return bad("invalid_request", "state or nonce is too long")
	}
	return q.checkPrompt()
}

func (q *request) checkPrompt() error {
	v := q.params
	q.prompt = strings.Fields(v["prompt"])
	for _, s := range q.prompt {
		switch s {
		case "none", "login", "consent":
		default:
			return bad("invalid_request", "unknown prompt")
		}
	}
	if q.prompts("none") && len(q.prompt) > 1 {
		return bad("invalid_request", "prompt none stands alone")
	}
	if s, has := v["max_age"]; has {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return bad("invalid_request", "max_age is not a number of seconds")
		}
		q.maxAge = n
	}
	if s, has := v[after]; has {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return bad("invalid_request", "malformed")
		}
		q.after = n
	}
	return nil
}

// stale reports whether the request wants a newer proof than the session has.
func (p *Provider) stale(q *request, l *session.Live) bool {
	switch {
	case q.prompts("login") && q.after == 0:
		return true
	case q.after > 0 && l.AuthTime.Unix() < q.after:
		return true
	case q.maxAge >= 0 && p.Clock.Now().Sub(l.AuthTime) > time.Duration(q.maxAge)*time.Second:
		return true
	}
	return false
}

// signIn sends the browser to the sign-in page and from there back to this request.
func (p *Provider) signIn(w http.ResponseWriter, r *http.Request, q *request) {
	if q.prompts("none") {
		p.redirectError(w, r, q, bad("login_required", "nobody is signed in"))
		return
	}
	if q.prompts("login") && q.after == 0 {
		q.after = p.Clock.Now().Unix()
	}
	v := url.Values{}
	for k, s := range q.params {
		v.Set(k, s)
	}
	if q.after > 0 {
		v.Set(after, strconv.FormatInt(q.after, 10))
	}
	p.pages.SignIn(w, r, "/oidc/authorize?"+v.Encode())
}

// decide asks policy about a sign-in to a client. Its kind and tags come from its record.
func (p *Provider) decide(a *account.Account, c *account.Client, amr []string, authTime time.Time, ip netip.Addr) policy.Decision {
	q := directory.Request(a, ip, p.Clock.Now())
	q.Service, q.ClientKind, q.ServiceTags, q.AMR, q.AuthTime = c.ID, c.Kind, c.Tags, amr, authTime
	return p.Directory.Policy().Decide(q)
}

// denied records policy's refusal and shows it with its reference.
func (p *Provider) denied(w http.ResponseWriter, r *http.Request, q *request, l *session.Live, d policy.Decision, ip netip.Addr) {
	now := p.Clock.Now()
	err := p.DB.Write(r.Context(), func(tx *db.Tx) error {
		rec := p.signInRecord("login.denied", q, l, d, ip)
		rec.Outcome = audit.Denied
		rec.Detail["reference"] = auth.RequestID(r.Context())
		return audit.Append(tx, now, rec)
	})
	if err != nil {
		p.pages.Error(w, r, err)
		return
	}
	if q.prompts("none") {
		p.redirectError(w, r, q, bad("access_denied", "the login policy says no"))
		return
	}
	p.pages.Error(w, r, authn.Refusal(d, l.Account.Name, q.client.ID))
}

// signInRecord holds every input of the decision, so that it can be replayed.
func (p *Provider) signInRecord(action string, q *request, l *session.Live, d policy.Decision, ip netip.Addr) audit.Record {
	return audit.By{Name: l.Account.Name, IP: ip}.Record(action, q.client.ID, "sid", l.SID, "kind", q.client.Kind,
		"service_tags", strings.Join(q.client.Tags, " "), "roles", strings.Join(l.Account.Roles, " "), "tags", strings.Join(l.Account.Tags, " "),
		"amr", strings.Join(l.AMR, " "), "auth_time", l.AuthTime.UTC().Format(time.RFC3339), "rule", d.Rule(), "outcome", string(d.Outcome),
		"revision", strconv.FormatInt(d.Revision, 10))
}

// mustAsk reports whether the person has to agree first: never for our own services.
func (p *Provider) mustAsk(r *http.Request, q *request, l *session.Live) (bool, error) {
	if q.client.Kind == account.KindService {
		return false, nil
	}
	if q.prompts("consent") {
		return true, nil
	}
	var given []string
	err := p.DB.Read(r.Context(), func(v *db.View) (err error) {
		given, err = store.Consent(v, l.Account.ID, q.client.ID)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	for _, s := range q.scopes {
		if !slices.Contains(given, s) {
			return true, nil
		}
	}
	return false, nil
}

// issueCode makes grant and code in one transaction and returns where to send the browser.
func (p *Provider) issueCode(r *http.Request, q *request, l *session.Live, d policy.Decision, ip netip.Addr) (string, error) {
	if err := p.CheckClock(); err != nil {
		return "", err
	}
	now := p.Clock.Now()
	code, hash := opaque.New()
	g := &store.Grant{ID: opaque.ID(), SID: l.SID, Account: l.Account.ID, Client: q.client.ID, Scopes: q.scopes, Created: now}
	err := p.DB.Write(r.Context(), func(tx *db.Tx) error {
		if _, err := p.Sessions.Check(tx, l.SID); err != nil {
			return err
		}
		if err := prune(tx, g); err != nil {
			return err
		}
		if err := store.InsertGrant(tx, g); err != nil {
			return err
		}
		if err := store.InsertCode(tx, &store.Code{Hash: hash, Grant: g.ID, Client: g.Client, RedirectURI: q.redirect, Challenge: q.challenge,
			Nonce: q.nonce, Expires: now.Add(codeLife)}); err != nil {
			return err
		}
		if ip.IsValid() { // an interactive request: policy of the back channel sees its address
			if err := store.TouchSession(tx, l.SID, ip.String(), now); err != nil {
				return err
			}
		}
		return audit.Append(tx, now, p.signInRecord("login.allowed", q, l, d, ip))
	})
	if err != nil {
		return "", err
	}
	return p.back(q, url.Values{"code": {code}}), nil
}

// maxGrants is how many sign-ins of one session to one app are kept.
const maxGrants = 10

// prune lets the oldest grants of this session at this client give way.
func prune(tx *db.Tx, g *store.Grant) error {
	have, err := store.Grants(tx, g.Account, g.SID)
	if err != nil {
		return err
	}
	var same []*store.Grant
	for _, h := range have {
		if h.Client == g.Client {
			same = append(same, h)
		}
	}
	for len(same) >= maxGrants {
		if _, err := store.DeleteGrant(tx, same[0].ID); err != nil {
			return err
		}
		same = same[1:]
	}
	return nil
}

// back adds the answer to the client's own URI, with state and the issuer (RFC 9207).
func (p *Provider) back(q *request, v url.Values) string {
	if q.state != "" {
		v.Set("state", q.state)
	}
	v.Set("iss", p.Issuer)
	sep := "?"
	if strings.Contains(q.redirect, "?") {
		sep = "&"
	}
	return q.redirect + sep + v.Encode()
}

func (p *Provider) redirectError(w http.ResponseWriter, r *http.Request, q *request, err error) {
	var e *oauthError
	if !errors.As(err, &e) {
		p.pages.Error(w, r, err)
		return
	}
	noStore(w)
	http.Redirect(w, r, p.back(q, url.Values{"error": {e.Code}, "error_description": {e.Text}}), http.StatusSeeOther)
}

func noStore(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer") // the URL holds a code
}

// consent takes the answer of the consent page.
func (p *Provider) consent(w http.ResponseWriter, r *http.Request) {
	v, err := form(r)
	if err != nil {
		p.stop(w, r, nil, err)
		return
	}
	again, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "/oidc/authorize?"+v["request"], nil)
	if err != nil {
		p.stop(w, r, nil, bad("invalid_request", "malformed"))
		return
	}
	q, err := p.parse(again)
	if err != nil {
		p.stop(w, r, nil, err)
		return
	}
	live, err := p.browser(r)
	if err != nil || live == nil {
		p.pages.SignIn(w, r, "/oidc/authorize?"+v["request"])
		return
	}
	if v["answer"] != "allow" {
		p.pages.Continue(w, r, p.back(q, url.Values{"error": {"access_denied"}, "error_description": {"the person said no"}}))
		return
	}
	now := p.Clock.Now()
	err = p.DB.Write(r.Context(), func(tx *db.Tx) error {
		if err := store.GiveConsent(tx, live.Account.ID, q.client.ID, q.scopes, now); err != nil {
			return err
		}
		return audit.Append(tx, now, audit.By{Name: live.Account.Name, IP: auth.Client(r.Context())}.
			Record("consent.give", q.client.ID, "scopes", strings.Join(q.scopes, " ")))
	})
	if err != nil {
		p.pages.Error(w, r, err)
		return
	}
	// Asked and answered: the request goes on without prompt, or it would be asked again.
	next := url.Values{}
	for k, s := range q.params {
		if k != "prompt" {
			next.Set(k, s)
		}
	}
	if q.prompts("login") && q.after == 0 {
		next.Set(after, strconv.FormatInt(live.AuthTime.Unix(), 10))
	}
	p.pages.Continue(w, r, "/oidc/authorize?"+next.Encode())
}
