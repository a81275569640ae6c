package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"metacircular.net/mcdsl/archive"
	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/health"
	"metacircular.net/mcdsl/tlsutil"
)

// Shares of a full disk, in per cent.
const (
	diskWarn     = 85
	diskError    = 92
	diskCritical = 95
)

// filesCheck looks at owner and modes of the service's folder: everything in it is ours, nothing readable by others.
func filesCheck(dir string) health.Check {
	return health.Check{Code: "files", Title: "owner and modes", Offline: true, Run: func(context.Context) health.Result {
		uid := os.Geteuid()
		var bad health.Result
		seen := 0
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if seen++; seen > 2000 {
				return fs.SkipAll // blobs are the service's own business
			}
			info, err := d.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			st, ok := info.Sys().(*syscall.Stat_t)
			switch {
			case ok && int(st.Uid) != uid && uid != 0:
				bad = health.Failed("%s belongs to uid %d, this runs as %d", path, st.Uid, uid).Do("chown -R %d %s", uid, dir)
				return fs.SkipAll
			case info.Mode().IsRegular() && info.Mode().Perm()&0o007 != 0 && private(path):
				bad = health.Warning("%s can be read by others", path).Do("chmod -R o-rwx %s", dir)
			}
			return nil
		})
		if err != nil {
			return health.Failed("%v", err)
		}
		if bad.Severity != "" {
			return bad
		}
		return health.OK("all files belong to uid %d", uid)
	}}
}

// private reports whether a file may hold secrets: databases, keys, configuration.
func private(path string) bool {
	for _, ext := range []string{".db", ".key", ".json", ".toml", "-wal"} {
		if strings.HasSuffix(path, ext) {
			return true
		}
	}
	return false
}

// diskCheck looks at the file system of the service's folder.
func diskCheck(dir string) health.Check {
	return health.Check{Code: "disk", Title: "disk space", Offline: true, Run: func(context.Context) health.Result {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil || st.Blocks == 0 {
			return health.Warning("cannot ask for the free space of %s: %v", dir, err)
		}
		used := int(100 - 100*st.Bavail/st.Blocks)
		free := Bytes(int64(st.Bavail) * int64(st.Bsize))
		next := "du -xh --max-depth=2 " + dir
		switch {
		case used >= diskCritical:
			return health.Failed("disk %d %% full, %s left: writes fail soon", used, free).Do("%s", next)
		case used >= diskError:
			return health.Failed("disk %d %% full, %s left", used, free).Do("%s", next)
		case used >= diskWarn:
			return health.Warning("disk %d %% full, %s left", used, free).Do("%s", next)
		}
		return health.OK("%s free", free)
	}}
}

// certificateCheck shows the certificate that is served.
func certificateCheck(c *tlsutil.Certificate, clk clock.Clock) health.Check {
	return health.Check{Code: "certificate", Title: "certificate", Offline: true, Run: func(context.Context) health.Result {
		s, now := c.Status(), clk.Now()
		switch {
		case !s.Loaded:
			return health.Failed("no certificate is served: %s", s.Problem).Do("mcp status")
		case now.After(s.NotAfter):
			return health.Failed("expired on %s", s.NotAfter.UTC().Format(time.RFC3339)).Do("mcp doctor")
		case s.Problem != "":
			return health.Warning("the newest file was not taken, the old one is good for %s: %s", Span(s.NotAfter.Sub(now)), s.Problem)
		}
		name := "no name"
		if len(s.Names) > 0 {
			name = s.Names[0]
		}
		left := s.NotAfter.Sub(now)
		// Renewal is at two thirds of the life; past five sixths it is late.
		if life := s.NotAfter.Sub(s.NotBefore); left < life/6 {
			return health.Warning("%s, %s left and not renewed", name, Span(left)).Do("mcp doctor")
		}
		return health.OK("%s, %s left", name, Span(left))
	}}
}

