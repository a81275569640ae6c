package directory

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/opaque"
	"metacircular.net/mcias/internal/store"
)

// NewAccount is what an account is made from. PHC is the hash of a first password, made outside the transaction.
type NewAccount struct {
	Name, Type, Display, Email string
	Roles, Tags                []string
	PHC                        string
}

// check normalises and judges the input; the fault names the field.
func (n *NewAccount) check() error {
	n.Name = strings.ToLower(strings.TrimSpace(n.Name))
	if n.Type == "" {
		n.Type = account.Human
	}
	if err := account.CheckName(n.Name); err != nil {
		return fault.Field1("name", "%v", err)
	}
	if n.Type != account.Human && n.Type != account.System {
		return fault.Field1("type", "%q is neither human nor system", n.Type)
	}
	if n.Type == account.System && (len(n.Roles) > 0 || n.PHC != "") {
		return fault.Field1("roles", "system accounts carry no role and no password; use tags and keys")
	}
	for _, r := range n.Roles {
		if err := account.CheckRole(r); err != nil {
			return fault.Field1("roles", "%v", err)
		}
	}
	n.Roles = slices.Compact(slices.Sorted(slices.Values(n.Roles)))
	if err := account.CheckDisplay(n.Display); err != nil {
		return fault.Field1("display", "%v", err)
	}
	if err := account.CheckEmail(n.Email); err != nil {
		return fault.Field1("email", "%v", err)
	}
	tags, err := account.Tags(n.Tags)
	if err != nil {
		return fault.Field1("tags", "%v", err)
	}
	n.Tags = tags
	return nil
}

// Create makes an account.
func (d *Directory) Create(ctx context.Context, by audit.By, n NewAccount) (a *account.Account, err error) {
	if err := n.check(); err != nil {
		return nil, err
	}
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		a, err = d.insert(tx, by, n, now)
		return err
	})
	return a, err
}

func (d *Directory) insert(tx *db.Tx, by audit.By, n NewAccount, now time.Time) (*account.Account, error) {
	count, err := store.CountAccounts(tx)
	if err != nil {
		return nil, err
	}
	if count >= account.MaxAccounts {
		return nil, fault.New(fault.Precondition, "there are %d accounts, the most there can be", account.MaxAccounts)
	}
	if old, err := store.AccountByName(tx, n.Name); err == nil {
		if old.Status == account.Deleted {
			return nil, fault.New(fault.Exists, "the name %q belonged to a deleted account and stays reserved", n.Name)
		}
		return nil, fault.New(fault.Exists, "there is an account %q already", n.Name).WithNext("mcias account show %s", n.Name)
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	if err := freeEmail(tx, n.Email, id); err != nil {
		return nil, err
	}
	a := &account.Account{ID: id, Name: n.Name, Display: n.Display, Email: n.Email, Type: n.Type, Status: account.Active, Epoch: 1,
		Roles: n.Roles, Tags: n.Tags, Created: now}
	if err := store.InsertAccount(tx, a); err != nil {
		return nil, err
	}
	if n.PHC != "" {
		if err := store.SetPassword(tx, id, n.PHC, now); err != nil {
			return nil, err
		}
	}
	return a, audited(tx, now, by.Record("account.create", a.Name, "type", a.Type, "roles", strings.Join(a.Roles, " "), "tags", strings.Join(a.Tags, " ")))
}

func freeEmail(tx *db.Tx, email, id string) error {
	if email == "" {
		return nil
	}
	taken, err := store.EmailTaken(tx, email, id)
	if err == nil && taken {
		return fault.New(fault.Exists, "another account has the address %s", email).WithField("email", "another account has it")
	}
	return err
}

// Update changes display name and e-mail; nil leaves a field.
func (d *Directory) Update(ctx context.Context, by audit.By, name string, display, email *string) (a *account.Account, err error) {
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		if a, err = find(tx, name); err != nil {
			return err
		}
		if display != nil {
			if err := account.CheckDisplay(*display); err != nil {
				return fault.Field1("display", "%v", err)
			}
			a.Display = *display
		}
		if email != nil {
			if err := account.CheckEmail(*email); err != nil {
				return fault.Field1("email", "%v", err)
			}
			if err := freeEmail(tx, *email, a.ID); err != nil {
				return err
			}
			a.Email = *email
		}
		if err := store.UpdateAccount(tx, a.ID, a.Display, a.Email); err != nil {
			return err
		}
		return audited(tx, now, by.Record("account.update", a.Name, "email", a.Email))
	})
	return a, err
}

