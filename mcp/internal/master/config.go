package master

import (
	"net/url"
	"strings"
	"time"

	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/fault"
)

// Config is mcp.toml.
type Config struct {
	Server   config.Server   `toml:"server"`
	Database config.Database `toml:"database"`
	MCIAS    config.MCIAS    `toml:"mcias"`
	Log      config.Log      `toml:"log"`
	Metrics  config.Metrics  `toml:"metrics"`
	Auth     config.Auth     `toml:"auth"`
	Backup   config.Backup   `toml:"backup"`
	Web      config.Web      `toml:"web"`
	Nodes    Nodes           `toml:"nodes"`
}

// Nodes is [nodes]: how agents reach the master, and when one is missed.
type Nodes struct {
	ListenAddr string          `toml:"listen_addr" default:":9444"` // MC-Proxy passes ALPN mc-agent/1 here
	Heartbeat  config.Duration `toml:"heartbeat" default:"10s"`
	Suspect    config.Duration `toml:"suspect" default:"30s"`
	Down       config.Duration `toml:"down" default:"90s"`
}

// Validate checks that the times are in order.
func (n Nodes) Validate() error {
	if n.Heartbeat.D() < time.Second || n.Suspect.D() <= n.Heartbeat.D() || n.Down.D() <= n.Suspect.D() {
		return fault.Field1("nodes.heartbeat", "want 1s <= heartbeat < suspect < down, have %s, %s, %s", n.Heartbeat, n.Suspect, n.Down)
	}
	return nil
}

// Validate checks what belongs together.
func (c Config) Validate() error {
	if err := c.Nodes.Validate(); err != nil {
		return err
	}
	if c.Domain() == "" {
		return fault.Field1("mcias.server_url", "must be https://mcias.<domain>: the platform's domain is read from it")
	}
	return nil
}

// Domain is the platform's, from MCIAS's name.
func (c Config) Domain() string {
	u, err := url.Parse(c.MCIAS.ServerURL)
	if err != nil {
		return ""
	}
	domain, ok := strings.CutPrefix(u.Hostname(), "mcias.")
	if !ok {
		return ""
	}
	return domain
}
