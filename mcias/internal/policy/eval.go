package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"
)

// Request is everything a decision may depend on. Service, its kind and tags come from the authenticated client
// record, never from a caller.
type Request struct {
	Action string // empty = auth:login

	Service     string
	ClientKind  string
	ServiceTags []string

	Account     string
	AccountID   string
	AccountType string
	Roles       []string
	AccountTags []string

	ResourceType  string
	ResourceOwner string // account id; matches owner_is_subject

	IP       netip.Addr
	Time     time.Time
	AMR      []string
	AuthTime time.Time // zero = no factor was proved (system accounts, what-if)
}

// Outcome is what a decision comes to.
type Outcome string

// The three outcomes.
const (
	OutcomeAllow  Outcome = "allow"
	OutcomeDeny   Outcome = "deny"
	OutcomeStepUp Outcome = "step_up"
)

// Decision is the answer.
type Decision struct {
	Outcome     Outcome
	StepUp      string   // mfa, passkey or reauth, when Outcome is step_up
	Deciding    []string // ids of the rules that decided; empty = no rule matched
	Obligations Obligations
	// Until is the instant at which the first of the allowing rules stops matching; zero = open. A token must not
	// outlive it unless another allow goes on, so it is the latest end among the allows.
	Until    time.Time
	Revision int64
}

// Allowed reports whether the outcome is allow.
func (d Decision) Allowed() bool { return d.Outcome == OutcomeAllow }

// Rule returns the first deciding rule, or "default" when none matched.
func (d Decision) Rule() string {
	if len(d.Deciding) == 0 {
		return "default"
	}
	return d.Deciding[0]
}

// Set is a compiled revision.
type Set struct {
	revision int64
	rules    []*compiled
	// byService holds, for a named service, the indices of rules that name it; rules without services are in open.
	byService map[string][]int
	open      []int
}

// Compile checks and indexes rules; ids must be unique. The error names the rule and the field.
func Compile(revision int64, rules []Rule) (*Set, error) {
	if len(rules) > MaxRules+len(builtins) {
		return nil, fmt.Errorf("more than %d rules", MaxRules)
	}
	s := &Set{revision: revision, byService: map[string][]int{}}
	seen := map[string]bool{}
	for _, r := range rules {
		c, err := parse(r)
		if err != nil {
			return nil, fmt.Errorf("rule %q: %w", r.ID, err)
		}
		if seen[r.ID] {
			return nil, fmt.Errorf("rule %q: id: used twice", r.ID)
		}
		seen[r.ID] = true
		i := len(s.rules)
		s.rules = append(s.rules, c)
		if len(c.Services) == 0 {
			s.open = append(s.open, i)
			continue
		}
		for _, svc := range slices.Compact(slices.Sorted(slices.Values(c.Services))) {
			s.byService[svc] = append(s.byService[svc], i)
		}
	}
	return s, nil
}

// Revision returns the revision the set was compiled from.
func (s *Set) Revision() int64 { return s.revision }

// Rules returns the rules in order.
func (s *Set) Rules() []Rule {
	out := make([]Rule, len(s.rules))
	for i, c := range s.rules {
		out[i] = c.Rule
	}
	return out
}

// Decide answers a request.
func (s *Set) Decide(q Request) Decision {
	q = q.normal()
	var st state
	for _, i := range s.byService[q.Service] {
		st.add(s.rules[i], q)
	}
	for _, i := range s.open {
		st.add(s.rules[i], q)
	}
	return st.decision(q, s.revision)
}

func (q Request) normal() Request {
	if q.Action == "" {
		q.Action = Login
	}
	q.IP = q.IP.Unmap()
	return q
}

// state collects the matches of one decision.
type state struct {
	denies, allows []string
	obligations    Obligations
	until          time.Time
	openEnded      bool
}

func (st *state) add(c *compiled, q Request) {
	if field, _ := c.mismatch(q); field != "" {
		return
	}
	if c.Effect == Deny {
		st.denies = append(st.denies, c.ID)
		return
	}
	st.allows = append(st.allows, c.ID)
	st.obligations = st.obligations.Strictest(c.Obligations)
	end := c.end(q.Time)
	if end.IsZero() {
		st.openEnded = true
	} else if end.After(st.until) {
		st.until = end
	}
}

func (st *state) decision(q Request, revision int64) Decision {
	d := Decision{Outcome: OutcomeDeny, Revision: revision}
	switch {
	case len(st.denies) > 0:
		sort.Strings(st.denies)
		d.Deciding = st.denies
		return d
	case len(st.allows) == 0:
		return d
	}
	sort.Strings(st.allows)
	d.Deciding, d.Obligations = st.allows, st.obligations
	if !st.openEnded {
		d.Until = st.until
	}
	d.Outcome = OutcomeAllow
	if need := unmet(st.obligations, q); need != "" {
		d.Outcome, d.StepUp = OutcomeStepUp, need
	}
	return d
}

