package registry_test

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcns/internal/catalog"
	"metacircular.net/mcns/internal/policy"
	"metacircular.net/mcns/internal/registry"
	"metacircular.net/mcns/internal/store"
	"metacircular.net/mcns/internal/zone"
)

type fixture struct {
	t     *testing.T
	cat   *catalog.Catalog
	db    *db.DB
	clock *clock.Fake
	reg   *registry.Registry
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{t: t, clock: clock.NewFake(time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC))}
	f.cat, _ = catalog.New(catalog.Config{Snapshot: filepath.Join(dir, "s"), Platform: "mc.test.", Clock: f.clock})
	d, err := db.Open(t.Context(), db.Config{Path: filepath.Join(dir, "mcns.db"), Service: "mcns", Migrations: store.Migrations()})
	if err != nil {
		t.Fatal(err)
	}
	f.db = d
	t.Cleanup(func() { _ = d.Close() })
	if err := f.cat.Attach(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.cat.CreateZone(t.Context(), catalog.NewZone{Name: "mc.test.", NameServers: []string{"mcns.mc.test."}, Owner: "operator"}); err != nil {
		t.Fatal(err)
	}
	f.grant("account:node-a", "*")
	f.grant("account:node-b", "*")
	f.reg = registry.New(registry.Config{Catalog: f.cat, Clock: f.clock})
	return f
}

func (f *fixture) grant(who, glob string) {
	f.t.Helper()
	g, err := policy.Grant{Principal: who, Zone: "mc.test.", Glob: glob, Ops: []string{"sync"}}.Normal()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.cat.ChangeGrants(f.t.Context(), func(tx *db.Tx) error { _, _, err := store.PutGrant(tx, g); return err }); err != nil {
		f.t.Fatal(err)
	}
}

func set(owner string, generation uint64, addr string, services ...string) *registry.Set {
	s := &registry.Set{Zone: "mc.test.", Owner: owner, Principal: "account:" + owner, Epoch: 1, Generation: generation, Lease: 90 * time.Second,
		Nodes: []registry.Node{{Name: strings.TrimPrefix(owner, "node-"), Addrs: []netip.Addr{netip.MustParseAddr(addr)}}}}
	for _, svc := range services {
		name, healthy := strings.CutSuffix(svc, "!")
		s.Instances = append(s.Instances, registry.Instance{Service: name, Instance: "1", Node: strings.TrimPrefix(owner, "node-"), Healthy: !healthy,
			Ports: []registry.Port{{Name: "https", Port: 8443, HTTPS: true}}})
	}
	return s
}

// names lists the registry's records as "name type value".
func (f *fixture) names() []string {
	var out []string
	for _, r := range f.cat.View().Get("mc.test.").Zone.Records {
		if strings.HasPrefix(r.Owner, "registry:") {
			out = append(out, zone.Relative(r.Name, "mc.test.")+" "+zone.TypeName(r.Type)+" "+r.Text)
		}
	}
	slices.Sort(out)
	return out
}

func (f *fixture) want(lines ...string) {
	f.t.Helper()
	slices.Sort(lines)
	if d := cmp.Diff(lines, f.names()); d != "" {
		f.t.Errorf("names (-want +got):\n%s", d)
	}
}

