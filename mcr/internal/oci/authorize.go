package oci

import (
	"net/http"
	"slices"
	"strings"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcr/internal/image"
	"metacircular.net/mcr/internal/policy"
)

// subject is the caller as policy sees it.
func subject(c auth.Caller) policy.Subject {
	return policy.Subject{Name: c.Name, Kind: string(c.Kind), Roles: c.Roles, Local: c.LocalAdmin()}
}

// scopeAction is the action of a registry token that covers an action of policy.
func scopeAction(a policy.Action) string {
	if a == policy.Tag {
		return "push"
	}
	return string(a)
}

// authorize asks policy for each action on the target, then bounds the answer by what the token covers. A
// refusal by policy is 403 and says nothing of whether the repository exists; a token that is too narrow is a
// challenge for what the request needs.
func (g *Registry) authorize(r *http.Request, t target, tag string, actions ...policy.Action) error {
	ctx := r.Context()
	caller := auth.From(ctx)
	for _, a := range actions {
		d := g.Book.Decide(policy.Request{Subject: subject(caller), Action: a, Repository: t.repo, Tag: tag}, g.Clock.Now())
		if err := auth.Decide(ctx, string(a), t.repo, d.Allow, d.Why); err != nil {
			return err
		}
	}
	for _, a := range actions {
		if !caller.Permits("repository", t.repo, scopeAction(a)) {
			return errScope(requestScope(r))
		}
	}
	return nil
}

// may reports whether policy and token allow an action, without recording a decision.
func (g *Registry) may(c auth.Caller, a policy.Action, repo string) (byPolicy, byToken bool) {
	d := g.Book.Decide(policy.Request{Subject: subject(c), Action: a, Repository: repo}, g.Clock.Now())
	return d.Allow, c.Permits("repository", repo, scopeAction(a))
}

func errScope(scope string) *Error {
	e := refuse(http.StatusUnauthorized, "UNAUTHORIZED", "the token does not cover %s", scope)
	e.scope = scope
	return e
}

// requestScope is what a client must ask a token for to make this request; "" if the path means nothing or
// only who asks matters.
func requestScope(r *http.Request) string {
	t, err := requestTarget(r)
	if err != nil {
		return ""
	}
	switch t.end {
	case endBase:
		return ""
	case endCatalog:
		return "registry:catalog:*"
	}
	own := "repository:" + t.repo + ":"
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if t.end == endUpload {
			return own + "pull,push"
		}
		return own + "pull"
	case http.MethodDelete:
		if t.end == endUpload {
			return own + "pull,push"
		}
		return own + "delete,pull"
	}
	own += "pull,push"
	if t.end == endUploads {
		if from := r.URL.Query().Get("from"); from != "" && from != t.repo && r.URL.Query().Has("mount") && image.CheckRepository(from) == nil {
			return own + " repository:" + from + ":pull"
		}
	}
	return own
}

// withPull adds pull on another repository to a scope.
func withPull(scope, repo string) string {
	add := "repository:" + repo + ":pull"
	if slices.Contains(strings.Fields(scope), add) {
		return scope
	}
	return strings.TrimSpace(scope + " " + add)
}

// requestTarget parses the path of a request.
func requestTarget(r *http.Request) (target, error) {
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/v2/")
	if !ok {
		return target{}, errNoRoute
	}
	return parsePath(rest)
}
