package spec

import (
	"fmt"
	"sort"
	"strings"
)

// file is a definition as written: flat keys for a service of one component, or [[component]] tables.
type file struct {
	Name      string          `toml:"name"`
	Core      bool            `toml:"core"`
	After     []string        `toml:"after"`
	Repair    string          `toml:"repair"`
	Component []fileComponent `toml:"component"`

	// The short form.
	Image   string            `toml:"image"`
	Engine  string            `toml:"engine"`
	Cmd     []string          `toml:"cmd"`
	Env     map[string]string `toml:"env"`
	User    string            `toml:"user"`
	Port    int               `toml:"port"`
	Ports   []filePort        `toml:"ports"`
	Host    string            `toml:"host"`
	Route   any               `toml:"route"` // false, or the mode
	Routes  []fileRoute       `toml:"routes"`
	Volume  string            `toml:"volume"`
	Volumes []fileVolume      `toml:"volumes"`
	Health  any               `toml:"health"`
	Limits  *fileLimits       `toml:"limits"`
	Stop    *fileStop         `toml:"stop"`
	Drain   string            `toml:"drain"`
	Hold    string            `toml:"hold"`

	BindService bool `toml:"bind_service"`
}

type fileComponent struct {
	Name        string            `toml:"name"`
	Image       string            `toml:"image"`
	Engine      string            `toml:"engine"`
	Cmd         []string          `toml:"cmd"`
	Env         map[string]string `toml:"env"`
	User        string            `toml:"user"`
	After       []string          `toml:"after"`
	Ports       []filePort        `toml:"ports"`
	Routes      []fileRoute       `toml:"routes"`
	Volumes     []fileVolume      `toml:"volumes"`
	Health      any               `toml:"health"`
	Limits      *fileLimits       `toml:"limits"`
	Stop        *fileStop         `toml:"stop"`
	Drain       string            `toml:"drain"`
	Hold        string            `toml:"hold"`
	BindService bool              `toml:"bind_service"`
}

type filePort struct {
	Name string `toml:"name"`
	Port int    `toml:"port"`
}

type fileRoute struct {
	Port     string `toml:"port"`
	Host     string `toml:"host"`
	Mode     string `toml:"mode"`
	Listener string `toml:"listener"`
}

type fileVolume struct {
	Name      string `toml:"name"`
	Path      string `toml:"path"`
	Exclusive *bool  `toml:"exclusive"`
}

type fileLimits struct {
	Memory string  `toml:"memory"`
	CPU    float64 `toml:"cpu"`
	PIDs   int64   `toml:"pids"`
}

type fileStop struct {
	Signal string `toml:"signal"`
	Grace  string `toml:"grace"`
}

// keys that only the short form has; beside [[component]] they would be ambiguous.
func (f *file) shortKeys() []string {
	var used []string
	for name, set := range map[string]bool{
		"image": f.Image != "", "engine": f.Engine != "", "cmd": len(f.Cmd) > 0, "env": len(f.Env) > 0, "user": f.User != "", "port": f.Port != 0,
		"ports": len(f.Ports) > 0, "host": f.Host != "", "route": f.Route != nil, "routes": len(f.Routes) > 0, "volume": f.Volume != "",
		"volumes": len(f.Volumes) > 0, "health": f.Health != nil, "limits": f.Limits != nil, "stop": f.Stop != nil, "drain": f.Drain != "", "hold": f.Hold != "",
	} {
		if set {
			used = append(used, name)
		}
	}
	sort.Strings(used)
	return used
}

// expand turns the short form into its one component.
func (f *file) expand(p *parser) []fileComponent {
	if len(f.Component) > 0 {
		for _, k := range f.shortKeys() {
			p.fault(k, k, "belongs to the short form; with [[component]] write it into a component")
		}
		return f.Component
	}
	c := fileComponent{Name: f.Name, Image: f.Image, Engine: f.Engine, Cmd: f.Cmd, Env: f.Env, User: f.User, Ports: f.Ports, Routes: f.Routes,
		Volumes: f.Volumes, Health: f.Health, Limits: f.Limits, Stop: f.Stop, Drain: f.Drain, Hold: f.Hold, BindService: f.BindService}
	if f.Port != 0 {
		c.Ports = append([]filePort{{Name: "http", Port: f.Port}}, c.Ports...)
	}
	if f.Volume != "" {
		c.Volumes = append(c.Volumes, fileVolume{Name: "data", Path: f.Volume})
	}
	mode := "l7"
	switch r := f.Route.(type) {
	case nil:
	case bool:
		if !r {
			mode = ""
		}
	case string:
		mode = r
	default:
		p.fault("route", "route", "is false, \"l7\" or \"l4\"")
	}
	if mode != "" && len(f.Routes) == 0 && f.Port != 0 {
		host := f.Host
		if host == "" {
			host = f.Name
		}
		c.Routes = []fileRoute{{Port: "http", Host: host, Mode: mode}}
	}
	return []fileComponent{c}
}

// parseHealth reads a path, or a table.
func parseHealth(p *parser, field string, v any, h *Health) {
	switch x := v.(type) {
	case nil:
		return
	case string:
		if !strings.HasPrefix(x, "/") {
			p.fault("health", field, "%q is not a path such as /healthz", x)
		}
		h.HTTP = x
	case map[string]any:
		for k, val := range x {
			text, isText := val.(string)
			switch k {
			case "http":
				if !isText || !strings.HasPrefix(text, "/") {
					p.fault("http", field+".http", "is not a path such as /healthz")
				}
				h.HTTP = text
			case "tcp", "tls":
				if !isText {
					p.fault(k, field+"."+k, "names a port")
				}
				h.Port, h.TCP, h.TLS = text, k == "tcp", k == "tls"
			case "port":
				h.Port = text
			case "none":
				h.None, _ = val.(bool)
			case "interval", "timeout", "start", "stable":
				d := map[string]*Duration{"interval": &h.Interval, "timeout": &h.Timeout, "start": &h.Start, "stable": &h.Stable}[k]
				p.duration(k, field+"."+k, fmt.Sprint(val), d)
			default:
				p.fault(k, field+"."+k, "unknown key; known are http, tcp, tls, none, port, interval, timeout, start, stable")
			}
		}
	default:
		p.fault("health", field, "is a path such as \"/healthz\", or a table")
	}
}
