package cli

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"metacircular.net/mcdsl/cli/hostmap"
	"metacircular.net/mcdsl/fault"
)

const defaultGRPCPort = "9443"

// Platform says where the services of one platform are.
type Platform struct {
	Root     string // its folder on this machine, "" if it is elsewhere
	Issuer   string // https://mcias.<domain>[:port]
	Domain   string
	GRPCPort string // of every service, behind MC-Proxy
	CAFile   string
	Hosts    *hostmap.Map

	own, ownSocket string // socket of the binary's own service, as a configuration named by --config says
}

// Platform finds the platform of this run: --addr, --ca, --config and --root first, then the saved login.
func (e *Env) Platform() (*Platform, error) {
	p := &Platform{Root: e.Root, CAFile: e.CA}
	if e.Root != "" {
		p.fromRoot(e.Root, e.Service)
	}
	if e.ConfigFile != "" {
		p.own, p.ownSocket = e.Service, p.fromConfig(e.ConfigFile)
		if root := rootOf(e.ConfigFile); p.Root == "" && root != "" {
			p.Root = root
		}
	}
	if p.Issuer == "" || p.CAFile == "" {
		login, err := e.readLogin()
		if err != nil {
			return nil, err
		}
		p.fromLogin(login)
	}
	if u, ok := strings.CutPrefix(e.Addr, "https://"+e.Service+"."); ok && p.Issuer == "" {
		p.setIssuer("https://mcias." + u)
	}
	if p.Root != "" {
		p.Hosts = hostmap.Open(filepath.Join(p.Root, "run", "hosts"))
		if p.CAFile == "" {
			p.CAFile = filepath.Join(p.Root, "ca.pem")
		}
	} else {
		p.Hosts = hostmap.Open("")
	}
	return p, nil
}

// rootOf returns DIR for DIR/<svc>/<svc>.toml if DIR looks like a platform's folder.
func rootOf(config string) string {
	abs, err := filepath.Abs(config)
	if err != nil {
		return ""
	}
	root := filepath.Dir(filepath.Dir(abs))
	if _, err := os.Stat(filepath.Join(root, "run")); err != nil {
		return ""
	}
	return root
}

// fromRoot looks through the configurations of a root for the issuer.
func (p *Platform) fromRoot(root, service string) {
	for _, svc := range []string{service, "mcias", "mcp", "mcr", "metacrypt", "mcns", "mcat", "mcp-agent"} {
		if p.Issuer != "" {
			return
		}
		p.fromConfig(filepath.Join(root, svc, svc+".toml"))
	}
}

// fromConfig takes what a service's configuration says of the platform, and returns the service's socket; an
// unreadable file says nothing.
func (p *Platform) fromConfig(file string) (socket string) {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	var c struct {
		MCIAS struct {
			ServerURL string `toml:"server_url"`
			GRPCAddr  string `toml:"grpc_addr"`
			CACert    string `toml:"ca_cert"`
		} `toml:"mcias"`
		Server struct {
			Socket string `toml:"socket"`
		} `toml:"server"`
		Tokens struct {
			Issuer string `toml:"issuer"`
		} `toml:"tokens"`
	}
	if toml.Unmarshal(data, &c) != nil {
		return ""
	}
	issuer := c.MCIAS.ServerURL
	if issuer == "" {
		issuer = c.Tokens.Issuer
	}
	if issuer != "" && p.Issuer == "" {
		p.setIssuer(issuer)
		if _, port, err := net.SplitHostPort(c.MCIAS.GRPCAddr); err == nil {
			p.GRPCPort = port
		}
	}
	if p.CAFile == "" && c.MCIAS.CACert != "" && p.Root == "" {
		p.CAFile = c.MCIAS.CACert
		if !filepath.IsAbs(p.CAFile) {
			p.CAFile = filepath.Join(filepath.Dir(file), p.CAFile)
		}
	}
	if s := c.Server.Socket; s != "" && !filepath.IsAbs(s) {
		return filepath.Join(filepath.Dir(file), s)
	}
	return c.Server.Socket
}

func (p *Platform) fromLogin(l *Login) {
	if l == nil {
		return
	}
	if p.Issuer == "" && l.Issuer != "" {
		p.setIssuer(l.Issuer)
		if l.GRPCPort != "" {
			p.GRPCPort = l.GRPCPort
		}
	}
	if p.CAFile == "" {
		p.CAFile = l.CAFile
	}
	if p.Root == "" {
		p.Root = l.Root
	}
}

// setIssuer derives domain and ports. With an HTTPS port N other than 443, gRPC is on N+1000 (platform.md section 6).
func (p *Platform) setIssuer(issuer string) {
	u, err := url.Parse(issuer)
	if err != nil || u.Hostname() == "" {
		return
	}
	p.Issuer = strings.TrimSuffix(issuer, "/")
	p.Domain = ""
	if d, ok := strings.CutPrefix(u.Hostname(), "mcias."); ok {
		p.Domain = d
	}
	p.GRPCPort = grpcPort(u.Port())
}

func grpcPort(https string) string {
	n, err := strconv.Atoi(https)
	if err != nil || n == 443 {
		return defaultGRPCPort
	}
	return strconv.Itoa(n + 1000)
}

// Addr returns host:port of a service's gRPC.
func (p *Platform) Addr(service string) (string, error) {
	if service == "mcias" && p.Issuer != "" {
		u, err := url.Parse(p.Issuer)
		if err != nil {
			return "", err
		}
		return net.JoinHostPort(u.Hostname(), p.GRPCPort), nil
	}
	if p.Domain == "" {
		return "", fault.New(fault.Invalid, "no platform is known here, so %s cannot be found", service).
			WithNext("name one with --root DIR, log in with `mcp login`, or give --addr HOST:PORT and --ca FILE")
	}
	return net.JoinHostPort(service+"."+p.Domain, p.GRPCPort), nil
}

// URL returns the base URL of a service's pages and REST.
func (p *Platform) URL(service string) (string, error) {
	if service == "mcias" && p.Issuer != "" {
		return p.Issuer, nil
	}
	if p.Domain == "" {
		_, err := p.Addr(service)
		return "", err
	}
	u, err := url.Parse(p.Issuer)
	if err != nil {
		return "", err
	}
	u.Host = service + "." + p.Domain
	if port := mustPort(p.Issuer); port != "" {
		u.Host = net.JoinHostPort(u.Host, port)
	}
	return u.String(), nil
}

func mustPort(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Port()
}

// Socket returns the path of a service's Unix socket on this machine.
func (p *Platform) Socket(service string) string {
	if service == p.own && p.ownSocket != "" {
		return p.ownSocket
	}
	if p.Root == "" || p.Root == "/srv" {
		return "/run/mc/" + service + ".sock"
	}
	return filepath.Join(p.Root, "run", service+".sock")
}
