package directory

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/opaque"
	"metacircular.net/mcias/internal/policy"
	"metacircular.net/mcias/internal/revoke"
	"metacircular.net/mcias/internal/store"
)

// Core are the names of the platform's own services: nobody but an admin claims one or a host below it.
var core = []string{"mcias", "metacrypt", "mcr", "mc-proxy", "mcns", "mcp", "mcat", "node"}

// NewClient is what a client is made from.
type NewClient struct {
	ID, Kind              string
	Redirects, PostLogout []string
	Tags                  []string
	Allow                 []string // role:user, account:bob, tag:family
}

func (d *Directory) checkClient(by audit.By, n *NewClient) error {
	if n.Kind == "" {
		n.Kind = account.KindWeb
	}
	if err := account.CheckClientID(n.ID); err != nil {
		return fault.Field1("id", "%v", err)
	}
	if err := account.CheckKind(n.Kind); err != nil {
		return fault.Field1("kind", "%v", err)
	}
	if n.ID == policy.Self {
		return fault.Field1("id", "mcias is MCIAS itself")
	}
	if n.Kind != account.KindService && strings.Contains(n.ID, "/") {
		return fault.Field1("id", "only services have a slash in their name")
	}
	tags, err := account.Tags(n.Tags)
	if err != nil {
		return fault.Field1("tags", "%v", err)
	}
	n.Tags = tags
	if err := checkURIs(n.Kind, n.Redirects, n.PostLogout); err != nil {
		return err
	}
	if by.Admin {
		return nil
	}
	// One made by a node is web, with https redirects on names that are not reserved; kind and tags are an admin's.
	if n.Kind != account.KindWeb || len(n.Tags) > 0 {
		return fault.New(fault.Denied, "only admins choose kind and tags of a client").WithReason("POLICY_DENIED")
	}
	if slices.Contains(core, n.ID) {
		return fault.New(fault.Denied, "the name %q is reserved", n.ID).WithReason("POLICY_DENIED")
	}
	return d.unreserved(n.Redirects, n.PostLogout)
}

func checkURIs(kind string, lists ...[]string) error {
	for i, l := range lists {
		field := []string{"redirect_uris", "post_logout_uris"}[i]
		if len(l) > account.MaxRedirects {
			return fault.Field1(field, "more than %d", account.MaxRedirects)
		}
		for _, u := range l {
			if err := account.CheckRedirect(kind, u); err != nil {
				return fault.Field1(field, "%v", err)
			}
		}
	}
	return nil
}

// unreserved refuses URIs on the core's names and http.
func (d *Directory) unreserved(lists ...[]string) error {
	for _, l := range lists {
		for _, s := range l {
			u, err := url.Parse(s)
			if err != nil || u.Scheme != "https" {
				return fault.Field1("redirect_uris", "%q: only https", s)
			}
			rest, inside := strings.CutSuffix(u.Hostname(), "."+d.Domain)
			label := rest[strings.LastIndexByte(rest, '.')+1:]
			if u.Hostname() == d.Domain || inside && slices.Contains(core, label) {
				return fault.New(fault.Denied, "%q lies on a reserved name", s).WithReason("POLICY_DENIED")
			}
		}
	}
	return nil
}

