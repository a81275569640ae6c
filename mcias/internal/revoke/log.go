package revoke

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/store"
)

// Kinds of rows.
const (
	JTI     = "jti"
	SID     = "sid"
	Subject = "sub"
	Client  = "client"
	KID     = "kid"
	Key     = "key"
	All     = "all"
)

var kinds = map[string]mciasv1.RevocationKind{
	JTI: mciasv1.RevocationKind_REVOCATION_KIND_JTI, SID: mciasv1.RevocationKind_REVOCATION_KIND_SID,
	Subject: mciasv1.RevocationKind_REVOCATION_KIND_SUB, Client: mciasv1.RevocationKind_REVOCATION_KIND_CLIENT,
	KID: mciasv1.RevocationKind_REVOCATION_KIND_KID, Key: mciasv1.RevocationKind_REVOCATION_KIND_KEY,
	All: mciasv1.RevocationKind_REVOCATION_KIND_ALL,
}

// Row is what a kill hits.
type Row struct {
	Kind, Value, Aud string
	Bound            int64
}

// Killer writes rows. A row lives as long as the longest token it can hit, plus leeway: Session for tokens of a login
// session (so that a session that is denied a service and then allowed again is not refused for longer), Life for all
// others.
type Killer struct{ Life, Session time.Duration }

// Kill appends rows in the caller's transaction and returns the newest number.
func (k Killer) Kill(w store.Writer, now time.Time, rows ...Row) (seq int64, err error) {
	for _, r := range rows {
		life := k.Life
		if r.Kind == SID {
			life = k.Session
		}
		seq, err = store.InsertRevocation(w, store.Revocation{Kind: r.Kind, Value: r.Value, Aud: r.Aud, Bound: r.Bound,
			Created: now, Expires: now.Add(life)})
		if err != nil {
			return 0, err
		}
	}
	return seq, nil
}

func wire(v store.Revocation) *mciasv1.Revocation {
	return &mciasv1.Revocation{Seq: v.Seq, Kind: kinds[v.Kind], Value: v.Value, Aud: v.Aud, Bound: v.Bound, ExpiresAt: timestamppb.New(v.Expires)}
}
