package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"metacircular.net/mc-proxy/internal/route"
)

// maxFallback bounds the fallback file: 10 000 routes with 64 backends each stay far below.
const maxFallback = 256 << 20

// ErrDamaged means that the fallback file is not what was written.
var ErrDamaged = errors.New("routing.snapshot is damaged")

type fallbackFile struct {
	Generation int64          `json:"generation"`
	NextID     int64          `json:"next_id"`
	Routes     []*route.Route `json:"routes"`
}

// SaveFallback writes the table to file: a line with the SHA-256 of the rest, then JSON.
func SaveFallback(file string, t Table) (err error) {
	body, err := json.Marshal(fallbackFile(t))
	if err != nil {
		return fmt.Errorf("encode routing.snapshot: %w", err)
	}
	sum := sha256.Sum256(body)
	dir := filepath.Dir(file)
	tmp, err := os.CreateTemp(dir, ".routing.snapshot-*") // 0600
	if err != nil {
		return fmt.Errorf("write routing.snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(append([]byte(hex.EncodeToString(sum[:])+"\n"), body...))
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write routing.snapshot: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write routing.snapshot: %w", err)
	}
	defer d.Close()
	return d.Sync()
}

// LoadFallback reads what SaveFallback wrote.
func LoadFallback(file string) (Table, error) {
	st, err := os.Stat(file)
	if err != nil {
		return Table{}, err
	}
	if st.Size() > maxFallback {
		return Table{}, ErrDamaged
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return Table{}, err
	}
	head, body, ok := bytes.Cut(data, []byte("\n"))
	sum := sha256.Sum256(body)
	if !ok || string(head) != hex.EncodeToString(sum[:]) {
		return Table{}, ErrDamaged
	}
	var f fallbackFile
	if err := json.Unmarshal(body, &f); err != nil {
		return Table{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return Table(f), nil
}
