package oci

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// There is no limit on a whole request, since an honest pull may take hours; instead each direction must
// make progress: this many bytes in this time.
const (
	progressBytes = 64 << 10
	progressTime  = 60 * time.Second
)

// progressReader reads a body and ends when it stands still, or when it is cut.
type progressReader struct {
	r     io.Reader
	rc    *http.ResponseController
	since int
	isCut atomic.Bool
}

func newProgressReader(w http.ResponseWriter, r io.Reader) *progressReader {
	p := &progressReader{r: r, rc: http.NewResponseController(w)}
	// Transports without deadlines (tests) are bounded by their owner.
	_ = p.rc.SetReadDeadline(time.Now().Add(progressTime))
	return p
}

// Read implements io.Reader.
func (p *progressReader) Read(b []byte) (int, error) {
	if p.isCut.Load() {
		return 0, errCut
	}
	n, err := p.r.Read(b)
	if p.since += n; p.since >= progressBytes && !p.isCut.Load() {
		p.since = 0
		_ = p.rc.SetReadDeadline(time.Now().Add(progressTime))
		if p.isCut.Load() { // cut meanwhile: the deadline above must not outlive it
			_ = p.rc.SetReadDeadline(time.Now())
		}
	}
	if err != nil && p.isCut.Load() {
		err = errCut
	}
	return n, err
}

// cut ends the reading now. Safe to call from another goroutine.
func (p *progressReader) cut() {
	p.isCut.Store(true)
	_ = p.rc.SetReadDeadline(time.Now())
}

// end gives the connection back its own deadline.
func (p *progressReader) end() { _ = p.rc.SetReadDeadline(time.Time{}) }

// progressWriter writes an answer and ends when the client stops reading.
type progressWriter struct {
	http.ResponseWriter
	rc    *http.ResponseController
	since int
}

func newProgressWriter(w http.ResponseWriter) *progressWriter {
	p := &progressWriter{ResponseWriter: w, rc: http.NewResponseController(w)}
	_ = p.rc.SetWriteDeadline(time.Now().Add(progressTime))
	return p
}

// Write implements io.Writer.
func (p *progressWriter) Write(b []byte) (int, error) {
	n, err := p.ResponseWriter.Write(b)
	if p.since += n; p.since >= progressBytes {
		p.since = 0
		_ = p.rc.SetWriteDeadline(time.Now().Add(progressTime))
	}
	return n, err
}

// Unwrap lets a ResponseController find the connection.
func (p *progressWriter) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func (p *progressWriter) end() { _ = p.rc.SetWriteDeadline(time.Time{}) }
