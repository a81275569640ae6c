package bootstrap

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"metacircular.net/mcdsl/auth"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"
)

const adminName = "admin"

// startIdentity makes MCIAS, unseals it, and makes the first administrator and the accounts of the other services.
func (u *Up) startIdentity(ctx context.Context) (bool, string, error) {
	changed := false
	if _, err := os.Stat(u.layout.Path("mcias", "mcias.db")); os.IsNotExist(err) {
		if err := u.initIdentity(ctx); err != nil {
			return false, "", err
		}
		changed = true
	}
	if err := giveTo(u.layout.Path("mcias"), uid("mcias")); err != nil {
		return changed, "", err
	}
	deployed, err := u.deployCore(ctx, "mcias")
	if err != nil {
		return changed, "", err
	}
	changed = changed || deployed
	opened, err := u.unsealIdentity(ctx)
	if err != nil {
		return changed, "", err
	}
	changed = changed || opened
	made, err := u.makeAdmin(ctx)
	if err != nil {
		return changed, "", err
	}
	changed = changed || made
	for _, svc := range []string{"metacrypt", "mcr", "mcns", "mcp", "mcat"} {
		made, err := u.makeAccount(ctx, svc, u.layout.Path(svc, "certs", keyFileName), uid(svc), []string{u.settings.URL(svc) + "/login/callback"})
		if err != nil {
			return changed, "", fmt.Errorf("account of %s: %w", svc, err)
		}
		changed = changed || made
	}
	made, err = u.makeAccount(ctx, u.nodeAccount(), u.nodeKeyFile(), -1, nil)
	if err != nil {
		return changed, "", fmt.Errorf("account of the node: %w", err)
	}
	changed = changed || made
	made, err = u.makeClient(ctx, "mcp/"+u.settings.Node, nil)
	if err != nil {
		return changed, "", fmt.Errorf("audience of the node: %w", err)
	}
	return changed || made, "unsealed; administrator " + adminName + ", credentials in " + u.layout.credentialsFile(), nil
}

const keyFileName = "mcias-key.json"

// nodeAccount is the system account the node's agent acts under.
func (u *Up) nodeAccount() string { return "node-" + u.settings.Node }

func (u *Up) nodeKeyFile() string { return u.layout.Path("mcp-agent", keyFileName) }

// initIdentity runs `mcias init` once. The password goes in by stdin, the setup link comes out in a 0600 file; the
// database appears under its name last, so a run that was killed is repeated.
func (u *Up) initIdentity(ctx context.Context) error {
	password, err := u.unsealPassword()
	if err != nil {
		return err
	}
	// It runs as we do, on a folder of ours: below a private home its own UID could not even reach the file.
	if err := giveTo(u.layout.Path("mcias"), ownID()); err != nil {
		return err
	}
	args := []string{"init", "--config", u.layout.Path("mcias", "mcias.toml"), "--admin", adminName, "--unseal-password-file", "-",
		"--setup-out", u.setupLinkFile(), "--operator-key-out", u.layout.Path("mcias", "operator.key")}
	if u.opts.Yes {
		args = append(args, "--credential-file", u.layout.Path("mcias", "certs", "unseal.credential"))
	}
	_, err = u.run(ctx, strings.NewReader(password+"\n"), "mcias", args...)
	return err
}

// ownID is the user this process runs as where files change hands at all, which only root can do.
func ownID() int {
	if os.Geteuid() != 0 {
		return -1
	}
	return 0
}

func (u *Up) setupLinkFile() string { return u.layout.Path("mcias", "setup-link") }

func (u *Up) unsealIdentity(ctx context.Context) (bool, error) {
	conn, err := u.sockets.dial("mcias")
	if err != nil {
		return false, err
	}
	vault := mciasv1.NewVaultClient(conn)
	var state string
	err = await(ctx, "mcias", 30*time.Second, func(ctx context.Context) error {
		st, err := vault.Status(ctx, &mciasv1.VaultStatusRequest{})
		state = st.GetState()
		return err
	})
	if err != nil || state == "unsealed" {
		return false, err
	}
	password, err := u.unsealPassword()
	if err != nil {
		return false, err
	}
	_, err = vault.Unseal(ctx, &mciasv1.VaultUnsealRequest{Secret: password})
	if err != nil {
		return false, fmt.Errorf("unseal mcias: %w", err)
	}
	return true, nil
}

