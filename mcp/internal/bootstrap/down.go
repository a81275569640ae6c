package bootstrap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"metacircular.net/mcdsl/fault"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
)

// opened is a platform that is there.
func opened(root string) (*Up, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the root %q is not a path", root)
	}
	u := &Up{layout: Layout{Root: abs}, ports: map[string]portPairs{}}
	s, ok, err := u.layout.Settings()
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fault.New(fault.NotFound, "there is no platform in %s", abs).WithNext("mcp up --root %s", root)
	}
	u.settings = s
	u.sockets = newSockets(u.layout)
	return u, nil
}

// Down stops every service and the agent, lastingly; Run starts them again.
func Down(ctx context.Context, root string, note func(format string, args ...any)) error {
	u, err := opened(root)
	if err != nil {
		return err
	}
	defer u.sockets.close()
	release, err := u.layout.takeLock()
	if err != nil {
		return err
	}
	defer release()
	if !u.agentAnswers(ctx) {
		note("nothing runs in %s", u.layout.Root)
		return u.stopAgent(ctx)
	}
	conn, err := u.sockets.dial("mcp-agent")
	if err != nil {
		return err
	}
	stream, err := mcpv1.NewPlatformClient(conn).Down(ctx, &mcpv1.DownRequest{})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("stop the services: %w", err)
		}
		if op := m.GetEvent().GetEnded(); op != nil {
			note("  stopped %s", op.GetService())
		}
		if err := opFailure(m.GetEvent()); err != nil {
			return err
		}
	}
	return u.stopAgent(ctx)
}

// supervisor finds the agent's parent; 0 when there is none.
func (u *Up) supervisor() (int, error) {
	file := u.layout.Path("run", "mcp-agent.pid")
	data, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the agent's process id: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, fmt.Errorf("%s holds no process id", file)
	}
	// The id may have been given to somebody else since: only a program of this name and root is ours.
	args, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || !strings.Contains(string(args), "supervise") || !strings.Contains(string(args), u.layout.Root) {
		return 0, os.Remove(file)
	}
	return pid, nil
}

// reloadAgent lets the agent look at its trust again.
func (u *Up) reloadAgent() error {
	pid, err := u.supervisor()
	if err != nil || pid == 0 {
		return err
	}
	return syscall.Kill(pid, syscall.SIGHUP)
}

// stopAgent ends the parent, which takes the agent with it.
func (u *Up) stopAgent(ctx context.Context) error {
	file := u.layout.Path("run", "mcp-agent.pid")
	pid, err := u.supervisor()
	if err != nil || pid == 0 {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop the agent: %w", err)
	}
	return await(ctx, "the end of the agent", 40*time.Second, func(context.Context) error {
		if _, err := os.Stat(file); os.IsNotExist(err) {
			return nil
		}
		return fault.New(fault.Unavailable, "it still runs")
	})
}

// Destroy removes what the platform made. Without the domain repeated, data, keys and settings stay.
func Destroy(ctx context.Context, root, domain string, note func(format string, args ...any)) error {
	u, err := opened(root)
	if err != nil {
		return err
	}
	defer u.sockets.close()
	if domain != "" && domain != u.settings.Domain {
		return fault.New(fault.Invalid, "--yes-delete-data=%s does not repeat the domain of the platform in %s, which is %s; nothing was removed", domain, u.layout.Root, u.settings.Domain)
	}
	release, err := u.layout.takeLock()
	if err != nil {
		return err
	}
	defer release()
	u.opts.BinDir, err = selfDir()
	if err != nil {
		return err
	}
	// The agent knows what it made; one that does not run is started for this.
	if _, err := u.startAgent(ctx); err != nil {
		return err
	}
	conn, err := u.sockets.dial("mcp-agent")
	if err != nil {
		return err
	}
	stream, err := mcpv1.NewPlatformClient(conn).Destroy(ctx, &mcpv1.DestroyRequest{ConfirmDomain: u.settings.Domain})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("remove the containers: %w", err)
		}
		if m.GetRemoved() != "" {
			note("  removed %s", m.GetRemoved())
		}
	}
	if err := u.stopAgent(ctx); err != nil {
		return err
	}
	if domain == "" {
		note("data, keys and settings stay in %s", u.layout.Root)
		return nil
	}
	return u.removeTree()
}

