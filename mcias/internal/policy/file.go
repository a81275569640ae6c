package policy

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// File is a policy file: rules to apply and tests to run against them.
type File struct {
	Revision int64 // the revision the file was based on; 0 = not said
	Rules    []Rule
	Tests    []Test
}

// Test is one expectation of a policy file.
type Test struct {
	Account, Service, Action string
	IP                       netip.Addr
	Time                     time.Time
	AMR                      []string
	AuthAge                  time.Duration
	Expect                   string // allow, deny, step_up:mfa, step_up:passkey, step_up:reauth
}

// Matches reports whether a decision is what the test expects.
func (t Test) Matches(d Decision) bool {
	got := string(d.Outcome)
	if d.Outcome == OutcomeStepUp {
		got += ":" + d.StepUp
	}
	return got == t.Expect || t.Expect == "step_up" && d.Outcome == OutcomeStepUp
}

// MaxFile is the size limit of a policy file.
const MaxFile = 1 << 20

type fileRule struct {
	ID             string     `toml:"id"`
	Enabled        *bool      `toml:"enabled,omitempty"`
	Description    string     `toml:"description,omitempty"`
	Effect         string     `toml:"effect"`
	Actions        []string   `toml:"actions,omitempty"`
	Services       []string   `toml:"services,omitempty"`
	ClientKinds    []string   `toml:"client_kinds,omitempty"`
	RequiredTags   []string   `toml:"required_tags,omitempty"`
	Accounts       []string   `toml:"accounts,omitempty"`
	AccountTypes   []string   `toml:"account_types,omitempty"`
	Roles          []string   `toml:"roles,omitempty"`
	AccountTags    []string   `toml:"account_tags,omitempty"`
	ResourceType   string     `toml:"resource_type,omitempty"`
	OwnerIsSubject bool       `toml:"owner_is_subject,omitempty"`
	Networks       []string   `toml:"networks,omitempty"`
	Hours          []string   `toml:"hours,omitempty"`
	TZ             string     `toml:"tz,omitempty"`
	NotBefore      *time.Time `toml:"not_before,omitempty"`
	ExpiresAt      *time.Time `toml:"expires_at,omitempty"`
	RequireMFA     bool       `toml:"require_mfa,omitempty"`
	RequirePasskey bool       `toml:"require_passkey,omitempty"`
	MaxAuthAge     string     `toml:"max_auth_age,omitempty"`
	TokenTTL       string     `toml:"token_ttl,omitempty"`
}

type fileDoc struct {
	Revision int64      `toml:"revision,omitempty"`
	Rule     []fileRule `toml:"rule"`
	Test     []struct {
		Given struct {
			Account string    `toml:"account"`
			Service string    `toml:"service"`
			Action  string    `toml:"action"`
			IP      string    `toml:"ip"`
			Time    time.Time `toml:"time"`
			AMR     []string  `toml:"amr"`
			AuthAge string    `toml:"auth_age"`
		} `toml:"given"`
		Expect string `toml:"expect"`
	} `toml:"test,omitempty"`
}

// ParseFile reads strict TOML: an unknown key is an error with its line. The rules are checked as Compile does.
func ParseFile(data []byte) (*File, error) {
	if len(data) > MaxFile {
		return nil, fmt.Errorf("larger than %d bytes", MaxFile)
	}
	var doc fileDoc
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return nil, tomlError(err)
	}
	f := &File{Revision: doc.Revision}
	for _, r := range doc.Rule {
		rule, err := r.rule()
		if err != nil {
			return nil, fmt.Errorf("rule %q: %w", r.ID, err)
		}
		f.Rules = append(f.Rules, rule)
	}
	if _, err := CompileAll(0, f.Rules); err != nil {
		return nil, err
	}
	for i, t := range doc.Test {
		g := t.Given
		out := Test{Account: g.Account, Service: g.Service, Action: g.Action, Time: g.Time, AMR: g.AMR, Expect: t.Expect}
		if g.IP != "" {
			ip, err := netip.ParseAddr(g.IP)
			if err != nil {
				return nil, fmt.Errorf("test %d: ip: %q is not an address", i+1, g.IP)
			}
			out.IP = ip
		}
		if g.AuthAge != "" {
			d, err := time.ParseDuration(g.AuthAge)
			if err != nil || d < 0 {
				return nil, fmt.Errorf("test %d: auth_age: %q is not a duration", i+1, g.AuthAge)
			}
			out.AuthAge = d
		}
		switch t.Expect {
		case "allow", "deny", "step_up", "step_up:mfa", "step_up:passkey", "step_up:reauth":
		default:
			return nil, fmt.Errorf("test %d: expect: %q is none of allow, deny, step_up[:mfa|passkey|reauth]", i+1, t.Expect)
		}
		f.Tests = append(f.Tests, out)
	}
	return f, nil
}