// makeAdmin gives the first administrator a password. The password is durable before the link is spent, so no moment
// exists in which the account is open and nobody knows how.
func (u *Up) makeAdmin(ctx context.Context) (bool, error) {
	creds, ok, err := u.layout.credentials()
	if err != nil {
		return false, err
	}
	conn, err := u.sockets.dial("mcias")
	if err != nil {
		return false, err
	}
	if ok && creds.Admin.Password != "" {
		acct, err := mciasv1.NewAccountClient(conn).Get(ctx, &mciasv1.AccountGetRequest{Name: adminName})
		if err != nil {
			return false, fmt.Errorf("look for the administrator: %w", err)
		}
		if len(acct.GetAccount().GetFactors()) > 0 {
			return false, nil
		}
	} else {
		creds.Admin.Username, creds.Admin.Password = adminName, newPassword()
		if err := u.layout.keepCredentials(creds); err != nil {
			return false, err
		}
	}
	link, err := u.setupLink(ctx)
	if err != nil {
		return false, err
	}
	_, err = mciasv1.NewAuthClient(conn).RedeemSetupLink(ctx, &mciasv1.RedeemSetupLinkRequest{Link: link, Password: creds.Admin.Password})
	if err != nil {
		// The link of init lives 15 minutes; a later run gets a new one by break-glass.
		link, berr := u.breakGlass(ctx)
		if berr != nil {
			return false, fmt.Errorf("redeem the administrator's link: %w; and a new one: %w", err, berr)
		}
		_, err = mciasv1.NewAuthClient(conn).RedeemSetupLink(ctx, &mciasv1.RedeemSetupLinkRequest{Link: link, Password: creds.Admin.Password})
		if err != nil {
			return false, fmt.Errorf("redeem the administrator's link: %w", err)
		}
	}
	if err := os.Remove(u.setupLinkFile()); err != nil && !os.IsNotExist(err) {
		return true, err
	}
	return true, nil
}

