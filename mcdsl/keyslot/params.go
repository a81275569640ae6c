package keyslot

import (
	"encoding/binary"
	"fmt"

	"metacircular.net/mcdsl/fault"
)

// Costs of Argon2id.
type Costs struct {
	Time    uint32
	Memory  uint32 // KiB
	Threads uint8
}

// DefaultCosts takes about 0.5 s of one core: t=3, 128 MiB, p=4.
func DefaultCosts() Costs { return Costs{Time: 3, Memory: 128 << 10, Threads: 4} }

// Floor returns the least costs that are accepted: t=1, 64 MiB.
func Floor() Costs { return Costs{Time: 1, Memory: 64 << 10, Threads: 1} }

// Cap returns the greatest: t=10, 1 GiB, p=8. A row that asks for more is an attack on memory.
func Cap() Costs { return Costs{Time: 10, Memory: 1 << 20, Threads: 8} }

// within refuses costs outside floor and cap.
func (c Costs) within(floor Costs) error {
	top := Cap()
	if c.Time < floor.Time || c.Memory < floor.Memory || c.Threads < floor.Threads {
		return fmt.Errorf("argon2id costs t=%d m=%d KiB p=%d are below the floor", c.Time, c.Memory, c.Threads)
	}
	if c.Time > top.Time || c.Memory > top.Memory || c.Threads > top.Threads {
		return fmt.Errorf("argon2id costs t=%d m=%d KiB p=%d are above the cap", c.Time, c.Memory, c.Threads)
	}
	return nil
}

// KDF names in Params.
const (
	kdfArgon2id = "argon2id"
	kdfHKDF     = "hkdf-sha256"
	saltLen     = 32
)

// Params are a slot's KDF and its inputs. Costs are zero for HKDF.
type Params struct {
	KDF   string
	Costs Costs
	Salt  []byte
}

// Encode returns the canonical form, which is also what is stored.
func (p Params) Encode() []byte {
	var c [9]byte
	binary.BigEndian.PutUint32(c[0:], p.Costs.Time)
	binary.BigEndian.PutUint32(c[4:], p.Costs.Memory)
	c[8] = p.Costs.Threads
	return canonical([]byte(p.KDF), c[:], p.Salt)
}

// DecodeParams is the inverse of Encode. It accepts the canonical form only.
func DecodeParams(b []byte) (Params, error) {
	var fields [3][]byte
	rest := b
	for i := range fields {
		if len(rest) < 4 {
			return Params{}, damaged("slot parameters are cut short")
		}
		n := binary.BigEndian.Uint32(rest)
		if uint64(n) > uint64(len(rest)-4) {
			return Params{}, damaged("slot parameters are cut short")
		}
		fields[i], rest = rest[4:4+n], rest[4+n:]
	}
	if len(rest) != 0 || len(fields[1]) != 9 {
		return Params{}, damaged("slot parameters have a wrong length")
	}
	c := fields[1]
	return Params{
		KDF:   string(fields[0]),
		Costs: Costs{Time: binary.BigEndian.Uint32(c), Memory: binary.BigEndian.Uint32(c[4:]), Threads: c[8]},
		Salt:  append([]byte(nil), fields[2]...),
	}, nil
}

// check refuses parameters that do not fit the kind, before anything is derived.
func (p Params) check(kind Kind, floor Costs) error {
	if len(p.Salt) != saltLen {
		return damaged("slot salt has %d bytes, not %d", len(p.Salt), saltLen)
	}
	if kind == Password {
		if p.KDF != kdfArgon2id {
			return damaged("a password slot names the KDF %q", p.KDF)
		}
		if err := p.Costs.within(floor); err != nil {
			return damaged("slot refused").Wrap(err)
		}
		return nil
	}
	if p.KDF != kdfHKDF || p.Costs != (Costs{}) {
		return damaged("a %s slot names the KDF %q", kind, p.KDF)
	}
	return nil
}

// String describes the parameters for people, without the salt.
func (p Params) String() string {
	if p.KDF == kdfArgon2id {
		return fmt.Sprintf("argon2id t=%d m=%d MiB p=%d", p.Costs.Time, p.Costs.Memory>>10, p.Costs.Threads)
	}
	return p.KDF
}

// damaged is the fault of a stored row that cannot be what we wrote.
func damaged(format string, args ...any) *fault.Error {
	return fault.New(fault.Internal, format, args...).WithReason("INTEGRITY")
}
