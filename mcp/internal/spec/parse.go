package spec

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// MaxSize bounds a definition's text.
const MaxSize = 256 << 10

// Fault is one thing wrong in a definition.
type Fault struct {
	Line    int
	Field   string
	Message string
}

// Rules is what the reader must know of the platform.
type Rules struct {
	Domain string
	// Core lets a definition be one of the platform's own: reserved names, fixed users, the proc engine.
	Core bool
}

// reserved are the core's names (platform.md section 6): only the core's own definitions may claim one.
var reserved = []string{"mcias", "metacrypt", "mcr", "mc-proxy", "mcns", "mcp", "mcat", "mcp-agent", "node"}

// Reserved reports whether a service name or host label belongs to the core.
func Reserved(name string) bool { return slices.Contains(reserved, name) }

var (
	namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)
	hostPattern = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	envPattern  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	userPattern = regexp.MustCompile(`^[0-9]{1,7}(:[0-9]{1,7})?$`)
	secretish   = regexp.MustCompile(`(?i)(password|passwd|secret|token|api_?key|private_?key)`)
)

type parser struct {
	text     []byte
	rules    Rules
	faults   []Fault
	warnings []Fault
}

// lineOf is the first line on which a key stands; 0 when it cannot be told.
func (p *parser) lineOf(key string) int {
	pat := regexp.MustCompile(`(?m)(^|[\s{,\[])"?` + regexp.QuoteMeta(key) + `"?\s*(=|\]|\.)`)
	loc := pat.FindIndex(p.text)
	if loc == nil {
		return 0
	}
	return 1 + bytes.Count(p.text[:loc[1]], []byte("\n"))
}

func (p *parser) fault(key, field, format string, args ...any) {
	p.faults = append(p.faults, Fault{Line: p.lineOf(key), Field: field, Message: fmt.Sprintf(format, args...)})
}

func (p *parser) duration(key, field, text string, d *Duration) {
	if text == "" {
		return
	}
	if err := d.UnmarshalText([]byte(text)); err != nil {
		p.fault(key, field, "%v", err)
	}
}

// Parse reads a definition. With faults the service is nil; warnings come either way. It never returns an error for bad
// text: that is what faults are for.
func Parse(text []byte, rules Rules) (s *Service, faults, warnings []Fault) {
	p := &parser{text: text, rules: rules}
	if len(text) > MaxSize {
		return nil, []Fault{{Message: fmt.Sprintf("larger than %d KiB", MaxSize>>10)}}, nil
	}
	var f file
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&f); err != nil {
		var strict *toml.StrictMissingError
		var decode *toml.DecodeError
		switch {
		case errors.As(err, &strict):
			for _, e := range strict.Errors {
				row, _ := e.Position()
				key := strings.Join(e.Key(), ".")
				p.faults = append(p.faults, Fault{Line: row, Field: key, Message: "unknown key" + nearest(e.Key())})
			}
			// What is known may still be wrong: read it too, so that all faults show at once.
			f = file{}
			if err := toml.Unmarshal(text, &f); err != nil {
				return nil, p.faults, nil
			}
		case errors.As(err, &decode):
			row, _ := decode.Position()
			return nil, []Fault{{Line: row, Field: strings.Join(decode.Key(), "."), Message: strings.TrimPrefix(decode.Error(), "toml: ")}}, nil
		default:
			return nil, []Fault{{Message: err.Error()}}, nil
		}
	}
	out := p.service(&f)
	sort.SliceStable(p.faults, func(i, j int) bool { return p.faults[i].Line < p.faults[j].Line })
	if len(p.faults) > 0 {
		return nil, p.faults, p.warnings
	}
	return out, nil, p.warnings
}

var known = []string{"name", "after", "repair", "component", "image", "engine", "cmd", "env", "user", "port", "ports", "host", "route", "routes", "volume",
	"volumes", "health", "limits", "stop", "drain", "hold", "memory", "cpu", "pids", "signal", "grace", "path", "exclusive", "mode", "listener"}

