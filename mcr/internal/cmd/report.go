package cmd

import (
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/term"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcr/internal/client"
)

// report shows a transfer: a line per finished blob, and on a terminal a running total.
type report struct {
	e        *cli.Env
	terminal bool
	totals   client.Totals

	mu    sync.Mutex
	total int64
	shown bool
	last  int64
}

func newReport(e *cli.Env) *report {
	f, ok := e.Err.(*os.File)
	return &report{e: e, terminal: ok && !e.JSON && !e.Quiet && term.IsTerminal(int(f.Fd()))}
}

// Begin implements client.Reporter.
func (r *report) Begin(total int64, blobs int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total = total
	r.e.Note("%d blobs, %s", blobs, size(total))
}

// Move implements client.Reporter.
func (r *report) Move(d digest.Digest, _, done int64) {
	n := r.totals.Set(d, done)
	if !r.terminal {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n-r.last < r.total/200 && n != r.total {
		return
	}
	r.last, r.shown = n, true
	r.e.Printf("\r\x1b[K  %s of %s", size(n), size(r.total))
}

// Done implements client.Reporter.
func (r *report) Done(d digest.Digest, bytes int64, how string) {
	r.totals.Set(d, bytes)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.e.JSON {
		// A line that cannot be written now will be missed at the end too, where the error counts.
		_ = r.e.EmitLine(map[string]any{"digest": d, "bytes": bytes, "state": how})
		return
	}
	r.clear()
	r.e.Note("  %s  %-10s  %s", middle(d.String()), size(bytes), how)
}

func (r *report) clear() {
	if r.shown {
		r.e.Printf("\r\x1b[K")
		r.shown = false
	}
}

func (r *report) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
}