// SetStatus disables or enables an account. Disabling ends its sessions and kills its tokens.
func (d *Directory) SetStatus(ctx context.Context, by audit.By, name, status string, force bool) (a *account.Account, ended int, err error) {
	if status != account.Active && status != account.Disabled {
		return nil, 0, fault.Field1("status", "%q is neither active nor disabled", status)
	}
	return d.status(ctx, by, name, status, force)
}

// Delete ends everything of an account; its name stays reserved.
func (d *Directory) Delete(ctx context.Context, by audit.By, name string, force bool) (ended int, err error) {
	_, ended, err = d.status(ctx, by, name, account.Deleted, force)
	return ended, err
}

func (d *Directory) status(ctx context.Context, by audit.By, name, status string, force bool) (a *account.Account, ended int, err error) {
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		if a, err = find(tx, name); err != nil {
			return err
		}
		ended = 0
		if a.Status == status {
			return nil
		}
		return d.guarded(tx, by, force, func() error {
			if err := store.SetStatus(tx, a.ID, status); err != nil {
				return err
			}
			if status == account.Deleted {
				if err := d.strip(tx, a, now); err != nil {
					return err
				}
			}
			a.Status = status
			if ended, err = d.cut(tx, a, now, status != account.Active, ""); err != nil {
				return err
			}
			verb := map[string]string{account.Active: "enable", account.Disabled: "disable", account.Deleted: "delete"}[status]
			return audited(tx, now, by.Record("account."+verb, a.Name, "force", flag(force)))
		})
	})
	return a, ended, err
}

// strip removes what a deleted account could come back with: its credentials, links, keys and address.
func (d *Directory) strip(tx *db.Tx, a *account.Account, now time.Time) error {
	if err := store.DeletePassword(tx, a.ID); err != nil {
		return err
	}
	if err := store.EndSetupLinks(tx, a.ID, "", now); err != nil {
		return err
	}
	keys, err := store.ServiceKeys(tx, a.ID)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err := d.retire(tx, k.KID, now); err != nil {
			return err
		}
	}
	return store.UpdateAccount(tx, a.ID, a.Display, "")
}

func flag(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// AddRole gives a human a role. Its tokens die, its sessions renew and see the new claim.
func (d *Directory) AddRole(ctx context.Context, by audit.By, name, role string) (*account.Account, error) {
	return d.role(ctx, by, name, role, "add", true)
}

// RemoveRole takes it.
func (d *Directory) RemoveRole(ctx context.Context, by audit.By, name, role string, force bool) (*account.Account, error) {
	return d.role(ctx, by, name, role, "remove", force)
}

func (d *Directory) role(ctx context.Context, by audit.By, name, role, verb string, force bool) (a *account.Account, err error) {
	if err := account.CheckRole(role); err != nil {
		return nil, fault.Field1("role", "%v", err)
	}
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		if a, err = find(tx, name); err != nil {
			return err
		}
		if a.Type != account.Human {
			return fault.New(fault.Precondition, "%s is a system account and carries no role", a.Name).WithNext("mcias tag set %s TAG…", a.Name)
		}
		return d.guarded(tx, by, force, func() error {
			change := store.AddRole
			if verb == "remove" {
				change = store.RemoveRole
			}
			did, err := change(tx, a.ID, role)
			if err != nil || !did {
				return err
			}
			if _, err := d.cut(tx, a, now, false, ""); err != nil {
				return err
			}
			if err := audited(tx, now, by.Record("role."+verb, a.Name, "role", role)); err != nil {
				return err
			}
			a, err = store.AccountByID(tx, a.ID)
			return err
		})
	})
	return a, err
}

