package bootstrap

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"metacircular.net/mcdsl/fault"
)

// Options are the flags of `mcp up`.
type Options struct {
	Root      string
	Engine    string // auto, docker, podman or proc; empty = as before, else auto
	Domain    string // empty = as before, else mc.localhost
	HTTPSPort int    // 0 = as before, else 8443
	DNSPort   int    // 0 = as before, else 8053
	Yes       bool   // answer every question with the default; keeps the unseal password on disk
	JSON      bool
	BinDir    string    // where the seven binaries lie
	Built     time.Time // when they were built: the clock may not be before it
	Out       io.Writer
	// Ask reads a secret at a prompt that does not echo.
	Ask func(prompt string) (string, error)
}

// portPairs are the published ports of one service by name: the a side of each pair.
type portPairs map[string]int

// Up is one run of `mcp up`.
type Up struct {
	opts     Options
	layout   Layout
	settings Settings
	sockets  *sockets
	ports    map[string]portPairs
	password string // the unseal password, once asked
	reason   string // why this engine
	versions map[string]string
	bridges  []string // gateways of container networks
}

// Run brings the platform up, or finds that it is. A second run beside it is refused with a Conflict.
func Run(ctx context.Context, opts Options) error {
	root, err := filepath.Abs(opts.Root)
	if err != nil {
		return fault.New(fault.Invalid, "the root %q is not a path: %v", opts.Root, err)
	}
	u := &Up{opts: opts, layout: Layout{Root: root}, ports: map[string]portPairs{}}
	if err := u.choose(); err != nil {
		return err
	}
	rep := Reporter{Out: opts.Out, JSON: opts.JSON, Now: time.Now}
	if !opts.JSON {
		fmt.Fprintf(opts.Out, "Bringing up %s in %s\n", u.settings.Domain, root)
	}
	release := func() {}
	defer func() { release() }()
	u.sockets = newSockets(u.layout)
	defer u.sockets.close()
	err = runStages(ctx, rep, []stage{
		{"preflight", func(ctx context.Context) (bool, string, error) {
			if err := preflight(u.layout, u.settings, opts.BinDir, opts.Built, u.agentAnswers(ctx)); err != nil {
				return false, "", err
			}
			changed, err := u.begin()
			if err != nil {
				return false, "", err
			}
			release, err = u.layout.takeLock()
			return changed, "ports, disk, clock, binaries", err
		}},
		{"images", u.prepareNode},
		{"root CA", u.makeRoot},
		{"MCNS, MC-Proxy", u.startEdge},
		{"MCIAS", u.startIdentity},
		{"Metacrypt", u.startMetacrypt},
		{"certificates", u.issueCertificates},
		{"MCR", u.startRegistry},
		{"MCNS (zone)", u.makeZone},
		{"routes", u.proveRoutes},
		{"MCP", u.startMaster},
		{"MCAT", u.deployFirstApp},
		{"proof", u.prove},
	})
	if err != nil {
		return err
	}
	if !opts.JSON {
		u.lastScreen()
	}
	return nil
}

// choose takes flags first, then what an earlier run wrote, then the defaults of a checkout.
func (u *Up) choose() error {
	s, _, err := u.layout.Settings()
	if err != nil {
		return err
	}
	before := s
	pick := func(flag, old, def string) string {
		switch {
		case flag != "":
			return flag
		case old != "":
			return old
		}
		return def
	}
	pickN := func(flag, old, def int) int {
		switch {
		case flag != 0:
			return flag
		case old != 0:
			return old
		}
		return def
	}
	s.Domain = pick(u.opts.Domain, s.Domain, "mc.localhost")
	s.Engine = pick(u.opts.Engine, s.Engine, "auto")
	s.HTTPSPort = pickN(u.opts.HTTPSPort, s.HTTPSPort, 8443)
	s.DNSPort = pickN(u.opts.DNSPort, s.DNSPort, 8053)
	s.Node = pick("", s.Node, "a")
	if err := s.Validate(); err != nil {
		return err
	}
	if before.Domain != "" && before.Domain != s.Domain {
		return fault.New(fault.Invalid, "the platform in %s is %s; its domain cannot become %s", u.layout.Root, before.Domain, s.Domain).
			WithNext("choose another --root for another platform")
	}
	if before.HTTPSPort != 0 && before.HTTPSPort != s.HTTPSPort {
		return fault.New(fault.Invalid, "the platform in %s is on port %d, which is part of its issuer's name; it cannot become %d", u.layout.Root, before.HTTPSPort, s.HTTPSPort).
			WithNext("leave out --https-port, or destroy the platform first")
	}
	u.settings = s
	return nil
}