// mciasCheck shows how long ago MCIAS was heard. Never a duty: no peer's absence makes a service unhealthy.
func mciasCheck(v *auth.Verifier) health.Check {
	return health.Check{Code: "mcias", Title: "keys and revocations", Run: func(context.Context) health.Result {
		r := v.Report()
		switch {
		case !r.Known:
			return health.Failed("mcias was never heard: only public and local calls are answered").Do("mcp status mcias")
		case r.Age > r.Normal:
			return health.Failed("no heartbeat for %s: calls are refused", Span(r.Age)).Do("mcp status mcias")
		case r.Age > r.Privileged:
			return health.Warning("no heartbeat for %s; normal calls go on for %s more", Span(r.Age), Span(r.Normal-r.Age)).Do("mcp status mcias")
		case r.Skew > time.Minute || r.Skew < -time.Minute:
			return health.Warning("mcias's clock and ours are %s apart", Span(r.Skew.Abs())).Do("timedatectl status")
		case !r.Live:
			return health.Warning("no heartbeat for %s", Span(r.Age)).Do("mcp status mcias")
		}
		return health.OK("heard %s ago, %d keys, %d revocations", Span(r.Age), r.Keys, r.Revocations)
	}}
}

func databaseCheck(d *db.DB) health.Check {
	return health.Check{Code: "database", Title: "database", DependsOn: []string{"disk"}, Run: func(ctx context.Context) health.Result {
		if err := d.CheckResult(); err != nil {
			return health.Failed("%v", err)
		}
		if err := d.Read(ctx, func(v *db.View) error { var n int; return v.QueryRow(`SELECT 1`).Scan(&n) }); err != nil {
			return health.Failed("does not answer: %v", err)
		}
		return health.OK("schema %d", d.Schema())
	}}
}

// snapshotCheck looks at the newest verified snapshot. every = 0 means that nobody promised one.
func snapshotCheck(dir, service string, every time.Duration, clk clock.Clock, started time.Time) health.Check {
	return health.Check{Code: "snapshot", Title: "snapshot", DependsOn: []string{"disk"}, Offline: true, Run: func(context.Context) health.Result {
		list, err := archive.List(filepath.Join(dir, "backups"), service)
		if err != nil {
			return health.Failed("%v", err)
		}
		now := clk.Now()
		for _, s := range list {
			if s.Verified.IsZero() {
				continue
			}
			age := now.Sub(s.Time)
			if every > 0 && age > every+every/4 {
				return health.Warning("last verified %s ago, expected every %s", Span(age), Span(every)).Do("%s snapshot", service)
			}
			return health.OK("last verified %s ago", Span(age))
		}
		if every > 0 && now.Sub(started) > every {
			return health.Warning("none yet, expected every %s", Span(every)).Do("%s snapshot", service)
		}
		return health.OK("none yet; the first comes by itself")
	}}
}

// socketCheck says where the Unix socket is.
func listenCheck(addrs func() []string) health.Check {
	return health.Check{Code: "listeners", Title: "listeners and socket", Duty: true, Run: func(context.Context) health.Result {
		list := addrs()
		if len(list) == 0 {
			return health.Failed("nothing listens")
		}
		return health.OK("%s", strings.Join(list, ", "))
	}}
}

// exitOf is the exit code of status and doctor.
func exitOf(r health.Report) int {
	switch r.State {
	case "healthy":
		return 0
	case "sealed", "starting", "draining":
		return 5
	}
	return 1
}

// writeFindings prints what was found, the way doctor does.
func writeFindings(r health.Report, all bool) string {
	var b strings.Builder
	words := map[health.Severity]string{health.Good: "ok", health.Warn: "warn", health.Fail: "FAIL"}
	width := 0
	for _, f := range r.Findings {
		width = max(width, len(f.Code))
	}
	bad, shown := 0, 0
	for _, f := range r.Findings {
		if f.Hidden || f.Severity == health.Good && !all {
			continue
		}
		shown++
		if f.Severity != health.Good {
			bad++
		}
		fmt.Fprintf(&b, "%-4s  %-*s  %s\n", words[f.Severity], width, f.Code, f.Detail)
		if f.Next != "" && f.Severity != health.Good {
			fmt.Fprintf(&b, "      next: %s\n", f.Next)
		}
	}
	if all && bad > 0 {
		fmt.Fprintf(&b, "%d of %d need you\n", bad, shown)
	}
	return b.String()
}
