package bootstrap

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/fault"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
	"metacircular.net/mcp/internal/engine/docker"
	"metacircular.net/mcp/internal/oci"
)

// coreSpec is what the definition of a core service says beside its name.
type coreSpec struct {
	ports   []string // with what they are in a container of their own
	numbers map[string]int
	memory  string
	bind    bool
	onProc  bool
}

var coreSpecs = map[string]coreSpec{
	"mcns":      {ports: []string{"https", "grpc"}, memory: "256MiB", bind: true, onProc: true},
	"mc-proxy":  {memory: "512MiB", bind: true, onProc: true},
	"mcias":     {ports: []string{"https", "grpc"}, memory: "512MiB"},
	"metacrypt": {ports: []string{"https", "grpc", "http"}, memory: "512MiB"},
	"mcr":       {ports: []string{"https", "grpc"}, memory: "512MiB"},
	"mcp":       {ports: []string{"https", "grpc", "nodes"}, memory: "256MiB"},
	"mcat":      {ports: []string{"https", "grpc"}, memory: "256MiB"},
}

var inContainer = map[string]int{"https": 8443, "grpc": 9443, "http": 8080, "nodes": 9444}

var definitionTemplate = template.Must(template.New("definition").Parse(`# Written by mcp up.
name = "{{.Name}}"
core = true
[[component]]
name = "{{.Name}}"
image = "{{.Image}}"
cmd = ["/{{.Name}}", "server", "--config", "/srv/{{.Name}}/{{.Name}}.toml"]
{{- if .OnProc}}
engine = "proc"{{end}}
{{- if .Bind}}
bind_service = true{{end}}
ports = [{{range $i, $p := .Ports}}{{if $i}}, {{end}}{ name = "{{$p.Name}}", port = {{$p.Port}} }{{end}}]
routes = [{{if .Routed}}{ port = "https", host = "{{.Name}}", mode = "l4" }, { port = "grpc", host = "{{.Name}}", mode = "l4", listener = "grpc" }{{end}}]
{{- if .Probe}}
health = { tcp = "{{.Probe}}" }
{{- else}}
health = { none = true }{{end}}
limits = { memory = "{{.Memory}}", cpu = 2.0, pids = 512 }
stop = { signal = "SIGTERM", grace = "20s" }
`))

type templatePort struct {
	Name string
	Port int
}

func (u *Up) definition(svc string) ([]byte, error) {
	c := coreSpecs[svc]
	data := struct {
		Name, Image, Memory, Probe string
		OnProc, Bind, Routed       bool
		Ports                      []templatePort
	}{Name: svc, Image: u.image(svc), Memory: c.memory, OnProc: c.onProc, Bind: c.bind, Routed: svc != "mc-proxy"}
	for _, p := range c.ports {
		data.Ports = append(data.Ports, templatePort{p, inContainer[p]})
	}
	// MCNS has no certificate before the first stage that makes one; its socket and DNS are what counts, and TCP proves them.
	if len(c.ports) > 0 {
		data.Probe = c.ports[0]
	}
	var b bytes.Buffer
	err := definitionTemplate.Execute(&b, data)
	return b.Bytes(), err
}

// image is a core image's reference: the name every node and registry knows it by.
func (u *Up) image(svc string) string { return "core/" + svc + ":" + u.versions[svc] }

// agentAnswers reports whether this root's agent is up.
func (u *Up) agentAnswers(ctx context.Context) bool {
	if _, err := os.Stat(u.layout.socket("mcp-agent")); err != nil {
		return false
	}
	conn, err := u.sockets.dial("mcp-agent")
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err = mcpv1.NewServicesClient(conn).ListServices(ctx, &mcpv1.ListServicesRequest{})
	return err == nil
}

// prepareNode makes the folders, the node's hop key, the host map, the images and the agent, and allocates all ports: the
// configurations have to name them.
func (u *Up) prepareNode(ctx context.Context) (bool, string, error) {
	changed := false
	for _, svc := range append(append([]string{}, coreOrder...), "mcp-agent") {
		if err := makeDir(u.layout.Path(svc), uid(svc)); err != nil {
			return changed, "", err
		}
		if err := makeDir(u.layout.Path(svc, "certs"), uid(svc)); err != nil {
			return changed, "", err
		}
	}
	c, err := u.layout.writeHosts(u.settings)
	if err != nil {
		return changed, "", err
	}
	changed = changed || c
	if c, err = u.hopKeys(); err != nil {
		return changed, "", err
	}
	changed = changed || c
	if c, err = u.storeImages(ctx); err != nil {
		return changed, "", err
	}
	changed = changed || c
	if c, err = u.startAgent(ctx); err != nil {
		return changed, "", err
	}
	changed = changed || c
	if err := u.findBridges(ctx); err != nil {
		return changed, "", err
	}
	if err := u.allocatePorts(ctx); err != nil {
		return changed, "", err
	}
	for _, svc := range []string{"mcias", "metacrypt"} {
		if _, err := u.sealCredential(svc); err != nil {
			return changed, "", err
		}
	}
	for _, svc := range coreOrder {
		c, err := writeFile(u.layout.Path(svc, svc+".toml"), []byte(u.config(svc, u.ports[svc])), 0o600, uid(svc))
		if err != nil {
			return changed, "", err
		}
		changed = changed || c
	}
	return changed, fmt.Sprintf("%d images, engine %s: %s", len(coreOrder), u.settings.Engine, u.reason), u.resumeDown(ctx)
}

