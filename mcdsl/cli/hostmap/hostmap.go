// Package hostmap finds the addresses of the platform's names without DNS: core talks to core by name, with addresses
// from a file that the agent writes, so that a cold machine comes up while MCNS is still away.
//
// The file has the form of /etc/hosts: an address and its names on each line. It is read again when it changes.
// Names below ".localhost" that are not in it mean loopback (RFC 6761 section 6.3); Go's resolver and glibc don't do
// that by themselves. All other names go to the ordinary resolver.
package hostmap

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	maxFile     = 1 << 20
	dialTimeout = 10 * time.Second
)

// Map is a host map. A nil Map knows only ".localhost". Safe for concurrent use.
type Map struct {
	file    string
	machine *Map // this machine's own hosts file; nil in a map that is one

	mu    sync.Mutex // guards what follows
	stamp string     // modification time and size of what was read
	names map[string][]netip.Addr
	err   error
}

// Open returns the map of a file, which need not exist yet.
func Open(file string) *Map { return &Map{file: file, machine: &Map{file: "/etc/hosts"}} }

// Parse reads a host map. A line that is not "address name…" is an error with its number.
func Parse(r io.Reader) (map[string][]netip.Addr, error) {
	names := map[string][]netip.Addr{}
	sc := bufio.NewScanner(io.LimitReader(r, maxFile))
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(words[0])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if len(words) == 1 {
			return nil, fmt.Errorf("line %d: address %s has no name", n, addr)
		}
		for _, name := range words[1:] {
			name = fold(name)
			names[name] = append(names[name], addr)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	return names, nil
}

func fold(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// Lookup returns the addresses of a name; none means: ask the resolver.
func (m *Map) Lookup(name string) ([]netip.Addr, error) {
	name = fold(name)
	if m != nil && m.file != "" {
		names, err := m.load()
		if err != nil {
			return nil, err
		}
		if a := names[name]; len(a) > 0 {
			return a, nil
		}
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		// A container's hosts file leads the platform's names to its gateway; that goes before what the name means by itself.
		if m != nil && m.machine != nil {
			if names, err := m.machine.load(); err == nil && len(names[name]) > 0 {
				return names[name], nil
			}
		}
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	return nil, nil
}

// Names returns all names of the file.
func (m *Map) Names() (map[string][]netip.Addr, error) {
	if m == nil || m.file == "" {
		return nil, nil
	}
	return m.load()
}

// load reads the file if it changed. The map returned is never written again.
func (m *Map) load() (map[string][]netip.Addr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	info, err := os.Stat(m.file)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("host map: %w", err)
	}
	stamp := fmt.Sprint(info.ModTime().UnixNano(), info.Size())
	if stamp == m.stamp {
		return m.names, m.err
	}
	f, err := os.Open(m.file)
	if err != nil {
		return nil, fmt.Errorf("host map: %w", err)
	}
	defer func() { _ = f.Close() }()
	names, err := Parse(f)
	if err != nil {
		err = fmt.Errorf("host map %s: %w", m.file, err)
	}
	m.stamp, m.names, m.err = stamp, names, err
	return names, err
}

// DialContext connects to a host and port; the addresses of a name are tried in order.
func (m *Map) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	addrs, err := m.Lookup(host)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return d.DialContext(ctx, network, addr)
	}
	var first error
	for _, a := range addrs {
		conn, err := d.DialContext(ctx, network, net.JoinHostPort(a.String(), port))
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}
