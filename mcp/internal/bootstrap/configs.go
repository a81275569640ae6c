package bootstrap

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// The configuration files are written by `mcp up` and belong to it: a second run writes the same bytes or brings them up
// to date. Paths inside are relative to the file, so the same text serves in a container (/srv/<service>) and on the host.

// common is what every service of ours has (platform.md section 7).
func (u *Up) common(svc string, p portPairs) string {
	var b strings.Builder
	listen := func(name string) string { return "127.0.0.1:" + strconv.Itoa(p[name]) }
	boxed := u.inContainers() && !coreSpecs[svc].onProc
	if boxed {
		listen = func(name string) string { return ":" + map[string]string{"https": "8443", "grpc": "9443"}[name] }
	}
	fmt.Fprintf(&b, "# Written by mcp up; changes are overwritten.\n[server]\nlisten_addr = %q\ngrpc_addr = %q\n", listen("https"), listen("grpc"))
	fmt.Fprintf(&b, "tls_cert = \"certs/%s.pem\"\ntls_key = \"certs/%s.key\"\n", svc, svc)
	fmt.Fprintf(&b, "trusted_proxies = [%s]\nproxy_key_file = \"certs/hop.key\"\n", u.trustedProxies(boxed))
	fmt.Fprintf(&b, "host_names = [%q]\nlocal_admins = [%s]\n", u.settings.Host(svc), localAdmins())
	if svc != "mcat" {
		fmt.Fprintf(&b, "\n[database]\npath = \"%s.db\"\n", svc)
	}
	if svc != "mcias" {
		fmt.Fprintf(&b, "\n[mcias]\nserver_url = %q\ngrpc_addr = %q\nca_cert = \"certs/ca.pem\"\nservice_name = %q\nkey_file = \"certs/%s\"\n",
			u.settings.URL("mcias"), u.settings.GRPC("mcias"), svc, keyFileName)
	}
	if svc == "mcias" {
		b.WriteString("\n[mcias]\nca_cert = \"certs/ca.pem\"\n")
	}
	fmt.Fprintf(&b, "\n[log]\nformat = \"json\"\n\n[web]\nnav = [%s]\n", u.nav())
	return b.String()
}

func (u *Up) trustedProxies(boxed bool) string {
	if boxed {
		return `"127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/8"` // the gateway of its own network; the hop key decides
	}
	return `"127.0.0.0/8"`
}

func (u *Up) nav() string {
	var items []string
	for _, svc := range []string{"mcp", "mcias", "metacrypt", "mcr", "mcns", "mcat"} {
		items = append(items, strconv.Quote(svc+"="+u.settings.URL(svc)))
	}
	return strings.Join(items, ", ")
}

// localAdmins names the person who runs `mcp up`, and nobody when that is root.
func localAdmins() string {
	if id := os.Getuid(); id != 0 {
		return strconv.Quote(strconv.Itoa(id))
	}
	return ""
}

// config returns the text of a service's configuration.
func (u *Up) config(svc string, p portPairs) string {
	s := u.settings
	switch svc {
	case "mc-proxy":
		return u.proxyConfig()
	case "mcns":
		return u.common(svc, p) + fmt.Sprintf("\n[dns]\nlisten = [%s]\n\n[registry]\nzone = %q\n", u.dnsListen(), s.Domain)
	case "mcias":
		return u.common(svc, p) + fmt.Sprintf("\n[tokens]\nissuer = %q\n%s", s.URL("mcias"), u.credentialKey("vault", "mcias"))
	case "metacrypt":
		addr := "127.0.0.1:" + strconv.Itoa(p["http"])
		if u.inContainers() {
			addr = ":8080"
		}
		public := "http://" + s.Host("metacrypt")
		if s.HTTPPort() != 80 {
			public += ":" + strconv.Itoa(s.HTTPPort())
		}
		return u.common(svc, p) + fmt.Sprintf("\n[pki]\nhttp_addr = %q\npublic_url = %q\n%s", addr, public, u.credentialKey("seal", "metacrypt"))
	case "mcp":
		addr := "127.0.0.1:" + strconv.Itoa(p["nodes"])
		if u.inContainers() {
			addr = ":9444"
		}
		return u.common(svc, p) + fmt.Sprintf("\n[nodes]\nlisten_addr = %q\n", addr)
	case "mcr":
		return u.common(svc, p) + fmt.Sprintf(`
[registry]
public_url = %q
token_realm = %q

[storage]
root = "blobs"

[[policy]]
id = "node-%s"
effect = "allow"
subjects = ["system:%s"]
actions = ["pull", "push", "tag", "pin"]
repositories = ["**"]
comment = "the node's agent keeps what it runs"
`, s.URL("mcr"), s.URL("mcias")+"/registry/token", s.Node, u.nodeAccount())
	}
	return u.common(svc, p)
}

// credentialKey names the machine-bound unseal credential, which exists with --yes only.
func (u *Up) credentialKey(section, svc string) string {
	if !u.opts.Yes {
		return ""
	}
	return fmt.Sprintf("\n[%s]\ncredential_file = \"certs/unseal.credential\"\n", section)
}

func (u *Up) dnsListen() string {
	port := strconv.Itoa(u.settings.DNSPort)
	addrs := []string{strconv.Quote("127.0.0.1:" + port)}
	for _, g := range u.gateways() {
		addrs = append(addrs, strconv.Quote(g+":"+port))
	}
	return strings.Join(addrs, ", ")
}

// proxyConfig: one listener for browsers and registry clients, one for gRPC, one for plain HTTP, which passes only
// Metacrypt's public PKI and sends everything else to HTTPS.
func (u *Up) proxyConfig() string {
	s := u.settings
	listen := func(port int) string {
		addrs := []string{strconv.Quote("127.0.0.1:" + strconv.Itoa(port))}
		if s.HTTPSPort == 443 {
			addrs = []string{strconv.Quote(":" + strconv.Itoa(port))}
		} else {
			for _, g := range u.gateways() {
				addrs = append(addrs, strconv.Quote(g+":"+strconv.Itoa(port)))
			}
		}
		return strings.Join(addrs, ", ")
	}
	plain := ""
	if p := u.ports["metacrypt"]["http"]; p != 0 {
		plain = fmt.Sprintf("plain = [{ host = %q, prefix = \"/pki/\", backend = \"127.0.0.1:%d\" }]\n", s.Host("metacrypt"), p)
	}
	return fmt.Sprintf(`# Written by mcp up; changes are overwritten.
[server]
socket = "/run/mc/mc-proxy.sock"

[database]
path = "mc-proxy.db"

[log]
format = "json"

[admin]
write = [%s]

[tls]
cert_dir = "certs"
roots = "certs/ca.pem"

[[listener]]
name = "https"
kind = "tls"
addrs = [%s]

[[listener]]
name = "grpc"
kind = "tls"
addrs = [%s]

[[listener]]
name = "http"
kind = "redirect"
to = "https"
https_port = %d
addrs = [%s]
%s`, proxyWriters(), listen(s.HTTPSPort), listen(s.GRPCPort()), s.HTTPSPort, listen(s.HTTPPort()), plain)
}

// proxyWriters: root, and the agent's user where that is not root.
func proxyWriters() string {
	if id := os.Getuid(); id != 0 {
		return `"root", ` + strconv.Quote(strconv.Itoa(id))
	}
	return `"root"`
}