// SetTags replaces an account's tags.
func (d *Directory) SetTags(ctx context.Context, by audit.By, name string, tags []string, force bool) (a *account.Account, err error) {
	if tags, err = account.Tags(tags); err != nil {
		return nil, fault.Field1("tags", "%v", err)
	}
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		if a, err = find(tx, name); err != nil {
			return err
		}
		if slices.Equal(a.Tags, tags) {
			return nil
		}
		return d.guarded(tx, by, force, func() error {
			if err := store.SetTags(tx, a.ID, tags); err != nil {
				return err
			}
			a.Tags = tags
			if _, err := d.cut(tx, a, now, false, ""); err != nil {
				return err
			}
			return audited(tx, now, by.Record("account.tags", a.Name, "tags", strings.Join(tags, " ")))
		})
	})
	return a, err
}

// Link is a setup link as handed out, once.
type Link struct {
	URL, Secret string
	Expires     time.Time
}

// Lives of setup links.
const (
	InviteLife = 24 * time.Hour
	ResetLife  = 15 * time.Minute
)

// link stores a new link and ends the account's older ones.
func (d *Directory) link(tx *db.Tx, id, purpose string, now time.Time) (*Link, error) {
	if err := store.EndSetupLinks(tx, id, "", now); err != nil {
		return nil, err
	}
	life := ResetLife
	if purpose == store.PurposeInvite {
		life = InviteLife
	}
	text, hash := opaque.New()
	l := &Link{Secret: text, URL: d.Issuer + "/setup#" + text, Expires: now.Add(life)}
	return l, store.InsertSetupLink(tx, &store.SetupLink{Hash: hash, Account: id, Purpose: purpose, Expires: l.Expires})
}

// Invite makes a setup link: 24 h for an account without credentials, 15 min for one that has some.
func (d *Directory) Invite(ctx context.Context, by audit.By, name string) (l *Link, err error) {
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		a, err := find(tx, name)
		if err != nil {
			return err
		}
		if err := human(a); err != nil {
			return err
		}
		f, err := factors(tx, a.ID)
		if err != nil {
			return err
		}
		purpose := store.PurposeInvite
		if len(f) > 0 {
			purpose = store.PurposeReset
		}
		if l, err = d.link(tx, a.ID, purpose, now); err != nil {
			return err
		}
		return audited(tx, now, by.Record("account.invite", a.Name, "purpose", purpose))
	})
	return l, err
}

func human(a *account.Account) error {
	if a.Type != account.Human {
		return fault.New(fault.Precondition, "%s is a system account; it has keys, not a sign-in", a.Name).WithNext("mcias service key add %s", a.Name)
	}
	if a.Status != account.Active {
		return fault.New(fault.Precondition, "%s is disabled", a.Name).WithNext("mcias account enable %s", a.Name)
	}
	return nil
}

// Reset removes an account's credentials, ends its sessions and returns a link.
func (d *Directory) Reset(ctx context.Context, by audit.By, name string, force bool) (l *Link, ended int, err error) {
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		a, err := find(tx, name)
		if err != nil {
			return err
		}
		if err := human(a); err != nil {
			return err
		}
		return d.guarded(tx, by, force, func() error {
			if err := store.DeletePassword(tx, a.ID); err != nil {
				return err
			}
			if ended, err = d.cut(tx, a, now, true, ""); err != nil {
				return err
			}
			if l, err = d.link(tx, a.ID, store.PurposeReset, now); err != nil {
				return err
			}
			return audited(tx, now, by.Record("account.reset", a.Name, "force", flag(force)))
		})
	})
	return l, ended, err
}

// BreakGlass gives an account back: sessions end, a link is made. A disabled account is enabled, because this is the
// way back in when nothing else is. It keeps the account's credentials.
func (d *Directory) BreakGlass(ctx context.Context, by audit.By, name string) (l *Link, ended int, err error) {
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		l, ended, err = d.breakGlass(tx, by, name, now)
		return err
	})
	return l, ended, err
}

