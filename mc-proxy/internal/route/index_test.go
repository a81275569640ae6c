package route_test

import (
	"testing"

	"metacircular.net/mc-proxy/internal/route"
)

func mk(id int64, host, alpn string) *route.Route {
	return &route.Route{ID: id, Spec: route.Spec{Key: route.Key{Listener: "https", Hostname: host, ALPN: alpn}}}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	x, err := route.NewIndex([]*route.Route{
		mk(1, "a.test", ""), mk(2, "*.test", ""), mk(3, "*.deep.test", ""), mk(4, "@default", ""), mk(5, "@nosni", ""),
		mk(6, "@default", "acme-tls/1"), mk(7, "a.test", "mc-agent/1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		alpn []string
		want int64
	}{
		{"a.test", nil, 1},
		{"b.test", []string{"h2"}, 2},
		{"x.y.test", nil, 2},
		{"x.deep.test", nil, 3},
		{"x.y.deep.test", nil, 3},
		{"deep.test", nil, 2},
		{"test", nil, 4},
		{"other.example", nil, 4},
		{"", nil, 5},
		{"a.test", []string{"acme-tls/1"}, 6},
		{"a.test", []string{"acme-tls/1", "h2"}, 1},
		{"a.test", []string{"h2", "mc-agent/1"}, 7},
		{"b.test", []string{"mc-agent/1"}, 2},
	} {
		r := x.Lookup("https", route.Offer{Name: c.name, ALPN: c.alpn})
		if r == nil || r.ID != c.want {
			t.Errorf("Lookup(%q, %q) = %v, want route %d", c.name, c.alpn, r, c.want)
		}
	}
	if r := x.Lookup("grpc", route.Offer{Name: "a.test"}); r != nil {
		t.Errorf("another listener = %v, want none", r)
	}
	if _, err := route.NewIndex([]*route.Route{mk(1, "a.test", ""), mk(2, "a.test", "")}); err == nil {
		t.Error("two routes with one key were accepted")
	}
}

func TestNormalise(t *testing.T) {
	t.Parallel()
	l4 := func(host string, addrs ...string) route.Spec {
		s := route.Spec{Key: route.Key{Listener: "https", Hostname: host}, Mode: route.L4}
		for _, a := range addrs {
			s.Backends = append(s.Backends, route.Backend{Addr: a, Weight: 100})
		}
		return s
	}
	for name, c := range map[string]struct {
		spec route.Spec
		ok   bool
	}{
		"plain":             {l4("A.Test.", "127.0.0.1:80"), true},
		"wildcard":          {l4("*.test", "app.test:80"), true},
		"default":           {l4("@default"), true},
		"star inside":       {l4("a.*.test"), false},
		"unknown at":        {l4("@other"), false},
		"no port":           {l4("a.test", "127.0.0.1"), false},
		"port 0":            {l4("a.test", "127.0.0.1:0"), false},
		"twice":             {l4("a.test", "127.0.0.1:80", "[::ffff:127.0.0.1]:80"), false},
		"l7 without cert":   {route.Spec{Key: route.Key{Listener: "https", Hostname: "a.test"}, Mode: route.L7}, false},
		"l7 outside":        {route.Spec{Key: route.Key{Listener: "https", Hostname: "a.test"}, Mode: route.L7, TLSCert: "../x.pem"}, false},
		"key without v2":    {func() route.Spec { s := l4("a.test"); s.ProxyKey = "k"; return s }(), false},
		"no mode":           {route.Spec{Key: route.Key{Listener: "https", Hostname: "a.test"}}, false},
		"h2 without tls":    {route.Spec{Key: route.Key{Listener: "https", Hostname: "a.test"}, Mode: route.L7, TLSCert: "x.pem", Proto: route.H2}, false},
		"no listener":       {route.Spec{Key: route.Key{Hostname: "a.test"}, Mode: route.L4}, false},
		"negative lease":    {func() route.Spec { s := l4("a.test"); s.LeaseTTL = -1; return s }(), false},
		"weight over 100":   {route.Spec{Key: route.Key{Listener: "https", Hostname: "a.test"}, Mode: route.L4, Backends: []route.Backend{{Addr: "127.0.0.1:1", Weight: 101}}}, false},
		"address as a name": {l4("127.0.0.1"), false},
	} {
		s, err := route.Normalise(c.spec)
		if (err == nil) != c.ok {
			t.Errorf("%s: Normalise = %+v, %v, want ok %v", name, s, err, c.ok)
		}
	}
	s, _ := route.Normalise(l4("A.Test.", "[::ffff:10.0.0.7]:80"))
	if s.Hostname != "a.test" || s.Backends[0].Addr != "10.0.0.7:80" || s.Owner != "operator" {
		t.Errorf("Normalise = %+v", s)
	}
}