// nearest offers the known key that differs least, if it differs by at most two letters.
func nearest(key []string) string {
	if len(key) == 0 {
		return ""
	}
	word, best, dist := key[len(key)-1], "", 3
	for _, k := range known {
		if d := distance(word, k); d < dist {
			best, dist = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

func distance(a, b string) int {
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
		}
		prev = cur
	}
	return prev[len(b)]
}

func (p *parser) service(f *file) *Service {
	s := &Service{Name: f.Name, Core: f.Core, After: f.After, Repair: f.Repair}
	p.name("name", "name", f.Name)
	if s.Repair == "" {
		s.Repair = "auto"
	}
	if !slices.Contains([]string{"auto", "alert", "off"}, s.Repair) {
		p.fault("repair", "repair", "%q is not auto, alert or off", s.Repair)
	}
	if f.Core && !p.rules.Core {
		p.fault("core", "core", "only the platform's own definitions are core")
	}
	if Reserved(f.Name) && !f.Core {
		p.fault("name", "name", "%q belongs to the platform", f.Name)
	}
	seen := map[string]bool{}
	for i, fc := range f.expand(p) {
		field := "component[" + strconv.Itoa(i) + "]"
		if fc.Name != "" {
			field = "component[" + fc.Name + "]"
		}
		if len(f.Component) == 0 {
			field = ""
		}
		c := p.component(s, field, fc)
		if seen[c.Name] {
			p.fault("name", field+".name", "two components are called %q", c.Name)
		}
		seen[c.Name] = true
		s.Components = append(s.Components, c)
	}
	p.order(s, seen)
	p.hosts(s)
	return s
}

func (p *parser) name(key, field, v string) {
	if !namePattern.MatchString(v) {
		p.fault(key, field, "%q is not a name: lower-case letters, digits and -, beginning with a letter, at most 40", v)
	}
}

func join(prefix, field string) string {
	if prefix == "" {
		return field
	}
	return prefix + "." + field
}

func (p *parser) component(s *Service, field string, f fileComponent) Component {
	c := Component{Name: f.Name, Image: f.Image, Engine: f.Engine, Cmd: f.Cmd, Env: f.Env, User: f.User, After: f.After, BindService: f.BindService,
		Limits: Limits{Memory: 512 << 20, CPU: 1, PIDs: 256},
		Stop:   Stop{Signal: "SIGTERM", Grace: Duration(10 * time.Second)},
		Drain:  Duration(30 * time.Second), Hold: Duration(30 * time.Second),
		Health: Health{Interval: Duration(2 * time.Second), Timeout: Duration(time.Second), Start: Duration(60 * time.Second), Stable: Duration(500 * time.Millisecond)}}
	if field != "" {
		p.name("name", join(field, "name"), f.Name)
	}
	p.image(join(field, "image"), f.Image)
	if f.Engine != "" && (f.Engine != "proc" || !s.Core) {
		p.fault("engine", join(field, "engine"), "the node chooses the engine; only the platform's own definitions may ask for proc")
	}
	if f.BindService && !s.Core {
		p.fault("bind_service", join(field, "bind_service"), "no capability is granted to apps")
	}
	if f.User != "" && !userPattern.MatchString(f.User) {
		p.fault("user", join(field, "user"), "%q is not a number, or uid:gid", f.User)
	}
	if (f.User == "0" || strings.HasPrefix(f.User, "0:")) && !s.Core {
		p.fault("user", join(field, "user"), "user 0 is refused: [policy] allow = [\"root\"] would have to name it")
	}
	for k, v := range f.Env {
		switch {
		case !envPattern.MatchString(k):
			p.fault(k, join(field, "env."+k), "is not a name of a variable")
		case k == "PORT" || strings.HasPrefix(k, "PORT_"):
			p.fault(k, join(field, "env."+k), "is set by the platform; use ${port.NAME} where the number is needed")
		case secretish.MatchString(k) && v != "":
			p.warnings = append(p.warnings, Fault{Line: p.lineOf(k), Field: join(field, "env."+k), Message: "looks like a secret; whoever may inspect the container sees it"})
		}
	}
	ports := map[string]bool{}
	for i, fp := range f.Ports {
		where := join(field, fmt.Sprintf("ports[%d]", i))
		if !namePattern.MatchString(fp.Name) {
			p.fault("ports", where+".name", "%q is not a name", fp.Name)
		}
		if fp.Port < 1 || fp.Port > 65535 {
			p.fault("port", where+".port", "%d is not a port", fp.Port)
		}
		if ports[fp.Name] {
			p.fault("ports", where+".name", "two ports are called %q", fp.Name)
		}
		ports[fp.Name] = true
		c.Ports = append(c.Ports, Port{Name: fp.Name, Port: uint16(fp.Port)}) //nolint:gosec // checked above
	}
	for i, fr := range f.Routes {
		where := join(field, fmt.Sprintf("routes[%d]", i))
		r := Route{Port: fr.Port, Host: strings.ToLower(fr.Host), Mode: fr.Mode, Listener: fr.Listener}
		if r.Mode == "" {
			r.Mode = "l7"
		}
		if r.Listener == "" {
			r.Listener = "https"
		}
		if r.Mode != "l7" && r.Mode != "l4" {
			p.fault("mode", where+".mode", "%q is not l7 or l4", r.Mode)
		}
		if r.Listener != "https" && !s.Core {
			p.fault("listener", where+".listener", "apps use the listener https")
		}
		if !ports[r.Port] {
			p.fault("routes", where+".port", "there is no port called %q", r.Port)
		}
		c.Routes = append(c.Routes, r)
	}
	for i, fv := range f.Volumes {
		where := join(field, fmt.Sprintf("volumes[%d]", i))
		if !namePattern.MatchString(fv.Name) {
			p.fault("volumes", where+".name", "%q is not a name", fv.Name)
		}
		if !strings.HasPrefix(fv.Path, "/") || fv.Path == "/" || strings.Contains(fv.Path, "..") || strings.HasPrefix(fv.Path, "/proc") || strings.HasPrefix(fv.Path, "/dev") {
			p.fault("path", where+".path", "%q is not a folder a volume can lie on", fv.Path)
		}
		c.Volumes = append(c.Volumes, Volume{Name: fv.Name, Path: fv.Path, Exclusive: fv.Exclusive == nil || *fv.Exclusive})
	}
	parseHealth(p, join(field, "health"), f.Health, &c.Health)
	p.health(field, &c, f.Health == nil)
	p.limits(field, f, &c)
	return c
}

func (p *parser) image(field, ref string) {
	switch {
	case ref == "":
		p.fault("image", field, "is missing: NAME:TAG or NAME@sha256:…")
	case strings.Contains(ref, "@sha256:"):
		if _, d, _ := strings.Cut(ref, "@"); !regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(d) {
			p.fault("image", field, "%q does not end in a sha256 digest", ref)
		}
	default:
		i := strings.LastIndexByte(ref, ':')
		if i < 0 || strings.Contains(ref[i:], "/") || i == len(ref)-1 {
			p.fault("image", field, "%q has no tag: name a version", ref)
		} else if ref[i+1:] == "latest" {
			p.fault("image", field, "latest is never deployed: it would mean another image tomorrow; name a version")
		}
	}
}

func (p *parser) health(field string, c *Component, absent bool) {
	h := &c.Health
	if absent {
		if len(c.Routes) == 0 && len(c.Ports) == 0 {
			h.None = true
			return
		}
		h.TCP = true
		if len(c.Routes) > 0 {
			p.warnings = append(p.warnings, Fault{Field: join(field, "health"), Message: "no health given: it counts as ready when its port accepts a connection"})
		}
	}
	if h.None {
		return
	}
	if h.Port == "" && len(c.Ports) > 0 {
		h.Port = c.Ports[0].Name
	}
	if _, ok := c.Port(h.Port); !ok {
		p.fault("health", join(field, "health"), "there is no port %q to probe", h.Port)
	}
}

func (p *parser) limits(field string, f fileComponent, c *Component) {
	if l := f.Limits; l != nil {
		if l.Memory != "" {
			n, ok := bytesOf(l.Memory)
			if !ok || n < 4<<20 {
				p.fault("memory", join(field, "limits.memory"), "%q is not a size of at least 4MiB, such as 256MiB", l.Memory)
			}
			c.Limits.Memory = n
		}
		if l.CPU < 0 || l.CPU > 1024 {
			p.fault("cpu", join(field, "limits.cpu"), "%v is not a number of cores", l.CPU)
		} else if l.CPU > 0 {
			c.Limits.CPU = l.CPU
		}
		if l.PIDs < 0 {
			p.fault("pids", join(field, "limits.pids"), "is negative")
		} else if l.PIDs > 0 {
			c.Limits.PIDs = l.PIDs
		}
	}
	if st := f.Stop; st != nil {
		if st.Signal != "" {
			c.Stop.Signal = st.Signal
		}
		p.duration("grace", join(field, "stop.grace"), st.Grace, &c.Stop.Grace)
	}
	p.duration("drain", join(field, "drain"), f.Drain, &c.Drain)
	p.duration("hold", join(field, "hold"), f.Hold, &c.Hold)
}

func bytesOf(s string) (int64, bool) {
	for unit, mul := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if t, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(t), 10, 64)
			return n * mul, err == nil && n > 0 && n < 1<<32
		}
	}
	return 0, false
}

