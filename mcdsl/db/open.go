package db

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"modernc.org/sqlite"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"
	"metacircular.net/mcdsl/metrics"
)

// Synchronous says what survives a power cut.
type Synchronous int

const (
	// Full makes every acknowledged commit durable.
	Full Synchronous = iota
	// Normal may lose the last commits at a power cut, never consistency. For caches only.
	Normal
)

// Limits.
const (
	defaultReaders  = 4
	maxWaiting      = 4096                 // writers that wait; one more is refused
	groupMax        = 64                   // writers that share a commit
	groupTime       = 5 * time.Millisecond // or as long as this
	readLimit       = 30 * time.Second     // an open read keeps the WAL from being reset
	quickCheckLimit = 256 << 20            // bytes checked before Open returns
)

// Config describes a database.
type Config struct {
	Path        string       // the file; its folder is made 0750 if absent
	Service     string       // whose database it is: another service's file is refused
	Migrations  fs.FS        // NNNN_name.sql at the root or in migrations/
	Steps       map[int]Step // migrations in Go; their number must be free of SQL
	Readers     int          // default 4
	Synchronous Synchronous
	Version     string // of the binary, noted beside each migration
	Lock        *Lock  // held already; nil = Open takes the folder's lock and Close gives it back
	MustExist   bool   // an absent file is an error instead of a first start
	Log         *slog.Logger
	Metrics     *metrics.Registry
	Clock       clock.Clock
}

// DB is an open database.
type DB struct {
	cfg     Config
	log     *slog.Logger
	wpool   *sql.DB // one connection
	writer  *sql.Conn
	readers *sql.DB
	lock    *Lock
	ownLock bool
	id      string
	schema  int

	mu     sync.Mutex // guards queue, busy and closed
	queue  []*job
	busy   bool
	closed bool

	executing atomic.Int64 // goroutine that runs a Write function now; 0 = none
	checked   atomic.Pointer[checkResult]
	bg        sync.WaitGroup
	bgCancel  context.CancelFunc
}

type checkResult struct{ err error }

// Open opens or makes the database, checks that it is ours and whole, and brings its schema up to date.
// On any error what was there is left as it was.
func Open(ctx context.Context, cfg Config) (_ *DB, err error) {
	if cfg.Path == "" || cfg.Service == "" {
		return nil, fault.New(fault.Internal, "db.Config needs Path and Service")
	}
	if cfg.Readers <= 0 {
		cfg.Readers = defaultReaders
	}
	cfg.Clock = clock.Or(cfg.Clock)
	d := &DB{cfg: cfg, log: log.Or(cfg.Log), lock: cfg.Lock}
	defer func() {
		if err != nil {
			_ = d.Close()
		}
	}()
	fresh, err := d.prepareFiles()
	if err != nil {
		return nil, err
	}
	if err := d.connect(ctx); err != nil {
		return nil, d.damaged(err)
	}
	if err := d.identify(ctx, fresh); err != nil {
		return nil, d.damaged(err)
	}
	if !fresh {
		if err := d.quickCheck(ctx); err != nil {
			return nil, err
		}
	}
	if err := d.migrate(ctx); err != nil {
		return nil, err
	}
	if d.readers, err = sql.Open("sqlite", d.dsn("rw", "query_only(1)")); err != nil {
		return nil, fmt.Errorf("open readers: %w", err)
	}
	d.readers.SetMaxOpenConns(cfg.Readers)
	d.readers.SetMaxIdleConns(cfg.Readers)
	d.registerMetrics()
	return d, nil
}

// prepareFiles checks owner and modes, takes the lock and makes the file 0600 if there is none.
func (d *DB) prepareFiles() (fresh bool, err error) {
	dir := filepath.Dir(d.cfg.Path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return false, fault.New(fault.Precondition, "cannot make the data folder %s", dir).Wrap(err).
			WithNext("make it yourself and give it to uid %d", os.Geteuid())
	}
	if err := checkOwner(dir, d.cfg.Service, "data folder"); err != nil {
		return false, err
	}
	if d.lock == nil {
		if d.lock, err = LockFolder(dir); err != nil {
			return false, err
		}
		d.ownLock = true
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := checkOwner(d.cfg.Path+suffix, d.cfg.Service, "database"); err != nil {
			return false, err
		}
	}
	st, err := os.Stat(d.cfg.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if d.cfg.MustExist {
			return false, fault.New(fault.Precondition, "there is no database %s", d.cfg.Path).WithReason("NO_DATABASE").Wrap(err)
		}
		f, err := os.OpenFile(d.cfg.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return false, fault.New(fault.Precondition, "cannot make the database %s", d.cfg.Path).Wrap(err).
				WithNext("make %s writable for uid %d", dir, os.Geteuid())
		}
		return true, f.Close()
	case err != nil:
		return false, fmt.Errorf("open database: %w", err)
	}
	return st.Size() == 0 && !d.cfg.MustExist, nil
}

