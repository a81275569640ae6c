package barrier

import (
	"bytes"
	"crypto/sha256"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/store"
)

// useBlock is how many uses of a key are reserved at once; a crash wastes what is left of a block. maxUses keeps the
// key far below NIST's bound of 2^32 for random 96-bit nonces.
const (
	useBlock = 1 << 16
	maxUses  = 1 << 31
)

// hash turns a path into what the table shows.
func (m *mount) hash(path string) []byte {
	h := mac(m.kPath, []byte(path))
	return h[:]
}

// rowMAC is a row's share of the accumulator.
func (m *mount) rowMAC(e store.Entry) [32]byte {
	h := sha256.Sum256(e.PathCT)
	return mac(m.kMAC, []byte(labelRow), e.PathHash, num(e.Rev), e.KeyID, e.Tag, h[:])
}

// dataAAD binds a value to its place.
func (m *mount) dataAAD(path string, rev int64, keyID []byte) []byte {
	return fields([]byte(labelData), []byte{envelope}, m.ID, []byte(path), num(rev), keyID)
}

// pathAAD binds a sealed path to its row.
func (m *mount) pathAAD(hash, keyID []byte) []byte {
	return fields([]byte(labelPath), []byte{envelope}, m.ID, hash, keyID)
}

// seal makes the row of a value.
func (m *mount) seal(path string, rev int64, value []byte) (store.Entry, error) {
	k := m.active
	if k.uses.Add(2) > maxUses {
		return store.Entry{}, fault.New(fault.Exhausted, "the data key of mount %q is used up", m.Name).WithReason("KEY_USES")
	}
	e := store.Entry{PathHash: m.hash(path), Rev: rev, KeyID: k.id}
	ct := k.aead.Seal(nil, nil, value, m.dataAAD(path, rev, k.id))
	e.CT, e.Tag = ct[:len(ct)-tagLen], bytes.Clone(ct[len(ct)-tagLen:])
	e.PathCT = k.aead.Seal(nil, nil, []byte(path), m.pathAAD(e.PathHash, k.id))
	return e, nil
}

// open returns the value of a row, or an integrity fault.
func (m *mount) open(path string, e store.Entry) ([]byte, error) {
	k := m.data[string(e.KeyID)]
	if k == nil || len(e.CT) < nonceLen || len(e.Tag) != tagLen {
		return nil, Integrity("a row of mount %q was changed", m.Name)
	}
	ct := append(bytes.Clone(e.CT), e.Tag...)
	v, err := k.aead.Open(nil, nil, ct, m.dataAAD(path, e.Rev, k.id))
	if err != nil {
		return nil, Integrity("a row of mount %q was changed", m.Name)
	}
	return v, nil
}

// path returns the path of a row.
func (m *mount) path(e store.Entry) (string, error) {
	k := m.data[string(e.KeyID)]
	if k == nil {
		return "", Integrity("a row of mount %q was changed", m.Name)
	}
	p, err := k.aead.Open(nil, nil, e.PathCT, m.pathAAD(e.PathHash, k.id))
	if err != nil || !bytes.Equal(m.hash(string(p)), e.PathHash) {
		return "", Integrity("a row of mount %q was changed", m.Name)
	}
	return string(p), nil
}
