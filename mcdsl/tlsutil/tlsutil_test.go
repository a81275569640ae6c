package tlsutil_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/tlsutil"
)

// ca is a root with one intermediate, enough to prove chains.
type ca struct {
	t          *testing.T
	root, mid  *x509.Certificate
	rkey, mkey *ecdsa.PrivateKey
}

func newCA(t *testing.T, name string) *ca {
	t.Helper()
	c := &ca{t: t}
	c.rkey, c.mkey = genKey(t), genKey(t)
	c.root = c.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}, nil, c.rkey, &c.rkey.PublicKey)
	c.mid = c.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name + " issuer"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}, c.root, c.rkey, &c.mkey.PublicKey)
	return c
}

func genKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (c *ca) sign(tpl, parent *x509.Certificate, key *ecdsa.PrivateKey, pub *ecdsa.PublicKey) *x509.Certificate {
	c.t.Helper()
	tpl.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	if tpl.NotBefore.IsZero() {
		tpl.NotBefore, tpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	if parent == nil {
		parent = tpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, parent, pub, key)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

type leaf struct {
	names      []string
	from, to   time.Time
	chain      bool
	otherKey   bool
	clientOnly bool
}

// write puts a pair into dir.
func (c *ca) write(dir string, l leaf) {
	c.t.Helper()
	key := genKey(c.t)
	usage := x509.ExtKeyUsageServerAuth
	if l.clientOnly {
		usage = x509.ExtKeyUsageClientAuth
	}
	cert := c.sign(&x509.Certificate{Subject: pkix.Name{CommonName: l.names[0]}, DNSNames: l.names, NotBefore: l.from,
		NotAfter: l.to, ExtKeyUsage: []x509.ExtKeyUsage{usage}}, c.mid, c.mkey, &key.PublicKey)
	out := pemOf("CERTIFICATE", cert.Raw)
	if l.chain {
		out = append(out, pemOf("CERTIFICATE", c.mid.Raw)...)
	}
	if l.otherKey {
		key = genKey(c.t)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	put(c.t, filepath.Join(dir, "key.pem"), pemOf("PRIVATE KEY", kder))
	put(c.t, filepath.Join(dir, "cert.pem"), out)
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func put(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func roots(t *testing.T, dir string, c *ca) *tlsutil.Roots {
	t.Helper()
	put(t, filepath.Join(dir, "ca.pem"), pemOf("CERTIFICATE", c.root.Raw))
	r, err := tlsutil.NewRoots(tlsutil.RootsConfig{File: filepath.Join(dir, "ca.pem")})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func hold(t *testing.T, dir string, r *tlsutil.Roots, names ...string) *tlsutil.Certificate {
	t.Helper()
	c, err := tlsutil.NewCertificate(tlsutil.Config{CertFile: filepath.Join(dir, "cert.pem"),
		KeyFile: filepath.Join(dir, "key.pem"), Roots: r, Names: names})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhatIsTaken(t *testing.T) {
	t.Parallel()
	now := time.Now()
	good := leaf{names: []string{"a.test"}, chain: true}
	for _, tc := range []struct {
		name    string
		leaf    leaf
		foreign bool
		loaded  bool
		problem string
	}{
		{"full chain", good, false, true, ""},
		{"leaf alone", leaf{names: good.names}, false, false, "does not lead to the root"},
		{"other root", good, true, false, "does not lead to the root"},
		{"other name", leaf{names: []string{"b.test"}, chain: true}, false, false, "not for this service's name"},
		{"client usage", leaf{names: good.names, chain: true, clientOnly: true}, false, false, "incompatible key usage"},
		{"other key", leaf{names: good.names, chain: true, otherKey: true}, false, false, "private key does not match"},
		{"expired is served", leaf{names: good.names, chain: true, from: now.Add(-30 * time.Minute), to: now.Add(-time.Minute)}, false, true, "expired"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			own := newCA(t, "own")
			r := roots(t, dir, own)
			issuer := own
			if tc.foreign {
				issuer = newCA(t, "foreign")
			}
			issuer.write(dir, tc.leaf)
			s := hold(t, dir, r, "a.test").Status()
			if s.Loaded != tc.loaded || !strings.Contains(s.Problem, tc.problem) || (tc.problem == "") != (s.Problem == "") {
				t.Errorf("loaded %v, problem %q; want %v, %q", s.Loaded, s.Problem, tc.loaded, tc.problem)
			}
		})
	}
}

func TestAbsentThenThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	own := newCA(t, "own")
	r := roots(t, dir, own)
	c := hold(t, dir, r)
	if _, err := c.GetCertificate(nil); !errors.Is(err, tlsutil.ErrAbsent) {
		t.Fatalf("GetCertificate = %v, want ErrAbsent", err)
	}
	own.write(dir, leaf{names: []string{"a.test"}, chain: true})
	if err := c.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := c.Status(); !s.Loaded || !slices.Equal(s.Names, []string{"a.test"}) {
		t.Errorf("status = %+v", s)
	}
}

func TestFailedReloadKeepsTheOldOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	own := newCA(t, "own")
	r := roots(t, dir, own)
	own.write(dir, leaf{names: []string{"a.test"}, chain: true})
	c := hold(t, dir, r)
	before, _ := c.GetCertificate(nil)
	own.write(dir, leaf{names: []string{"a.test"}})
	synctest.Test(t, func(t *testing.T) { // fakes the pauses between tries
		if err := c.Reload(t.Context()); err == nil {
			t.Fatal("a leaf alone was taken")
		}
	})
	after, err := c.GetCertificate(nil)
	if err != nil || before != after {
		t.Errorf("the old certificate did not stay: %v", err)
	}
	if s := c.Status(); s.Failures != 1 || s.Problem == "" {
		t.Errorf("failure not shown: %+v", s)
	}
}

func TestWatchSeesARename(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	own := newCA(t, "own")
	r := roots(t, dir, own)
	own.write(dir, leaf{names: []string{"a.test"}, chain: true})
	changed := make(chan tlsutil.Status, 4)
	c, err := tlsutil.NewCertificate(tlsutil.Config{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
		Roots: r, Poll: time.Millisecond, Clock: clock.System(), OnChange: func(s tlsutil.Status) { changed <- s }})
	if err != nil {
		t.Fatal(err)
	}
	<-changed
	go func() { _ = c.Watch(t.Context()) }()
	next := t.TempDir()
	own.write(next, leaf{names: []string{"b.test"}, chain: true})
	for _, f := range []string{"key.pem", "cert.pem"} {
		if err := os.Rename(filepath.Join(next, f), filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	for s := range changed {
		if s.Problem == "" && slices.Equal(s.Names, []string{"b.test"}) {
			return
		}
	}
}

func TestHandshakes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	own := newCA(t, "own")
	r := roots(t, dir, own)
	own.write(dir, leaf{names: []string{"a.test"}, chain: true})
	c := hold(t, dir, r)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }),
		TLSConfig: c.ServerConfig("http/1.1"), ReadHeaderTimeout: time.Second}
	go func() { _ = srv.ServeTLS(ln, "", "") }()
	t.Cleanup(func() { _ = srv.Close() })

	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, ln.Addr().String())
	}
	client := &http.Client{Transport: r.Transport(dial)}
	if res, err := client.Get("https://a.test/"); err != nil || res.StatusCode != 200 {
		t.Errorf("own root: %v %v", res, err)
	} else {
		_ = res.Body.Close()
	}
	if _, err := client.Get("https://b.test/"); err == nil {
		t.Error("a wrong name was accepted")
	}
	other := roots(t, t.TempDir(), newCA(t, "foreign"))
	if _, err := (&http.Client{Transport: other.Transport(dial)}).Get("https://a.test/"); err == nil {
		t.Error("a foreign root was accepted")
	}
	old := &tls.Config{RootCAs: r.Pool(), ServerName: "a.test", MaxVersion: tls.VersionTLS12}
	if _, err := tls.Dial("tcp", ln.Addr().String(), old); err == nil {
		t.Error("TLS 1.2 was accepted")
	}
}

func TestRootsFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := tlsutil.NewRoots(tlsutil.RootsConfig{File: filepath.Join(dir, "ca.pem")})
	if err != nil || r.Pool() == nil {
		t.Fatalf("absent roots: %v, pool %v; want an empty pool", err, r.Pool())
	}
	put(t, filepath.Join(dir, "ca.pem"), []byte("nothing"))
	if _, err := tlsutil.NewRoots(tlsutil.RootsConfig{File: filepath.Join(dir, "ca.pem")}); err == nil {
		t.Error("a file without certificates was taken")
	}
}

// Nothing in the library may skip a verification, nor do it in a hook of its own.
func TestNoSkippedVerification(t *testing.T) {
	t.Parallel()
	words := []string{"InsecureSkip" + "Verify", "Verify" + "Connection", "VerifyPeer" + "Certificate"}
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		data, err := os.ReadFile(path)
		for _, w := range words {
			if strings.Contains(string(data), w) {
				t.Errorf("%s mentions %s", path, w)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
