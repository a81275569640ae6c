package bootstrap

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
)

// early are the services that must serve TLS before Metacrypt can issue for them.
var early = []string{"mcns", "mcias", "metacrypt", "mc-proxy"}

// makeRoot lets metacrypt make the root and the first leaves. An existing root is never made again.
func (u *Up) makeRoot(ctx context.Context) (bool, string, error) {
	changed := false
	if _, err := os.Stat(u.layout.caFile()); os.IsNotExist(err) {
		out, err := u.run(ctx, nil, "metacrypt", "pki", "bootstrap", "--dir", u.layout.Path("ca"), "--domain", u.settings.Domain, "--service", strings.Join(early, ","))
		if err != nil {
			return false, "", fmt.Errorf("%w: %s", err, strings.TrimSpace(out))
		}
		root, err := os.ReadFile(u.layout.Path("ca", "ca.pem"))
		if err != nil {
			return false, "", fmt.Errorf("read the new root: %w", err)
		}
		if _, err := writeFile(u.layout.caFile(), root, 0o644, -1); err != nil {
			return false, "", err
		}
		changed = true
	}
	root, err := os.ReadFile(u.layout.caFile())
	if err != nil {
		return changed, "", err
	}
	for _, svc := range append(append([]string{}, coreOrder...), "mcp-agent") {
		dir := u.layout.Path(svc, "certs")
		if err := makeDir(dir, uid(svc)); err != nil {
			return changed, "", err
		}
		c, err := writeFile(filepath.Join(dir, "ca.pem"), root, 0o644, uid(svc))
		if err != nil {
			return changed, "", err
		}
		changed = changed || c
	}
	c, err := u.writeTrust(root)
	if err != nil {
		return changed, "", err
	}
	changed = changed || c
	if changed {
		if err := u.reloadAgent(); err != nil {
			return changed, "", fmt.Errorf("tell the agent of the root: %w", err)
		}
	}
	for _, svc := range early {
		c, err := u.firstLeaf(svc)
		if err != nil {
			return changed, "", err
		}
		changed = changed || c
	}
	print, err := fingerprint(root)
	return changed, "root " + print, err
}

// writeTrust joins the platform's root with the machine's own bundle: what an app's SSL_CERT_FILE names, so that it
// reaches both the platform and the internet.
func (u *Up) writeTrust(root []byte) (bool, error) {
	bundle := append([]byte{}, root...)
	for _, f := range []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"} {
		if host, err := os.ReadFile(f); err == nil {
			bundle = append(append(bundle, '\n'), host...)
			break
		}
	}
	return writeFile(u.layout.Path("run", "trust.pem"), bundle, 0o644, -1)
}

