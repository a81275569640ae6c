package keyslot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
)

// ReadCredential reads the credential with which a service unseals by itself: the systemd credential
// "<service>-unseal" if there is one, otherwise the file. It returns fs.ErrNotExist (wrapped) when there is neither.
// A file that others can read, or that belongs to somebody else, is refused.
func ReadCredential(service, file string) (Secret, error) {
	name := file
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		if _, err := os.Stat(filepath.Join(dir, service+"-unseal")); err == nil {
			name = "credential:" + service + "-unseal"
		}
	}
	if name == "" {
		return Secret{}, fmt.Errorf("unseal credential: %w", fs.ErrNotExist)
	}
	v, err := secret.ReadFile(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return Secret{}, fmt.Errorf("unseal credential: %w", fs.ErrNotExist)
		}
		return Secret{}, fault.New(fault.Invalid, "unseal credential refused").Wrap(err)
	}
	return Secret{Kind: Credential, Value: v.Reveal()}, nil
}
