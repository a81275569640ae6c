package server

import (
	"net/url"
	"strings"
	"time"

	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcias/internal/hashpool"
)

// Config is mcias.toml.
type Config struct {
	Server   config.Server   `toml:"server"`
	Database config.Database `toml:"database"`
	MCIAS    config.MCIAS    `toml:"mcias"` // only ca_cert is used: MCIAS calls nobody
	Log      config.Log      `toml:"log"`
	Metrics  config.Metrics  `toml:"metrics"`
	Backup   config.Backup   `toml:"backup"`
	Web      config.Web      `toml:"web"`

	Tokens   Tokens   `toml:"tokens"`
	Session  Session  `toml:"session"`
	Argon2   Argon2   `toml:"argon2"`
	Keys     Keys     `toml:"keys"`
	Vault    Vault    `toml:"vault"`
	Throttle Throttle `toml:"throttle"`
}

// Tokens is [tokens].
type Tokens struct {
	Issuer     string          `toml:"issuer"`                   // https://mcias.<domain>[:port], without slash at the end
	HumanTTL   config.Duration `toml:"human_ttl" default:"10m"`  // life of people's tokens
	ServiceTTL config.Duration `toml:"service_ttl" default:"1h"` // life of services' tokens
	MaxStale   config.Duration `toml:"max_stale" default:"15m"`  // cap on the services' budgets
}

// Session is [session].
type Session struct {
	Max  config.Duration `toml:"max" default:"720h"`
	Idle config.Duration `toml:"idle" default:"168h"`
}

// Argon2 is [argon2].
type Argon2 struct {
	Memory  config.Size     `toml:"memory" default:"64MiB"`
	Time    int             `toml:"time" default:"3"`
	Threads int             `toml:"threads" default:"4"`
	Budget  config.Size     `toml:"budget" default:"128MiB"` // for all hashes together
	Queue   int             `toml:"queue" default:"64"`
	Wait    config.Duration `toml:"wait" default:"2s"`
}

// Params returns the costs.
func (a Argon2) Params() hashpool.Params {
	return hashpool.Params{MemoryKiB: uint32(a.Memory.Bytes() >> 10), Time: uint32(a.Time), Threads: uint8(a.Threads)} //nolint:gosec // checked by Validate
}

// Keys is [keys].
type Keys struct {
	RSABits int `toml:"rsa_bits" default:"3072"`
}

// Vault is [vault].
type Vault struct {
	CredentialFile string `toml:"credential_file" path:"true"` // a 0600 file that unseals at start; empty = typed only
}

// Throttle is [throttle].
type Throttle struct {
	Free int             `toml:"free" default:"5"`
	Max  config.Duration `toml:"max" default:"15m"`
}

// Issuer returns the issuer: [tokens] issuer, or [mcias] server_url.
func (c *Config) Issuer() string {
	if c.Tokens.Issuer != "" {
		return c.Tokens.Issuer
	}
	return c.MCIAS.ServerURL
}

// Domain is the platform's domain: the issuer's host without its first label.
func (c *Config) Domain() string {
	u, err := url.Parse(c.Issuer())
	if err != nil {
		return ""
	}
	_, domain, _ := strings.Cut(u.Hostname(), ".")
	return domain
}

// Validate checks what sections cannot check alone.
func (c Config) Validate() error {
	f := fault.New(fault.Invalid, "the configuration cannot be used")
	u, err := url.Parse(c.Issuer())
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		f = f.WithField("tokens.issuer", "%q is not https://HOST[:PORT] without a slash at the end", c.Issuer())
	} else if c.Domain() == "" {
		f = f.WithField("tokens.issuer", "the host needs a name and a domain, such as mcias.example.org")
	}
	human, service := c.Tokens.HumanTTL.D(), c.Tokens.ServiceTTL.D()
	if human < time.Minute || human > time.Hour {
		f = f.WithField("tokens.human_ttl", "is outside 1m to 1h")
	}
	if service < time.Minute || service > 24*time.Hour {
		f = f.WithField("tokens.service_ttl", "is outside 1m to 24h")
	}
	if c.Session.Idle.D() <= 0 || c.Session.Idle.D() > c.Session.Max.D() {
		f = f.WithField("session.idle", "is not between 0 and session.max")
	}
	if c.Argon2.Time < 1 || c.Argon2.Time > 10 || c.Argon2.Threads < 1 || c.Argon2.Threads > 8 || c.Argon2.Memory.Bytes() > 256<<20 {
		f = f.WithField("argon2", "is outside 256MiB, time 10, threads 8")
	} else if err := c.Argon2.Params().Check(); err != nil {
		f = f.WithField("argon2.memory", "%v", err)
	} else if c.Argon2.Budget.Bytes() < c.Argon2.Memory.Bytes() {
		f = f.WithField("argon2.budget", "is below one hash of %s", c.Argon2.Memory)
	}
	if c.Keys.RSABits < 2048 || c.Keys.RSABits > 8192 || c.Keys.RSABits%256 != 0 {
		f = f.WithField("keys.rsa_bits", "use 2048, 3072 or 4096")
	}
	if c.Throttle.Free < 1 || c.Throttle.Max.D() < time.Second {
		f = f.WithField("throttle", "free is at least 1, max at least 1s")
	}
	if len(f.Fields) > 0 {
		return f
	}
	return nil
}