// begin makes the root and writes the settings down: the first thing this command makes.
func (u *Up) begin() (bool, error) {
	if err := os.MkdirAll(u.layout.Root, 0o755); err != nil {
		return false, fmt.Errorf("make the root: %w", err)
	}
	if err := os.MkdirAll(u.layout.Path("run"), 0o755); err != nil {
		return false, fmt.Errorf("make the run folder: %w", err)
	}
	if u.settings.Platform == "" {
		u.settings.Platform = strings.ToLower(rand.Text()[:10])
	}
	if u.settings.Engine == "auto" || u.reason == "" {
		if err := u.chooseEngine(); err != nil {
			return false, err
		}
	}
	data, err := json.MarshalIndent(u.settings, "", "  ")
	if err != nil {
		return false, err
	}
	return writeFile(u.layout.settingsFile(), append(data, '\n'), 0o644, -1)
}

// unsealPassword returns the password that opens MCIAS and Metacrypt: the stored one, a new one with --yes, or what the
// operator types, which is stored nowhere.
func (u *Up) unsealPassword() (string, error) {
	if u.password != "" {
		return u.password, nil
	}
	creds, _, err := u.layout.credentials()
	if err != nil {
		return "", err
	}
	switch {
	case creds.UnsealPassword != "":
		u.password = creds.UnsealPassword
	case u.opts.Yes:
		creds.UnsealPassword = newPassword()
		if err := u.layout.keepCredentials(creds); err != nil {
			return "", err
		}
		u.password = creds.UnsealPassword
	case u.opts.Ask == nil:
		return "", fault.New(fault.Invalid, "the unseal password is needed and there is no terminal to ask at").
			WithNext("run it at a terminal, or with --yes to keep the password in %s", u.layout.credentialsFile())
	default:
		p, err := u.opts.Ask("Unseal password (at least 12 characters; it opens MCIAS and Metacrypt): ")
		if err != nil {
			return "", err
		}
		u.password = p
	}
	return u.password, nil
}

// sealCredential makes the 32 bytes that let a killed service unseal by itself; only with --yes.
func (u *Up) sealCredential(svc string) ([]byte, error) {
	if !u.opts.Yes {
		return nil, nil
	}
	file := u.layout.Path(svc, "certs", "unseal.credential")
	if data, err := os.ReadFile(file); err == nil {
		return data, nil
	}
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return nil, err
	}
	// As text: a file's last newline is not part of a secret, and random bytes may end in one.
	text := []byte(hex.EncodeToString(raw))
	_, err := writeFile(file, text, 0o600, uid(svc))
	return text, err
}

// addToSheet appends a line to the recovery sheet, once.
func (u *Up) addToSheet(what, value string) error {
	old, err := os.ReadFile(u.layout.recoverySheet())
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("read the recovery sheet: %w", err)
	}
	if len(old) == 0 {
		old = []byte("Recovery sheet of " + u.settings.Domain + "\nKeep it on paper or another machine; then remove this file.\n\n")
	}
	line := what + ": " + value + "\n"
	if strings.Contains(string(old), line) {
		return nil
	}
	_, err = writeFile(u.layout.recoverySheet(), append(old, line...), 0o600, -1)
	return err
}

func (u *Up) lastScreen() {
	s := u.settings
	w := u.opts.Out
	fmt.Fprintf(w, "\n%s is up (engine %s: %s).\n\n", s.Domain, s.Engine, u.reason)
	fmt.Fprintf(w, "  Try it           %s\n", s.URL("mcat"))
	fmt.Fprintf(w, "  Sign-in          %s\n", s.URL("mcias"))
	fmt.Fprintf(w, "  Credentials      %s\n", u.layout.credentialsFile())
	fmt.Fprintf(w, "  Root certificate %s: import it into your browser, or run\n                   certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n %s -i %s\n", u.layout.caFile(), s.Domain, u.layout.caFile())
	fmt.Fprintf(w, "  Recovery sheet   %s: print it, then remove it\n", u.layout.recoverySheet())
	if u.opts.Yes {
		fmt.Fprintf(w, "\n  --yes keeps the unseal password in the credentials file and lets killed services unseal by themselves: for development.\n")
	}
	fmt.Fprintf(w, "\n  next: mcp --root %s status\n", u.layout.Root)
}
