package mint

import (
	"context"
	"sort"
	"strconv"

	"metacircular.net/mcdsl/db"

	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/store"
)

// Flush writes the mints counted so far to audit, one record per account, service and minute, and the highest time
// seen. What a crash loses are counts, never a decision: those of sign-ins are in audit before they are answered.
func (m *Minter) Flush(ctx context.Context) error {
	n := m.counts.take()
	keys := make([]countKey, 0, len(n))
	for k := range n {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool {
		a, b := keys[i], keys[j]
		return a.minute < b.minute || a.minute == b.minute && (a.account < b.account || a.account == b.account && a.service < b.service)
	})
	now := m.Clock.Now()
	return m.DB.Write(ctx, func(tx *db.Tx) error {
		if err := store.SetMeta(tx, store.MetaHighWater, strconv.FormatInt(m.hold.High(), 10)); err != nil {
			return err
		}
		for _, k := range keys {
			r := audit.By{Name: k.account}.Record("token.mint", k.service, "count", strconv.Itoa(n[k]))
			if err := audit.Append(tx, now, r); err != nil {
				return err
			}
		}
		return nil
	})
}
