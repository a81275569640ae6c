package master

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"
	"metacircular.net/mcdsl/tlsutil"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
	"metacircular.net/mcp/internal/dialin"
	"metacircular.net/mcp/internal/master/store"
)

// hub holds the connections that agents dialled, the newest of each node. Safe for concurrent use.
type hub struct {
	domain    string
	roots     *tlsutil.Roots
	cert      *tlsutil.Certificate
	store     *store.Store
	heartbeat time.Duration
	log       *slog.Logger
	clock     clock.Clock

	wg sync.WaitGroup
	mu sync.Mutex // guards what is below
	up map[string]*link
	// Inventories outlive connections: what a node ran when it was last seen is worth showing.
	seen map[string]*inventory
}

// link is one live connection.
type link struct {
	node string
	fp   string
	conn *grpc.ClientConn
	raw  io.Closer
	done chan struct{} // closed when the connection has ended
}

// inventory is what a node said of itself.
type inventory struct {
	at   time.Time // monotonic: judged by it, a clock that jumps makes nobody suspect
	data *mcpv1.InventoryResponse
}

// maxHandshakes bounds connections that have not said yet who they are.
const maxHandshakes = 32

const handshakeTime = 10 * time.Second

// serve accepts agents until the listener is closed, and waits for all its work.
func (h *hub) serve(ctx context.Context, ln net.Listener) error {
	slots := make(chan struct{}, maxHandshakes)
	defer h.wg.Wait()
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			h.closeAll()
			return nil
		}
		if err != nil {
			var te interface{ Temporary() bool }
			if errors.As(err, &te) && te.Temporary() {
				select {
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond):
				}
				continue
			}
			return fmt.Errorf("accept agents: %w", err)
		}
		slots <- struct{}{}
		h.wg.Go(func() {
			l, err := h.admit(ctx, c)
			<-slots
			if err != nil {
				h.log.Warn("agent refused", "client", c.RemoteAddr().String(), log.Err(err))
				return
			}
			h.listen(ctx, l)
		})
	}
}

// tlsConfig asks for a certificate below the platform's root. It is made for each connection, because roots reload.
func (h *hub) tlsConfig() *tls.Config {
	conf := h.cert.ServerConfig(dialin.ALPN)
	conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, h.roots.Pool()
	return conf
}

// admit makes the handshake, finds out which node this is and puts it in the place of its older connection.
func (h *hub) admit(ctx context.Context, raw net.Conn) (*link, error) {
	conn := tls.Server(raw, h.tlsConfig())
	hctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	if err := conn.HandshakeContext(hctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	node, fp, err := h.identify(hctx, conn.ConnectionState())
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	l := &link{node: node, fp: fp, done: make(chan struct{})}
	h.mu.Lock()
	old := h.up[node]
	h.mu.Unlock()
	if old != nil { // before the new one takes its place, so that there never are two
		_ = old.conn.Close()
		_ = old.raw.Close()
		<-old.done
	}
	if l.conn, l.raw, err = dialin.Connect(conn, node, func() { h.drop(l) }); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-l.done: // ended already
		return nil, errors.New("the connection ended at once")
	default:
	}
	h.up[node] = l
	return l, nil
}

// identify reads the node out of a verified certificate and asks whether it may come in.
func (h *hub) identify(ctx context.Context, st tls.ConnectionState) (node, fp string, err error) {
	leaf := st.PeerCertificates[0]
	suffix := dialin.NodeName("", h.domain)
	for _, name := range leaf.DNSNames {
		if n, ok := strings.CutSuffix(name, suffix); ok && !strings.Contains(n, ".") && n != "" {
			node = n
		}
	}
	if node == "" {
		return "", "", fault.New(fault.Denied, "the certificate of %s names no node", leaf.Subject)
	}
	n, err := h.store.Node(ctx, node)
	if err != nil {
		return "", "", err
	}
	if n.State != "ready" {
		return "", "", fault.New(fault.Denied, "node %s is %s", node, n.State)
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	fp = hex.EncodeToString(sum[:])
	if n.CertFP != "" && n.CertFP != fp {
		h.log.Info("node shows another key than before", "node", node, "before", n.CertFP, "now", fp)
	}
	return node, fp, nil
}

func (h *hub) drop(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(l.done)
	if h.up[l.node] == l {
		delete(h.up, l.node)
		h.log.Warn("node disconnected", "node", l.node)
	}
}

// listen reads the node's inventory until its connection ends.
func (h *hub) listen(ctx context.Context, l *link) {
	h.log.Info("node connected", "node", l.node, "key", l.fp)
	defer func() { _ = l.conn.Close(); _ = l.raw.Close() }()
	tick := time.NewTicker(h.heartbeat)
	defer tick.Stop()
	for {
		if _, err := h.refresh(ctx, l); err != nil && ctx.Err() == nil {
			h.log.Warn("read the inventory", "node", l.node, log.Err(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-l.done:
			return
		case <-tick.C:
		}
	}
}

// refresh reads a node's inventory now.
func (h *hub) refresh(ctx context.Context, l *link) (*mcpv1.InventoryResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, h.heartbeat)
	defer cancel()
	inv, err := mcpv1.NewNodeLocalClient(l.conn).Inventory(ctx, &mcpv1.InventoryRequest{})
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.seen[l.node] = &inventory{at: time.Now(), data: inv}
	h.mu.Unlock()
	return inv, h.store.Seen(ctx, l.node, l.fp, h.clock.Now())
}

func (h *hub) closeAll() {
	h.mu.Lock()
	links := make([]*link, 0, len(h.up))
	for _, l := range h.up {
		links = append(links, l)
	}
	h.mu.Unlock()
	for _, l := range links {
		_ = l.conn.Close()
		_ = l.raw.Close()
	}
}

// link returns the live connection of a node.
func (h *hub) link(node string) (*link, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.up[node]; l != nil {
		return l, nil
	}
	return nil, fault.New(fault.Unavailable, "node %s is not connected to the master", node).WithReason("NODE_AWAY").
		WithNext("on the node: mcp --local ps")
}

// last returns what a node said last, nil if nothing, and how long ago.
func (h *hub) last(node string) (*mcpv1.InventoryResponse, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	inv := h.seen[node]
	if inv == nil {
		return nil, 0
	}
	return inv.data, time.Since(inv.at)
}

// connected returns the nodes that can be reached now.
func (h *hub) connected() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]string, 0, len(h.up))
	for n := range h.up {
		out = append(out, n)
	}
	return out
}
