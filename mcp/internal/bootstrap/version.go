package bootstrap

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

// fileVersion names a binary by its own hash: another build is another version, and an equal one changes nothing, whatever
// it is called.
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
	return hex.EncodeToString(sum.Sum(nil))[:12], nil
}
