package log

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"metacircular.net/mcdsl/fault"
)

// Config says how to log. The zero value is info, JSON unless stderr is a terminal.
type Config struct {
	Service string    // becomes "svc"
	Level   string    // debug, info, warn, error; empty = info
	Format  string    // json, text or auto; empty = auto
	Out     io.Writer // nil = stderr
}

// New returns the logger and its level, which may be set at any time (SIGHUP).
func New(c Config) (*slog.Logger, *slog.LevelVar, error) {
	level, err := ParseLevel(c.Level)
	if err != nil {
		return nil, nil, err
	}
	lv := new(slog.LevelVar)
	lv.Set(level)
	out := c.Out
	if out == nil {
		out = os.Stderr
	}
	opts := &slog.HandlerOptions{Level: lv, ReplaceAttr: replace}
	var h slog.Handler
	switch c.Format {
	case "json":
		h = slog.NewJSONHandler(out, opts)
	case "text":
		h = slog.NewTextHandler(out, opts)
	case "", "auto":
		if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) { //nolint:gosec // a descriptor fits
			h = slog.NewTextHandler(out, opts)
		} else {
			h = slog.NewJSONHandler(out, opts)
		}
	default:
		return nil, nil, fault.Field1("log.format", "%q is not json, text or auto", c.Format)
	}
	l := slog.New(&handler{next: h, limit: newLimiter(time.Now)})
	if c.Service != "" {
		l = l.With("svc", c.Service)
	}
	return l, lv, nil
}

// ParseLevel reads a level's name; empty is info.
func ParseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fault.Field1("log.level", "%q is not debug, info, warn or error", s)
}

// Discard returns a logger that writes nothing.
func Discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Or returns l, or a logger that writes nothing if l is nil: for Config structs where logging is optional.
func Or(l *slog.Logger) *slog.Logger {
	if l == nil {
		return Discard()
	}
	return l
}

// Dur returns the attribute "dur" in milliseconds with three decimals; slog alone prints nanoseconds.
func Dur(d time.Duration) slog.Attr {
	return slog.Float64("dur", math.Round(float64(d.Microseconds()))/1000)
}

// Err returns the attribute "err".
func Err(err error) slog.Attr {
	if err == nil {
		return slog.Attr{}
	}
	return slog.String("err", err.Error())
}

type ctxKey struct{}

// WithRequestID returns a context whose log lines carry the request id.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, ctxKey{}, id)
}

// RequestID returns the request id of ctx, or "".
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(ctxKey{}).(string)
	return id
}

// replace writes times as RFC 3339 UTC and errors as text.
func replace(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case time.Time:
		a.Value = slog.StringValue(v.UTC().Format("2006-01-02T15:04:05.000Z07:00"))
	case time.Duration:
		a.Value = slog.StringValue(v.String())
	case error:
		a.Value = slog.StringValue(fmt.Sprint(v))
	}
	return a
}
