// Package accesslog writes one line per request or connection and never makes traffic wait for a disk.
//
// Lines go into a bounded ring; one goroutine writes them in batches of up to 64 KiB or every 200 ms. When the ring
// is full, lines are dropped and counted.
package accesslog

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	ring  = 4096
	batch = 64 << 10
	delay = 200 * time.Millisecond
)

// Log is an access log. A nil Log takes nothing. Safe for concurrent use.
type Log struct {
	lines   chan []byte
	out     io.Writer
	slog    *slog.Logger
	dropped atomic.Int64
}

// New returns a log that writes JSON lines to out once Run is running.
func New(out io.Writer) *Log {
	l := &Log{lines: make(chan []byte, ring), out: out}
	l.slog = slog.New(slog.NewJSONHandler(queue{l}, nil))
	return l
}

// queue is the slog side of the ring.
type queue struct{ l *Log }

func (q queue) Write(p []byte) (int, error) {
	line := make([]byte, len(p)) // slog reuses its buffer
	copy(line, p)
	select {
	case q.l.lines <- line:
	default:
		q.l.dropped.Add(1)
	}
	return len(p), nil
}

// Add puts one line into the ring.
func (l *Log) Add(ctx context.Context, msg string, attrs ...slog.Attr) {
	if l != nil {
		l.slog.LogAttrs(ctx, slog.LevelInfo, msg, attrs...)
	}
}

// Dropped returns how many lines were lost.
func (l *Log) Dropped() int64 {
	if l == nil {
		return 0
	}
	return l.dropped.Load()
}

// Run writes until ctx ends, and then what is left. A write that fails loses its batch, counted as one.
func (l *Log) Run(ctx context.Context) error {
	var buf []byte
	flush := func() {
		if len(buf) > 0 {
			if _, err := l.out.Write(buf); err != nil {
				l.dropped.Add(1)
			}
			buf = buf[:0]
		}
	}
	var due <-chan time.Time
	for {
		select {
		case line := <-l.lines:
			if buf = append(buf, line...); len(buf) >= batch {
				flush()
				due = nil
			} else if due == nil {
				due = time.After(delay)
			}
		case <-due:
			flush()
			due = nil
		case <-ctx.Done():
			for {
				select {
				case line := <-l.lines:
					buf = append(buf, line...)
				default:
					flush()
					return nil
				}
			}
		}
	}
}
