package proc

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"metacircular.net/mcp/internal/engine"
)

// followEvery is how often a followed log is looked at; only while somebody watches.
const followEvery = 200 * time.Millisecond

// Logs reads the kept files oldest first, then follows.
func (e *Engine) Logs(ctx context.Context, id string, opts engine.LogOptions, fn func(engine.LogLine) error) error {
	dir, err := e.dir(id)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "log")
	var lines []engine.LogLine
	var offset int64
	for i := logFiles; i >= 0; i-- {
		p := path
		if i > 0 {
			p = fmt.Sprintf("%s.%d", path, i)
		}
		got, end, err := readLog(p, 0)
		if err != nil {
			return err
		}
		lines = append(lines, got...)
		offset = end
	}
	if opts.Tail > 0 && len(lines) > opts.Tail {
		lines = lines[len(lines)-opts.Tail:]
	}
	for _, l := range lines {
		if err := fn(l); err != nil {
			return err
		}
	}
	if !opts.Follow {
		return nil
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		c, ok, err := e.Inspect(ctx, id)
		if err != nil {
			return err
		}
		if fi, err := os.Stat(path); err == nil && fi.Size() < offset {
			offset = 0 // turned over
		}
		got, end, err := readLog(path, offset)
		if err != nil {
			return err
		}
		offset = end
		for _, l := range got {
			if err := fn(l); err != nil {
				return err
			}
		}
		if !ok || c.State == engine.Exited {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// readLog returns the whole lines behind offset and where the next read begins.
func readLog(path string, offset int64) ([]engine.LogLine, int64, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read log: %w", err)
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, 0, fmt.Errorf("read log: %w", err)
	}
	br := bufio.NewReaderSize(f, 64<<10)
	var out []engine.LogLine
	for {
		line, err := br.ReadBytes('\n')
		if err != nil {
			return out, offset, nil //nolint:nilerr // the rest of a line comes with the next read
		}
		offset += int64(len(line))
		var r logRecord
		if json.Unmarshal(line, &r) == nil {
			out = append(out, engine.LogLine{Time: r.T, Stream: r.S, Text: r.L})
		}
	}
}
