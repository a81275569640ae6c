package auth_test

import (
	"fmt"
	"testing"
	"time"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/mctest"
)

func human(name string) mctest.Claims { return mctest.Human(name, "user").For("mcns") }

// localVerifier is a verifier without a network.
func localVerifier(t testing.TB) (*mctest.MCIAS, *auth.Verifier) {
	t.Helper()
	idp := mctest.Offline()
	src := &auth.LocalSource{}
	if err := src.Reset(idp.Snapshot()); err != nil {
		t.Fatal(err)
	}
	v, err := auth.New(auth.Config{Service: "mcns", Issuer: idp.Issuer, Source: src})
	if err != nil {
		t.Fatal(err)
	}
	return idp, v
}

func ExampleMap() {
	rules := auth.Map{
		"/mcns.v1.ZoneService/ListZones":  auth.Authenticated(),
		"/mcns.v1.ZoneService/CreateZone": auth.Policy("zones:create").Audited(nil).Privileged(),
		"HTTP GET /dns-query":             auth.Public(),
	}
	fmt.Println(rules.Check(nil, []string{"GET /dns-query", "POST /dns-query"}))
	// Output:
	// method HTTP POST /dns-query has no rule
	// rule /mcns.v1.ZoneService/CreateZone has no method
	// rule /mcns.v1.ZoneService/ListZones has no method
}

func ExampleRule_Admit() {
	root := auth.LocalRoot(0, "root")
	fmt.Println(auth.Roles("admin").Admit(root, time.Now()))
	fmt.Println(auth.Roles("admin").Admit(auth.LocalPeer(1000, "mcns"), time.Now()))
	fmt.Println(auth.Authenticated().Admit(auth.Caller{Name: "nobody made this one"}, time.Now()))
	// Output:
	// <nil>
	// uid of local:mcns may ask for health and status only
	// not logged in
}

func ExampleParseScopes() {
	scopes, err := auth.ParseScopes("repository:team/blog:push,pull repository:base:pull")
	fmt.Println(scopes, err)
	// Output: [repository:team/blog:pull,push repository:base:pull] <nil>
}
