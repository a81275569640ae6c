package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"metacircular.net/mcdsl/fault"
)

// DefaultGrace is how long a service may take to stop, all parts together.
const DefaultGrace = 20 * time.Second

// Component is one part of a service.
type Component struct {
	Name  string
	Start func(ctx context.Context) error // returns when the part does its work; nil = nothing to start
	Stop  func(ctx context.Context) error // ends the part before ctx does; nil = nothing to stop
}

// Options say how a group lives. The zero value is usable.
type Options struct {
	Grace    time.Duration                   // default 20 s, for all parts together
	Log      *slog.Logger                    // default slog.Default()
	Reload   func(ctx context.Context) error // called on SIGHUP, one at a time; nil = SIGHUP is ignored
	Probe    func(ctx context.Context) error // asked once before READY; an error makes it "READY, degraded"
	Alive    func() error                    // asked for each watchdog ping; nil = always alive
	Stopping func()                          // called first when the group stops: "not ready" for /readyz
	Ready    func()                          // called once all parts have started
	Notify   func(state string)              // default: sd_notify to the service manager
	Signals  <-chan os.Signal                // default: SIGTERM, SIGINT and SIGHUP of this process
	Exit     func(code int)                  // what a second signal does; default os.Exit
}

// Group starts components in order, waits until ctx ends, a signal arrives or a part fails, and stops what
// was started in reverse order. It returns nil after an ordinary stop, also when a signal caused it.
func Group(ctx context.Context, opt Options, components ...Component) error {
	g := newGroup(opt)
	stopSignals := g.listen()
	defer stopSignals()

	started, err := g.start(ctx, components)
	if err == nil {
		err = g.serve(ctx)
	}
	return errors.Join(err, g.stop(started))
}

type group struct {
	Options
	fail    chan error // first fatal error of a part
	signals <-chan os.Signal
	end     chan struct{} // closed when a stop was asked for by signal
}

func newGroup(opt Options) *group {
	if opt.Grace <= 0 {
		opt.Grace = DefaultGrace
	}
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	if opt.Notify == nil {
		opt.Notify = notifySystemd
	}
	if opt.Exit == nil {
		opt.Exit = os.Exit
	}
	return &group{Options: opt, fail: make(chan error, 1), signals: opt.Signals, end: make(chan struct{})}
}

// listen turns signals into a stop, a reload or, the second time, the end of the process.
// The returned function ends it and waits for a reload in progress.
func (g *group) listen() (stop func()) {
	release := func() {}
	if g.signals == nil {
		ch := make(chan os.Signal, 4)
		signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		g.signals, release = ch, func() { signal.Stop(ch) }
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		asked := false
		for {
			select {
			case <-quit:
				return
			case sig := <-g.signals:
				switch {
				case sig == syscall.SIGHUP:
					g.reload(asked)
				case asked:
					g.Log.Error("second signal: leaving at once", "signal", sig.String())
					g.Exit(fault.ExitInterrupted)
				default:
					g.Log.Info("stopping", "signal", sig.String())
					asked = true
					close(g.end)
				}
			}
		}
	}()
	return func() { release(); close(quit); <-done }
}

func (g *group) reload(stopping bool) {
	if g.Reload == nil || stopping {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), g.Grace)
	defer cancel()
	if err := g.Reload(ctx); err != nil {
		g.Log.Error("reload failed; everything stays as it was", "err", err)
		return
	}
	g.Log.Info("reloaded")
}

// part is a started component with the end of its context.
type part struct {
	Component
	cancel context.CancelFunc
}

func (g *group) start(ctx context.Context, components []Component) ([]part, error) {
	var started []part
	for _, c := range components {
		pctx, cancel := context.WithCancel(context.WithValue(context.WithoutCancel(ctx), failKey{}, g.fail))
		if c.Start == nil {
			started = append(started, part{c, cancel})
			continue
		}
		// While starting, and only then, the caller's context and a signal end the part's context too.
		watched, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			select {
			case <-ctx.Done():
				cancel()
			case <-g.end:
				cancel()
			case <-watched:
			}
		}()
		err := c.Start(pctx)
		close(watched)
		<-done
		if err == nil && pctx.Err() != nil {
			// Started although told to stop: it is stopped like the others.
			started = append(started, part{c, cancel})
			return started, nil
		}
		if err != nil {
			cancel()
			if g.ended(ctx) {
				return started, nil
			}
			return started, fmt.Errorf("start %s: %w", c.Name, err)
		}
		started = append(started, part{c, cancel})
	}
	return started, nil
}

// ended reports whether a stop was asked for, as against a failure.
func (g *group) ended(ctx context.Context) bool {
	select {
	case <-g.end:
		return true
	default:
		return ctx.Err() != nil
	}
}

func (g *group) serve(ctx context.Context) error {
	if g.ended(ctx) {
		return nil
	}
	state := "READY=1"
	if g.Probe != nil {
		if err := g.Probe(ctx); err != nil {
			g.Log.Warn("ready, but degraded", "err", err)
			state += "\nSTATUS=degraded: " + oneLine(err.Error())
		}
	}
	if g.Ready != nil {
		g.Ready()
	}
	g.Notify(state)
	stopWatchdog := g.watchdog()
	defer stopWatchdog()
	select {
	case <-ctx.Done():
		return nil
	case <-g.end:
		return nil
	case err := <-g.fail:
		g.Log.Error("a part failed; stopping", "err", err)
		return err
	}
}

func (g *group) stop(started []part) error {
	g.Notify("STOPPING=1")
	if g.Stopping != nil {
		g.Stopping()
	}
	ctx, cancel := context.WithTimeout(context.Background(), g.Grace)
	defer cancel()
	var errs []error
	for i := len(started) - 1; i >= 0; i-- {
		p := started[i]
		if p.Stop != nil {
			if err := p.Stop(ctx); err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", p.Name, err))
			}
		}
		p.cancel()
	}
	return errors.Join(errs...)
}

type failKey struct{}

// Fail tells the group that a part has died. ctx is, or comes from, the one its Start was given. Only the first
// failure counts; outside a group Fail does nothing.
func Fail(ctx context.Context, err error) {
	ch, ok := ctx.Value(failKey{}).(chan error)
	if !ok || err == nil {
		return
	}
	select {
	case ch <- err:
	default:
	}
}

// Background makes a component of a function that runs until its context ends. The group waits for it when
// stopping; an error or an early return before that stops the group.
func Background(name string, fn func(ctx context.Context) error) Component {
	var cancel context.CancelFunc
	done := make(chan struct{})
	return Component{
		Name: name,
		Start: func(ctx context.Context) error {
			inner, c := context.WithCancel(ctx)
			cancel = c
			go func() {
				defer close(done)
				err := fn(inner)
				if inner.Err() != nil {
					return
				}
				if err == nil {
					err = errors.New("ended by itself")
				}
				Fail(ctx, fmt.Errorf("%s: %w", name, err))
			}()
			return nil
		},
		Stop: func(ctx context.Context) error {
			cancel()
			select {
			case <-done:
				return nil
			case <-ctx.Done():
				return fmt.Errorf("still running after the time for stopping: %w", ctx.Err())
			}
		},
	}
}