// order refuses dependencies on nothing and circles.
func (p *parser) order(s *Service, have map[string]bool) {
	deps := map[string][]string{}
	for _, c := range s.Components {
		for _, a := range c.After {
			if !have[a] {
				p.fault("after", "component["+c.Name+"].after", "there is no component %q", a)
			}
		}
		deps[c.Name] = c.After
	}
	state := map[string]int{}
	var visit func(n string, path []string) bool
	visit = func(n string, path []string) bool {
		switch state[n] {
		case 1:
			p.fault("after", "component["+n+"].after", "goes in a circle: %s", strings.Join(append(path, n), " → "))
			return false
		case 2:
			return true
		}
		state[n] = 1
		for _, d := range deps[n] {
			if !visit(d, append(path, n)) {
				return false
			}
		}
		state[n] = 2
		return true
	}
	for _, c := range s.Components {
		if !visit(c.Name, nil) {
			return
		}
	}
}

// hosts makes route hosts full names and refuses what is not the service's to claim.
func (p *parser) hosts(s *Service) {
	claimed := map[string]bool{}
	for i := range s.Components {
		for j := range s.Components[i].Routes {
			r := &s.Components[i].Routes[j]
			field := fmt.Sprintf("component[%s].routes[%d].host", s.Components[i].Name, j)
			if r.Host == "" {
				r.Host = s.Name
			}
			full := r.Host
			if full != p.rules.Domain && !strings.HasSuffix(full, "."+p.rules.Domain) {
				full += "." + p.rules.Domain
			}
			if len(full) > 253 || !hostPattern.MatchString(full) {
				p.fault("host", field, "%q is not a host name", r.Host)
			}
			label := strings.TrimSuffix(full, "."+p.rules.Domain)
			first := label[strings.LastIndexByte(label, '.')+1:]
			if !s.Core && (full == p.rules.Domain || Reserved(first) || first == "_acme-challenge") {
				p.fault("host", field, "%q belongs to the platform", full)
			}
			key := r.Listener + " " + full
			if claimed[key] {
				p.fault("host", field, "%q is claimed twice", full)
			}
			claimed[key] = true
			r.Host = full
		}
	}
}
