package bootstrap

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"metacircular.net/mcdsl/fault"
)

// The sockets an engine listens on by default; $DOCKER_HOST with a unix:// address goes first, as docker's own client has it.
func engineSocket(kind string) string {
	if kind == "podman" {
		if dir := os.Getenv("XDG_RUNTIME_DIR"); os.Geteuid() != 0 && dir != "" {
			return dir + "/podman/podman.sock"
		}
		return "/run/podman/podman.sock"
	}
	if s, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://"); ok {
		return s
	}
	return "/var/run/docker.sock"
}

// chooseEngine settles "auto" and remembers why. A named engine that does not answer is an error, not a reason to take
// another: the operator meant it.
func (u *Up) chooseEngine() error {
	var tried []string
	for _, kind := range []string{"docker", "podman"} {
		if u.settings.Engine != "auto" && u.settings.Engine != kind {
			continue
		}
		err := ping(engineSocket(kind))
		if err == nil {
			u.settings.Engine, u.reason = kind, "it answers on "+engineSocket(kind)
			return nil
		}
		if u.settings.Engine == kind {
			return fault.New(fault.Unavailable, "engine %s does not answer on %s", kind, engineSocket(kind)).Wrap(err).
				WithNext("start it, or use --engine proc, which needs none")
		}
		tried = append(tried, kind)
	}
	if len(tried) > 0 {
		u.reason = "neither " + strings.Join(tried, " nor ") + " answers"
	} else {
		u.reason = "as asked"
	}
	u.settings.Engine = "proc"
	return nil
}

// ping asks the engine API's /_ping, which Docker and Podman both have.
func ping(socket string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/_ping", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answered %s", resp.Status)
	}
	return nil
}

// inContainers reports whether the core (but for MC-Proxy and MCNS) runs with networks of its own.
func (u *Up) inContainers() bool { return u.settings.Engine != "proc" }
