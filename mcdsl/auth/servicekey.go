package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"metacircular.net/mcdsl/fault"
)

// assertionLife is how long a signed assertion lives: MCIAS takes none longer than 60 s.
const assertionLife = 50 * time.Second

// KeyFile is the content of a service key file ([mcias] key_file, 0600), as `mcias service create NAME --out F`
// writes it.
type KeyFile struct {
	Account      string `json:"account"`
	KeyID        string `json:"kid"`
	PrivateKey   string `json:"private_key"`             // base64 of the 32-byte Ed25519 seed
	ClientID     string `json:"client_id,omitempty"`     // OIDC client of a service with pages
	ClientSecret string `json:"client_secret,omitempty"` // its secret
}

// NewKeyFile returns the file's content for a new key.
func NewKeyFile(account, kid string, key ed25519.PrivateKey) KeyFile {
	return KeyFile{Account: account, KeyID: kid, PrivateKey: base64.StdEncoding.EncodeToString(key.Seed())}
}

// ParseKeyFile reads a service key file.
func ParseKeyFile(data []byte) (KeyFile, ed25519.PrivateKey, error) {
	var f KeyFile
	if err := json.Unmarshal(data, &f); err != nil {
		return f, nil, errors.New("service key file is not the JSON that mcias service create writes")
	}
	seed, err := base64.StdEncoding.DecodeString(f.PrivateKey)
	if err != nil || len(seed) != ed25519.SeedSize {
		return KeyFile{}, nil, errors.New("service key file: private_key is not base64 of 32 bytes")
	}
	if f.Account == "" || f.KeyID == "" {
		return KeyFile{}, nil, errors.New("service key file: account or kid is missing")
	}
	return f, ed25519.NewKeyFromSeed(seed), nil
}

// ServiceKey is this service's own identity. It is read from its file at first use and again whenever the file
// changes, so that rotation and a file that comes later need no restart. Safe for concurrent use.
type ServiceKey struct {
	path, issuer string

	mu   sync.Mutex // guards all below
	info fs.FileInfo
	file KeyFile
	key  ed25519.PrivateKey
}

// OpenServiceKey returns the key kept in a file, which need not be there yet. issuer is MCIAS's issuer URL.
func OpenServiceKey(path, issuer string) *ServiceKey { return &ServiceKey{path: path, issuer: issuer} }

func (k *ServiceKey) read() (KeyFile, ed25519.PrivateKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	info, err := os.Stat(k.path)
	if err != nil {
		why := fault.New(fault.Unavailable, "this service has no key file yet").WithReason(ReasonNoKeyFile).WithRetry(retryUnknown)
		return KeyFile{}, nil, why.Wrap(err)
	}
	if k.key != nil && os.SameFile(info, k.info) && info.ModTime().Equal(k.info.ModTime()) && info.Size() == k.info.Size() {
		return k.file, k.key, nil
	}
	if info.Mode().Perm()&0o077 != 0 {
		return KeyFile{}, nil, fmt.Errorf("service key file %s is readable by others (mode %04o): chmod 600 it", k.path, info.Mode().Perm())
	}
	data, err := os.ReadFile(k.path)
	if err != nil {
		return KeyFile{}, nil, fmt.Errorf("read service key file: %w", err)
	}
	file, key, err := ParseKeyFile(data)
	if err != nil {
		return KeyFile{}, nil, err
	}
	k.info, k.file, k.key = info, file, key
	return file, key, nil
}

// Account returns the name of the service's account.
func (k *ServiceKey) Account() (string, error) {
	f, _, err := k.read()
	return f.Account, err
}

// Client returns the OIDC client id and secret of a service with pages.
func (k *ServiceKey) Client() (id, secret string, err error) {
	f, _, err := k.read()
	if err != nil {
		return "", "", err
	}
	if f.ClientID == "" {
		return "", "", fault.New(fault.Precondition, "the service key file holds no OIDC client").WithReason(ReasonNoKeyFile)
	}
	return f.ClientID, f.ClientSecret, nil
}

// Assertion returns a JWT that proves the key to MCIAS once, within the next minute.
func (k *ServiceKey) Assertion(now time.Time) (string, error) {
	f, key, err := k.read()
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: key, KeyID: f.KeyID}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("sign assertion: %w", err)
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return jwt.Signed(signer).Claims(assertion{Iss: f.Account, Sub: f.Account, Aud: []string{k.issuer}, Jti: hex.EncodeToString(id[:]),
		Iat: now.Unix(), Exp: now.Add(assertionLife).Unix()}).Serialize()
}

// assertion is written out so that aud is an array, as the contract says; jwt.Claims writes one audience as a string.
type assertion struct {
	Iss string   `json:"iss"`
	Sub string   `json:"sub"`
	Aud []string `json:"aud"`
	Jti string   `json:"jti"`
	Iat int64    `json:"iat"`
	Exp int64    `json:"exp"`
}
