package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"metacircular.net/mcdsl/db"

	"metacircular.net/mcias/internal/store"
)

// Outcomes.
const (
	OK     = "ok"
	Denied = "denied"
	Failed = "failed"
)

// Record is what happened.
type Record struct {
	Actor   string // account name, local:root, or unknown
	Action  string // noun.verb, e.g. account.disable
	Target  string
	IP      string
	Outcome string // empty = ok
	Detail  map[string]string
}

// maxDetail bounds one detail value.
const maxDetail = 1024

// Append writes a record as the next of the chain, in the caller's transaction. It may run twice with it.
func Append(w store.Writer, now time.Time, r Record) error {
	head, err := store.AuditHead(w)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	row := store.AuditRow{Seq: head.Seq + 1, Time: now.Truncate(time.Millisecond).UTC(), Actor: r.Actor, Action: r.Action, Target: r.Target,
		IP: r.IP, Outcome: r.Outcome, Prev: head.Hash}
	if row.Prev == nil {
		row.Prev = make([]byte, sha256.Size)
	}
	if row.Outcome == "" {
		row.Outcome = OK
	}
	detail := map[string]string{}
	for k, v := range r.Detail {
		if v == "" {
			continue
		}
		if len(v) > maxDetail {
			v = v[:maxDetail]
		}
		detail[k] = v
	}
	text, err := json.Marshal(detail) // sorted keys; hashed as the bytes that are stored
	if err != nil {
		return fmt.Errorf("audit detail: %w", err)
	}
	row.Detail = string(text)
	row.Hash = digest(row)
	return store.InsertAudit(w, row)
}

// digest is the hash of a record and what came before it.
func digest(r store.AuditRow) []byte {
	h := sha256.New()
	field := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	var num [16]byte
	binary.BigEndian.PutUint64(num[:8], uint64(r.Seq))
	binary.BigEndian.PutUint64(num[8:], uint64(r.Time.UnixMilli()))
	field(r.Prev)
	field(num[:])
	for _, s := range []string{r.Actor, r.Action, r.Target, r.IP, r.Outcome, r.Detail} {
		field([]byte(s))
	}
	return h.Sum(nil)
}

// Result is what a verification found.
type Result struct {
	OK       bool
	Records  int64
	LastSeq  int64
	LastHash string
	BadSeq   int64
	Why      string
}

// Verify recomputes the whole chain in pages, each a short read, so that a long chain does not keep the log from
// being reset. Records are never changed, only added, so pages from different moments fit together.
func Verify(ctx context.Context, d *db.DB) (Result, error) {
	res := Result{OK: true}
	prev := make([]byte, sha256.Size)
	for {
		var rows []store.AuditRow
		err := d.Read(ctx, func(v *db.View) (err error) {
			rows, err = store.AuditFrom(v, res.LastSeq, 1000)
			return err
		})
		if err != nil {
			return res, err
		}
		if len(rows) == 0 {
			return res, nil
		}
		for _, r := range rows {
			if why := fits(r, res.LastSeq, prev); why != "" {
				res.OK, res.BadSeq, res.Why = false, r.Seq, why
				return res, nil
			}
			prev = r.Hash
			res.Records, res.LastSeq, res.LastHash = res.Records+1, r.Seq, hex.EncodeToString(r.Hash)
		}
	}
}

func fits(r store.AuditRow, last int64, prev []byte) string {
	switch {
	case r.Seq != last+1:
		return fmt.Sprintf("records %d to %d are missing", last+1, r.Seq-1)
	case !bytes.Equal(r.Prev, prev):
		return "it does not follow the record before it"
	case !bytes.Equal(r.Hash, digest(r)):
		return "its content does not match its hash"
	}
	return ""
}

// Details parses the stored detail of a record.
func Details(r store.AuditRow) map[string]string {
	m := map[string]string{}
	_ = json.Unmarshal([]byte(r.Detail), &m) // a damaged one shows as empty here; Verify reports it
	return m
}