// resumeDown lets what `mcp down` stopped run again.
func (u *Up) resumeDown(ctx context.Context) error {
	conn, err := u.sockets.dial("mcp-agent")
	if err != nil {
		return err
	}
	stream, err := mcpv1.NewPlatformClient(conn).Up(ctx, &mcpv1.UpRequest{})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("start what mcp down stopped: %w", err)
		}
		if err := opFailure(m.GetEvent()); err != nil {
			return err
		}
	}
}

// hopKeys gives each hop of the node the same 32 bytes, in a file of its own.
func (u *Up) hopKeys() (bool, error) {
	file := u.layout.Path("mcp-agent", "hop.key")
	key, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		key = make([]byte, 32)
		if _, err := rand.Read(key); err != nil {
			return false, err
		}
		if _, err := writeFile(file, key, 0o600, -1); err != nil {
			return false, err
		}
	} else if err != nil {
		return false, fmt.Errorf("read the hop key: %w", err)
	}
	changed := false
	for _, svc := range coreOrder {
		c, err := writeFile(u.layout.Path(svc, "certs", "hop.key"), key, 0o600, uid(svc))
		if err != nil {
			return changed, err
		}
		changed = changed || c
	}
	return changed, nil
}

// storeImages assembles the core's images from the binaries into the agent's store. The version is what the binary says
// of itself with the first digits of its digest, so that a rebuilt binary is another image and an equal one is not.
func (u *Up) storeImages(ctx context.Context) (bool, error) {
	store, err := oci.Open(u.layout.Path("mcp-agent", "images"))
	if err != nil {
		return false, err
	}
	u.versions = map[string]string{}
	changed := false
	for _, svc := range coreOrder {
		path := filepath.Join(u.opts.BinDir, svc)
		version, err := fileVersion(path)
		if err != nil {
			return changed, err
		}
		u.versions[svc] = version
		if _, ok, err := store.Resolve(u.image(svc)); err != nil {
			return changed, err
		} else if ok {
			continue
		}
		if _, err := store.FromBinary(ctx, u.image(svc), oci.Binary{Path: path, Name: svc}); err != nil {
			return changed, fmt.Errorf("image of %s: %w", svc, err)
		}
		changed = true
	}
	return changed, nil
}

// startAgent starts the agent under a small parent that restarts it, unless it answers.
func (u *Up) startAgent(ctx context.Context) (bool, error) {
	s := u.settings
	socket := ""
	if s.Engine != "proc" {
		socket = engineSocket(s.Engine)
	}
	version, err := fileVersion(filepath.Join(u.opts.BinDir, "mcp"))
	if err != nil {
		return false, err
	}
	config := fmt.Sprintf(`# Written by mcp up; changes are overwritten.
# For the agent of build %s.
[server]
listen_addr = ""
grpc_addr = ""
socket = %q
local_admins = [%s]

[mcias]
server_url = %q
grpc_addr = %q
ca_cert = "certs/ca.pem"
service_name = "mcp/%s"
key_file = %q

[log]
format = "json"

[agent]
node = %q
platform = %q
domain = %q
root = %q
https_port = %d
grpc_port = %d

[engine]
kind = %q
socket = %q
`, version, u.layout.Path("run", "mcp-agent", "mcp-agent.sock"), localAdmins(), s.URL("mcias"), s.GRPC("mcias"), s.Node, keyFileName, s.Node, s.Platform, s.Domain, u.layout.Root,
		s.HTTPSPort, s.GRPCPort(), s.Engine, socket)
	changed, err := writeFile(u.layout.Path("mcp-agent", "mcp-agent.toml"), []byte(config), 0o600, -1)
	if err != nil {
		return changed, err
	}
	if err := makeDir(u.layout.Path("run", "mcp-agent"), -1); err != nil {
		return changed, err
	}
	link := u.layout.Path("run", "mcp-agent.sock")
	if got, err := os.Readlink(link); err != nil || got != "mcp-agent/mcp-agent.sock" {
		_ = os.Remove(link)
		if err := os.Symlink("mcp-agent/mcp-agent.sock", link); err != nil {
			return changed, fmt.Errorf("link the agent's socket: %w", err)
		}
	}
	if u.agentAnswers(ctx) {
		if !changed {
			return false, nil
		}
		// Another build or configuration: the agent is replaced, containers run on meanwhile.
		if err := u.stopAgent(ctx); err != nil {
			return changed, err
		}
	}
	log, err := os.OpenFile(u.layout.Path("mcp-agent", "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return changed, fmt.Errorf("open the agent's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(u.opts.BinDir, "mcp"), "agent", "supervise", "--root", u.layout.Root)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + os.Getenv("HOME"), "XDG_RUNTIME_DIR=" + os.Getenv("XDG_RUNTIME_DIR")}
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return changed, fmt.Errorf("start the agent: %w", err)
	}
	if err := cmd.Process.Release(); err != nil {
		return changed, err
	}
	err = await(ctx, "the agent", 30*time.Second, func(ctx context.Context) error {
		if u.agentAnswers(ctx) {
			return nil
		}
		return fault.New(fault.Unavailable, "no answer on its socket")
	})
	if err != nil {
		return true, fault.New(fault.Unavailable, "the agent did not start: %s", lastLine(u.layout.Path("mcp-agent", "agent.log"))).Wrap(err).
			WithNext("see %s", u.layout.Path("mcp-agent", "agent.log"))
	}
	return true, nil
}

func lastLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return lines[len(lines)-1]
}