func (u *Up) setupLink(ctx context.Context) (string, error) {
	data, err := os.ReadFile(u.setupLinkFile())
	if os.IsNotExist(err) {
		return u.breakGlass(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("read the administrator's link: %w", err)
	}
	return linkSecret(string(data)), nil
}

func (u *Up) breakGlass(ctx context.Context) (string, error) {
	conn, err := u.sockets.dial("mcias")
	if err != nil {
		return "", err
	}
	resp, err := mciasv1.NewAccountClient(conn).BreakGlass(ctx, &mciasv1.AccountBreakGlassRequest{Name: adminName})
	if err != nil {
		return "", fmt.Errorf("break glass for %s: %w", adminName, err)
	}
	return linkSecret(resp.GetLink().GetSecret()), nil
}

// linkSecret is the part of a setup link behind its #.
func linkSecret(link string) string {
	link = strings.TrimSpace(link)
	if i := strings.LastIndexByte(link, '#'); i >= 0 {
		return link[i+1:]
	}
	return link
}

// makeAccount makes a system account tagged core with a key, and its client when it has pages. The key pair is on disk
// before its public half is registered: a killed run finds it there and registers it.
func (u *Up) makeAccount(ctx context.Context, name, keyFile string, owner int, redirects []string) (bool, error) {
	conn, err := u.sockets.dial("mcias")
	if err != nil {
		return false, err
	}
	changed := false
	key, private, fresh, err := u.keyPair(name, keyFile, owner)
	if err != nil {
		return false, err
	}
	changed = changed || fresh
	public := private.Public().(ed25519.PublicKey) //nolint:forcetypeassert // an Ed25519 key's public half
	accounts := mciasv1.NewServiceAccountClient(conn)
	_, err = accounts.Create(ctx, &mciasv1.ServiceAccountCreateRequest{Name: name, Tags: []string{"core"}})
	if err != nil && status.Code(err) != codes.AlreadyExists {
		return changed, err
	}
	changed = changed || err == nil
	keys, err := accounts.ListKeys(ctx, &mciasv1.ServiceAccountListKeysRequest{Name: name})
	if err != nil {
		return changed, fmt.Errorf("list keys: %w", err)
	}
	if !hasKey(keys.GetKeys(), public) {
		if _, err := accounts.AddKey(ctx, &mciasv1.ServiceAccountAddKeyRequest{Name: name, PublicKey: public}); err != nil {
			return changed, fmt.Errorf("register the key: %w", err)
		}
		changed = true
	}
	// Every core service is an audience; one with pages is also a client people sign in to.
	if name == u.nodeAccount() {
		return changed, nil
	}
	made, err := u.makeClient(ctx, name, redirects)
	if err != nil {
		return changed, err
	}
	changed = changed || made
	if len(redirects) > 0 && key.ClientSecret == "" {
		secret, err := mciasv1.NewClientClient(conn).RotateSecret(ctx, &mciasv1.ClientRotateSecretRequest{Id: name})
		if err != nil {
			return changed, fmt.Errorf("client secret: %w", err)
		}
		key.ClientID, key.ClientSecret = name, secret.GetClientSecret()
		if err := u.keepKey(keyFile, key, owner); err != nil {
			return changed, err
		}
		changed = true
	}
	return changed, nil
}

func hasKey(keys []*mciasv1.ServiceKeyRecord, public ed25519.PublicKey) bool {
	for _, k := range keys {
		if !k.GetRetired() && bytes.Equal(k.GetPublicKey(), public) {
			return true
		}
	}
	return false
}

// keyPair reads a service key file, or makes the pair and the file.
func (u *Up) keyPair(name, file string, owner int) (auth.KeyFile, ed25519.PrivateKey, bool, error) {
	data, err := os.ReadFile(file)
	if err == nil {
		key, private, err := auth.ParseKeyFile(data)
		return key, private, false, err
	}
	if !os.IsNotExist(err) {
		return auth.KeyFile{}, nil, false, fmt.Errorf("read a service key: %w", err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return auth.KeyFile{}, nil, false, fmt.Errorf("make a key: %w", err)
	}
	key := auth.NewKeyFile(name, thumbprint(public), private)
	return key, private, true, u.keepKey(file, key, owner)
}

// thumbprint is the key id MCIAS gives an Ed25519 key: RFC 7638 over the members of RFC 8037 section 2.
func thumbprint(public ed25519.PublicKey) string {
	x := base64.RawURLEncoding.EncodeToString(public)
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + x + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (u *Up) keepKey(file string, key auth.KeyFile, owner int) error {
	data, err := json.MarshalIndent(key, "", "  ")
	if err != nil {
		return err
	}
	if err := makeDir(filepath.Dir(file), owner); err != nil {
		return err
	}
	_, err = writeFile(file, append(data, '\n'), 0o600, owner)
	return err
}

// makeClient makes a client of kind service, or brings its redirects up to date.
func (u *Up) makeClient(ctx context.Context, id string, redirects []string) (bool, error) {
	conn, err := u.sockets.dial("mcias")
	if err != nil {
		return false, err
	}
	clients := mciasv1.NewClientClient(conn)
	got, err := clients.Get(ctx, &mciasv1.ClientGetRequest{Id: id})
	switch status.Code(err) {
	case codes.OK:
		if equal(got.GetClient().GetRedirectUris(), redirects) {
			return false, nil
		}
		_, err = clients.Update(ctx, &mciasv1.ClientUpdateRequest{Id: id, RedirectUris: redirects, Fields: []string{"redirect_uris"}})
	case codes.NotFound:
		_, err = clients.Create(ctx, &mciasv1.ClientCreateRequest{Id: id, Kind: "service", RedirectUris: redirects})
	}
	if err != nil {
		return false, fmt.Errorf("client %s: %w", id, err)
	}
	return true, nil
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
