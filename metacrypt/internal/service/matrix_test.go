package service_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/mctest"
	"metacircular.net/metacrypt/internal/rpc"
)

// verdict is what a caller gets before the handler has a say.
type verdict string

const (
	pass   verdict = "pass" // the handler was reached; what it says about an empty request does not matter
	login  verdict = "unauthenticated"
	denied verdict = "denied"
	sealed verdict = "sealed"
)

// judge reads the verdict of a gRPC call.
func judge(err error) verdict {
	f := fault.From(err)
	switch {
	case err == nil:
		return pass
	case f.Reason == "SEALED":
		return sealed
	case f.Kind == fault.Unauthenticated && f.Reason != "WRONG_SECRET" && f.Reason != "BAD_NONCE" && f.Reason != "BAD_PROOF":
		return login
	case f.Kind == fault.Denied:
		return denied
	default:
		return pass
	}
}

// methods returns every method of the contract.
func methods(t *testing.T) []protoreflect.MethodDescriptor {
	t.Helper()
	var out []protoreflect.MethodDescriptor
	protoregistry.GlobalFiles.RangeFilesByPackage("metacrypt.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				out = append(out, s.Methods().Get(j))
			}
		}
		return true
	})
	if len(out) < 25 {
		t.Fatalf("only %d methods", len(out))
	}
	return out
}

func fullName(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

func call(t *testing.T, c *grpc.ClientConn, m protoreflect.MethodDescriptor) verdict {
	t.Helper()
	return judge(c.Invoke(t.Context(), fullName(m), dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())))
}

// rest calls the method by its HTTP rule; ok is false if it has none.
func (p *process) rest(t *testing.T, m protoreflect.MethodDescriptor, token string) (v verdict, ok bool) {
	t.Helper()
	opts := m.Options()
	if !proto.HasExtension(opts, annotations.E_Http) {
		return "", false
	}
	rule := proto.GetExtension(opts, annotations.E_Http).(*annotations.HttpRule)
	var verb, path string
	switch r := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		verb, path = "GET", r.Get
	case *annotations.HttpRule_Post:
		verb, path = "POST", r.Post
	case *annotations.HttpRule_Put:
		verb, path = "PUT", r.Put
	case *annotations.HttpRule_Delete:
		verb, path = "DELETE", r.Delete
	default:
		t.Fatalf("%s: unknown HTTP rule", m.FullName())
	}
	path = strings.NewReplacer("{mount}", mountName(m), "{path=**}", "x", "{serial}", "x", "{id}", "x", "{rule.id}", "x").Replace(path)
	var body io.Reader
	if rule.GetBody() != "" {
		body = strings.NewReader("{}")
	}
	req, err := http.NewRequestWithContext(t.Context(), verb, p.url(path), body)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := p.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case strings.Contains(string(b), `"SEALED"`) && res.StatusCode == http.StatusServiceUnavailable:
		return sealed, true
	case res.StatusCode == http.StatusUnauthorized:
		return login, true
	case res.StatusCode == http.StatusForbidden:
		return denied, true
	case res.StatusCode == http.StatusMethodNotAllowed, res.StatusCode == http.StatusNotFound && !strings.Contains(string(b), "no such") && !strings.Contains(string(b), "there is no"):
		t.Errorf("%s %s: %d %s", verb, path, res.StatusCode, b)
	}
	return pass, true
}

func mountName(m protoreflect.MethodDescriptor) string {
	if m.Parent().Name() == "KV" {
		return "kv"
	}
	return "pki"
}

// TestEveryMethodHasOneVerdictOnEveryWay calls every method as every kind of caller, sealed and unsealed, over gRPC and
// REST, and compares with the rule.
func TestEveryMethodHasOneVerdictOnEveryWay(t *testing.T) {
	t.Parallel()
	p := prepare(t)
	p.up(t)
	rules := rpc.Rules()
	callers := map[string]string{"none": "", "guest": p.idp.Token(mctest.Human("gus", "guest").For("metacrypt")),
		"user": p.idp.Token(mctest.Human("uma", "user").For("metacrypt")), "admin": p.idp.Token(mctest.Human("ada", "admin").For("metacrypt")),
		"system": p.idp.Token(mctest.System("mcp-agent", "core").For("metacrypt")), "elsewhere": p.idp.Token(mctest.Human("eve", "admin").For("mcr"))}
	mctest.Eventually(t, "the keys of mcias are known", func() bool {
		return call(t, p.dial(t, callers["admin"]), methodNamed(t, "Policy", "List")) == pass
	})
	for _, isSealed := range []bool{false, true} {
		if isSealed {
			p.must(t, "", "--yes", "seal")
		}
		for name, token := range callers {
			conn := p.dial(t, token)
			for _, m := range methods(t) {
				rule, ok := rules[fullName(m)]
				if !ok {
					t.Fatalf("%s has no rule", m.FullName())
				}
				if rule.Access == auth.AccessPublic && m.Name() == "Unseal" {
					continue // counts as an attempt
				}
				if m.FullName() == "metacrypt.v1.System.Seal" && name == "admin" {
					continue // would seal
				}
				want := expected(rule, m, name, isSealed)
				got := call(t, conn, m)
				if got != want {
					t.Errorf("sealed=%v %s %s over gRPC = %s, want %s", isSealed, name, m.FullName(), got, want)
				}
				if r, ok := p.rest(t, m, token); ok && r != got {
					t.Errorf("sealed=%v %s %s over REST = %s, over gRPC %s", isSealed, name, m.FullName(), r, got)
				}
			}
		}
	}
	local := p.socket(t)
	for _, m := range methods(t) {
		if m.Name() != "Unseal" && m.Name() != "Seal" && m.Name() != "Rehearse" {
			want := pass
			if rules[fullName(m)].NeedsUnsealed {
				want = sealed
			}
			if got := call(t, local, m); got != want {
				t.Errorf("local:root %s = %s, want %s", m.FullName(), got, want)
			}
		}
	}
}

func methodNamed(t *testing.T, svc, name protoreflect.Name) protoreflect.MethodDescriptor {
	t.Helper()
	for _, m := range methods(t) {
		if m.Parent().Name() == svc && m.Name() == name {
			return m
		}
	}
	t.Fatalf("no method %s.%s", svc, name)
	return nil
}

// expected says what the rule promises.
func expected(r auth.Rule, m protoreflect.MethodDescriptor, caller string, isSealed bool) verdict {
	known := caller != "none" && caller != "elsewhere"
	switch r.Access {
	case auth.AccessPublic:
	case auth.AccessLocal:
		return denied // whoever it is: no token opens it
	case auth.AccessRoles:
		if !known {
			return login
		}
		if caller != "admin" {
			return denied
		}
	default:
		if !known {
			return login
		}
	}
	if r.NeedsUnsealed && isSealed {
		return sealed
	}
	// Without a rule of policy everybody but an admin is denied, if the request gets as far as a decision: an empty
	// certificate request does not.
	if r.Access == auth.AccessPolicy && caller != "admin" && m.Name() != "SignCSR" {
		return denied
	}
	return pass
}
