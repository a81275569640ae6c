package rpc

import (
	"context"
	"math"
	"net/netip"
	"strconv"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/page"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/directory"
	"metacircular.net/mcias/internal/policy"
	"metacircular.net/mcias/internal/store"
)

type policyServer struct {
	mciasv1.UnimplementedPolicyServer
	*Servers
}

// GetRules returns the rules in force.
func (s policyServer) GetRules(ctx context.Context, _ *mciasv1.PolicyGetRulesRequest) (*mciasv1.PolicyGetRulesResponse, error) {
	if err := s.may(ctx, "policy:read", resource{name: "policy"}); err != nil {
		return nil, err
	}
	set := s.Directory.Policy()
	out := &mciasv1.PolicyGetRulesResponse{Revision: set.Revision()}
	for _, r := range set.Rules() {
		out.Rules = append(out.Rules, ruleOut(r))
	}
	return out, nil
}

func ruleOut(r policy.Rule) *mciasv1.Rule {
	return &mciasv1.Rule{Id: r.ID, Disabled: r.Disabled, Description: r.Description, Effect: string(r.Effect), Actions: r.Actions, Services: r.Services,
		ClientKinds: r.ClientKinds, RequiredTags: r.RequiredTags, Accounts: r.Accounts, AccountTypes: r.AccountTypes, Roles: r.Roles,
		AccountTags: r.AccountTags, ResourceType: r.ResourceType, OwnerIsSubject: r.OwnerIsSubject, Networks: r.Networks, Hours: r.Hours, Tz: r.TZ,
		NotBefore: stamp(r.NotBefore), ExpiresAt: stamp(r.ExpiresAt), Obligations: obligations(r.Obligations), Builtin: r.Builtin}
}

func ruleIn(r *mciasv1.Rule) policy.Rule {
	o := r.GetObligations()
	return policy.Rule{ID: r.GetId(), Disabled: r.GetDisabled(), Description: r.GetDescription(), Effect: policy.Effect(r.GetEffect()), Actions: r.GetActions(),
		Services: r.GetServices(), ClientKinds: r.GetClientKinds(), RequiredTags: r.GetRequiredTags(), Accounts: r.GetAccounts(),
		AccountTypes: r.GetAccountTypes(), Roles: r.GetRoles(), AccountTags: r.GetAccountTags(), ResourceType: r.GetResourceType(),
		OwnerIsSubject: r.GetOwnerIsSubject(), Networks: r.GetNetworks(), Hours: r.GetHours(), TZ: r.GetTz(), NotBefore: instant(r.GetNotBefore()),
		ExpiresAt: instant(r.GetExpiresAt()), Obligations: policy.Obligations{RequireMFA: o.GetRequireMfa(), RequirePasskey: o.GetRequirePasskey(),
			MaxAuthAge: o.GetMaxAuthAge().AsDuration(), TokenTTL: o.GetTokenTtl().AsDuration()}}
}

// Apply replaces the operator's rules.
func (s policyServer) Apply(ctx context.Context, r *mciasv1.PolicyApplyRequest) (*mciasv1.PolicyApplyResponse, error) {
	if err := s.may(ctx, "policy:manage", resource{name: "policy"}); err != nil {
		return nil, err
	}
	var rules []policy.Rule
	for _, x := range r.GetRules() {
		if x.GetBuiltin() {
			return nil, fault.New(fault.Invalid, "the rule %q is built in and not part of what is applied", x.GetId())
		}
		rules = append(rules, ruleIn(x))
	}
	res, err := s.Directory.Apply(ctx, by(ctx), rules, r.GetBaseRevision(), r.GetForce(), r.GetDryRun())
	if err != nil {
		return nil, err
	}
	return &mciasv1.PolicyApplyResponse{Revision: res.Revision, Diff: res.Diff, SessionsCut: int32(min(res.Cut, math.MaxInt32))}, nil //nolint:gosec // bounded
}

// Explain decides an imagined request.
func (s policyServer) Explain(ctx context.Context, r *mciasv1.PolicyExplainRequest) (*mciasv1.PolicyExplainResponse, error) {
	if err := s.may(ctx, "policy:read", resource{name: "policy"}); err != nil {
		return nil, err
	}
	q, err := s.imagine(ctx, r)
	if err != nil {
		return nil, err
	}
	e := s.Directory.Policy().Explain(q)
	out := &mciasv1.PolicyExplainResponse{Outcome: string(e.Outcome), StepUp: e.StepUp, Deciding: e.Deciding, Obligations: obligations(e.Obligations),
		ObligationRules: e.SetBy, Revision: e.Revision, Why: e.Why}
	for _, v := range e.Verdicts {
		out.Rules = append(out.Rules, &mciasv1.RuleVerdict{RuleId: v.Rule.ID, Effect: string(v.Rule.Effect), Matched: v.Matched, Deciding: v.Deciding,
			FailedField: v.Field, Why: v.Why})
	}
	return out, nil
}

// imagine makes the request that Explain decides: everything about account and service from their records.
func (s policyServer) imagine(ctx context.Context, r *mciasv1.PolicyExplainRequest) (policy.Request, error) {
	var q policy.Request
	a, err := s.Directory.Find(ctx, r.GetAccount())
	if err != nil {
		return q, err
	}
	ip := netip.Addr{}
	if r.GetIp() != "" {
		if ip, err = netip.ParseAddr(r.GetIp()); err != nil {
			return q, fault.Field1("ip", "%q is not an address", r.GetIp())
		}
	}
	at := s.Clock.Now()
	if r.GetTime() != nil {
		at = r.GetTime().AsTime()
	}
	q = directory.Request(a, ip, at)
	q.Action, q.AMR = r.GetAction(), r.GetAmr()
	if len(q.AMR) > 0 {
		q.AuthTime = at.Add(-time.Duration(max(0, r.GetAuthAgeSeconds())) * time.Second)
	}
	if r.GetService() == "" || r.GetService() == policy.Self {
		return q, nil
	}
	c, err := s.Directory.Client(ctx, r.GetService())
	if err != nil {
		return q, err
	}
	q.Service, q.ClientKind, q.ServiceTags = c.ID, c.Kind, c.Tags
	return q, nil
}

// ListRevisions returns the newest first.
func (s policyServer) ListRevisions(ctx context.Context, r *mciasv1.PolicyListRevisionsRequest) (*mciasv1.PolicyListRevisionsResponse, error) {
	if err := s.may(ctx, "policy:read", resource{name: "policy"}); err != nil {
		return nil, err
	}
	p, err := page.Parse(r.GetPageSize(), r.GetPageToken(), "revisions")
	if err != nil {
		return nil, err
	}
	below := int64(math.MaxInt64)
	if n, err := strconv.ParseInt(p.After(0), 10, 64); err == nil {
		below = n
	}
	out := &mciasv1.PolicyListRevisionsResponse{}
	err = s.DB.Read(ctx, func(v *db.View) error {
		rows, err := store.Revisions(v, below, p.Limit())
		if err != nil {
			return err
		}
		rows, out.NextPageToken = page.Next(p, rows, func(x store.Revision) []string { return []string{strconv.FormatInt(x.ID, 10)} })
		for _, x := range rows {
			out.Revisions = append(out.Revisions, &mciasv1.PolicyRevision{Id: x.ID, Author: x.Author, Time: stamp(x.Time), Diff: x.Diff})
		}
		return nil
	})
	return out, err
}
