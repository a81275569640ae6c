package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/keyslot"
	"metacircular.net/mcdsl/secret"

	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/directory"
	"metacircular.net/mcias/internal/opaque"
	"metacircular.net/mcias/internal/store"
	"metacircular.net/mcias/internal/token"
	"metacircular.net/mcias/internal/vault"
)

// InitRequest is what init makes, and where it puts what is shown once.
type InitRequest struct {
	Admin       string
	Password    secret.Value // of the first slot
	Credential  secret.Value // of a credential slot; empty = none
	SetupOut    string       // the first admin's setup link
	OperatorOut string       // the operator key
	RecoveryOut string       // the recovery code
	Slots       func(keyslot.Config) (*keyslot.Slots, error)
}

// InitResult says what was made.
type InitResult struct {
	Admin             string `json:"admin"`
	Issuer            string `json:"issuer"`
	SetupFile         string `json:"setup_file"`
	SetupExpires      string `json:"setup_expires_at"`
	OperatorKeyFile   string `json:"operator_key_file"`
	OperatorKID       string `json:"operator_kid"`
	OperatorPublicKey string `json:"operator_public_key"`
	RecoveryFile      string `json:"recovery_file"`
	Database          string `json:"database"`
}

// OperatorKey is the operator key file: an Ed25519 key whose public half is pinned in MCP's component configuration.
type OperatorKey struct {
	KID        string `json:"kid"`
	PrivateKey string `json:"private_key"` // base64 of the 32-byte seed
	PublicKey  string `json:"public_key"`  // base64 of 32 bytes
}

// NewOperatorKey makes one.
func NewOperatorKey() (OperatorKey, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return OperatorKey{}, err
	}
	kid, err := token.Thumbprint(pub)
	b := base64.StdEncoding
	return OperatorKey{KID: kid, PrivateKey: b.EncodeToString(priv.Seed()), PublicKey: b.EncodeToString(pub)}, err
}

// Init makes a new MCIAS. The database is built aside and renamed last, after every output file is on disk, so an init
// that was killed is simply repeated.
func Init(ctx context.Context, cfg *Config, req InitRequest, clk clock.Clock) (*InitResult, error) {
	path := cfg.Database.Path
	if _, err := os.Lstat(path); err == nil {
		return nil, fault.New(fault.Conflict, "%s is there: MCIAS is initialized already", path).WithReason("INITIALIZED").
			WithNext("mcias server; or, if nobody can sign in any more, mcias break-glass ACCOUNT")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fault.New(fault.Precondition, "make %s", dir).Wrap(err)
	}
	lock, err := db.LockFolder(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Unlock() }() // the process ends soon
	aside := filepath.Join(dir, ".init.db")
	if err := removeDB(aside); err != nil {
		return nil, err
	}
	res, err := build(ctx, cfg, req, clock.Or(clk), aside, lock)
	if err != nil {
		return nil, errors.Join(err, removeDB(aside))
	}
	if err := os.Rename(aside, path); err != nil {
		return nil, err
	}
	return res, secret.SyncDir(dir)
}

// removeDB removes a database file with its companions.
func removeDB(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// build fills the database aside and writes the output files.
func build(ctx context.Context, cfg *Config, req InitRequest, clk clock.Clock, path string, lock *db.Lock) (_ *InitResult, err error) {
	d, err := db.Open(ctx, db.Config{Path: path, Service: "mcias", Migrations: store.Migrations(), Lock: lock, Clock: clk})
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := d.Close(); err == nil {
			err = cerr
		}
	}()
	newSlots := req.Slots
	if newSlots == nil {
		newSlots = keyslot.New
	}
	slots, err := newSlots(keyslot.Config{Service: "mcias", Store: store.Slots{DB: d}, Clock: clk})
	if err != nil {
		return nil, err
	}
	secrets := []keyslot.Secret{{Kind: keyslot.Password, Value: req.Password.Reveal()}}
	if !req.Credential.IsZero() {
		secrets = append(secrets, keyslot.Secret{Kind: keyslot.Credential, Value: req.Credential.Reveal()})
	}
	master, rows, made, err := slots.Prepare(secrets...)
	if err != nil {
		return nil, err
	}
	defer master.Close()
	op, err := NewOperatorKey()
	if err != nil {
		return nil, err
	}
	link, err := fill(ctx, cfg, req, clk, d, master, rows)
	if err != nil {
		return nil, err
	}
	opJSON, err := json.MarshalIndent(op, "", "  ")
	if err != nil {
		return nil, err
	}
	for _, f := range []struct{ name, text string }{
		{req.OperatorOut, string(opJSON) + "\n"}, {req.RecoveryOut, made.RecoveryCode + "\n"}, {req.SetupOut, link.URL + "\n"},
	} {
		if err := secret.WriteFile(f.name, []byte(f.text)); err != nil {
			return nil, fault.New(fault.Precondition, "write %s", f.name).Wrap(err)
		}
	}
	return &InitResult{Admin: req.Admin, Issuer: cfg.Issuer(), SetupFile: req.SetupOut, SetupExpires: link.Expires.UTC().Format("2006-01-02T15:04:05Z"),
		OperatorKeyFile: req.OperatorOut, OperatorKID: op.KID, OperatorPublicKey: op.PublicKey, RecoveryFile: req.RecoveryOut, Database: cfg.Database.Path}, nil
}

