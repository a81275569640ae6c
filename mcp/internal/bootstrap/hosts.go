package bootstrap

import (
	"fmt"
	"strings"
)

// writeHosts keeps the host map: every core name leads to the node's MC-Proxy, over loopback on its own node.
// The core finds the core here and never depends on MCNS to start (platform.md section 8).
func (l Layout) writeHosts(s Settings) (bool, error) {
	var b strings.Builder
	for _, c := range coreOrder {
		fmt.Fprintf(&b, "127.0.0.1 %s\n", s.Host(c))
	}
	return writeFile(l.hostsFile(), []byte(b.String()), 0o644, -1)
}
