package auth

import (
	"slices"
	"strings"
	"time"

	"metacircular.net/mcdsl/fault"
)

// Access is the kind of a rule.
type Access uint8

// The kinds of access. The zero value admits nobody, so a forgotten rule is a closed door.
const (
	accessNone          Access = iota
	AccessPublic               // a token is not even looked at
	AccessAuthenticated        // any verified caller
	AccessRoles                // a human with one of the roles, or a local administrator
	AccessPolicy               // any verified caller; the handler records a decision
	AccessLocal                // a local administrator on the Unix socket
)

// Budget says how old the last word of MCIAS may be for a call to be judged.
type Budget uint8

// The budgets; how long each is stands in the verifier's Config.
const (
	Normal     Budget = iota // 15 min unless lowered
	Privileged               // 30 s unless lowered
)

// Rule says who may call one method. Make one with Public, Authenticated, Roles, Policy or Local and refine it
// with the methods; the zero value refuses everybody.
type Rule struct {
	Access        Access
	RoleNames     []string // for AccessRoles
	Action        string   // for AccessPolicy, e.g. "zones:create"
	Budget        Budget
	Audit         bool
	Target        func(req any) string // what audit shows as the object; nil = nothing
	NeedsUnsealed bool
	Scoped        bool          // tokens with an access claim may pass
	MaxAuthAge    time.Duration // longest time since a human's last proof of a factor; 0 = any
	AnyLocal      bool          // also open to the service's own uid on the socket
	Deadline      time.Duration // 0 = 30 s for a unary call or HTTP route, none for a stream; negative = none
	MaxBody       int64         // of a hand-written HTTP route in bytes; 0 = the server's max_body, negative = no limit
}

// Public admits everybody and does not look at tokens.
func Public() Rule { return Rule{Access: AccessPublic} }

// Authenticated admits any verified caller.
func Authenticated() Rule { return Rule{Access: AccessAuthenticated} }

// Roles admits a human who holds one of the roles. System accounts carry no role and fail.
func Roles(roles ...string) Rule { return Rule{Access: AccessRoles, RoleNames: roles} }

// Policy admits any verified caller to the handler, which must call Decide before its first answer. A handler
// that answers without a decision ends as an internal error.
func Policy(action string) Rule { return Rule{Access: AccessPolicy, Action: action} }

// Local admits administrators on the Unix socket and nobody else.
func Local() Rule { return Rule{Access: AccessLocal} }

// Privileged uses the short staleness budget.
func (r Rule) Privileged() Rule { r.Budget = Privileged; return r }

// Audited records each call. target names the object from the request; nil for none.
func (r Rule) Audited(target func(req any) string) Rule { r.Audit, r.Target = true, target; return r }

// Unsealed refuses the call while the service is sealed.
func (r Rule) Unsealed() Rule { r.NeedsUnsealed = true; return r }

// WithScoped lets tokens with an access claim (registry tokens) pass.
func (r Rule) WithScoped() Rule { r.Scoped = true; return r }

// StepUp asks that a human proved a factor within this time.
func (r Rule) StepUp(within time.Duration) Rule { r.MaxAuthAge = within; return r }

// Within sets the deadline; negative means none.
func (r Rule) Within(d time.Duration) Rule { r.Deadline = d; return r }

// Body sets the body limit of a hand-written HTTP route; negative means none.
func (r Rule) Body(max int64) Rule { r.MaxBody = max; return r }

// Anonymous reports whether no caller is looked for.
func (r Rule) Anonymous() bool { return r.Access == AccessPublic }

// Admit judges a caller by the rule: access, scope and step-up. It does not ask for revocation or staleness;
// the Verifier does.
func (r Rule) Admit(c Caller, now time.Time) error {
	if r.Access == AccessPublic {
		return nil
	}
	if !c.known {
		if r.Access == AccessLocal {
			return fault.New(fault.Denied, "only an administrator on the local socket may do this").WithReason("LOCAL_ONLY")
		}
		return ErrNoToken()
	}
	if c.Kind == Socket && !c.admin && !r.AnyLocal && len(c.Roles) == 0 && r.Access != AccessPolicy {
		return fault.New(fault.Denied, "uid of %s may ask for health and status only", c).WithReason("LOCAL_ADMINS").
			WithNext("run the command as root, or name the user in [server] local_admins")
	}
	if c.scoped && !r.Scoped {
		return fault.New(fault.Denied, "a registry token opens nothing but the registry").WithReason("SCOPED_TOKEN").
			WithNext("use a token without an access claim")
	}
	switch r.Access {
	case AccessAuthenticated, AccessPolicy:
	case AccessRoles:
		if !c.HasRole(r.RoleNames...) {
			return fault.New(fault.Denied, "you are %s; this needs the role %s", describe(c), strings.Join(r.RoleNames, " or ")).
				WithReason("ROLE_REQUIRED")
		}
	case AccessLocal:
		if !c.LocalAdmin() {
			return fault.New(fault.Denied, "only an administrator on the local socket may do this").WithReason("LOCAL_ONLY")
		}
	default:
		return fault.New(fault.Denied, "no rule admits this call").WithReason("NO_RULE")
	}
	if r.MaxAuthAge > 0 && c.Kind == Human && now.Sub(c.AuthTime) > r.MaxAuthAge {
		return fault.New(fault.Unauthenticated, "this needs a sign-in not older than %s", r.MaxAuthAge).
			WithReason(ReasonStepUp).WithNext("sign in again")
	}
	return nil
}

func describe(c Caller) string {
	if c.Kind == Human {
		roles := slices.Clone(c.Roles)
		if len(roles) == 0 {
			return c.Name + " (no role)"
		}
		return c.Name + " (role " + strings.Join(roles, ", ") + ")"
	}
	return c.String()
}
