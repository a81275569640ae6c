package docker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/moby/moby/client"

	"metacircular.net/mcp/internal/engine"
)

// maxLine is where a line is cut in two.
const maxLine = 64 << 10

// maxFrame bounds one message of the log stream; the engine cuts at 16 KiB.
const maxFrame = 1 << 20

// Logs streams lines.
func (e *Engine) Logs(ctx context.Context, id string, opts engine.LogOptions, fn func(engine.LogLine) error) error {
	tail := "all"
	if opts.Tail > 0 {
		tail = strconv.Itoa(opts.Tail)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := e.api.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: opts.Follow, Tail: tail})
	if err != nil {
		return away(err, "read the log of container %.12s", id)
	}
	defer r.Close()
	err = demux(bufio.NewReader(r), fn)
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	return err
}

// demux reads the stream of frames: one byte stream, three zero, four length, then a time stamp, a space and the text. A
// frame that does not end its line is a part of it; each part has its own time stamp, so frames can't be merged first.
func demux(r *bufio.Reader, fn func(engine.LogLine) error) error {
	parts := map[byte]*engine.LogLine{}
	flush := func(stream byte) error {
		l := parts[stream]
		delete(parts, stream)
		if l == nil {
			return nil
		}
		return fn(*l)
	}
	var head [8]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			if !errors.Is(err, io.EOF) {
				return fmt.Errorf("read log: %w", err)
			}
			return errors.Join(flush(1), flush(2))
		}
		stream, size := head[0], binary.BigEndian.Uint32(head[4:])
		if stream < 1 || stream > 2 || size > maxFrame {
			return fmt.Errorf("read log: frame of stream %d with %d bytes", stream, size)
		}
		frame := make([]byte, size)
		if _, err := io.ReadFull(r, frame); err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		at, text := stamp(frame)
		text, ended := bytes.CutSuffix(text, []byte("\n"))
		l := parts[stream]
		if l == nil {
			l = &engine.LogLine{Time: at, Stream: [...]string{"", "stdout", "stderr"}[stream]}
			parts[stream] = l
		}
		l.Text += string(text)
		for len(l.Text) > maxLine {
			cut := *l
			cut.Text = l.Text[:maxLine]
			if err := fn(cut); err != nil {
				return err
			}
			l.Text = l.Text[maxLine:]
		}
		if ended {
			if err := flush(stream); err != nil {
				return err
			}
		}
	}
}

// stamp splits a frame into its time and its text.
func stamp(frame []byte) (time.Time, []byte) {
	first, rest, ok := bytes.Cut(frame, []byte(" "))
	if ok {
		if t, err := time.Parse(time.RFC3339Nano, string(first)); err == nil {
			return t, rest
		}
	}
	return time.Time{}, frame
}