// CreateClient makes a client and its login rules in one transaction. Public kinds have no secret.
func (d *Directory) CreateClient(ctx context.Context, by audit.By, n NewClient) (c *account.Client, secret string, err error) {
	if err := d.checkClient(by, &n); err != nil {
		return nil, "", err
	}
	rules, err := allowRules(n)
	if err != nil {
		return nil, "", err
	}
	now := d.Clock.Now()
	c = &account.Client{ID: n.ID, Kind: n.Kind, Redirects: n.Redirects, PostLogout: n.PostLogout, Tags: n.Tags, Enabled: true, Created: now}
	if !by.Admin {
		c.Owner, c.OwnerName = by.ID, by.Name
	}
	if !c.Public() {
		secret, c.SecretHash = opaque.New()
	}
	var set *policy.Set
	err = d.write(ctx, func(tx *db.Tx) error {
		if _, err := store.ClientByID(tx, n.ID); err == nil {
			return fault.New(fault.Exists, "there is a client %q already", n.ID).WithNext("mcias client show %s", n.ID)
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := store.InsertClient(tx, c); err != nil {
			return err
		}
		if err := audited(tx, now, by.Record("client.create", c.ID, "kind", c.Kind, "allow", strings.Join(n.Allow, " "))); err != nil {
			return err
		}
		if len(rules) == 0 {
			return nil
		}
		set, err = d.addRules(tx, by, rules, now)
		return err
	})
	if err == nil && set != nil {
		d.set.Store(set)
	}
	return c, secret, err
}

// allowRules makes a rule for each entry, bound to this client.
func allowRules(n NewClient) ([]policy.Rule, error) {
	var out []policy.Rule
	for _, a := range n.Allow {
		what, value, ok := strings.Cut(a, ":")
		r := policy.Rule{ID: rulePrefix(n.ID) + what + ":" + value, Effect: policy.Allow, Services: []string{n.ID}, ClientKinds: []string{n.Kind},
			Description: "Made with the client " + n.ID + "."}
		switch {
		case ok && what == "role" && account.CheckRole(value) == nil:
			r.Roles = []string{value}
		case ok && what == "account" && account.CheckName(value) == nil:
			r.Accounts = []string{value}
		case ok && what == "tag" && value != "":
			r.AccountTags = []string{value}
		default:
			return nil, fault.Field1("allow", "%q is not role:ROLE, account:NAME or tag:TAG", a)
		}
		out = append(out, r)
	}
	if _, err := policy.CompileAll(0, out); err != nil {
		return nil, fault.Field1("allow", "%v", err)
	}
	return out, nil
}

func rulePrefix(client string) string { return "client:" + strings.ReplaceAll(client, "/", ":") + ":" }

// addRules appends rules to the stored policy as a new revision and returns it compiled.
func (d *Directory) addRules(tx *db.Tx, by audit.By, add []policy.Rule, now time.Time) (*policy.Set, error) {
	old, _, err := storedRules(tx)
	if err != nil {
		return nil, err
	}
	next := slices.Clone(old)
	for _, r := range add {
		if i := slices.IndexFunc(next, func(o policy.Rule) bool { return o.ID == r.ID }); i >= 0 {
			next[i] = r
		} else {
			next = append(next, r)
		}
	}
	return d.replaceRules(tx, by, old, next, now)
}

func (d *Directory) replaceRules(tx *db.Tx, by audit.By, old, next []policy.Rule, now time.Time) (*policy.Set, error) {
	rows := make([]store.RuleRow, len(next))
	for i, r := range next {
		body, err := json.Marshal(r)
		if err != nil {
			return nil, err
		}
		rows[i] = store.RuleRow{ID: r.ID, Body: string(body)}
	}
	diff := policy.Diff(old, next)
	rev, err := store.ReplacePolicy(tx, rows, by.Name, diff, now)
	if err != nil {
		return nil, err
	}
	set, err := policy.CompileAll(rev, next)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%v", err)
	}
	return set, audited(tx, now, by.Record("policy.apply", "policy", "diff", strings.Join(diff, " "), "revision", itoa(rev)))
}

// client returns a client the actor may touch: admins all, others their own.
func (d *Directory) client(r store.Reader, by audit.By, id string) (*account.Client, error) {
	c, err := store.ClientByID(r, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fault.New(fault.NotFound, "there is no client %q", id).WithNext("mcias client list")
	}
	if err != nil {
		return nil, err
	}
	if !by.Admin && (c.Owner == "" || c.Owner != by.ID) {
		return nil, fault.New(fault.Denied, "the client %s belongs to somebody else", id).WithReason("POLICY_DENIED")
	}
	return c, nil
}

// Client returns a client by id, for whoever may read it.
func (d *Directory) Client(ctx context.Context, id string) (c *account.Client, err error) {
	err = d.DB.Read(ctx, func(v *db.View) error {
		c, err = store.ClientByID(v, id)
		if errors.Is(err, store.ErrNotFound) {
			return fault.New(fault.NotFound, "there is no client %q", id).WithNext("mcias client list")
		}
		return err
	})
	return c, err
}

