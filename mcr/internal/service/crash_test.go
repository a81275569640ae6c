package service_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/mctest"
)

// process is the real binary with only its socket, on which root may do everything.
type process struct {
	t    *testing.T
	dir  string
	bin  string
	cmd  *exec.Cmd
	http *http.Client
}

func newProcess(t *testing.T) *process {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the socket believes nobody else here")
	}
	dir, err := os.MkdirTemp("", "mcr") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &process{t: t, dir: dir, bin: filepath.Join(dir, "mcr-binary")}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", p.bin, "metacircular.net/mcr/cmd/mcr").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	config := `[server]
listen_addr = ""
grpc_addr = ""
socket = "mcr.sock"
[registry]
token_realm = "https://mcias.mc.localhost/registry/token"
[disk]
warn = 0.999
refuse = 1.0
floor = "1MiB"
[backup]
every = "0s"
`
	if err := os.MkdirAll(filepath.Join(dir, "mcr"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mcr", "mcr.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
	})
	return p
}

func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(p.bin, "server", "--config", filepath.Join(p.dir, "mcr", "mcr.toml"))
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd.Stderr = log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(p.dir, "mcr", "mcr.sock"))
	}}}
	mctest.Eventually(p.t, "the server answers", func() bool {
		res, err := p.http.Get("http://mcr/v2/")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == 200
	})
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_, _ = p.cmd.Process.Wait()
	p.cmd = nil
	p.http.CloseIdleConnections()
}

func (p *process) do(method, path string, body io.Reader, pairs ...string) (*http.Response, []byte, error) {
	req, err := http.NewRequest(method, "http://mcr"+path, body)
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i < len(pairs); i += 2 {
		req.Header.Set(pairs[i], pairs[i+1])
	}
	res, err := p.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return res, b, err
}

func TestResumeAfterKill(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	p.start()
	data := make([]byte, 40<<20)
	_, _ = rand.Read(data)
	res, _, err := p.do("POST", "/v2/a/b/blobs/uploads/", nil)
	if err != nil || res.StatusCode != 202 {
		t.Fatalf("POST = %v, %v", res, err)
	}
	at := res.Header.Get("Location")
	// 36 MiB go in, then the body hangs, and the server is killed in the middle of the request.
	body, feed := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _, _ = p.do("PATCH", at, body) // cut off by the kill
	}()
	if _, err := feed.Write(data[:36<<20]); err != nil {
		t.Fatal(err)
	}
	mctest.Eventually(t, "a checkpoint was written", func() bool {
		files, err := filepath.Glob(filepath.Join(p.dir, "mcr", "uploads", "*.state"))
		if err != nil || len(files) == 0 {
			return false
		}
		info, err := os.Stat(files[0])
		return err == nil && info.Size() >= 512
	})
	p.kill()
	_ = feed.CloseWithError(io.ErrClosedPipe)
	<-done
	p.start()
	res, _, err = p.do("GET", at, nil)
	if err != nil || res.StatusCode != 204 {
		t.Fatalf("GET upload = %v, %v", res, err)
	}
	off, err := strconv.Atoi(res.Header.Get("MCR-Upload-Offset"))
	if err != nil || off < 16<<20 || res.Header.Get("Range") != fmt.Sprintf("0-%d", off-1) {
		t.Fatalf("offset after the kill = %d, Range %s", off, res.Header.Get("Range"))
	}
	d := digest.FromBytes(data)
	res, b, err := p.do("PUT", at+"?digest="+d.String(), bytes.NewReader(data[off:]), "Content-Range", fmt.Sprintf("%d-%d", off, len(data)-1))
	if err != nil || res.StatusCode != 201 {
		t.Fatalf("PUT = %v, %s, %v", res, b, err)
	}
	_, b, err = p.do("GET", "/v2/a/b/blobs/"+d.String(), nil)
	if err != nil || digest.FromBytes(b) != d {
		t.Errorf("the blob reads back another, %v", err)
	}
}

// TestKillLosesNothing kills the server at random points of pushes, again and again: whatever was answered 201
// reads back, and nothing stands in the way of going on. MC_SOAK kills 200 times instead of 5.
func TestKillLosesNothing(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	kills := 5
	if os.Getenv("MC_SOAK") != "" {
		kills = 200
	}
	var mu sync.Mutex
	acked := map[string]digest.Digest{} // path → what must be there
	for round := range kills {
		p.start()
		var pushing sync.WaitGroup
		stop := make(chan struct{})
		for g := range 3 {
			pushing.Go(func() {
				repo := fmt.Sprintf("r/%d", g)
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					layer := make([]byte, 1+mrand.IntN(300_000))
					_, _ = rand.Read(layer)
					d := digest.FromBytes(layer)
					res, _, err := p.do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), bytes.NewReader(layer))
					if err != nil || res.StatusCode != 201 {
						return // killed
					}
					mu.Lock()
					acked["/v2/"+repo+"/blobs/"+d.String()] = d
					mu.Unlock()
					m := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"a/b","digest":"%s","size":%d},"layers":[]}`, d, len(layer))
					path := fmt.Sprintf("/v2/%s/manifests/t%d-%d", repo, round, i)
					if res, _, err = p.do("PUT", path, bytes.NewReader(m), "Content-Type", "application/vnd.oci.image.manifest.v1+json"); err != nil || res.StatusCode != 201 {
						return
					}
					mu.Lock()
					acked[path] = digest.FromBytes(m)
					mu.Unlock()
				}
			})
		}
		<-time.After(time.Duration(20+mrand.IntN(200)) * time.Millisecond) // the random point
		p.kill()
		close(stop)
		pushing.Wait()
	}
	p.start()
	for path, d := range acked {
		res, b, err := p.do("GET", path, nil)
		if err != nil || res.StatusCode != 200 || digest.FromBytes(b) != d {
			t.Errorf("%s was acknowledged; now %v, %v", path, res, err)
		}
	}
	if len(acked) == 0 {
		t.Error("nothing was acknowledged before any kill")
	}
	t.Logf("%d acknowledged writes over %d kills", len(acked), kills)
}