// nobody hears what init writes: no server runs yet.
type nobody struct{}

func (nobody) Flush(context.Context) {}

// fill writes everything a new database begins with, in one transaction.
func fill(ctx context.Context, cfg *Config, req InitRequest, clk clock.Clock, d *db.DB, master *keyslot.Master, rows []keyslot.Row) (link *directory.Link, err error) {
	cipher, err := vault.NewCipher(master)
	if err != nil {
		return nil, err
	}
	var keys []*store.SigningKey
	for _, use := range []string{token.Platform, token.OIDC} {
		k, err := token.Generate(cipher, use, cfg.Keys.RSABits, clk.Now())
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	stream := opaque.ID()
	dir := directory.New(directory.Config{DB: d, Clock: clk, Teller: nobody{}, Killer: killer(cfg), Issuer: cfg.Issuer(), Domain: cfg.Domain()})
	by := audit.By{Name: "local:init", Admin: true}
	err = d.Write(ctx, func(tx *db.Tx) error {
		if err := store.PutSlots(tx, rows, nil); err != nil {
			return err
		}
		for k, v := range map[string]string{store.MetaStreamID: stream, store.MetaIssuer: cfg.Issuer(), store.MetaHeld: "0"} {
			if err := store.SetMeta(tx, k, v); err != nil {
				return err
			}
		}
		for _, k := range keys {
			if err := store.InsertSigningKey(tx, k); err != nil {
				return err
			}
		}
		if err := audit.Append(tx, clk.Now(), by.Record("init", "mcias", "issuer", cfg.Issuer(), "stream_id", stream)); err != nil {
			return err
		}
		link, err = dir.Bootstrap(tx, by, req.Admin)
		return err
	})
	return link, err
}

// CheckInit refuses what init could only fail on later.
func (r *InitRequest) CheckInit() error {
	f := fault.New(fault.Invalid, "mcias init needs to know where to put what is shown once")
	for _, x := range []struct{ flag, v string }{{"--admin", r.Admin}, {"--setup-out", r.SetupOut}, {"--operator-key-out", r.OperatorOut}} {
		if strings.TrimSpace(x.v) == "" {
			f = f.WithField(x.flag, "is missing")
		}
	}
	if len(f.Fields) > 0 {
		return f
	}
	if r.RecoveryOut == "" {
		r.RecoveryOut = filepath.Join(filepath.Dir(r.OperatorOut), "mcias-recovery-code")
	}
	seen := map[string]bool{}
	for _, p := range []string{r.SetupOut, r.OperatorOut, r.RecoveryOut} {
		if seen[filepath.Clean(p)] {
			return fault.New(fault.Invalid, "%s would be written twice", p)
		}
		seen[filepath.Clean(p)] = true
		if info, err := os.Stat(filepath.Dir(p)); err != nil || !info.IsDir() {
			return fault.New(fault.Precondition, "the folder of %s is not there", p).WithNext("mkdir -p %s", filepath.Dir(p))
		}
	}
	return nil
}

// errNotInit is told when the server finds no database.
func errNotInit(path string) error {
	return fault.New(fault.Precondition, "%s is not there: MCIAS is not initialized", path).WithReason("UNINITIALIZED").
		WithNext("mcias init --admin NAME --unseal-password-file F --setup-out F --operator-key-out F")
}

// Initialized reports whether the database is there.
func Initialized(cfg *Config) error {
	if _, err := os.Stat(cfg.Database.Path); errors.Is(err, fs.ErrNotExist) {
		return errNotInit(cfg.Database.Path)
	} else if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	return nil
}
