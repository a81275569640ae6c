package cas

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path"
)

const (
	stateSuffix = ".state"
	slotSize    = 512
	maxBoot     = 64
	maxState    = slotSize - 8 - 8 - 2 - maxBoot - sha256.Size // sha512's state has 212 bytes
)

// slot is one checkpoint in the file beside an upload. Two of them alternate, so that a torn write of one
// leaves the other.
type slot struct {
	Synced
	seq uint64
}

// checkpoint writes the offset and hash state into the older slot, without sync.
func (u *Upload) checkpoint() error {
	st := state(u.h)
	if len(st) > maxState {
		return fmt.Errorf("checkpoint: hash state of %d bytes", len(st))
	}
	u.seq++
	b := make([]byte, slotSize)
	binary.BigEndian.PutUint64(b, u.seq)
	binary.BigEndian.PutUint64(b[8:], uint64(u.off))
	binary.BigEndian.PutUint16(b[16:], uint16(len(st)))
	copy(b[18:18+maxBoot], u.s.bootN)
	copy(b[18+maxBoot:], st)
	sum := sha256.Sum256(b[:slotSize-sha256.Size])
	copy(b[slotSize-sha256.Size:], sum[:])
	f, err := u.s.root.OpenFile(path.Join("uploads", u.id+stateSuffix), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, int64(u.seq%2)*slotSize); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	u.saved = u.off
	return nil
}

// readState returns the newest slot that is whole and was written under the running kernel.
func (s *Store) readState(id string) (slot, bool) {
	f, err := s.root.Open(path.Join("uploads", id+stateSuffix))
	if err != nil {
		return slot{}, false
	}
	defer f.Close()
	var best slot
	found := false
	for i := range int64(2) {
		b := make([]byte, slotSize)
		if _, err := f.ReadAt(b, i*slotSize); err != nil {
			continue
		}
		sum := sha256.Sum256(b[:slotSize-sha256.Size])
		if !bytes.Equal(sum[:], b[slotSize-sha256.Size:]) {
			continue
		}
		boot := string(bytes.TrimRight(b[18:18+maxBoot], "\x00"))
		n := int(binary.BigEndian.Uint16(b[16:]))
		if boot == "" || boot != s.bootN || n > maxState {
			continue
		}
		sl := slot{seq: binary.BigEndian.Uint64(b), Synced: Synced{
			Offset: int64(binary.BigEndian.Uint64(b[8:])), State: b[18+maxBoot : 18+maxBoot+n]}}
		if !found || sl.seq > best.seq {
			best, found = sl, true
		}
	}
	return best, found
}

func (s *Store) removeState(id string) {
	// A leftover is met and removed by the collector; it holds no content.
	_ = s.root.Remove(path.Join("uploads", id+stateSuffix))
}
