package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Effect is what a rule does when it matches.
type Effect string

// The two effects.
const (
	Allow Effect = "allow"
	Deny  Effect = "deny"
)

// Login is the action of every sign-in, authorize, refresh and mint.
const Login = "auth:login"

// Client kinds as policy sees them. KindRegistry is the token realm, no client record has it.
const (
	KindService  = "service"
	KindWeb      = "web"
	KindNative   = "native"
	KindSPA      = "spa"
	KindTest     = "test"
	KindRegistry = "registry"
)

// Limits of a rule set.
const (
	MaxRules     = 1000
	maxListItems = 256
	maxRuleText  = 1024
)

// Obligations are what an allow demands before or of the token. The zero value demands nothing.
type Obligations struct {
	RequireMFA     bool
	RequirePasskey bool
	MaxAuthAge     time.Duration // 0 = any age
	TokenTTL       time.Duration // 0 = the configured life
}

// Zero reports whether nothing is demanded.
func (o Obligations) Zero() bool { return o == Obligations{} }

// Strictest returns the union of both: booleans or-ed, durations the smaller set one.
func (o Obligations) Strictest(p Obligations) Obligations {
	o.RequireMFA = o.RequireMFA || p.RequireMFA
	o.RequirePasskey = o.RequirePasskey || p.RequirePasskey
	o.MaxAuthAge = smaller(o.MaxAuthAge, p.MaxAuthAge)
	o.TokenTTL = smaller(o.TokenTTL, p.TokenTTL)
	return o
}

func smaller(a, b time.Duration) time.Duration {
	switch {
	case a == 0:
		return b
	case b == 0:
		return a
	}
	return min(a, b)
}

// Rule is one line of policy as the operator writes it. Empty lists match anything.
type Rule struct {
	ID             string
	Disabled       bool
	Description    string
	Effect         Effect
	Actions        []string // empty = auth:login
	Services       []string
	ClientKinds    []string
	RequiredTags   []string // all of them on the service's record
	Accounts       []string
	AccountTypes   []string
	Roles          []string // any of them
	AccountTags    []string // all of them
	ResourceType   string
	OwnerIsSubject bool
	Networks       []string // CIDR; !CIDR excludes
	Hours          []string // "mon-fri 08:00-18:00", local to TZ
	TZ             string
	NotBefore      time.Time
	ExpiresAt      time.Time
	Obligations    Obligations
	Builtin        bool
}

var (
	idPattern     = regexp.MustCompile(`^[a-z0-9][a-z0-9._:-]{0,199}$`)
	actionPattern = regexp.MustCompile(`^(\*|[a-z]+:(\*|[a-z]+))$`)
)

// compiled is a rule parsed once. hours and nets are ready to compare.
type compiled struct {
	Rule
	actions          []string // never empty
	include, exclude []netip.Prefix
	hours            []span
	loc              *time.Location
}

// parse checks a rule and prepares it; the error names the field.
func parse(r Rule) (*compiled, error) {
	c := &compiled{Rule: r, loc: time.UTC}
	if !idPattern.MatchString(r.ID) {
		return nil, fmt.Errorf("id: %q is not of the form %s", r.ID, idPattern)
	}
	if strings.HasPrefix(r.ID, "builtin:") != r.Builtin {
		return nil, fmt.Errorf("id: the prefix builtin: is reserved")
	}
	if r.Effect != Allow && r.Effect != Deny {
		return nil, fmt.Errorf("effect: %q is neither allow nor deny", r.Effect)
	}
	if len(r.Description) > maxRuleText {
		return nil, fmt.Errorf("description: longer than %d bytes", maxRuleText)
	}
	lists := map[string][]string{"actions": r.Actions, "services": r.Services, "client_kinds": r.ClientKinds,
		"required_tags": r.RequiredTags, "accounts": r.Accounts, "account_types": r.AccountTypes, "roles": r.Roles,
		"account_tags": r.AccountTags, "networks": r.Networks, "hours": r.Hours}
	for name, l := range lists {
		if len(l) > maxListItems {
			return nil, fmt.Errorf("%s: more than %d entries", name, maxListItems)
		}
		for _, v := range l {
			if v == "" || len(v) > 256 {
				return nil, fmt.Errorf("%s: an entry is empty or longer than 256 bytes", name)
			}
		}
	}
	c.actions = r.Actions
	if len(c.actions) == 0 {
		c.actions = []string{Login}
	}
	for _, a := range c.actions {
		if !actionPattern.MatchString(a) {
			return nil, fmt.Errorf("actions: %q is not noun:verb", a)
		}
	}
	if err := oneOf("client_kinds", r.ClientKinds, KindService, KindWeb, KindNative, KindSPA, KindTest, KindRegistry); err != nil {
		return nil, err
	}
	if err := oneOf("account_types", r.AccountTypes, "human", "system"); err != nil {
		return nil, err
	}
	if err := oneOf("roles", r.Roles, "admin", "user", "guest"); err != nil {
		return nil, err
	}
	if r.Effect == Deny && !r.Obligations.Zero() {
		return nil, fmt.Errorf("obligations: a deny rule cannot carry them")
	}
	if r.Obligations.MaxAuthAge < 0 || r.Obligations.TokenTTL < 0 {
		return nil, fmt.Errorf("max_auth_age, token_ttl: must not be negative")
	}
	if !r.ExpiresAt.IsZero() && !r.NotBefore.IsZero() && !r.ExpiresAt.After(r.NotBefore) {
		return nil, fmt.Errorf("expires_at: not after not_before")
	}
	return c, c.parseContext()
}

// parseContext prepares networks and hours.
func (c *compiled) parseContext() error {
	for _, n := range c.Networks {
		text, not := strings.CutPrefix(n, "!")
		p, err := parsePrefix(text)
		if err != nil {
			return fmt.Errorf("networks: %q: not a network such as 10.8.0.0/16", n)
		}
		if not {
			c.exclude = append(c.exclude, p)
		} else {
			c.include = append(c.include, p)
		}
	}
	if c.TZ != "" {
		loc, err := time.LoadLocation(c.TZ)
		if err != nil {
			return fmt.Errorf("tz: %q is not a known time zone", c.TZ)
		}
		c.loc = loc
	}
	for _, h := range c.Hours {
		s, err := parseSpan(h)
		if err != nil {
			return fmt.Errorf("hours: %w", err)
		}
		c.hours = append(c.hours, s)
	}
	return nil
}

// parsePrefix takes a network or a single address and unmaps IPv4 in IPv6.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, err
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return p, fmt.Errorf("mixes IPv4 and IPv6")
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("host bits set")
	}
	return p, nil
}

func oneOf(field string, have []string, allowed ...string) error {
	for _, v := range have {
		if !slices.Contains(allowed, v) {
			return fmt.Errorf("%s: %q is none of %s", field, v, strings.Join(allowed, ", "))
		}
	}
	return nil
}