// checkOwner refuses a file of another user and tightens loose modes of our own. Absent is fine.
func checkOwner(path, service, what string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("check owner: %w", err)
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if uid := os.Geteuid(); int(sys.Uid) != uid {
		return fault.New(fault.Precondition, "%s %s belongs to uid %d, %s runs as %d", what, path, sys.Uid, service, uid).
			WithReason("FOREIGN_OWNER").WithNext("chown -R %d %s, or run as %d", uid, path, sys.Uid)
	}
	want := fs.FileMode(0o600)
	if st.IsDir() {
		want = 0o750
	} else if !st.Mode().IsRegular() {
		return fault.New(fault.Precondition, "%s %s is not a regular file", what, path)
	}
	if perm := st.Mode().Perm(); perm&^want != 0 {
		if err := os.Chmod(path, perm&want); err != nil {
			return fmt.Errorf("tighten %s: %w", path, err)
		}
	}
	return nil
}

// dsn writes the connection string; pragmas are in it so that each connection has them.
func (d *DB) dsn(mode string, extra ...string) string {
	syncMode := "FULL"
	if d.cfg.Synchronous == Normal {
		syncMode = "NORMAL"
	}
	return makeDSN(d.cfg.Path, mode, append([]string{"journal_mode(WAL)", "synchronous(" + syncMode + ")"}, extra...)...)
}

func makeDSN(path, mode string, pragmas ...string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		abs = path
	}
	q := url.Values{"mode": {mode}, "_txlock": {"deferred"}}
	q["_pragma"] = append([]string{"busy_timeout(5000)", "foreign_keys(1)", "trusted_schema(0)",
		"temp_store(MEMORY)", "journal_size_limit(67108864)"}, pragmas...)
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: abs}).EscapedPath(), RawQuery: q.Encode()}
	return u.String()
}

func (d *DB) connect(ctx context.Context) error {
	var err error
	if d.wpool, err = sql.Open("sqlite", d.dsn("rw")); err != nil {
		return fmt.Errorf("open writer: %w", err)
	}
	d.wpool.SetMaxOpenConns(1)
	if d.writer, err = d.wpool.Conn(ctx); err != nil {
		return fmt.Errorf("open writer: %w", err)
	}
	return nil
}

// applicationID makes a number of the service's name, so that a foreign file is refused.
func applicationID(service string) int32 {
	h := sha256.Sum256([]byte("metacircular:" + service))
	return int32(binary.BigEndian.Uint32(h[:4]) & 0x7fffffff) //nolint:gosec // 31 bits
}

// identify checks that the file is this service's, or marks a fresh one.
func (d *DB) identify(ctx context.Context, fresh bool) error {
	var have int32
	if err := d.writer.QueryRowContext(ctx, "PRAGMA application_id").Scan(&have); err != nil {
		return fmt.Errorf("read database: %w", err)
	}
	want := applicationID(d.cfg.Service)
	if have == want {
		return nil
	}
	var tables int
	if err := d.writer.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return fmt.Errorf("read database: %w", err)
	}
	if have != 0 || tables != 0 || (!fresh && d.cfg.MustExist) {
		return fault.New(fault.Precondition, "%s is not a database of %s", d.cfg.Path, d.cfg.Service).
			WithReason("FOREIGN_DATABASE").WithNext("check [database] path")
	}
	if _, err := d.writer.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id=%d", want)); err != nil {
		return mapError(err)
	}
	return nil
}

