package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/fault"
)

type dns struct {
	Listen []string        `toml:"listen" reload:"true"`
	Lease  config.Duration `toml:"lease" default:"90s"`
}

type forward struct {
	Domain string `toml:"domain"`
}

type sample struct {
	Server   config.Server   `toml:"server"`
	Database config.Database `toml:"database"`
	MCIAS    config.MCIAS    `toml:"mcias"`
	Metrics  config.Metrics  `toml:"metrics"`
	DNS      dns             `toml:"dns"`
	Forward  []forward       `toml:"forward"`
	Token    string          `toml:"token" secret:"true"`
}

func (s *sample) SetDefaults() { s.DNS.Listen = []string{"127.0.0.1:53"} }

func write(t *testing.T, body string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "mcns.toml")
	if err := os.WriteFile(p, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestLayersAndOrigins(t *testing.T) {
	t.Parallel()
	file := write(t, `
token = "t0p"
[server]
listen_addr = "127.0.0.1:1"
grpc_addr = "127.0.0.1:2"
socket = "run/x.sock"
max_body = "2MiB"
[dns]
lease = "2m"
[[forward]]
domain = "corp.example"
`)
	cfg, rep, err := config.Load[sample](config.Input{Service: "mc-proxy", File: file,
		Env:   []string{"MC_PROXY_SERVER_LISTEN_ADDR=127.0.0.1:3", "MC_PROXY_DNS_LISTEN=a:1, b:2", "MC_PROXY_PORT=x", "OTHER=1"},
		Flags: map[string]string{"server.grpc_addr": "127.0.0.1:4"}})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(file)
	got := []any{cfg.Server.ListenAddr, cfg.Server.GRPCAddr, cfg.Server.Socket, cfg.Server.MaxBody.Bytes(), cfg.Database.Path,
		cfg.DNS.Listen, cfg.DNS.Lease.D(), cfg.Forward, cfg.MCIAS.ServiceName}
	want := []any{"127.0.0.1:3", "127.0.0.1:4", filepath.Join(dir, "run/x.sock"), int64(2 << 20), filepath.Join(dir, "mc-proxy.db"),
		[]string{"a:1", "b:2"}, 2 * time.Minute, []forward{{"corp.example"}}, "mc-proxy"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	origin := map[string]string{}
	for _, s := range rep.Settings {
		origin[s.Key] = s.Source
	}
	for key, want := range map[string]string{"server.listen_addr": "env MC_PROXY_SERVER_LISTEN_ADDR", "server.grpc_addr": "flag",
		"server.socket": "mcns.toml:6", "dns.lease": "mcns.toml:9", "database.path": "default", "forward": "mcns.toml:10"} {
		if origin[key] != want {
			t.Errorf("origin of %s = %q, want %q", key, origin[key], want)
		}
	}
	if len(rep.Warnings) != 1 || !strings.Contains(rep.Warnings[0], "MC_PROXY_PORT") {
		t.Errorf("warnings: %v", rep.Warnings)
	}
	var b strings.Builder
	if err := rep.Print(&b); err != nil || strings.Contains(b.String(), "t0p") {
		t.Errorf("print shows a secret or fails: %v\n%s", err, b.String())
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ body, want string }{
		"unknown key":     {"[server]\nlisten_adr = \"x:1\"", `mcns.toml:2: unknown key "listen_adr" in [server]; did you mean "listen_addr"?`},
		"unknown section": {"[servr]\nlisten_addr = \"x:1\"", `did you mean`},
		"bad duration":    {"[dns]\nlease = \"soon\"", `mcns.toml:2:`},
		"bad syntax":      {"[dns\n", `mcns.toml:1:`},
		"bad type":        {"[database]\nreaders = \"x\"", `mcns.toml:2:`},
		"bad address":     {"[server]\nlisten_addr = \"8443\"", `server.listen_addr: "8443" is not HOST:PORT or :PORT`},
		"public metrics":  {"[metrics]\naddr = \"8.8.8.8:9\"", `not a loopback or overlay address`},
		"no ca":           {"[mcias]\nserver_url = \"https://mcias.example\"", `mcias.ca_cert: is needed`},
	} {
		_, _, err := config.Load[sample](config.Input{Service: "mcns", File: write(t, tc.body)})
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want Invalid with %q", name, err, tc.want)
		}
	}
	_, _, err := config.Load[sample](config.Input{Service: "mcns", File: "/nonexistent/x.toml"})
	if !fault.Is(err, fault.Invalid) || fault.ExitCode(err) != 2 {
		t.Errorf("missing file: %v", err)
	}
	_, _, err = config.Load[sample](config.Input{Service: "mcns", Env: []string{"MCNS_DATABASE_READERS=many"}})
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "MCNS_DATABASE_READERS") {
		t.Errorf("bad variable: %v", err)
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	load := func(body string) *config.Report {
		_, rep, err := config.Load[sample](config.Input{Service: "mcns", File: write(t, body)})
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	now, restart := config.Changes(load("[server]\nsocket=\"/a\"\n[dns]\nlisten=[\"a:1\"]"), load("[server]\nsocket=\"/b\"\n[dns]\nlisten=[\"b:1\"]"))
	var paths []string
	for _, r := range restart {
		if r != "database.path" && r != "server.tls_cert" && r != "server.tls_key" { // beside the file, which moved
			paths = append(paths, r)
		}
	}
	if d := cmp.Diff([]string{"dns.listen"}, now); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"server.socket"}, paths); d != "" {
		t.Error(d)
	}
}

func TestDurationAndSize(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"400d": "400d", "90s": "1m30s", "24h": "1d", "15m": "15m", "2h": "2h"} {
		var d config.Duration
		if err := d.UnmarshalText([]byte(in)); err != nil || d.String() != want {
			t.Errorf("%s = %s, %v; want %s", in, d, err, want)
		}
	}
	for in, want := range map[string]int64{"1MiB": 1 << 20, "10 GB": 1e10, "512": 512, "0": 0} {
		var s config.Size
		if err := s.UnmarshalText([]byte(in)); err != nil || s.Bytes() != want {
			t.Errorf("%s = %d, %v; want %d", in, s, err, want)
		}
	}
	for _, in := range []string{"", "-1", "1XB", "9999999TiB", "5"} {
		var d config.Duration
		var s config.Size
		if d.UnmarshalText([]byte(in)) == nil || (in != "5" && s.UnmarshalText([]byte(in)) == nil) {
			t.Errorf("%q was accepted", in)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("[server]\nlisten_addr=\"a:1\"")
	f.Add("a.b = {c=1}\n[[forward]]\n")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, body string) {
		p := filepath.Join(dir, "f.toml")
		if err := os.WriteFile(p, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := config.Load[sample](config.Input{Service: "mcns", File: p})
		if err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", body, err)
		}
	})
}

func ExampleLoad() {
	type settings struct {
		Server config.Server `toml:"server"`
	}
	cfg, rep, err := config.Load[settings](config.Input{Service: "mcns", Env: []string{"MCNS_SERVER_GRPC_ADDR=127.0.0.1:9443"}})
	fmt.Println(cfg.Server.ListenAddr, cfg.Server.GRPCAddr, len(rep.Settings) > 0, err)
	// Output: :8443 127.0.0.1:9443 true <nil>
}
