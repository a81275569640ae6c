package service

import (
	"context"
	"sync"
	"time"

	"metacircular.net/mcdsl/metrics"
	"metacircular.net/mcr/internal/store"
)

// usageAge is how old the numbers of a scrape may be: counting reads whole tables.
const usageAge = 30 * time.Second

// measure registers the registry's own metrics. No repository and no user is ever a label.
func measure(p *Parts, m *metrics.Registry) {
	var mu sync.Mutex
	var at time.Time
	var last store.Usage
	usage := func() store.Usage {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(at) > usageAge {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if u, err := p.Store.Usage(ctx); err == nil {
				last, at = u, now
			}
		}
		return last
	}
	m.Gauge("mcr_blobs", "Blobs that are whole.", nil, func() float64 { return float64(usage().Blobs) })
	m.Gauge("mcr_blob_bytes", "Bytes of the blob files.", nil, func() float64 { return float64(usage().BlobBytes) })
	m.Gauge("mcr_dedupe_saved_bytes", "Bytes that sharing between repositories saves.", nil,
		func() float64 { u := usage(); return float64(max(0, u.LinkedBytes-u.BlobBytes)) })
	m.Gauge("mcr_quarantined_blobs", "Blobs that were found damaged.", nil, func() float64 { return float64(usage().Quarantined) })
	m.Gauge("mcr_open_uploads", "Uploads that are open.", nil, func() float64 { return float64(usage().Uploads) })
	m.Gauge("mcr_disk_used_ratio", "How full the disk of the content is.", nil, func() float64 {
		total, free, err := p.Blobs.Disk()
		if err != nil || total == 0 {
			return 0
		}
		return 1 - float64(free)/float64(total)
	})
}
