// Package audit writes one record for every call that changes something: who, which method, on what,
// with what outcome, in which request, over which way in. Never bodies: they may hold secrets.
//
// The edge asks the sink before the handler runs ([Sink.Begin]; a sink that must not lose a record may
// refuse, and the call is not made) and tells it the outcome afterwards ([Sink.End]). The default sink
// is the log; MCIAS and Metacrypt bring one that is chained and durable.
package audit

import (
	"context"
	"log/slog"
	"time"
)

// Record is what is remembered of a call.
type Record struct {
	Time      time.Time
	Who       string // account name, "root" on the socket, "" for nobody
	Subject   string // stable id of the account, if it has one
	Kind      string // human, system or local
	Method    string // "/mcns.v1.ZoneService/CreateZone" or "HTTP PUT /v2/…"
	Target    string // what the rule's Target function made of the request
	RequestID string
	Transport string // tcp, unix or inprocess
	Client    string // address of the client, without port
	Outcome   string // set for End: "ok" or a fault kind
	Reason    string // set for End: the fault's stable word
	Duration  time.Duration
}

// Sink takes records. Implementations are safe for concurrent use.
type Sink interface {
	// Begin is called before the handler. An error stops the call.
	Begin(ctx context.Context, r *Record) error
	// End is called after it, with Outcome, Reason and Duration set.
	End(ctx context.Context, r *Record)
}

// Log returns the default sink: one line per call, when it has ended.
func Log(l *slog.Logger) Sink { return logSink{l} }

type logSink struct{ l *slog.Logger }

func (logSink) Begin(context.Context, *Record) error { return nil }

func (s logSink) End(ctx context.Context, r *Record) {
	s.l.LogAttrs(ctx, slog.LevelInfo, Message+" "+r.Method,
		slog.Bool("audit", true),
		slog.String("user", r.Who), slog.String("sub", r.Subject), slog.String("kind", r.Kind),
		slog.String("method", r.Method), slog.String("target", r.Target),
		slog.String("outcome", r.Outcome), slog.String("reason", r.Reason),
		slog.String("transport", r.Transport), slog.String("client", r.Client),
		slog.Float64("dur", float64(r.Duration.Microseconds())/1000))
}

// Message begins the log line of an audit record.
const Message = "audit"
