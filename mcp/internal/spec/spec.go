package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Service is the canonical form of a definition.
type Service struct {
	Name       string      `json:"name"`
	Core       bool        `json:"core,omitempty"`
	After      []string    `json:"after,omitempty"`
	Repair     string      `json:"repair"` // auto, alert or off
	Components []Component `json:"components"`
}

// Component is one container of a service.
type Component struct {
	Name    string            `json:"name"`
	Image   string            `json:"image"`
	Engine  string            `json:"engine,omitempty"` // proc for MC-Proxy and MCNS; else the node's
	Cmd     []string          `json:"cmd,omitempty"`    // empty = the image's
	Env     map[string]string `json:"env,omitempty"`
	User    string            `json:"user,omitempty"` // uid or uid:gid; empty = see the agent
	After   []string          `json:"after,omitempty"`
	Ports   []Port            `json:"ports,omitempty"`
	Routes  []Route           `json:"routes,omitempty"`
	Volumes []Volume          `json:"volumes,omitempty"`
	Health  Health            `json:"health"`
	Limits  Limits            `json:"limits"`
	Stop    Stop              `json:"stop"`
	Drain   Duration          `json:"drain"`
	Hold    Duration          `json:"hold"`

	BindService bool `json:"bind_service,omitempty"` // core only: CAP_NET_BIND_SERVICE
}

// Port is a named port of a component.
type Port struct {
	Name string `json:"name"`
	Port uint16 `json:"port"`
}

// Route is a name the service answers to.
type Route struct {
	Port     string `json:"port"`
	Host     string `json:"host"` // below the domain, or a full name
	Mode     string `json:"mode"` // l7 or l4
	Listener string `json:"listener"`
}

// Volume is a folder that outlives containers.
type Volume struct {
	Name      string `json:"name"`
	Path      string `json:"path"`
	Exclusive bool   `json:"exclusive"` // one writer at a time
}

// Health says when a component is ready. One of HTTP, TCP, TLS and None is set.
type Health struct {
	HTTP     string   `json:"http,omitempty"` // path
	TCP      bool     `json:"tcp,omitempty"`
	TLS      bool     `json:"tls,omitempty"` // a TLS handshake, chain not judged: it is the service's own start
	None     bool     `json:"none,omitempty"`
	Port     string   `json:"port,omitempty"`
	Interval Duration `json:"interval"`
	Timeout  Duration `json:"timeout"`
	Start    Duration `json:"start"`  // how long the first success may take
	Stable   Duration `json:"stable"` // how long it must stay healthy before traffic moves
}

// Limits bound a component.
type Limits struct {
	Memory int64   `json:"memory"`
	CPU    float64 `json:"cpu"`
	PIDs   int64   `json:"pids"`
}

// Stop says how a component is asked to end.
type Stop struct {
	Signal string   `json:"signal"`
	Grace  Duration `json:"grace"`
}

// Duration is a time.Duration written as text.
type Duration time.Duration

// MarshalText writes "500ms".
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads "500ms".
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 10s or 500ms", text)
	}
	if v < 0 {
		return fmt.Errorf("%q is negative", text)
	}
	*d = Duration(v)
	return nil
}

// Std returns it for the time package.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// Canonical is the one spelling of a service, and Hash names it.
func (s *Service) Canonical() []byte {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // plain structs of ours
	}
	return data
}

// Hash is SHA-256 over the canonical form, hex.
func (s *Service) Hash() string {
	sum := sha256.Sum256(s.Canonical())
	return hex.EncodeToString(sum[:])
}

// FromCanonical reads what Canonical wrote.
func FromCanonical(data []byte) (*Service, error) {
	var s Service
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read a stored definition: %w", err)
	}
	return &s, nil
}

// Port returns a component's port by name.
func (c *Component) Port(name string) (Port, bool) {
	for _, p := range c.Ports {
		if p.Name == name {
			return p, true
		}
	}
	return Port{}, false
}

// Exclusive reports whether a volume of the component admits one writer only.
func (c *Component) Exclusive() bool {
	for _, v := range c.Volumes {
		if v.Exclusive {
			return true
		}
	}
	return false
}