func tomlError(err error) error {
	var missing *toml.StrictMissingError
	if errors.As(err, &missing) && len(missing.Errors) > 0 {
		line, _ := missing.Errors[0].Position()
		return fmt.Errorf("line %d: unknown key %q", line, strings.Join(missing.Errors[0].Key(), "."))
	}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		line, _ := de.Position()
		return fmt.Errorf("line %d: %s", line, de.Error())
	}
	return err
}

func (r fileRule) rule() (Rule, error) {
	out := Rule{ID: r.ID, Disabled: r.Enabled != nil && !*r.Enabled, Description: r.Description, Effect: Effect(r.Effect),
		Actions: r.Actions, Services: r.Services, ClientKinds: r.ClientKinds, RequiredTags: r.RequiredTags,
		Accounts: r.Accounts, AccountTypes: r.AccountTypes, Roles: r.Roles, AccountTags: r.AccountTags,
		ResourceType: r.ResourceType, OwnerIsSubject: r.OwnerIsSubject, Networks: r.Networks, Hours: r.Hours, TZ: r.TZ}
	if r.NotBefore != nil {
		out.NotBefore = *r.NotBefore
	}
	if r.ExpiresAt != nil {
		out.ExpiresAt = *r.ExpiresAt
	}
	out.Obligations.RequireMFA, out.Obligations.RequirePasskey = r.RequireMFA, r.RequirePasskey
	for _, d := range []struct {
		name, text string
		to         *time.Duration
	}{{"max_auth_age", r.MaxAuthAge, &out.Obligations.MaxAuthAge}, {"token_ttl", r.TokenTTL, &out.Obligations.TokenTTL}} {
		if d.text == "" {
			continue
		}
		v, err := time.ParseDuration(d.text)
		if err != nil || v <= 0 {
			return out, fmt.Errorf("%s: %q is not a positive duration such as 15m", d.name, d.text)
		}
		*d.to = v
	}
	return out, nil
}

// FormatFile writes rules as a policy file that ParseFile reads back.
func FormatFile(revision int64, rules []Rule) ([]byte, error) {
	doc := fileDoc{Revision: revision}
	for _, r := range rules {
		f := fileRule{ID: r.ID, Description: r.Description, Effect: string(r.Effect), Services: r.Services,
			ClientKinds: r.ClientKinds, RequiredTags: r.RequiredTags, Accounts: r.Accounts, AccountTypes: r.AccountTypes,
			Roles: r.Roles, AccountTags: r.AccountTags, ResourceType: r.ResourceType, OwnerIsSubject: r.OwnerIsSubject,
			Networks: r.Networks, Hours: r.Hours, TZ: r.TZ, RequireMFA: r.Obligations.RequireMFA,
			RequirePasskey: r.Obligations.RequirePasskey, Actions: r.Actions}
		if r.Disabled {
			f.Enabled = new(bool)
		}
		if !r.NotBefore.IsZero() {
			f.NotBefore = &r.NotBefore
		}
		if !r.ExpiresAt.IsZero() {
			f.ExpiresAt = &r.ExpiresAt
		}
		if r.Obligations.MaxAuthAge > 0 {
			f.MaxAuthAge = r.Obligations.MaxAuthAge.String()
		}
		if r.Obligations.TokenTTL > 0 {
			f.TokenTTL = r.Obligations.TokenTTL.String()
		}
		doc.Rule = append(doc.Rule, f)
	}
	return toml.Marshal(doc)
}
