package deploy

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"sort"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcp/internal/engine"
	"metacircular.net/mcp/internal/spec"
	"metacircular.net/mcp/internal/store"
)

// coreUIDs are fixed by the platform's contract.
var coreUIDs = map[string]int{"mc-proxy": 850, "mcns": 851, "metacrypt": 852, "mcias": 853, "mcr": 854, "mcp": 855, "mcat": 856}

// create makes the container of one component of a generation; it does not run yet.
func (d *Deployer) create(ctx context.Context, g store.Generation, s *spec.Service, c *spec.Component, op string) (engine.Engine, string, error) {
	e, kind := d.engineOf(c)
	if e == nil {
		return nil, "", fault.New(fault.Precondition, "engine %s is not there", kind).WithNext("mcp doctor")
	}
	info, err := e.Info(ctx)
	if err != nil {
		return nil, "", err
	}
	digest := g.Digests[c.Name]
	img, err := d.cfg.Images.Image(digest)
	if err != nil {
		return nil, "", err
	}
	if err := e.LoadImage(ctx, digest, img); err != nil {
		return nil, "", fmt.Errorf("give image %s to engine %s: %w", c.Image, kind, err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, "", fmt.Errorf("read the image's config: %w", err)
	}
	uid, gid, err := d.user(ctx, s, c, config.Config.User)
	if err != nil {
		return nil, "", err
	}
	ports, err := d.ports(ctx, s.Name, c)
	if err != nil {
		return nil, "", err
	}
	out := engine.Spec{
		Name: fmt.Sprintf("%s-%s.g%d.%s", s.Name, c.Name, g.N, d.cfg.Platform), Digest: digest, UID: uint32(uid), GID: uint32(gid), //nolint:gosec // ids are checked
		Labels: d.containerLabels(g, s, c, op), Hostname: c.Name,
		Limits:      engine.Limits{Memory: c.Limits.Memory, CPU: c.Limits.CPU, PIDs: c.Limits.PIDs},
		BindService: c.BindService, Aliases: []string{c.Name}, Hosts: d.cfg.Hosts(),
	}
	if !info.HostNetwork {
		out.Network = "mc-" + d.cfg.Platform + "-" + s.Name
		gateway, err := e.EnsureNetwork(ctx, out.Network, d.labels(s.Name))
		if err != nil {
			return nil, "", fmt.Errorf("network of %s: %w", s.Name, err)
		}
		for name := range out.Hosts {
			out.Hosts[name] = gateway.String()
		}
	}
	listen := map[string]int{} // what the app is told
	for _, p := range c.Ports {
		host := published(ports[p.Name], g.Slot)
		listen[p.Name] = int(p.Port)
		if info.HostNetwork {
			listen[p.Name] = host
		}
		out.Ports = append(out.Ports, engine.Port{Container: p.Port, Host: uint16(host), Addr: netip.AddrFrom4([4]byte{127, 0, 0, 1})}) //nolint:gosec // from our range
	}
	if err := d.mounts(s, c, uid, gid, &out); err != nil {
		return nil, "", err
	}
	argv := c.Cmd
	if len(argv) == 0 {
		argv = append(append([]string{}, config.Config.Entrypoint...), config.Config.Cmd...)
	}
	expand := d.expander(s, listen)
	for _, a := range argv {
		v, err := expand(a)
		if err != nil {
			return nil, "", err
		}
		out.Command = append(out.Command, v)
	}
	if out.Env, err = d.environment(config.Config.Env, c, listen, expand); err != nil {
		return nil, "", err
	}
	id, err := e.Create(ctx, out)
	if err != nil {
		return nil, "", fmt.Errorf("create container of %s: %w", c.Name, err)
	}
	return e, id, nil
}

func (d *Deployer) containerLabels(g store.Generation, s *spec.Service, c *spec.Component, op string) map[string]string {
	l := d.labels(s.Name)
	digests, err := json.Marshal(g.Digests)
	if err != nil {
		panic(err) // a map of strings
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err) // no options that could be wrong
	}
	l["mcp.component"], l["mcp.generation"], l["mcp.slot"] = c.Name, strconv.FormatInt(g.N, 10), strconv.Itoa(g.Slot)
	l["mcp.op"], l["mcp.spec-hash"], l["mcp.digests"] = op, g.SpecHash, string(digests)
	l["mcp.spec"] = base64.StdEncoding.EncodeToString(enc.EncodeAll(s.Canonical(), nil))
	return l
}

// user is whom a container runs as: the definition's, the core's fixed one, the image's numeric one, or the service's own.
// Without root everything runs as the one who started the platform.
func (d *Deployer) user(ctx context.Context, s *spec.Service, c *spec.Component, image string) (uid, gid int, err error) {
	if os.Geteuid() != 0 {
		return os.Getuid(), os.Getgid(), nil
	}
	text := c.User
	if text == "" && s.Core {
		if id := coreUIDs[s.Name]; id != 0 {
			return id, id, nil
		}
	}
	if text == "" && image != "" && strings.Trim(image, "0123456789:") == "" && image != "0" && !strings.HasPrefix(image, "0:") {
		text = image
	}
	if text == "" {
		id, err := d.cfg.Store.ServiceUID(ctx, s.Name, s.Core)
		return id, id, err
	}
	u, g, both := strings.Cut(text, ":")
	if !both {
		g = u
	}
	if uid, err = strconv.Atoi(u); err == nil {
		gid, err = strconv.Atoi(g)
	}
	if err != nil {
		return 0, 0, fault.New(fault.Invalid, "user %q is not numeric", text)
	}
	return uid, gid, nil
}

