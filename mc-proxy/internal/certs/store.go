package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"metacircular.net/mcdsl/fault"
)

// maxFile bounds a PEM file.
const maxFile = 256 << 10

// PollEvery is how often files are looked at.
const PollEvery = 5 * time.Second

// Pair names the files of a certificate inside the folder. With Key empty, Cert holds both.
type Pair struct{ Cert, Key string }

func (p Pair) String() string { return p.Cert }

// Config says where certificates are.
type Config struct {
	Dir   string
	Roots func() *x509.CertPool // nil or returning nil: none
	Now   func() time.Time
	Log   *slog.Logger
}

// Store holds the certificates in use.
type Store struct {
	cfg Config

	mu    sync.Mutex
	certs map[Pair]*Cert
	fails atomic.Int64
}

// Cert is one certificate that reloads.
type Cert struct {
	Pair    Pair
	current atomic.Pointer[tls.Certificate]

	mu    sync.Mutex
	seen  string // signature of the files at the last attempt
	fault string // why the newest files are not served
}

// New returns an empty store. The folder need not exist yet.
func New(cfg Config) *Store {
	if cfg.Roots == nil {
		cfg.Roots = func() *x509.CertPool { return nil }
	}
	return &Store{cfg: cfg, certs: map[Pair]*Cert{}}
}

// Use makes exactly these pairs the ones in use. New ones are loaded; a fault shows in their status.
func (s *Store) Use(pairs []Pair) {
	s.mu.Lock()
	var fresh []*Cert
	for _, p := range pairs {
		if s.certs[p] == nil {
			c := &Cert{Pair: p}
			s.certs[p] = c
			fresh = append(fresh, c)
		}
	}
	for p := range s.certs {
		if !slices.Contains(pairs, p) {
			delete(s.certs, p)
		}
	}
	s.mu.Unlock()
	for _, c := range fresh {
		s.load(c)
	}
}

// Get returns a certificate in use, nil if no route names the pair.
func (s *Store) Get(p Pair) *Cert {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.certs[p]
}

// All returns the certificates in use in order of their files.
func (s *Store) All() []*Cert {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Cert, 0, len(s.certs))
	for _, c := range s.certs {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *Cert) int { return strings.Compare(a.Pair.Cert+a.Pair.Key, b.Pair.Cert+b.Pair.Key) })
	return out
}

// Reload reads every file again and returns how many are good.
func (s *Store) Reload() (good int) {
	for _, c := range s.All() {
		if s.load(c) == nil {
			good++
		}
	}
	return good
}

// Failures returns how many loads failed since the start.
func (s *Store) Failures() int64 { return s.fails.Load() }

// Watch looks at the files until ctx ends.
func (s *Store) Watch(ctx context.Context) error {
	t := time.NewTicker(PollEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			s.Poll()
		}
	}
}

// Poll loads what changed since it was last looked at.
func (s *Store) Poll() {
	for _, c := range s.All() {
		sig, err := s.signature(c.Pair)
		c.mu.Lock()
		changed := sig != c.seen || err != nil && c.fault == ""
		c.mu.Unlock()
		if changed {
			_ = s.load(c)
		}
	}
}

// signature changes when a file does: it describes the targets, not links to them.
func (s *Store) signature(p Pair) (string, error) {
	root, err := os.OpenRoot(s.cfg.Dir)
	if err != nil {
		return "absent", err
	}
	defer root.Close()
	var b strings.Builder
	for _, name := range []string{p.Cert, p.Key} {
		if name == "" {
			continue
		}
		st, err := root.Stat(name)
		if err != nil {
			return "absent", err
		}
		ino := uint64(0)
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			ino = sys.Ino
		}
		fmt.Fprintf(&b, "%d/%d/%d;", st.ModTime().UnixNano(), st.Size(), ino)
	}
	return b.String(), nil
}

// load reads the files of c. A fault keeps what was served before.
func (s *Store) load(c *Cert) error {
	sig, _ := s.signature(c.Pair)
	pair, err := s.read(c.Pair)
	if err == nil {
		// A broken chain or an expired leaf never replaces a pair that is good; with none yet it is better than
		// nothing.
		if p := problems(pair, "", s.cfg.Roots(), s.cfg.Now()); len(p) > 0 {
			err = errors.New(strings.Join(p, "; "))
			if c.current.Load() == nil {
				c.current.Store(pair)
			}
		} else {
			c.current.Store(pair)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = sig
	old := c.fault
	c.fault = ""
	if err != nil {
		c.fault = err.Error()
		s.fails.Add(1)
		if c.fault != old {
			s.cfg.Log.Error("certificate cannot be used", "file", c.Pair.Cert, "err", err)
		}
	} else if old != "" {
		s.cfg.Log.Info("certificate is good again", "file", c.Pair.Cert)
	}
	return err
}

func (s *Store) read(p Pair) (*tls.Certificate, error) {
	root, err := os.OpenRoot(s.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open cert_dir: %w", err)
	}
	defer root.Close()
	certPEM, err := readFile(root, p.Cert)
	if err != nil {
		return nil, err
	}
	if p.Key == "" {
		certPEM, keyPEM := split(certPEM)
		return parse(certPEM, keyPEM)
	}
	keyPEM, err := readFile(root, p.Key)
	if err != nil {
		return nil, err
	}
	return parse(certPEM, keyPEM)
}

func readFile(root *os.Root, name string) ([]byte, error) {
	st, err := root.Stat(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s does not exist in cert_dir", name)
		}
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxFile {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", name, maxFile)
	}
	return root.ReadFile(name)
}

// Check judges a pair of files for a host name and changes nothing.
func (s *Store) Check(p Pair, hostname string) (Info, []string) {
	c, err := s.read(p)
	if err != nil {
		return Info{}, []string{err.Error()}
	}
	return infoOf(c), problems(c, hostname, s.cfg.Roots(), s.cfg.Now())
}

// Status returns what is served and why not something newer. ok is false when nothing is served.
func (c *Cert) Status() (info Info, problem string, ok bool) {
	c.mu.Lock()
	problem = c.fault
	c.mu.Unlock()
	cur := c.current.Load()
	if cur == nil {
		return Info{}, problem, false
	}
	return infoOf(cur), problem, true
}

// ErrNone means that a route's certificate is not there yet.
var ErrNone = fault.New(fault.Unavailable, "the route has no usable certificate").WithReason("NO_CERTIFICATE")

// Current returns the pair to serve.
func (c *Cert) Current() (*tls.Certificate, error) {
	if cur := c.current.Load(); cur != nil {
		return cur, nil
	}
	return nil, ErrNone
}

// Covers reports whether the served certificate is good for name.
func (c *Cert) Covers(name string) bool {
	cur := c.current.Load()
	return cur != nil && cur.Leaf.VerifyHostname(name) == nil
}