// unmet names the first obligation the request does not meet. System accounts prove a key, not factors: an obligation
// that asks for factors can never be met by them.
func unmet(o Obligations, q Request) string {
	has := func(m string) bool { return slices.Contains(q.AMR, m) }
	switch {
	case o.RequirePasskey && !(has("pop") && has("user")):
		return "passkey"
	case o.RequireMFA && !has("mfa"):
		return "mfa"
	case o.MaxAuthAge > 0 && (q.AuthTime.IsZero() || q.Time.Sub(q.AuthTime) > o.MaxAuthAge):
		return "reauth"
	}
	return ""
}

// end is the instant after q.Time when the rule stops matching by its dates or hours; zero = open.
func (c *compiled) end(t time.Time) time.Time {
	e := c.hoursEnd(t)
	if !c.ExpiresAt.IsZero() && (e.IsZero() || c.ExpiresAt.Before(e)) {
		e = c.ExpiresAt
	}
	return e
}

// mismatch returns the first field that does not match with a sentence, or "". The order is that of the rule form.
func (c *compiled) mismatch(q Request) (field, why string) {
	in := func(list []string, v string) bool { return len(list) == 0 || slices.Contains(list, v) }
	switch {
	case c.Disabled:
		return "enabled", "the rule is disabled"
	case !c.NotBefore.IsZero() && q.Time.Before(c.NotBefore):
		return "not_before", "not in force before " + c.NotBefore.UTC().Format(time.RFC3339)
	case !c.ExpiresAt.IsZero() && !q.Time.Before(c.ExpiresAt):
		return "expires_at", "ended " + c.ExpiresAt.UTC().Format(time.RFC3339)
	case !matchAction(c.actions, q.Action):
		return "actions", q.Action + " is not among " + strings.Join(c.actions, ", ")
	case !in(c.Services, q.Service):
		return "services", q.Service + " is not among " + strings.Join(c.Services, ", ")
	case !in(c.ClientKinds, q.ClientKind):
		return "client_kinds", q.Service + " is of kind " + q.ClientKind
	case !all(c.RequiredTags, q.ServiceTags):
		return "required_tags", q.Service + " lacks a tag of " + strings.Join(c.RequiredTags, ", ")
	case !in(c.Accounts, q.Account):
		return "accounts", q.Account + " is not among " + strings.Join(c.Accounts, ", ")
	case !in(c.AccountTypes, q.AccountType):
		return "account_types", q.Account + " is a " + q.AccountType + " account"
	case len(c.Roles) > 0 && !anyOf(c.Roles, q.Roles):
		return "roles", q.Account + " has no role of " + strings.Join(c.Roles, ", ")
	case !all(c.AccountTags, q.AccountTags):
		return "account_tags", q.Account + " lacks a tag of " + strings.Join(c.AccountTags, ", ")
	case c.ResourceType != "" && c.ResourceType != q.ResourceType:
		return "resource_type", "the resource is not a " + c.ResourceType
	case c.OwnerIsSubject && (q.ResourceOwner == "" || q.ResourceOwner != q.AccountID):
		return "owner_is_subject", q.Account + " does not own it"
	case !c.inNetworks(q.IP):
		return "networks", q.IP.String() + " is outside " + strings.Join(c.Networks, ", ")
	case !c.inHours(q.Time):
		return "hours", q.Time.In(c.loc).Format("Mon 15:04") + " is outside " + strings.Join(c.Hours, ", ")
	}
	return "", ""
}

// inNetworks: an exclusion always wins; with only exclusions everything else is inside. An unknown address matches
// no rule that names networks.
func (c *compiled) inNetworks(ip netip.Addr) bool {
	if len(c.include) == 0 && len(c.exclude) == 0 {
		return true
	}
	if !ip.IsValid() {
		return false
	}
	ip = ip.WithZone("")
	for _, p := range c.exclude {
		if p.Contains(ip) {
			return false
		}
	}
	if len(c.include) == 0 {
		return true
	}
	for _, p := range c.include {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

func matchAction(patterns []string, action string) bool {
	for _, p := range patterns {
		if p == action {
			return true
		}
		if prefix, ok := strings.CutSuffix(p, "*"); ok && strings.HasPrefix(action, prefix) && (prefix != "" || action != Login) {
			return true // "*" means every management action; signing in is always spelt out
		}
	}
	return false
}

func anyOf(want, have []string) bool {
	return slices.ContainsFunc(want, func(w string) bool { return slices.Contains(have, w) })
}

func all(want, have []string) bool {
	for _, w := range want {
		if !slices.Contains(have, w) {
			return false
		}
	}
	return true
}