func (u *Up) allocatePorts(ctx context.Context) error {
	conn, err := u.sockets.dial("mcp-agent")
	if err != nil {
		return err
	}
	platform := mcpv1.NewPlatformClient(conn)
	for _, svc := range coreOrder {
		u.ports[svc] = portPairs{}
		var names []string
		for _, p := range coreSpecs[svc].ports {
			names = append(names, svc+"/"+p)
		}
		if len(names) == 0 {
			continue
		}
		resp, err := platform.Ports(ctx, &mcpv1.PortsRequest{Service: svc, Names: names})
		if err != nil {
			return fmt.Errorf("ports of %s: %w", svc, err)
		}
		for _, p := range resp.GetPorts() {
			u.ports[svc][strings.TrimPrefix(p.GetName(), svc+"/")] = int(p.GetA())
		}
	}
	return nil
}

// deployCore deploys a core service through the agent, the way every app is deployed.
func (u *Up) deployCore(ctx context.Context, svc string) (bool, error) {
	text, err := u.definition(svc)
	if err != nil {
		return false, err
	}
	file := u.layout.Path("services", svc+".toml")
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return false, err
	}
	if _, err := writeFile(file, text, 0o640, -1); err != nil {
		return false, err
	}
	conn, err := u.sockets.dial("mcp-agent")
	if err != nil {
		return false, err
	}
	changed := false
	// The agent may be repairing this very service: its operation ends by itself.
	err = await(ctx, "the operation in progress on "+svc, 2*time.Minute, func(ctx context.Context) (err error) {
		changed, err = u.deployOnce(ctx, conn, &mcpv1.DeployRequest{Source: &mcpv1.Source{Definition: text, File: file}, Reason: "mcp up", Wait: true})
		if fault.HasReason(err, "IN_PROGRESS") {
			return fault.New(fault.Unavailable, "another operation works on %s", svc).Wrap(err)
		}
		return err
	})
	if err != nil {
		return changed, fmt.Errorf("deploy %s: %w", svc, err)
	}
	return changed, nil
}

func (u *Up) deployOnce(ctx context.Context, conn *grpc.ClientConn, req *mcpv1.DeployRequest) (changed bool, err error) {
	stream, err := mcpv1.NewServicesClient(conn).Deploy(ctx, req)
	if err != nil {
		return false, err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return changed, nil
		}
		if err != nil {
			return changed, err
		}
		if p := m.GetPlan(); p != nil {
			changed = !p.GetEmpty()
		}
		if err := opFailure(m.GetEvent()); err != nil {
			return changed, err
		}
	}
}

// opFailure is the error of an operation that ended badly, with the program's own last words.
func opFailure(ev *mcpv1.OpEvent) error {
	op := ev.GetEnded()
	if op == nil || op.GetState() == mcpv1.OpState_OP_STATE_SUCCEEDED {
		return nil
	}
	msg := op.GetError().GetMessage()
	for _, l := range op.GetError().GetLogTail() {
		msg += "\n      " + l
	}
	return fault.New(fault.Precondition, "%s %s: %s", op.GetKind(), op.GetService(), msg).WithNext("mcp --root … logs --local %s", op.GetService())
}

// findBridges makes the networks of the core's containers, so that MC-Proxy and MCNS listen on their gateways before the
// first container starts: there a container finds every name of the platform.
func (u *Up) findBridges(ctx context.Context) error {
	if !u.inContainers() {
		return nil
	}
	e, err := docker.New(docker.Config{Socket: engineSocket(u.settings.Engine), Platform: u.settings.Platform})
	if err != nil {
		return err
	}
	u.bridges = nil
	for _, svc := range coreOrder {
		if coreSpecs[svc].onProc {
			continue
		}
		labels := map[string]string{"mcp.platform": u.settings.Platform, "mcp.node": u.settings.Node, "mcp.service": svc}
		gateway, err := e.EnsureNetwork(ctx, "mc-"+u.settings.Platform+"-"+svc, labels)
		if err != nil {
			return fmt.Errorf("network of %s: %w", svc, err)
		}
		u.bridges = append(u.bridges, gateway.String())
	}
	return nil
}

// gateways are the host's addresses on containers' networks; MC-Proxy and MCNS listen there too.
func (u *Up) gateways() []string { return u.bridges }