// mounts: the core gets its folder and a run folder of its own; an app its volumes and the platform's trust.
func (d *Deployer) mounts(s *spec.Service, c *spec.Component, uid, gid int, out *engine.Spec) error {
	if s.Core {
		run := d.path("run", s.Name)
		if err := makeOwned(run, uid, gid); err != nil {
			return err
		}
		out.Mounts = append(out.Mounts, engine.Mount{Source: d.path(s.Name), Target: "/srv/" + s.Name}, engine.Mount{Source: run, Target: "/run/mc"})
		return d.linkSocket(s.Name)
	}
	for _, v := range c.Volumes {
		dir := d.path("apps", s.Name, "volumes", v.Name)
		marker := dir + ".volume"
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			if _, err := os.Stat(marker); err == nil {
				return fault.New(fault.Precondition, "volume %s of %s was there and is not: is its disk mounted?", v.Name, s.Name).
					WithNext("mount it, or remove %s to begin with an empty one", marker)
			}
			if err := makeOwned(dir, uid, gid); err != nil {
				return err
			}
			if err := os.WriteFile(marker, []byte(s.Name+"/"+v.Name+"\n"), 0o600); err != nil {
				return fmt.Errorf("mark volume: %w", err)
			}
		}
		out.Mounts = append(out.Mounts, engine.Mount{Source: dir, Target: v.Path})
	}
	if trust := d.path("run", "trust.pem"); fileThere(trust) {
		out.Mounts = append(out.Mounts, engine.Mount{Source: trust, Target: trustTarget, ReadOnly: true})
	}
	return nil
}

const trustTarget = "/etc/metacircular/ca.pem"

func fileThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// linkSocket makes DIR/run/<service>.sock lead into the service's own run folder: a container sees only its own.
func (d *Deployer) linkSocket(service string) error {
	link := d.path("run", service+".sock")
	target := service + "/" + service + ".sock"
	if got, err := os.Readlink(link); err == nil && got == target {
		return nil
	}
	_ = os.Remove(link)
	if err := os.Symlink(target, link); err != nil {
		return fmt.Errorf("link the socket of %s: %w", service, err)
	}
	return nil
}

func makeOwned(dir string, uid, gid int) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		return fmt.Errorf("give folder away: %w", err)
	}
	return nil
}

// environment: the image's, then the platform's, then the definition's.
func (d *Deployer) environment(image []string, c *spec.Component, listen map[string]int, expand func(string) (string, error)) ([]string, error) {
	env := append([]string{}, image...)
	for i, p := range c.Ports {
		n := strconv.Itoa(listen[p.Name])
		if i == 0 {
			env = append(env, "PORT="+n)
		}
		env = append(env, "PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))+"="+n)
	}
	if fileThere(d.path("run", "trust.pem")) {
		env = append(env, "SSL_CERT_FILE="+trustTarget)
	}
	names := make([]string, 0, len(c.Env))
	for k := range c.Env {
		names = append(names, k)
	}
	sort.Strings(names)
	for _, k := range names {
		v, err := expand(c.Env[k])
		if err != nil {
			return nil, err
		}
		env = append(env, k+"="+v)
	}
	return env, nil
}

// expander replaces ${port.NAME}, ${domain}, ${node}, ${url} and ${host.LABEL}.
func (d *Deployer) expander(s *spec.Service, listen map[string]int) func(string) (string, error) {
	return func(text string) (string, error) {
		var b strings.Builder
		for {
			before, rest, found := strings.Cut(text, "${")
			b.WriteString(before)
			if !found {
				return b.String(), nil
			}
			name, after, closed := strings.Cut(rest, "}")
			if !closed {
				return "", fault.New(fault.Invalid, "%q: ${ is not closed", text)
			}
			v, err := d.value(s, name, listen)
			if err != nil {
				return "", err
			}
			b.WriteString(v)
			text = after
		}
	}
}

func (d *Deployer) value(s *spec.Service, name string, listen map[string]int) (string, error) {
	switch {
	case name == "domain":
		return d.cfg.Domain, nil
	case name == "node":
		return d.cfg.Node, nil
	case name == "url":
		for _, c := range s.Components {
			if len(c.Routes) > 0 {
				return d.URL(c.Routes[0].Host), nil
			}
		}
	case strings.HasPrefix(name, "port."):
		if n, ok := listen[name[5:]]; ok {
			return strconv.Itoa(n), nil
		}
	case strings.HasPrefix(name, "host."):
		return name[5:] + "." + d.cfg.Domain, nil
	}
	return "", fault.New(fault.Invalid, "${%s} means nothing here; known are ${port.NAME}, ${host.LABEL}, ${url}, ${domain}, ${node}", name)
}
