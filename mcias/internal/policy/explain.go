package policy

import (
	"fmt"
	"strings"
)

// Verdict is what one rule said about a request.
type Verdict struct {
	Rule     Rule
	Matched  bool
	Deciding bool
	Field    string // first field that failed
	Why      string
}

// Explanation is a decision with its reasons.
type Explanation struct {
	Decision
	Verdicts []Verdict
	// SetBy names the rule that set each obligation.
	SetBy map[string]string
	Why   string
}

// Explain decides and says why, rule by rule. It looks at every rule, so it is for people, not for the hot path.
func (s *Set) Explain(q Request) Explanation {
	q = q.normal()
	e := Explanation{Decision: s.Decide(q), SetBy: map[string]string{}}
	deciding := map[string]bool{}
	for _, id := range e.Deciding {
		deciding[id] = true
	}
	for _, c := range s.rules {
		v := Verdict{Rule: c.Rule}
		v.Field, v.Why = c.mismatch(q)
		v.Matched = v.Field == ""
		v.Deciding = deciding[c.ID]
		if v.Deciding && c.Effect == Allow {
			e.setBy(c)
		}
		e.Verdicts = append(e.Verdicts, v)
	}
	e.Why = e.sentence(q)
	return e
}

func (e *Explanation) setBy(c *compiled) {
	o := e.Obligations
	set := func(name string, is bool) {
		if is && e.SetBy[name] == "" {
			e.SetBy[name] = c.ID
		}
	}
	set("require_mfa", c.Obligations.RequireMFA)
	set("require_passkey", c.Obligations.RequirePasskey)
	set("max_auth_age", o.MaxAuthAge > 0 && c.Obligations.MaxAuthAge == o.MaxAuthAge)
	set("token_ttl", o.TokenTTL > 0 && c.Obligations.TokenTTL == o.TokenTTL)
}

func (e *Explanation) sentence(q Request) string {
	ids := strings.Join(e.Deciding, ", ")
	switch {
	case e.Outcome == OutcomeStepUp:
		return fmt.Sprintf("%s may use %s after a step-up (%s): %s", q.Account, q.Service, e.StepUp, ids)
	case e.Outcome == OutcomeAllow:
		return fmt.Sprintf("allowed by %s", ids)
	case len(e.Deciding) > 0:
		return fmt.Sprintf("denied by %s", ids)
	}
	return fmt.Sprintf("no rule allows %s to %s at %s", q.Account, q.Action, q.Service)
}
