package service

import (
	"net/netip"
	"net/url"
	"strings"
	"time"

	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcr/internal/policy"
)

// Config is mcr.toml.
type Config struct {
	Server    config.Server      `toml:"server"`
	Database  config.Database    `toml:"database"`
	MCIAS     config.MCIAS       `toml:"mcias"`
	Log       config.Log         `toml:"log"`
	Metrics   config.Metrics     `toml:"metrics"`
	Auth      config.Auth        `toml:"auth"`
	Backup    config.Backup      `toml:"backup"`
	Web       config.Web         `toml:"web"`
	Registry  Registry           `toml:"registry"`
	Storage   Storage            `toml:"storage"`
	Limits    Limits             `toml:"limits"`
	GC        GC                 `toml:"gc"`
	Disk      Disk               `toml:"disk"`
	Verify    Verify             `toml:"verify"`
	Policy    []policy.Rule      `toml:"policy" reload:"true"`
	Immutable []policy.Immutable `toml:"immutable" reload:"true"`
}

// Registry is [registry].
type Registry struct {
	PublicURL   string      `toml:"public_url"`  // https://mcr.<domain>[:port], as clients write it
	TokenRealm  string      `toml:"token_realm"` // where clients get tokens; default: /registry/token of [mcias] server_url
	MaxManifest config.Size `toml:"max_manifest" default:"4MiB"`
}

// Storage is [storage].
type Storage struct {
	Root string `toml:"root" default:"." path:"true"` // folder of blobs/, uploads/ and quarantine/, one filesystem
}

// Limits is [limits].
type Limits struct {
	UploadsPerSubject int             `toml:"uploads_per_subject" default:"64"`
	UploadsTotal      int             `toml:"uploads_total" default:"256"`
	UploadIdle        config.Duration `toml:"upload_idle" default:"24h"`
	RequestsAtOnce    int             `toml:"requests_at_once" default:"64"` // of one subject
}

// GC is [gc].
type GC struct {
	Every         config.Duration `toml:"every" default:"1h"`
	Grace         config.Duration `toml:"grace" default:"24h"`
	UntaggedAfter config.Duration `toml:"untagged_after" default:"720h"`
	Trash         config.Duration `toml:"trash" default:"168h"`
}

// Disk is [disk].
type Disk struct {
	Warn   float64     `toml:"warn" default:"0.85"`
	Refuse float64     `toml:"refuse" default:"0.92"`
	Floor  config.Size `toml:"floor" default:"1GiB"`
}

// Verify is [verify].
type Verify struct {
	Every config.Duration `toml:"every" default:"720h"`
	Rate  config.Size     `toml:"rate" default:"20MiB"` // bytes a second
}

// Validate checks what can be checked without the network. It fills in what follows from other settings.
func (c *Config) Validate() error {
	if c.Registry.TokenRealm == "" && c.MCIAS.ServerURL != "" {
		c.Registry.TokenRealm = strings.TrimSuffix(c.MCIAS.ServerURL, "/") + "/registry/token"
	}
	if err := checkHost("registry.token_realm", c.Registry.TokenRealm); err != nil {
		return err
	}
	if c.Registry.PublicURL != "" {
		if err := checkHost("registry.public_url", c.Registry.PublicURL); err != nil {
			return err
		}
	}
	if n := c.Registry.MaxManifest.Bytes(); n < 64<<10 || n > 16<<20 {
		return fault.Field1("registry.max_manifest", "between 64KiB and 16MiB")
	}
	for _, p := range []struct {
		key string
		d   config.Duration
	}{{"gc.every", c.GC.Every}, {"gc.grace", c.GC.Grace}, {"gc.untagged_after", c.GC.UntaggedAfter}, {"gc.trash", c.GC.Trash},
		{"limits.upload_idle", c.Limits.UploadIdle}, {"verify.every", c.Verify.Every}} {
		if p.d.D() < time.Second {
			return fault.Field1(p.key, "must be at least a second")
		}
	}
	if c.Limits.UploadsPerSubject < 1 || c.Limits.UploadsTotal < 1 || c.Limits.RequestsAtOnce < 1 {
		return fault.Field1("limits", "every limit must be at least one")
	}
	if c.Disk.Warn <= 0 || c.Disk.Refuse <= 0 || c.Disk.Refuse > 1 || c.Disk.Warn > c.Disk.Refuse {
		return fault.Field1("disk", "warn and refuse are ratios, 0 < warn <= refuse <= 1")
	}
	if c.Verify.Rate.Bytes() < 1<<20 {
		return fault.Field1("verify.rate", "at least 1MiB a second")
	}
	if _, err := policy.Compile(c.Policy); err != nil {
		return fault.Field1("policy", "%v", err)
	}
	return c.checkNames()
}

func (c *Config) checkNames() error {
	seen := map[string]bool{}
	for _, r := range append(policy.Builtin(), c.Policy...) {
		if seen[r.Name] {
			return fault.Field1("policy", "two rules are called %q", r.Name)
		}
		seen[r.Name] = true
	}
	seen = map[string]bool{}
	for _, r := range c.Immutable {
		if err := r.Validate(); err != nil {
			return fault.Field1("immutable", "rule %.80q: %v", r.Name, err)
		}
		if seen[r.Name] {
			return fault.Field1("immutable", "two rules are called %q", r.Name)
		}
		seen[r.Name] = true
	}
	return nil
}

// checkHost wants an https URL with a name of at least two labels: container clients refuse addresses as token
// realm, and some compare the last two labels of realm and registry.
func checkHost(key, text string) error {
	if text == "" {
		return fault.Field1(key, "is needed (or [mcias] server_url, from which it follows)")
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fault.Field1(key, "%.100q is no https URL", text)
	}
	if strings.ContainsAny(text, "\"\\ ,") {
		return fault.Field1(key, "%.100q cannot stand in a header", text)
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return fault.Field1(key, "%q is an address; container clients want a name", u.Hostname())
	}
	if !strings.Contains(u.Hostname(), ".") {
		return fault.Field1(key, "%q is a name of one label; container clients want at least two", u.Hostname())
	}
	return nil
}
