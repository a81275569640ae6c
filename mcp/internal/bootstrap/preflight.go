package bootstrap

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"metacircular.net/mcdsl/fault"
)

// minFree is the disk a platform needs to start: images, databases and room for a first snapshot.
const minFree = 2 << 30

// preflight looks for everything that would stop the later stages and names all of it at once. It makes nothing.
// Ports are looked at only while nothing of this platform listens.
func preflight(l Layout, s Settings, binDir string, built time.Time, running bool) error {
	var faults []string
	add := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }

	for _, b := range coreOrder {
		if fi, err := os.Stat(filepath.Join(binDir, b)); err != nil || fi.IsDir() {
			add("the binary %s is not beside mcp in %s: run make build", b, binDir)
		}
	}
	if !running {
		for _, p := range []struct {
			network string
			port    int
			flag    string
		}{{"tcp", s.HTTPSPort, "--https-port"}, {"tcp", s.GRPCPort(), "--https-port"}, {"tcp", s.HTTPPort(), "--https-port"}, {"tcp", s.DNSPort, "--dns-port"}, {"udp", s.DNSPort, "--dns-port"}} {
			if err := tryBind(p.network, p.port); err != nil {
				add("port %d/%s cannot be bound (%v)%s: stop what holds it, or choose another with %s", p.port, p.network, unwrapBind(err), ownerOf(p.network, p.port), p.flag)
			}
		}
	}
	parent := existingParent(l.Root)
	var fs unix.Statfs_t
	if err := unix.Statfs(parent, &fs); err != nil {
		add("cannot see the file system of %s: %v", parent, err)
	} else if free := fs.Bavail * uint64(fs.Bsize); free < minFree { //nolint:gosec // a block size is positive
		add("%s has %d MiB free, %d MiB are needed", parent, free>>20, minFree>>20)
	}
	if err := unix.Access(parent, unix.W_OK); err != nil {
		add("%s cannot be written by uid %d: choose another --root, or change its owner", parent, os.Geteuid())
	}
	if now := time.Now(); now.Before(built) {
		add("the clock says %s, which is before this binary was built (%s): set the clock", now.UTC().Format(time.RFC3339), built.UTC().Format(time.RFC3339))
	}
	if len(l.Path("run", "metacrypt", "metacrypt.sock")) > 107 {
		add("%s is too long for Unix sockets (107 bytes): choose a shorter --root", l.Root)
	}
	if len(faults) == 0 {
		return nil
	}
	f := fault.New(fault.Invalid, "%d thing(s) stand in the way:\n    %s", len(faults), strings.Join(faults, "\n    "))
	return f.WithReason("PREFLIGHT").WithNext("mend what is listed; nothing was made")
}

func tryBind(network string, port int) error {
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if network == "udp" {
		c, err := net.ListenPacket("udp", addr)
		if err == nil {
			c.Close()
		}
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err == nil {
		l.Close()
	}
	return err
}

func unwrapBind(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		return text[i+2:]
	}
	return text
}

// ownerOf finds which process listens on a port: inode from /proc/net, process from its open files. Only root sees
// everyone's; the text is empty when it cannot be known.
func ownerOf(network string, port int) string {
	inodes := map[string]bool{}
	for _, file := range []string{network, network + "6"} {
		f, err := os.Open(filepath.Join("/proc/net", file))
		if err != nil {
			continue
		}
		sc := bufio.NewScanner(f)
		for sc.Scan() {
			cols := strings.Fields(sc.Text())
			if len(cols) < 10 || !strings.HasSuffix(cols[1], fmt.Sprintf(":%04X", port)) {
				continue
			}
			if network == "tcp" && cols[3] != "0A" {
				continue
			}
			inodes["socket:["+cols[9]+"]"] = true
		}
		f.Close()
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err == nil && inodes[link] {
			pid := strings.Split(fd, "/")[2]
			name, _ := os.ReadFile(filepath.Join("/proc", pid, "comm"))
			return fmt.Sprintf(", held by %s (pid %s)", strings.TrimSpace(string(name)), pid)
		}
	}
	return ""
}

func existingParent(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			return dir
		}
		dir = up
	}
}
