package bootstrap

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"metacircular.net/mcdsl/cli"
)

// fileVersion names a binary: the version this program was built as, with digits of the file's own hash, so that another
// build is another version.
func fileVersion(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read a binary: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("read a binary: %w", err)
	}
	version := ""
	for _, r := range cli.Version {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' {
			version += string(r)
		}
	}
	return version + "-" + hex.EncodeToString(sum.Sum(nil))[:12], nil
}
