package service

import (
	"net"
	"net/url"
	"time"

	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/fault"
)

// Config is metacrypt.toml. Mounts, issuers, profiles and rules live in the database only.
type Config struct {
	Server   config.Server   `toml:"server"`
	Database config.Database `toml:"database"`
	MCIAS    config.MCIAS    `toml:"mcias"`
	Log      config.Log      `toml:"log"`
	Metrics  config.Metrics  `toml:"metrics"`
	Auth     config.Auth     `toml:"auth"`
	Backup   config.Backup   `toml:"backup"`
	Web      config.Web      `toml:"web"`
	Seal     Seal            `toml:"seal"`
	PKI      PKI             `toml:"pki"`
}

// Seal is [seal].
type Seal struct {
	CredentialFile string          `toml:"credential_file" path:"true"` // 0600; unseals at start; a systemd credential metacrypt-unseal goes before it
	BackoffMax     config.Duration `toml:"backoff_max" default:"5m"`
}

// PKI is [pki].
type PKI struct {
	HTTPAddr  string `toml:"http_addr"`  // plain HTTP for /pki/; empty = none
	PublicURL string `toml:"public_url"` // http://metacrypt.<domain>/pki as others reach it; it is written into certificates
}

// Validate checks what belongs together.
func (c Config) Validate() error {
	if d := c.Seal.BackoffMax.D(); d < time.Second || d > time.Hour {
		return fault.Field1("seal.backoff_max", "is %s, from 1s to 1h", c.Seal.BackoffMax)
	}
	if c.PKI.HTTPAddr != "" {
		if _, _, err := net.SplitHostPort(c.PKI.HTTPAddr); err != nil {
			return fault.Field1("pki.http_addr", "%q is not HOST:PORT", c.PKI.HTTPAddr)
		}
	}
	if c.PKI.PublicURL != "" {
		u, err := url.Parse(c.PKI.PublicURL)
		if err != nil || u.Scheme != "http" || u.Host == "" {
			return fault.Field1("pki.public_url", "%q is no http:// URL: lists and issuers are fetched before anything can be verified", c.PKI.PublicURL)
		}
	}
	return nil
}
