package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"metacircular.net/mcdsl/fault"
)

// Core names the platform's own services in boot order; MCAT, the first app, comes last.
var coreOrder = []string{"mcns", "mc-proxy", "mcias", "metacrypt", "mcr", "mcp", "mcat"}

// uids are fixed by the platform's contract; they hold where `mcp up` runs as root.
var uids = map[string]int{"mc-proxy": 850, "mcns": 851, "metacrypt": 852, "mcias": 853, "mcr": 854, "mcp": 855, "mcat": 856}

// Settings are what distinguishes one platform from another on the same machine. They are written once, as
// DIR/platform.json, and later runs read them there, so that a bare `mcp up --root DIR` means the same platform.
type Settings struct {
	Domain    string `json:"domain"`
	HTTPSPort int    `json:"https_port"`
	DNSPort   int    `json:"dns_port"`
	Engine    string `json:"engine"`
	Node      string `json:"node"`
	Platform  string `json:"platform"`
}

// GRPCPort is 9443, or one thousand above an HTTPS port that is not 443 (platform.md section 6).
func (s Settings) GRPCPort() int {
	if s.HTTPSPort == 443 {
		return 9443
	}
	return s.HTTPSPort + 1000
}

// HTTPPort is 80, or two thousand above an HTTPS port that is not 443.
func (s Settings) HTTPPort() int {
	if s.HTTPSPort == 443 {
		return 80
	}
	return s.HTTPSPort + 2000
}

// Host is the full name of a service.
func (s Settings) Host(service string) string { return service + "." + s.Domain }

// URL is what a browser opens for a service.
func (s Settings) URL(service string) string {
	if s.HTTPSPort == 443 {
		return "https://" + s.Host(service)
	}
	return "https://" + net.JoinHostPort(s.Host(service), strconv.Itoa(s.HTTPSPort))
}

// GRPC is the address of a service's gRPC through MC-Proxy.
func (s Settings) GRPC(service string) string {
	return net.JoinHostPort(s.Host(service), strconv.Itoa(s.GRPCPort()))
}

var domainPattern = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Validate refuses settings that no platform could be made from.
func (s Settings) Validate() error {
	if !domainPattern.MatchString(s.Domain) || len(s.Domain) > 200 {
		return fault.New(fault.Invalid, "%q is not a domain name of at least two labels, such as mc.localhost", s.Domain)
	}
	for name, p := range map[string]int{"--https-port": s.HTTPSPort, "--dns-port": s.DNSPort} {
		if p < 1 || p > 65535 {
			return fault.New(fault.Invalid, "%s %d is not a port", name, p)
		}
	}
	if s.HTTPPort() > 65535 {
		return fault.New(fault.Invalid, "--https-port %d leaves no room for plain HTTP two thousand above it", s.HTTPSPort)
	}
	switch s.Engine {
	case "auto", "docker", "podman", "proc":
	default:
		return fault.New(fault.Invalid, "unknown engine %q: use auto, docker, podman or proc", s.Engine)
	}
	return nil
}

// Layout is the tree of one platform below its root.
type Layout struct{ Root string }

// Path joins below the root.
func (l Layout) Path(elem ...string) string {
	return filepath.Join(append([]string{l.Root}, elem...)...)
}

// The fixed places of platform.md section 9.
func (l Layout) settingsFile() string    { return l.Path("platform.json") }
func (l Layout) credentialsFile() string { return l.Path("credentials.json") }
func (l Layout) caFile() string          { return l.Path("ca.pem") }
func (l Layout) hostsFile() string       { return l.Path("run", "hosts") }
func (l Layout) recoverySheet() string   { return l.Path("recovery-sheet.txt") }
func (l Layout) socket(service string) string {
	return l.Path("run", service+".sock")
}

// Settings reads what an earlier run chose; ok is false when there was none.
func (l Layout) Settings() (s Settings, ok bool, err error) {
	data, err := os.ReadFile(l.settingsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return Settings{}, false, nil
	}
	if err != nil {
		return Settings{}, false, fmt.Errorf("read platform settings: %w", err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return Settings{}, false, fmt.Errorf("read %s: %w", l.settingsFile(), err)
	}
	return s, true, nil
}

// writeFile replaces a file so that a power cut leaves the old or the new one. It reports whether anything changed.
func writeFile(path string, data []byte, mode fs.FileMode, uid int) (bool, error) {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(data) {
		return false, own(path, mode, uid)
	}
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(tmp.Name())
	if _, err = tmp.Write(data); err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil && uid >= 0 {
		err = tmp.Chown(uid, uid)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	return true, nil
}

func own(path string, mode fs.FileMode, uid int) error {
	if err := os.Chmod(path, mode); err != nil {
		return fmt.Errorf("set the mode of %s: %w", path, err)
	}
	if uid >= 0 {
		if err := os.Lchown(path, uid, uid); err != nil {
			return fmt.Errorf("set the owner of %s: %w", path, err)
		}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// makeDir makes a folder of a service, 0750 and its own.
func makeDir(path string, uid int) error {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	return own(path, 0o750, uid)
}

// uid is the owner of a service's files: its fixed UID as root, -1 (leave it) otherwise.
func uid(service string) int {
	if os.Geteuid() != 0 {
		return -1
	}
	return uids[service]
}