// firstLeaf puts a bootstrap leaf into its service's folder, unless a certificate is there already.
func (u *Up) firstLeaf(svc string) (bool, error) {
	cert, key := u.certFiles(svc)
	if _, err := os.Stat(cert); err == nil {
		return false, nil
	}
	for _, f := range []struct {
		from, to string
	}{{u.layout.Path("ca", svc+".key"), key}, {u.layout.Path("ca", svc+".crt"), cert}} {
		data, err := os.ReadFile(f.from)
		if err != nil {
			return false, fmt.Errorf("the first certificate of %s: %w", svc, err)
		}
		if _, err := writeFile(f.to, data, 0o600, uid(svc)); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (u *Up) certFiles(svc string) (cert, key string) {
	return u.layout.Path(svc, "certs", svc+".pem"), u.layout.Path(svc, "certs", svc+".key")
}

func fingerprint(rootPEM []byte) (string, error) {
	block, _ := pem.Decode(rootPEM)
	if block == nil {
		return "", fmt.Errorf("the root certificate is not PEM")
	}
	sum := sha256.Sum256(block.Bytes)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// startMetacrypt initialises, unseals and lets Metacrypt adopt the root, then writes what the node may have of it.
func (u *Up) startMetacrypt(ctx context.Context) (bool, string, error) {
	changed, err := u.deployCore(ctx, "metacrypt")
	if err != nil {
		return false, "", err
	}
	conn, err := u.sockets.dial("metacrypt")
	if err != nil {
		return changed, "", err
	}
	system := metacryptv1.NewSystemClient(conn)
	var st *metacryptv1.StatusResponse
	err = await(ctx, "metacrypt", 30*time.Second, func(ctx context.Context) (err error) {
		st, err = system.Status(ctx, &metacryptv1.StatusRequest{})
		return err
	})
	if err != nil {
		return changed, "", err
	}
	password := ""
	if st.GetState() != metacryptv1.SealState_SEAL_STATE_UNSEALED {
		if password, err = u.unsealPassword(); err != nil {
			return changed, "", err
		}
	}
	if st.GetState() == metacryptv1.SealState_SEAL_STATE_UNINITIALIZED {
		credential, err := u.sealCredential("metacrypt")
		if err != nil {
			return changed, "", err
		}
		resp, err := system.Init(ctx, &metacryptv1.InitRequest{Password: []byte(password), Credential: credential})
		if err != nil {
			return changed, "", fmt.Errorf("initialise metacrypt: %w", err)
		}
		if err := u.addToSheet("Metacrypt recovery code", resp.GetRecoveryCode()); err != nil {
			return changed, "", err
		}
		changed = true
		if st, err = system.Status(ctx, &metacryptv1.StatusRequest{}); err != nil {
			return changed, "", err
		}
	}
	if st.GetState() != metacryptv1.SealState_SEAL_STATE_UNSEALED {
		_, err := system.Unseal(ctx, &metacryptv1.UnsealRequest{Proof: &metacryptv1.SlotProof{Kind: "password", Secret: []byte(password)}})
		if err != nil {
			return changed, "", fmt.Errorf("unseal metacrypt: %w", err)
		}
		changed = true
	}
	adopted, err := u.adopt(ctx)
	if err != nil {
		return changed, "", err
	}
	ruled, err := u.metacryptRules(ctx)
	return changed || adopted || ruled, "unsealed, root adopted", err
}

// adopt hands the root's key and the bootstrap issuer to Metacrypt, then shreds the copies on disk.
func (u *Up) adopt(ctx context.Context) (bool, error) {
	conn, err := u.sockets.dial("metacrypt")
	if err != nil {
		return false, err
	}
	pki := metacryptv1.NewPKIClient(conn)
	root, err := os.ReadFile(u.layout.caFile())
	if err != nil {
		return false, err
	}
	keyFile := u.layout.Path("ca", "root.key")
	key, err := os.ReadFile(keyFile)
	if os.IsNotExist(err) {
		got, err := pki.GetRoot(ctx, &metacryptv1.GetRootRequest{Mount: "pki"})
		if err != nil {
			return false, fmt.Errorf("the root's key is gone from %s and metacrypt has no root: %w", keyFile, err)
		}
		if !samePEM([]byte(got.GetPem()), root) {
			return false, fmt.Errorf("metacrypt holds another root than %s", u.layout.caFile())
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	issuerPEM, err := os.ReadFile(u.layout.Path("ca", "issuer.pem"))
	if err != nil {
		return false, fmt.Errorf("read the bootstrap issuer: %w", err)
	}
	issuerKey, err := os.ReadFile(u.layout.Path("ca", "issuer.key"))
	if err != nil {
		return false, fmt.Errorf("read the bootstrap issuer's key: %w", err)
	}
	password, err := u.unsealPassword()
	if err != nil {
		return false, err
	}
	req := &metacryptv1.AdoptRequest{
		Mount: "pki", Proof: &metacryptv1.SlotProof{Kind: "password", Secret: []byte(password)},
		RootPem: string(root), RootKeyPem: key, IssuerPem: string(issuerPEM), IssuerKeyPem: issuerKey,
	}
	for _, svc := range early {
		if leaf, err := os.ReadFile(u.layout.Path("ca", svc+".crt")); err == nil {
			req.Leaves = append(req.Leaves, &metacryptv1.BootstrapLeaf{Pem: string(leaf)})
		}
	}
	if _, err := pki.Adopt(ctx, req); err != nil {
		return false, fmt.Errorf("adopt the root: %w", err)
	}
	for _, f := range []string{"root.key", "issuer.key"} {
		if err := shred(u.layout.Path("ca", f)); err != nil {
			return true, err
		}
	}
	return true, nil
}

func samePEM(a, b []byte) bool {
	x, _ := pem.Decode(a)
	y, _ := pem.Decode(b)
	return x != nil && y != nil && string(x.Bytes) == string(y.Bytes)
}

// shred overwrites a key before it is removed. On flash and copy-on-write file systems that is a courtesy, no proof:
// the key was on this disk, and a stolen disk image from before may hold it.
func shred(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("shred %s: %w", path, err)
	}
	fi, err := f.Stat()
	if err == nil {
		_, err = f.Write(make([]byte, fi.Size()))
	}
	if err == nil {
		err = f.Sync()
	}
	f.Close()
	if err != nil {
		return fmt.Errorf("shred %s: %w", path, err)
	}
	return os.Remove(path)
}

// metacryptRules lets the node's account get certificates for app names; core names match only rules that spell them.
func (u *Up) metacryptRules(ctx context.Context) (bool, error) {
	conn, err := u.sockets.dial("metacrypt")
	if err != nil {
		return false, err
	}
	policy := metacryptv1.NewPolicyClient(conn)
	want := &metacryptv1.Rule{
		Id: "node-" + u.settings.Node + "-apps", Priority: 100, Effect: "allow", Usernames: []string{u.nodeAccount()},
		Resources: []string{"pki/pki/**"}, Actions: []string{"issue"}, Identifiers: []string{"*." + u.settings.Domain},
	}
	got, err := policy.Get(ctx, &metacryptv1.PolicyGetRequest{Id: want.GetId()})
	if err == nil && equal(got.GetRule().GetIdentifiers(), want.GetIdentifiers()) && equal(got.GetRule().GetUsernames(), want.GetUsernames()) {
		return false, nil
	}
	if err != nil && status.Code(err) != codes.NotFound {
		return false, fmt.Errorf("read metacrypt's rules: %w", err)
	}
	if _, err := policy.Put(ctx, &metacryptv1.PolicyPutRequest{Rule: want}); err != nil {
		return false, fmt.Errorf("write metacrypt's rule for the node: %w", err)
	}
	return true, nil
}

// issueCertificates gives each core service a certificate of the platform's issuer. One that fits and does not come
// from the bootstrap issuer is kept.
func (u *Up) issueCertificates(ctx context.Context) (bool, string, error) {
	conn, err := u.sockets.dial("metacrypt")
	if err != nil {
		return false, "", err
	}
	pki := metacryptv1.NewPKIClient(conn)
	bootstrap, err := os.ReadFile(u.layout.Path("ca", "issuer.pem"))
	if err != nil {
		return false, "", fmt.Errorf("read the bootstrap issuer: %w", err)
	}
	type wanted struct {
		name, profile, cert, key string
		owner                    int
	}
	all := []wanted{{u.settings.Node + ".node." + u.settings.Domain, "peer", u.layout.Path("mcp-agent", "certs", "node.pem"), u.layout.Path("mcp-agent", "certs", "node.key"), -1}}
	for _, svc := range coreOrder {
		cert, key := u.certFiles(svc)
		all = append(all, wanted{u.settings.Host(svc), "server", cert, key, uid(svc)})
	}
	made := 0
	for _, w := range all {
		if u.certFits(w.cert, w.key, w.name, bootstrap) {
			continue
		}
		csr, keyPEM, err := newRequest(w.name)
		if err != nil {
			return made > 0, "", err
		}
		resp, err := pki.SignCSR(ctx, &metacryptv1.SignCSRRequest{Mount: "pki", Csr: csr, Profile: w.profile})
		if err != nil {
			return made > 0, "", fmt.Errorf("certificate for %s: %w", w.name, err)
		}
		// The reader retries a pair that does not fit, so the two renames need no common moment.
		if _, err := writeFile(w.key, keyPEM, 0o600, w.owner); err != nil {
			return made > 0, "", err
		}
		if _, err := writeFile(w.cert, []byte(resp.GetChainPem()), 0o600, w.owner); err != nil {
			return made > 0, "", err
		}
		made++
	}
	return made > 0, fmt.Sprintf("%d of %d new", made, len(all)), nil
}

// certFits reports whether a certificate on disk may stay: right name, right key, leading to the root, more than a third
// of its life ahead, and not from the bootstrap issuer.
func (u *Up) certFits(certFile, keyFile, name string, bootstrapPEM []byte) bool {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return false
	}
	leaf := pair.Leaf
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	root, err := os.ReadFile(u.layout.caFile())
	if err != nil || !roots.AppendCertsFromPEM(root) {
		return false
	}
	for _, der := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			inter.AddCert(c)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: inter}); err != nil {
		return false
	}
	if block, _ := pem.Decode(bootstrapPEM); block != nil {
		if issuer, err := x509.ParseCertificate(block.Bytes); err == nil && leaf.CheckSignatureFrom(issuer) == nil {
			return false
		}
	}
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return time.Until(leaf.NotAfter) > life/3
}

func newRequest(names ...string) (csrPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate request: %w", err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), nil
}
