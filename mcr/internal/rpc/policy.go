package rpc

import (
	"context"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	mcrv1 "metacircular.net/mcr/api/mcr/v1"
	"metacircular.net/mcr/internal/image"
	"metacircular.net/mcr/internal/policy"
)

type rules struct {
	mcrv1.UnimplementedPolicyServiceServer
	*Server
}

// Reload puts the database's rules in force; called at the start and after each change.
func (s *Server) Reload(ctx context.Context) error {
	access, immutable, err := s.Store.Rules(ctx)
	if err != nil {
		return err
	}
	return s.Book.Load(access, immutable)
}

func (s rules) ListRules(ctx context.Context, _ *mcrv1.PolicyListRulesRequest) (*mcrv1.PolicyListRulesResponse, error) {
	if err := s.decide(ctx, policy.Admin, global, ""); err != nil {
		return nil, err
	}
	res := &mcrv1.PolicyListRulesResponse{}
	for _, r := range s.Book.Set().Rules() {
		res.Rules = append(res.Rules, rule(r))
	}
	return res, nil
}

func rule(r policy.Rule) *mcrv1.Rule {
	return &mcrv1.Rule{Name: r.Name, Effect: r.Effect, Subjects: r.Subjects, Actions: r.Actions, Repositories: r.Repositories,
		Tags: r.Tags, NotAfter: timestamp(r.NotAfter), Comment: r.Comment, Owner: r.Owner, Changed: timestamp(r.Changed), ChangedBy: r.ChangedBy}
}

