package proc

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"metacircular.net/mcp/internal/engine"
)

// shimSpec is spec.json: what the container is, and what the shim needs to make it.
type shimSpec struct {
	engine.Spec
	ID       string
	Root     string
	Self     string
	Platform string
}

// shimState is state.json.
type shimState struct {
	Shim    process   `json:"shim"`
	PID     int       `json:"pid"`
	Start   uint64    `json:"start"`
	Started time.Time `json:"started"`
}

// Child is the program's process.
func (s shimState) Child() process { return process{PID: s.PID, Start: s.Start} }

// exitState is exit.json.
type exitState struct {
	Code  int       `json:"code"`
	At    time.Time `json:"at"`
	OOM   bool      `json:"oom"`
	Error string    `json:"error,omitempty"`
}

// Main runs the hidden verbs of this package; handled is false when args are not one of them. It must be called before
// anything else in main: the child is half way into its cage.
func Main(args []string) (handled bool, code int) {
	if len(args) < 2 {
		return false, 0
	}
	switch args[0] {
	case "proc-shim":
		return true, shim(args[1])
	case "proc-init":
		return true, initMain(args[1])
	}
	return false, 0
}

// shim runs one container to its end. It reports on descriptor 3: "ok", or why the program could not be started.
func shim(dir string) int {
	report := os.NewFile(3, "report")
	syscall.CloseOnExec(3)
	fail := func(err error) int {
		fmt.Fprint(report, err)
		report.Close()
		_ = writeAtomic(filepath.Join(dir, "exit.json"), mustJSON(exitState{Code: 125, At: time.Now().UTC(), Error: err.Error()}))
		return 1
	}
	// Parent-death signals follow the thread that started the child.
	runtime.LockOSThread()
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
	var s shimSpec
	if err := readJSON(filepath.Join(dir, "spec.json"), &s); err != nil {
		return fail(err)
	}
	joinCgroups(s.Platform, s.ID, s.Limits)
	log, err := openLog(filepath.Join(dir, "log"))
	if err != nil {
		return fail(err)
	}
	defer log.Close()
	var pipes sync.WaitGroup
	outR, outW, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	// Closed by exec in the child; what it writes before that is why it could not get there.
	failR, failW, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	cmd := exec.Command(s.Self, "proc-init", dir)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = []string{}, "/", outW, errW
	cmd.ExtraFiles = []*os.File{failW}
	cmd.SysProcAttr = cageAttr(s)
	if err := cmd.Start(); err != nil {
		return fail(fmt.Errorf("start in namespaces: %w", err))
	}
	outW.Close()
	errW.Close()
	failW.Close()
	child := processOf(cmd.Process.Pid)
	st := shimState{Shim: processOf(os.Getpid()), PID: child.PID, Start: child.Start, Started: time.Now().UTC()}
	if err := writeAtomic(filepath.Join(dir, "state.json"), mustJSON(st)); err != nil {
		_ = cmd.Process.Kill()
		return fail(err)
	}
	for name, r := range map[string]*os.File{"stdout": outR, "stderr": errR} {
		pipes.Go(func() { copyLines(log, name, r) })
	}
	why, _ := io.ReadAll(io.LimitReader(failR, 4096))
	if len(why) > 0 {
		_ = cmd.Wait()
		return fail(errors.New(string(why)))
	}
	fmt.Fprint(report, "ok")
	report.Close()
	err = cmd.Wait()
	pipes.Wait()
	ex := exitState{At: time.Now().UTC(), OOM: oomKilled(s.Platform, s.ID)}
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		ex.Code = ee.ExitCode()
		if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			ex.Code, ex.Error = 128+int(ws.Signal()), "killed by "+unix.SignalName(ws.Signal())
		}
	}
	if err := writeAtomic(filepath.Join(dir, "exit.json"), mustJSON(ex)); err != nil {
		return 1
	}
	return 0
}

func writeAtomic(path string, data []byte) error {
	tmp := path + ".new"
	if err := writeSync(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Bounds on a container's log: lines are cut at 64 KiB, files turn over at 10 MiB, the last three are kept.
const (
	maxLine    = 64 << 10
	maxLogFile = 10 << 20
	logFiles   = 3
)

// logFile is written by two copiers.
type logFile struct {
	mu   sync.Mutex // guards what is below
	path string
	f    *os.File
	size int64
}

func openLog(path string) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &logFile{path: path, f: f, size: fi.Size()}, nil
}

// logRecord is one line of the log file.
type logRecord struct {
	T time.Time `json:"t"`
	S string    `json:"s"`
	L string    `json:"l"`
}

func (l *logFile) write(stream, line string) {
	data, err := json.Marshal(logRecord{T: time.Now().UTC(), S: stream, L: line})
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > maxLogFile {
		l.rotate()
	}
	// A full disk loses lines, never the program: it must not block on its own log.
	n, _ := l.f.Write(append(data, '\n'))
	l.size += int64(n)
}

func (l *logFile) rotate() {
	for i := logFiles - 1; i > 0; i-- {
		from := l.path
		if i > 1 {
			from = fmt.Sprintf("%s.%d", l.path, i-1)
		}
		_ = os.Rename(from, fmt.Sprintf("%s.%d", l.path, i))
	}
	if f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		l.f.Close()
		l.f, l.size = f, 0
	}
}

// Close closes the file.
func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

// copyLines reads to the end, whatever comes: a program must never see its stdout closed because a line was long.
func copyLines(log *logFile, stream string, r io.Reader) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, more, err := br.ReadLine()
		if len(line) > 0 || (err == nil && !more) {
			log.write(stream, string(line))
		}
		if err != nil {
			return
		}
	}
}