func selfDir() (string, error) {
	self, err := os.Executable()
	return filepath.Dir(self), err
}

// removeTree removes what lies in the root by name, and the root if nothing else is in it.
func (u *Up) removeTree() error {
	names := append([]string{"run", "services", "apps", "ca", "mcp-agent", "platform.json", "credentials.json", "ca.pem", "login.json", "login.json.lock", "recovery-sheet.txt", "mcp-up.lock"}, coreOrder...)
	for _, n := range names {
		if err := os.RemoveAll(u.layout.Path(n)); err != nil {
			return fmt.Errorf("remove %s: %w", u.layout.Path(n), err)
		}
	}
	if err := os.Remove(u.layout.Root); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("remove the root: %w", err)
	}
	return nil
}

// PlatformStatus is what `mcp status --json` prints (platform.md section 9).
type PlatformStatus struct {
	Domain          string              `json:"domain"`
	Root            string              `json:"root"`
	Engine          string              `json:"engine"`
	CAFile          string              `json:"ca_file"`
	CredentialsFile string              `json:"credentials_file"`
	DNSAddr         string              `json:"dns_addr"`
	HTTPSAddr       string              `json:"https_addr"`
	Healthy         bool                `json:"healthy"`
	Services        []ServiceStatus     `json:"services"`
	Certificates    []CertificateStatus `json:"certificates"`
	Backup          struct {
		Last *time.Time `json:"last"`
	} `json:"backup"`
}

// ServiceStatus is one service of it.
type ServiceStatus struct {
	Name     string `json:"name"`
	URL      string `json:"url"`
	GRPCAddr string `json:"grpc_addr"`
	Socket   string `json:"socket"`
	State    string `json:"state"`
	Version  string `json:"version"`
	Digest   string `json:"digest"`
	Node     string `json:"node"`
}

// CertificateStatus is one certificate of the core.
type CertificateStatus struct {
	Name     string    `json:"name"`
	NotAfter time.Time `json:"not_after"`
}

// Status looks at the platform through its agent's socket; it changes nothing.
func Status(ctx context.Context, root string) (*PlatformStatus, error) {
	u, err := opened(root)
	if err != nil {
		return nil, err
	}
	defer u.sockets.close()
	s := u.settings
	st := &PlatformStatus{Domain: s.Domain, Root: u.layout.Root, Engine: s.Engine, CAFile: u.layout.caFile(), CredentialsFile: u.layout.credentialsFile(),
		DNSAddr: "127.0.0.1:" + strconv.Itoa(s.DNSPort), HTTPSAddr: "127.0.0.1:" + strconv.Itoa(s.HTTPSPort), Services: []ServiceStatus{}, Certificates: []CertificateStatus{}}
	for _, svc := range coreOrder {
		cert, key := u.certFiles(svc)
		if pair, err := tls.LoadX509KeyPair(cert, key); err == nil {
			st.Certificates = append(st.Certificates, CertificateStatus{Name: s.Host(svc), NotAfter: pair.Leaf.NotAfter.UTC()})
		}
	}
	if !u.agentAnswers(ctx) {
		return st, nil
	}
	conn, err := u.sockets.dial("mcp-agent")
	if err != nil {
		return nil, err
	}
	resp, err := mcpv1.NewInsightClient(conn).Status(ctx, &mcpv1.StatusRequest{})
	if err != nil {
		return nil, err
	}
	st.Healthy = resp.GetHealthy() && len(resp.GetServices()) >= len(coreOrder)
	for _, sv := range resp.GetServices() {
		out := ServiceStatus{Name: sv.GetName(), Node: sv.GetNode(), State: strings.ToLower(strings.TrimPrefix(sv.GetState().String(), "STATE_"))}
		for _, r := range sv.GetRoutes() {
			if r.GetUrl() != "" {
				out.URL = r.GetUrl()
			}
		}
		if sv.GetCore() {
			out.Socket = u.layout.socket(sv.GetName())
			if sv.GetName() != "mc-proxy" {
				out.GRPCAddr = s.GRPC(sv.GetName())
			}
		}
		for _, c := range sv.GetComponents() {
			out.Digest = c.GetDigest()
			if i := strings.LastIndexByte(c.GetImage(), ':'); i >= 0 {
				out.Version = c.GetImage()[i+1:]
			}
		}
		st.Services = append(st.Services, out)
	}
	return st, nil
}
