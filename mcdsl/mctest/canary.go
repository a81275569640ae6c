package mctest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Canary is a marked secret: feed it in as a password, key or token, then look for it everywhere.
type Canary struct {
	Secret string
}

// NewCanary returns a secret that appears nowhere by chance.
func NewCanary() Canary {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return Canary{"canary-" + hex.EncodeToString(b[:])}
}

// forms are the ways in which the secret may show itself.
func (c Canary) forms() [][]byte {
	s := []byte(c.Secret)
	return [][]byte{s, []byte(hex.EncodeToString(s)), []byte(base64.RawStdEncoding.EncodeToString(s)), []byte(base64.RawURLEncoding.EncodeToString(s))}
}

func (c Canary) in(data []byte) bool {
	for _, f := range c.forms() {
		if bytes.Contains(data, f) {
			return true
		}
	}
	return false
}

// InData fails the test if the secret is in data (a log, an answer, an error text).
func (c Canary) InData(t testing.TB, what string, data []byte) {
	t.Helper()
	if c.in(data) {
		t.Errorf("the secret is in %s", what)
	}
}

// InFiles fails the test if the secret is in a file below a folder; files named in except may hold it.
func (c Canary) InFiles(t testing.TB, dir string, except ...string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		for _, e := range except {
			if path == e || filepath.Base(path) == e {
				return nil
			}
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		c.InData(t, path, data)
		return nil
	})
	if err != nil {
		t.Errorf("look for the secret: %v", err)
	}
}

// InProcess fails the test if the secret is in the arguments or the environment of a process.
func (c Canary) InProcess(t testing.TB, pid int) {
	t.Helper()
	for _, f := range []string{"cmdline", "environ"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, f))
		if err != nil {
			t.Errorf("look for the secret: %v", err)
			continue
		}
		c.InData(t, fmt.Sprintf("%s of process %d", f, pid), data)
	}
}
