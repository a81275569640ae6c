package bootstrap

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Credentials are what an operator needs to get in. The unseal password is kept here only with --yes.
type Credentials struct {
	Admin struct {
		Username string `json:"username"`
		Password string `json:"password"`
	} `json:"admin"`
	UnsealPassword string `json:"unseal_password,omitempty"`
}

func (l Layout) credentials() (c Credentials, ok bool, err error) {
	data, err := os.ReadFile(l.credentialsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return c, false, nil
	}
	if err != nil {
		return c, false, fmt.Errorf("read credentials: %w", err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, false, fmt.Errorf("read %s: %w", l.credentialsFile(), err)
	}
	return c, true, nil
}

// keepCredentials writes the file, 0600 and durable, before anything is protected by what it holds.
func (l Layout) keepCredentials(c Credentials) error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	_, err = writeFile(l.credentialsFile(), append(data, '\n'), 0o600, -1)
	return err
}

// alphabet leaves out letters that people mix up; 32 characters make each one worth 5 bits.
const alphabet = "abcdefghjkmnpqrstuvwxyz23456789-"

// newPassword returns 120 random bits as 24 characters in groups.
func newPassword() string {
	var raw [24]byte
	if _, err := rand.Read(raw[:]); err != nil {
		panic(err) // the kernel's random source does not fail
	}
	var b strings.Builder
	for i, r := range raw {
		if i > 0 && i%6 == 0 {
			b.WriteByte('_')
		}
		b.WriteByte(alphabet[int(r)%len(alphabet)])
	}
	return b.String()
}
