package spec

import (
	"strings"
	"testing"
)

const rulesDomain = "mc.test"

func TestParseShortAndLongFormAgree(t *testing.T) {
	short := `
name = "wiki"
image = "wiki:1.4.2"
port = 8080
volume = "/data"
health = "/healthz"
`
	long := `
name = "wiki"
[[component]]
name = "wiki"
image = "wiki:1.4.2"
ports = [{ name = "http", port = 8080 }]
routes = [{ port = "http", host = "wiki", mode = "l7" }]
volumes = [{ name = "data", path = "/data" }]
health = { http = "/healthz", port = "http" }
`
	a, faults, _ := Parse([]byte(short), Rules{Domain: rulesDomain})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	b, faults, _ := Parse([]byte(long), Rules{Domain: rulesDomain})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if a.Hash() != b.Hash() {
		t.Errorf("short form\n%s\nlong form\n%s", a.Canonical(), b.Canonical())
	}
	if got := a.Components[0].Routes[0].Host; got != "wiki.mc.test" {
		t.Errorf("host = %q, want wiki.mc.test", got)
	}
	back, err := FromCanonical(a.Canonical())
	if err != nil || back.Hash() != a.Hash() {
		t.Errorf("FromCanonical: %v, hash %s, want %s", err, back.Hash(), a.Hash())
	}
}

func TestParseFaults(t *testing.T) {
	base := "name = \"wiki\"\nimage = \"wiki:1\"\nport = 8080\n"
	for name, tc := range map[string]struct {
		text, want string
		line       int
	}{
		"unknown key":           {base + "helth = \"/\"\n", "did you mean \"health\"", 4},
		"latest":                {"name = \"wiki\"\nimage = \"wiki:latest\"\nport = 1\n", "latest is never deployed", 2},
		"no tag":                {"name = \"wiki\"\nimage = \"wiki\"\n", "has no tag", 2},
		"registry port, no tag": {"name = \"wiki\"\nimage = \"reg:5000/wiki\"\n", "has no tag", 2},
		"reserved name":         {"name = \"mcias\"\nimage = \"x:1\"\n", "belongs to the platform", 1},
		"reserved host":         {base + "host = \"node\"\n", "belongs to the platform", 4},
		"below a reserved host": {base + "host = \"a.mcias\"\n", "belongs to the platform", 4},
		"the domain itself":     {base + "host = \"mc.test\"\n", "belongs to the platform", 4},
		"core from outside":     {"core = true\n" + base, "only the platform's own", 1},
		"user 0":                {base + "user = \"0\"\n", "user 0 is refused", 4},
		"PORT set":              {base + "[env]\nPORT = \"1\"\n", "is set by the platform", 5},
		"bad name":              {"name = \"Wiki\"\nimage = \"x:1\"\n", "is not a name", 1},
		"bad port":              {"name = \"wiki\"\nimage = \"x:1\"\nport = 70000\n", "is not a port", 3},
		"engine":                {base + "engine = \"proc\"\n", "node chooses the engine", 4},
		"volume on /":           {base + "volume = \"/\"\n", "is not a folder", 0},
		"health no path":        {base + "health = \"x\"\n", "is not a path", 4},
		"toml":                  {"name = \n", "", 1},
		"circle":                {"name=\"s\"\n[[component]]\nname=\"a\"\nimage=\"x:1\"\nafter=[\"b\"]\n[[component]]\nname=\"b\"\nimage=\"x:1\"\nafter=[\"a\"]\n", "goes in a circle", 5},
		"mixed forms":           {base + "[[component]]\nname=\"a\"\nimage=\"x:1\"\n", "belongs to the short form", 2},
	} {
		t.Run(name, func(t *testing.T) {
			s, faults, _ := Parse([]byte(tc.text), Rules{Domain: rulesDomain})
			if s != nil || len(faults) == 0 {
				t.Fatalf("accepted: %+v", s)
			}
			for _, f := range faults {
				if strings.Contains(f.Message, tc.want) && (tc.line == 0 || f.Line == tc.line) {
					return
				}
			}
			t.Errorf("faults = %+v, want %q on line %d", faults, tc.want, tc.line)
		})
	}
}

func TestParseAllFaultsAtOnce(t *testing.T) {
	_, faults, _ := Parse([]byte("name = \"Wiki\"\nimage = \"x\"\nport = 0\nhelth = 1\nuser = \"bob\"\nrepair = \"no\"\n"), Rules{Domain: rulesDomain})
	if len(faults) != 5 {
		t.Errorf("%d faults, want 5: %+v", len(faults), faults)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("name = \"wiki\"\nimage = \"wiki:1\"\nport = 8080\n")
	f.Add("[[component]]\nname = \"a\"\nhealth = { tcp = \"x\" }\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, faults, _ := Parse([]byte(text), Rules{Domain: rulesDomain})
		if (s == nil) != (len(faults) > 0) {
			t.Errorf("service %v with faults %v", s, faults)
		}
		if s != nil {
			if back, err := FromCanonical(s.Canonical()); err != nil || back.Hash() != s.Hash() {
				t.Errorf("canonical form does not read back: %v", err)
			}
		}
	})
}