func (d *Directory) breakGlass(tx *db.Tx, by audit.By, name string, now time.Time) (*Link, int, error) {
	a, err := find(tx, name)
	if err != nil {
		return nil, 0, err
	}
	if a.Status == account.Disabled {
		if err := store.SetStatus(tx, a.ID, account.Active); err != nil {
			return nil, 0, err
		}
		a.Status = account.Active
	}
	if err := human(a); err != nil {
		return nil, 0, err
	}
	ended, err := d.cut(tx, a, now, true, "")
	if err != nil {
		return nil, 0, err
	}
	l, err := d.link(tx, a.ID, store.PurposeBreakGlass, now)
	if err != nil {
		return nil, 0, err
	}
	return l, ended, audited(tx, now, by.Record("break-glass", a.Name))
}

// Redeem spends a link and sets the password, whose hash was made outside. It returns the account's name.
func (d *Directory) Redeem(ctx context.Context, secret, phc string, from audit.By) (name string, err error) {
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		a, l, err := openLink(tx, secret, now)
		if err != nil {
			return err
		}
		did, err := store.UseSetupLink(tx, l.Hash, now)
		if err != nil {
			return err
		}
		if !did {
			return errLink()
		}
		if err := store.SetPassword(tx, a.ID, phc, now); err != nil {
			return err
		}
		if err := store.EndSetupLinks(tx, a.ID, "", now); err != nil {
			return err
		}
		if a.HasRole(account.Admin) { // an admin exists now
			if err := store.EndSetupLinks(tx, "", store.PurposeFirstAdmin, now); err != nil {
				return err
			}
		}
		if _, err := d.cut(tx, a, now, true, ""); err != nil {
			return err
		}
		name, from.Name = a.Name, a.Name
		return audited(tx, now, from.Record("setup.redeem", a.Name, "purpose", l.Purpose))
	})
	return name, err
}

// SetPassword stores a new password, kills the account's tokens and ends its sessions but one. also runs in the same
// transaction.
func (d *Directory) SetPassword(ctx context.Context, by audit.By, id, phc, exceptSID string, also func(*db.Tx, time.Time) error) (ended int, err error) {
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		a, err := store.AccountByID(tx, id)
		if err != nil {
			return err
		}
		if err := also(tx, now); err != nil {
			return err
		}
		if err := store.SetPassword(tx, id, phc, now); err != nil {
			return err
		}
		if ended, err = d.cut(tx, a, now, true, exceptSID); err != nil {
			return err
		}
		return audited(tx, now, by.Record("password.change", a.Name))
	})
	return ended, err
}

// LinkAccount returns whom an open link belongs to, without spending it.
func (d *Directory) LinkAccount(ctx context.Context, secret string) (name string, err error) {
	err = d.DB.Read(ctx, func(v *db.View) error {
		a, _, err := openLink(v, secret, d.Clock.Now())
		if err == nil {
			name = a.Name
		}
		return err
	})
	return name, err
}

func openLink(r store.Reader, secret string, now time.Time) (*account.Account, *store.SetupLink, error) {
	l, err := store.SetupLinkByHash(r, opaque.Hash(secret))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, errLink()
	}
	if err != nil {
		return nil, nil, err
	}
	a, err := store.AccountByID(r, l.Account)
	if err != nil {
		return nil, nil, err
	}
	if !l.Used.IsZero() || !now.Before(l.Expires) || a.Status != account.Active {
		return nil, nil, errLink()
	}
	return a, l, nil
}

func errLink() error {
	return fault.New(fault.Unauthenticated, "this setup link is unknown, used or over").WithReason("BAD_LINK").
		WithNext("ask an admin for a new one: mcias account invite NAME")
}

// Email is the address that apps see: the account's own, or one made of its name.
func (d *Directory) Email(a *account.Account) string {
	if a.Email != "" {
		return a.Email
	}
	return a.Name + "@" + d.Domain
}