// quickCheck looks for damage: at once up to quickCheckLimit, else in the background.
func (d *DB) quickCheck(ctx context.Context) error {
	st, err := os.Stat(d.cfg.Path)
	if err != nil {
		return fmt.Errorf("check database: %w", err)
	}
	if st.Size() <= quickCheckLimit {
		return d.damaged(pragmaCheck(ctx, d.writer, "quick_check(1)"))
	}
	bg, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d.bgCancel = cancel
	d.bg.Go(func() {
		err := func() error {
			h, err := sql.Open("sqlite", makeDSN(d.cfg.Path, "ro"))
			if err != nil {
				return err
			}
			defer func() { _ = h.Close() }()
			c, err := h.Conn(bg)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			return pragmaCheck(bg, c, "quick_check(1)")
		}()
		if bg.Err() != nil {
			return
		}
		if err != nil {
			err = d.damaged(err)
			d.log.Error("the database is damaged", log.Err(err))
		}
		d.checked.Store(&checkResult{err})
	})
	return nil
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func pragmaCheck(ctx context.Context, c querier, pragma string) error {
	var first string
	if err := c.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(&first); err != nil {
		return err
	}
	if first != "ok" {
		return &damage{first}
	}
	return nil
}

// damage is what a check found.
type damage struct{ text string }

func (e *damage) Error() string { return e.text }

// damaged words an error of a broken file so that the operator knows the way out.
func (d *DB) damaged(err error) error {
	if err == nil {
		return nil
	}
	var found *damage
	var se *sqlite.Error
	if !errors.As(err, &found) && (!errors.As(err, &se) || (se.Code()&0xff != codeCorrupt && se.Code()&0xff != codeNotADB)) {
		return mapError(err)
	}
	f := fault.New(fault.Precondition, "the database %s is damaged", d.cfg.Path).WithReason("DAMAGED").Wrap(err)
	if s := newestSnapshot(filepath.Dir(d.cfg.Path)); s != "" {
		return f.WithNext("%s restore %s", d.cfg.Service, s)
	}
	return f.WithNext("restore a backup: %s restore FILE", d.cfg.Service)
}

// newestSnapshot names the newest archive in backups/, a verified one if there is any.
func newestSnapshot(dir string) string {
	var best, bestAny string
	names, err := filepath.Glob(filepath.Join(dir, "backups", "*.tar.zst"))
	if err != nil {
		return ""
	}
	for _, n := range names { // names carry the time, so the order of names is that of time
		bestAny = max(bestAny, n)
		if _, err := os.Stat(n + ".verified"); err == nil {
			best = max(best, n)
		}
	}
	if best != "" {
		return best
	}
	return bestAny
}

// CheckResult returns what the background check of a large database found; nil while it runs.
func (d *DB) CheckResult() error {
	if r := d.checked.Load(); r != nil {
		return r.err
	}
	return nil
}

// ID returns the random id the database got when it was made.
func (d *DB) ID() string { return d.id }

// Schema returns the number of the newest migration.
func (d *DB) Schema() int { return d.schema }

// Path returns the file.
func (d *DB) Path() string { return d.cfg.Path }

// Close waits for the running write, empties the WAL into the database and closes. Later calls return
// an Unavailable fault. Idempotent.
func (d *DB) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	waiting := d.queue
	d.queue = nil
	d.mu.Unlock()
	for _, j := range waiting {
		j.turn <- signal{kind: sigClosed}
	}
	for { // at most one transaction is running; it ends by itself
		d.mu.Lock()
		busy := d.busy
		d.mu.Unlock()
		if !busy {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if d.bgCancel != nil {
		d.bgCancel()
	}
	d.bg.Wait()
	var errs []error
	if d.readers != nil {
		errs = append(errs, d.readers.Close())
	}
	if d.writer != nil {
		if _, err := d.writer.ExecContext(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
			d.log.Warn("checkpoint at close", log.Err(err))
		}
		errs = append(errs, d.writer.Close())
	}
	if d.wpool != nil {
		errs = append(errs, d.wpool.Close())
	}
	if d.ownLock {
		errs = append(errs, d.lock.Unlock())
	}
	return errors.Join(errs...)
}

func (d *DB) registerMetrics() {
	size := func(suffix string) func() float64 {
		return func() float64 {
			st, err := os.Stat(d.cfg.Path + suffix)
			if err != nil {
				return 0
			}
			return float64(st.Size())
		}
	}
	labels := map[string]string{"db": strings.TrimSuffix(filepath.Base(d.cfg.Path), ".db")}
	d.cfg.Metrics.Gauge("mc_db_bytes", "Size of the database.", labels, size(""))
	d.cfg.Metrics.Gauge("mc_db_wal_bytes", "Size of the write-ahead log.", labels, size("-wal"))
}