func (s rules) PutRule(ctx context.Context, req *mcrv1.PolicyPutRuleRequest) (*mcrv1.PolicyPutRuleResponse, error) {
	if err := s.decide(ctx, policy.Admin, global, ""); err != nil {
		return nil, err
	}
	in := req.GetRule()
	r := policy.Rule{Name: in.GetName(), Effect: in.GetEffect(), Subjects: in.GetSubjects(), Actions: in.GetActions(),
		Repositories: in.GetRepositories(), Tags: in.GetTags(), Comment: in.GetComment(), Owner: policy.OwnerDB, ChangedBy: who(ctx)}
	if in.GetNotAfter() != nil {
		r.NotAfter = in.GetNotAfter().AsTime()
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if err := notBuiltin(r.Name); err != nil {
		return nil, err
	}
	created, at, err := s.Store.PutRule(ctx, r, r.ChangedBy)
	if err != nil {
		return nil, err
	}
	r.Changed = at
	if err := s.Reload(ctx); err != nil {
		return nil, err
	}
	return &mcrv1.PolicyPutRuleResponse{Rule: rule(r), Created: created}, nil
}

func notBuiltin(name string) error {
	for _, b := range policy.Builtin() {
		if b.Name == name {
			return fault.Field1("name", "%q is a built-in rule", name).WithNext("choose another name")
		}
	}
	return nil
}

func (s rules) DeleteRule(ctx context.Context, req *mcrv1.PolicyDeleteRuleRequest) (*mcrv1.PolicyDeleteRuleResponse, error) {
	if err := s.decide(ctx, policy.Admin, global, ""); err != nil {
		return nil, err
	}
	if err := notBuiltin(req.GetName()); err != nil {
		return nil, err
	}
	if err := s.Store.DeleteRule(ctx, req.GetName()); err != nil {
		return nil, err
	}
	if err := s.Reload(ctx); err != nil {
		return nil, err
	}
	return &mcrv1.PolicyDeleteRuleResponse{}, nil
}

func (s rules) Explain(ctx context.Context, req *mcrv1.PolicyExplainRequest) (*mcrv1.PolicyExplainResponse, error) {
	who := caller(ctx)
	if sub := req.GetSubject(); sub != nil {
		if err := s.decide(ctx, policy.Admin, global, ""); err != nil {
			return nil, err
		}
		var err error
		if who, err = subject("subject", sub); err != nil {
			return nil, err
		}
	} else if err := auth.Decide(ctx, "explain", "own rights", true, "everybody may ask about themselves"); err != nil {
		return nil, err
	}
	if err := image.CheckRepository(req.GetRepository()); err != nil {
		return nil, fault.Field1("repository", "%v", err)
	}
	action := policy.Action(req.GetAction())
	if !action.Known() {
		return nil, fault.Field1("action", "%.40q: say pull, push, tag, delete, pin or admin", req.GetAction())
	}
	if req.GetTag() != "" {
		if err := image.CheckTag(req.GetTag()); err != nil {
			return nil, fault.Field1("tag", "%v", err)
		}
	}
	d, verdicts := s.Book.Set().Explain(policy.Request{Subject: who, Action: action, Repository: req.GetRepository(), Tag: req.GetTag()}, s.Clock.Now())
	res := &mcrv1.PolicyExplainResponse{Allowed: d.Allow, Rule: d.Rule, Why: d.Why}
	for _, v := range verdicts {
		res.Rules = append(res.Rules, &mcrv1.RuleVerdict{Rule: v.Rule.Name, Owner: v.Rule.Owner, Effect: v.Rule.Effect, Matched: v.Matched, FailedOn: v.FailedOn})
	}
	return res, nil
}

// subject reads somebody a question is about.
func subject(field string, in *mcrv1.Subject) (policy.Subject, error) {
	if in.GetName() == "" || len(in.GetName()) > 128 {
		return policy.Subject{}, fault.Field1(field+".name", "an account's name is needed")
	}
	if k := auth.Kind(in.GetKind()); k != auth.Human && k != auth.System {
		return policy.Subject{}, fault.Field1(field+".kind", "%.40q: say human or system", in.GetKind())
	}
	return policy.Subject{Name: in.GetName(), Kind: in.GetKind(), Roles: in.GetRoles()}, nil
}

func (s rules) ListImmutable(ctx context.Context, _ *mcrv1.PolicyListImmutableRequest) (*mcrv1.PolicyListImmutableResponse, error) {
	if err := s.decide(ctx, policy.Admin, global, ""); err != nil {
		return nil, err
	}
	res := &mcrv1.PolicyListImmutableResponse{}
	for _, r := range s.Book.Immutable() {
		res.Rules = append(res.Rules, immutable(r))
	}
	return res, nil
}

func immutable(r policy.Immutable) *mcrv1.ImmutableRule {
	return &mcrv1.ImmutableRule{Name: r.Name, Repositories: r.Repositories, Tags: r.Tags, Comment: r.Comment, Owner: r.Owner}
}

func (s rules) PutImmutable(ctx context.Context, req *mcrv1.PolicyPutImmutableRequest) (*mcrv1.PolicyPutImmutableResponse, error) {
	if err := s.decide(ctx, policy.Admin, global, ""); err != nil {
		return nil, err
	}
	in := req.GetRule()
	r := policy.Immutable{Name: in.GetName(), Repositories: in.GetRepositories(), Tags: in.GetTags(), Comment: in.GetComment(), Owner: policy.OwnerDB}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	created, err := s.Store.PutImmutable(ctx, r, who(ctx))
	if err != nil {
		return nil, err
	}
	if err := s.Reload(ctx); err != nil {
		return nil, err
	}
	return &mcrv1.PolicyPutImmutableResponse{Rule: immutable(r), Created: created}, nil
}

func (s rules) DeleteImmutable(ctx context.Context, req *mcrv1.PolicyDeleteImmutableRequest) (*mcrv1.PolicyDeleteImmutableResponse, error) {
	if err := s.decide(ctx, policy.Admin, global, ""); err != nil {
		return nil, err
	}
	if err := s.Store.DeleteImmutable(ctx, req.GetName()); err != nil {
		return nil, err
	}
	if err := s.Reload(ctx); err != nil {
		return nil, err
	}
	return &mcrv1.PolicyDeleteImmutableResponse{}, nil
}
