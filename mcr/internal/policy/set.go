package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Subject is somebody a decision is asked for.
type Subject struct {
	Name  string
	Kind  string // human or system
	Roles []string
	Local bool // a local administrator: everything is allowed, and audited elsewhere
}

// Request is one question.
type Request struct {
	Subject    Subject
	Action     Action
	Repository string
	Tag        string // for Tag, and for Delete of a tag
}

// Decision is the answer with its reason.
type Decision struct {
	Allow bool
	Rule  string // that decided; "" = none matched
	Why   string
}

// Verdict is what one rule said to a request.
type Verdict struct {
	Rule     Rule
	Matched  bool
	FailedOn string // subject, action, repository, tag, not_after
}

// Set is a compiled list of rules.
type Set struct{ rules []Rule }

// Compile validates the rules and puts the built-in ones in front.
func Compile(rules []Rule) (*Set, error) {
	all := Builtin()
	for _, r := range rules {
		if err := r.Validate(); err != nil {
			return nil, fmt.Errorf("rule %.80q: %w", r.Name, err)
		}
		all = append(all, r)
	}
	return &Set{rules: all}, nil
}

// Rules returns the rules, built-in ones first.
func (s *Set) Rules() []Rule { return slices.Clone(s.rules) }

// Decide answers a request.
func (s *Set) Decide(q Request, now time.Time) Decision {
	if q.Subject.Local {
		return Decision{Allow: true, Rule: "local", Why: "a local administrator may do everything"}
	}
	allowed := -1
	for i := range s.rules {
		r := &s.rules[i]
		if r.Effect == "allow" && allowed >= 0 {
			continue
		}
		if r.failedOn(q, now) != "" {
			continue
		}
		if r.Effect == "deny" {
			return Decision{Rule: r.Name, Why: fmt.Sprintf("rule %q denies it", r.Name)}
		}
		allowed = i
	}
	if allowed < 0 {
		return Decision{Why: "no rule allows it"}
	}
	name := s.rules[allowed].Name
	return Decision{Allow: true, Rule: name, Why: fmt.Sprintf("rule %q allows it", name)}
}

// Explain answers a request and says for each rule whether it matched and on which field it failed.
func (s *Set) Explain(q Request, now time.Time) (Decision, []Verdict) {
	verdicts := make([]Verdict, len(s.rules))
	for i, r := range s.rules {
		failed := r.failedOn(q, now)
		verdicts[i] = Verdict{Rule: r, Matched: failed == "", FailedOn: failed}
	}
	return s.Decide(q, now), verdicts
}

// failedOn returns the first field of the rule that does not match, or "".
func (r *Rule) failedOn(q Request, now time.Time) string {
	if !slices.ContainsFunc(r.Subjects, q.Subject.is) {
		return "subject"
	}
	if !slices.Contains(r.Actions, string(q.Action)) {
		return "action"
	}
	if !slices.ContainsFunc(r.Repositories, func(g string) bool { return matchFor(g, q.Repository, q.Subject.Name) }) {
		return "repository"
	}
	if len(r.Tags) > 0 && (q.Action == Tag || (q.Action == Delete && q.Tag != "")) &&
		!slices.ContainsFunc(r.Tags, func(g string) bool { return matchFor(g, q.Tag, q.Subject.Name) }) {
		return "tag"
	}
	if !r.NotAfter.IsZero() && now.After(r.NotAfter) {
		return "not_after"
	}
	return ""
}

// is reports whether a rule's subject covers the asker. System accounts carry no role, whatever they say.
func (s Subject) is(want string) bool {
	if want == "any" {
		return s.Name != ""
	}
	kind, name, _ := strings.Cut(want, ":")
	switch kind {
	case "user":
		return s.Kind == "human" && s.Name == name
	case "system":
		return s.Kind == "system" && s.Name == name
	case "role":
		return s.Kind == "human" && slices.Contains(s.Roles, name)
	}
	return false
}

// matchFor matches a glob in which {user} is the asker's name. A name outside the grammar of a repository's
// segment never matches, so that no account name can act as a pattern or climb into another segment.
func matchFor(glob, name, user string) bool {
	if strings.Contains(glob, "{user}") {
		if !segmentExp.MatchString(user) {
			return false
		}
		glob = strings.ReplaceAll(glob, "{user}", user)
	}
	return Match(glob, name)
}