// UpdateClient replaces the named lists.
func (d *Directory) UpdateClient(ctx context.Context, by audit.By, id string, fields, redirects, logouts, tags []string) (c *account.Client, err error) {
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		if c, err = d.client(tx, by, id); err != nil {
			return err
		}
		for _, f := range fields {
			switch f {
			case "redirect_uris":
				c.Redirects = redirects
			case "post_logout_uris":
				c.PostLogout = logouts
			case "tags":
				if !by.Admin {
					return fault.New(fault.Denied, "only admins choose the tags of a client").WithReason("POLICY_DENIED")
				}
				if c.Tags, err = account.Tags(tags); err != nil {
					return fault.Field1("tags", "%v", err)
				}
			default:
				return fault.Field1("fields", "%q is none of redirect_uris, post_logout_uris, tags", f)
			}
		}
		if err := checkURIs(c.Kind, c.Redirects, c.PostLogout); err != nil {
			return err
		}
		if !by.Admin {
			if err := d.unreserved(c.Redirects, c.PostLogout); err != nil {
				return err
			}
		}
		if err := store.UpdateClient(tx, c); err != nil {
			return err
		}
		return audited(tx, now, by.Record("client.update", c.ID, "fields", strings.Join(fields, " ")))
	})
	return c, err
}

// RotateSecret makes a new secret; the old one ends at once.
func (d *Directory) RotateSecret(ctx context.Context, by audit.By, id string) (secret string, err error) {
	now := d.Clock.Now()
	secret, hash := opaque.New()
	err = d.write(ctx, func(tx *db.Tx) error {
		c, err := d.client(tx, by, id)
		if err != nil {
			return err
		}
		if c.Public() {
			return fault.New(fault.Precondition, "%s is of kind %s and has no secret", id, c.Kind)
		}
		if err := store.SetClientSecret(tx, id, hash); err != nil {
			return err
		}
		return audited(tx, now, by.Record("client.rotate-secret", id))
	})
	if err != nil {
		return "", err
	}
	return secret, nil
}

// SetClientEnabled opens or closes a client; closing kills every token for it.
func (d *Directory) SetClientEnabled(ctx context.Context, by audit.By, id string, on bool) (c *account.Client, err error) {
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		if c, err = d.client(tx, by, id); err != nil || c.Enabled == on {
			return err
		}
		c.Enabled = on
		if err := store.SetClientEnabled(tx, id, on); err != nil {
			return err
		}
		verb := "enable"
		if !on {
			verb = "disable"
			if err := d.killClient(tx, id, now); err != nil {
				return err
			}
		}
		return audited(tx, now, by.Record("client."+verb, id))
	})
	return c, err
}

// killClient writes the row that ends all tokens for a client. The bound is a whole second, so minting for it waits
// until the clock has left it.
func (d *Directory) killClient(tx *db.Tx, id string, now time.Time) error {
	d.Hold(now.Unix())
	_, err := d.Killer.Kill(tx, now, revoke.Row{Kind: revoke.Client, Value: id, Bound: now.Unix()})
	return err
}

// DeleteClient removes a client with its grants and the rules made with it.
func (d *Directory) DeleteClient(ctx context.Context, by audit.By, id string) (removed []string, err error) {
	now := d.Clock.Now()
	var set *policy.Set
	err = d.write(ctx, func(tx *db.Tx) error {
		removed, set = nil, nil
		if _, err := d.client(tx, by, id); err != nil {
			return err
		}
		if err := d.killClient(tx, id, now); err != nil {
			return err
		}
		if err := store.DeleteClient(tx, id); err != nil {
			return err
		}
		if err := audited(tx, now, by.Record("client.delete", id)); err != nil {
			return err
		}
		old, _, err := storedRules(tx)
		if err != nil {
			return err
		}
		var next []policy.Rule
		for _, r := range old {
			if strings.HasPrefix(r.ID, rulePrefix(id)) && slices.Equal(r.Services, []string{id}) {
				removed = append(removed, r.ID)
				continue
			}
			next = append(next, r)
		}
		if len(removed) == 0 {
			return nil
		}
		set, err = d.replaceRules(tx, by, old, next, now)
		return err
	})
	if err == nil && set != nil {
		d.set.Store(set)
	}
	return removed, err
}