func (f *fixture) sync(s *registry.Set) registry.Outcome {
	f.t.Helper()
	out, err := f.reg.Sync(f.t.Context(), s, "test")
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

func TestSync(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	out := f.sync(set("node-a", 1, "10.0.0.1", "blog"))
	if !out.Changed || len(out.Conflicts) != 0 {
		t.Errorf("first: %+v", out)
	}
	f.want("a.node A 10.0.0.1", "blog A 10.0.0.1", `blog HTTPS 1 . port="8443"`, "_https._tcp.blog SRV 0 0 8443 a.node.mc.test.")
	serial := out.Serial
	if out = f.sync(set("node-a", 1, "10.0.0.1", "blog")); out.Changed || out.Serial != serial {
		t.Errorf("equal: %+v", out)
	}
	// Another node runs it too: both addresses; the full set of each is its own.
	f.sync(set("node-b", 1, "10.0.0.2", "blog", "wiki"))
	f.sync(set("node-a", 2, "10.0.0.1"))
	f.want("a.node A 10.0.0.1", "b.node A 10.0.0.2", "blog A 10.0.0.2", `blog HTTPS 1 . port="8443"`, "_https._tcp.blog SRV 0 0 8443 b.node.mc.test.",
		"wiki A 10.0.0.2", `wiki HTTPS 1 . port="8443"`, "_https._tcp.wiki SRV 0 0 8443 b.node.mc.test.")
	for _, s := range []*registry.Set{set("node-a", 1, "10.0.0.1", "blog"), set("node-a", 2, "10.0.0.9")} {
		if _, err := f.reg.Sync(t.Context(), s, ""); !fault.HasReason(err, "STALE_GENERATION") || !fault.Is(err, fault.Conflict) {
			t.Errorf("stale: %v", err)
		}
	}
	if _, err := f.reg.Renew("mc.test.", "node-a", 1, 2); err != nil {
		t.Errorf("renew: %v", err)
	}
	if _, err := f.reg.Renew("mc.test.", "node-a", 1, 1); !fault.Is(err, fault.Conflict) {
		t.Errorf("renew of an old one: %v", err)
	}
	if _, err := f.reg.Renew("mc.test.", "node-c", 1, 1); !fault.Is(err, fault.NotFound) {
		t.Errorf("renew of nothing: %v", err)
	}
	if n, err := f.reg.Deregister(t.Context(), "mc.test.", "node-b", "x", ""); err != nil || n != 7 {
		t.Errorf("deregister: %d, %v", n, err)
	}
	f.want("a.node A 10.0.0.1")
}

func TestUnhealthyLeavesOnlyWhileAHealthyOneRemains(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	f.sync(set("node-a", 1, "10.0.0.1", "blog!"))
	if !slices.Contains(f.names(), "blog A 10.0.0.1") {
		t.Error("the only instance left")
	}
	f.sync(set("node-b", 1, "10.0.0.2", "blog"))
	if got := f.names(); slices.Contains(got, "blog A 10.0.0.1") || !slices.Contains(got, "blog A 10.0.0.2") {
		t.Errorf("with a healthy one: %v", got)
	}
	f.sync(set("node-b", 2, "10.0.0.2", "blog!"))
	if got := f.names(); !slices.Contains(got, "blog A 10.0.0.1") {
		t.Errorf("with none healthy: %v", got)
	}
}

func TestConflicts(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	if _, err := f.cat.Apply(t.Context(), catalog.Write{Ops: []catalog.Op{
		{Kind: catalog.Add, Zone: "mc.test.", Name: "taken.mc.test.", Type: dns.TypeCNAME, Texts: []string{"www.example.org."}, Owner: "operator"}}}); err != nil {
		t.Fatal(err)
	}
	s := set("node-a", 1, "10.0.0.1", "ok", "mcias", "taken", "a.b", "bad..name", "@")
	s.Nodes = append(s.Nodes, registry.Node{Name: "z", Addrs: s.Nodes[0].Addrs})
	out := f.sync(s)
	reasons := map[string]string{}
	for _, c := range out.Conflicts {
		reasons[c.Name] = c.Reason
	}
	want := map[string]string{"mcias.mc.test": "NOT_GRANTED", "taken.mc.test": "FOREIGN_OWNER", "a.b.mc.test": "NOT_GRANTED", "bad..name": "INVALID",
		"mc.test": "NOT_GRANTED", "z.node.mc.test": "NOT_GRANTED"}
	if d := cmp.Diff(want, reasons); d != "" {
		t.Errorf("conflicts (-want +got):\n%s", d)
	}
	if !slices.Contains(f.names(), "ok A 10.0.0.1") || !slices.Contains(f.names(), "a.node A 10.0.0.1") {
		t.Errorf("the rest was not applied: %v", f.names())
	}
	// What was in the way is granted: the same set heals.
	f.grant("account:node-a", "mcias")
	s = set("node-a", 1, "10.0.0.1", "ok", "mcias", "taken", "a.b", "bad..name", "@")
	s.Nodes = append(s.Nodes, registry.Node{Name: "z", Addrs: s.Nodes[0].Addrs})
	if out = f.sync(s); !out.Changed || !slices.Contains(f.names(), "mcias A 10.0.0.1") {
		t.Errorf("after the grant: %+v, %v", out, f.names())
	}
}

func TestLeases(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	keep := set("node-a", 1, "10.0.0.1", "blog")
	keep.Keep = true
	f.sync(keep)
	f.sync(set("node-b", 1, "10.0.0.2", "wiki"))
	f.clock.Advance(91 * time.Second)
	f.reg.Sweep(t.Context())
	if !slices.Contains(f.names(), "wiki A 10.0.0.2") {
		t.Error("gone before the grace was over")
	}
	f.clock.Advance(90 * time.Second)
	f.reg.Sweep(t.Context())
	if got := f.names(); slices.Contains(got, "wiki A 10.0.0.2") || !slices.Contains(got, "blog A 10.0.0.1") {
		t.Errorf("after lease and grace: %v", got)
	}
	if list := f.reg.List(); len(list) != 1 || !f.clock.Now().After(list[0].Expires()) {
		t.Errorf("kept: %+v", list)
	}
	// A restart gives a full fresh term.
	again := registry.New(registry.Config{Catalog: f.cat, Clock: f.clock})
	if err := again.Load(t.Context(), f.db); err != nil {
		t.Fatal(err)
	}
	if list := again.List(); len(list) != 1 || !list[0].Expires().Equal(f.clock.Now().Add(90*time.Second)) || !list[0].Keep {
		t.Errorf("after restart: %+v", list)
	}
}
