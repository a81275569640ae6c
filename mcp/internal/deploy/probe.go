package deploy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"metacircular.net/mcp/internal/engine"
	"metacircular.net/mcp/internal/spec"
)

// The first probe comes soon, later ones at growing distance: most apps are up in milliseconds, some take a minute.
const firstProbe, slowestProbe = 25 * time.Millisecond, 500 * time.Millisecond

// tailLines of a failed component's log go into the error.
const tailLines = 50

// unhealthy says why a component never became ready.
type unhealthy struct {
	component string
	cause     string
	tail      []string
}

func (e *unhealthy) Error() string { return e.component + ": " + e.cause }

// awaitHealthy returns when the component has been healthy for as long as its definition wants, or why not.
func (d *Deployer) awaitHealthy(ctx context.Context, e engine.Engine, id string, c *spec.Component, port int) error {
	ctx, cancel := context.WithTimeout(ctx, c.Health.Start.Std()+c.Health.Stable.Std())
	defer cancel()
	wait, since := firstProbe, time.Time{}
	last := fmt.Errorf("not probed yet")
	for {
		got, ok, err := e.Inspect(ctx, id)
		if err == nil && (!ok || got.State == engine.Exited) {
			cause := fmt.Sprintf("exited with code %d", got.ExitCode)
			if got.OOM {
				cause = "ran out of memory: raise limits.memory"
			} else if got.Error != "" {
				cause += " (" + got.Error + ")"
			}
			return &unhealthy{component: c.Name, cause: cause, tail: d.tail(e, id)}
		}
		if err == nil {
			last = probe(ctx, c, port)
		}
		switch {
		case err != nil:
			last = err
		case last != nil:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
			if c.Health.Stable == 0 || c.Health.None {
				return nil
			}
		case time.Since(since) >= c.Health.Stable.Std():
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			if d.ctx.Err() != nil {
				return d.ctx.Err()
			}
			return &unhealthy{component: c.Name, cause: fmt.Sprintf("not healthy within %s: %v", c.Health.Start.Std(), last), tail: d.tail(e, id)}
		case <-timer.C:
		}
		if wait = wait * 3 / 2; wait > slowestProbe {
			wait = slowestProbe
		}
		if !since.IsZero() {
			wait = min(wait, max(c.Health.Stable.Std()/3, firstProbe))
		}
	}
}

// probe asks once, from outside the container: an image FROM scratch has nothing to ask with.
func probe(ctx context.Context, c *spec.Component, port int) error {
	h := c.Health
	if h.None {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, max(h.Timeout.Std(), 100*time.Millisecond))
	defer cancel()
	addr := backendAddr(port)
	if h.HTTP == "" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+h.HTTP, nil)
	if err != nil {
		return err
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("GET %s answered %s", h.HTTP, resp.Status)
	}
	return nil
}

// tail is the end of a container's log.
func (d *Deployer) tail(e engine.Engine, id string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var out []string
	_ = e.Logs(ctx, id, engine.LogOptions{Tail: tailLines}, func(l engine.LogLine) error {
		out = append(out, l.Text)
		return nil
	})
	return out
}
