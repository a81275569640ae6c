package rpc

import (
	"context"
	"strings"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
	"metacircular.net/metacrypt/internal/ident"
	"metacircular.net/metacrypt/internal/policy"
	"metacircular.net/metacrypt/internal/seal"
)

type policyService struct {
	metacryptv1.UnimplementedPolicyServer
	*Server
}

func ruleOf(r policy.Rule) *metacryptv1.Rule {
	return &metacryptv1.Rule{Id: r.ID, Priority: r.Priority, Effect: r.Effect, Usernames: r.Usernames, Roles: r.Roles, Tags: r.Tags,
		Resources: r.Resources, Actions: r.Actions, Identifiers: r.Identifiers}
}

func (s policyService) Put(ctx context.Context, r *metacryptv1.PolicyPutRequest) (*metacryptv1.PolicyPutResponse, error) {
	in := r.GetRule()
	rule := policy.Rule{ID: in.GetId(), Priority: in.GetPriority(), Effect: in.GetEffect(), Usernames: in.GetUsernames(), Roles: in.GetRoles(),
		Tags: in.GetTags(), Resources: in.GetResources(), Actions: in.GetActions(), Identifiers: in.GetIdentifiers()}
	err := s.Seal.With(ctx, func(l *seal.Lease) error { return l.Engines.Policy.Put(l.Ctx, rule) })
	if err != nil {
		return nil, err
	}
	return &metacryptv1.PolicyPutResponse{Rule: ruleOf(rule)}, nil
}

func (s policyService) Get(ctx context.Context, r *metacryptv1.PolicyGetRequest) (*metacryptv1.PolicyGetResponse, error) {
	var rule policy.Rule
	err := s.Seal.With(ctx, func(l *seal.Lease) error {
		var err error
		rule, err = l.Engines.Policy.Get(r.GetId())
		return err
	})
	if err != nil {
		return nil, err
	}
	return &metacryptv1.PolicyGetResponse{Rule: ruleOf(rule)}, nil
}

func (s policyService) List(ctx context.Context, r *metacryptv1.PolicyListRequest) (*metacryptv1.PolicyListResponse, error) {
	out := &metacryptv1.PolicyListResponse{}
	err := s.Seal.With(ctx, func(l *seal.Lease) error {
		limit, after := pageSize(r.GetPageSize()), r.GetPageToken()
		skip := after != ""
		for _, rule := range l.Engines.Policy.List() {
			if skip {
				skip = rule.ID != after
				continue
			}
			if len(out.Rules) == limit {
				out.NextPageToken = out.Rules[limit-1].GetId()
				break
			}
			out.Rules = append(out.Rules, ruleOf(rule))
		}
		if skip {
			return fault.Field1("page_token", "the rule it names is gone; start again")
		}
		return nil
	})
	return out, err
}

func (s policyService) Delete(ctx context.Context, r *metacryptv1.PolicyDeleteRequest) (*metacryptv1.PolicyDeleteResponse, error) {
	err := s.Seal.With(ctx, func(l *seal.Lease) error { return l.Engines.Policy.Delete(l.Ctx, r.GetId()) })
	return &metacryptv1.PolicyDeleteResponse{}, err
}

func (s policyService) Explain(ctx context.Context, r *metacryptv1.PolicyExplainRequest) (*metacryptv1.PolicyExplainResponse, error) {
	c := auth.From(ctx)
	sub := subject(requester(c))
	if r.GetUsername() != "" && r.GetUsername() != c.Name || len(r.GetRoles())+len(r.GetTags()) > 0 {
		if !c.HasRole(auth.RoleAdmin) {
			return nil, fault.New(fault.Denied, "only an admin may ask about somebody else").WithNext("leave out user, roles and tags")
		}
		sub = policy.Subject{Name: r.GetUsername(), Roles: r.GetRoles(), Tags: r.GetTags()}
	}
	names, err := ident.ParseAll(r.GetIdentifiers())
	if err != nil {
		return nil, fault.Field1("identifiers", "%v", err)
	}
	out := &metacryptv1.PolicyExplainResponse{}
	err = s.Seal.With(ctx, func(l *seal.Lease) error {
		req := policy.Request{Subject: sub, Action: r.GetAction(), Resource: r.GetResource(), Identifiers: names}
		if parts := strings.Split(r.GetResource(), "/"); len(parts) > 1 && parts[0] == "pki" {
			if e, err := l.Engines.PKI(parts[1]); err == nil {
				req.Zones = e.Zones()
			}
		}
		d := l.Engines.Policy.Set().Explain(req)
		out.Allow, out.Rule, out.Why = d.Allow, d.Rule, d.Why
		for _, v := range d.Verdicts {
			out.Verdicts = append(out.Verdicts, &metacryptv1.PolicyVerdict{Identifier: v.Identifier, Allow: v.Allow, Rule: v.Rule})
		}
		for _, n := range d.Near {
			out.Near = append(out.Near, &metacryptv1.PolicyNear{Rule: n.Rule, Priority: n.Priority, Field: n.Field})
		}
		return nil
	})
	return out, err
}

// pageSize is 50 by default and 500 at most.
func pageSize(n int32) int {
	if n <= 0 {
		return 50
	}
	return int(min(n, 500))
}
