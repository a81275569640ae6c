package zone

import (
	"time"

	"github.com/miekg/dns"
)

// Defaults that delegation checkers accept.
const (
	DefaultRefresh = 14400
	DefaultRetry   = 3600
	DefaultExpire  = 1209600
	DefaultMinimum = 300
	DefaultTTL     = 300
)

// Zone is one zone with all its records. It is not changed once it is in use.
type Zone struct {
	ID         int64     `json:"id"`
	Name       string    `json:"name"` // canonical apex
	MName      string    `json:"mname"`
	RName      string    `json:"rname"`
	Refresh    uint32    `json:"refresh"`
	Retry      uint32    `json:"retry"`
	Expire     uint32    `json:"expire"`
	Minimum    uint32    `json:"minimum"`
	DefaultTTL uint32    `json:"default_ttl"`
	Serial     uint32    `json:"serial"`
	Changed    time.Time `json:"changed"`
	Records    []Record  `json:"records"` // SOA apart
}

// SOA returns the zone's SOA record.
func (z *Zone) SOA() *dns.SOA {
	return &dns.SOA{Hdr: dns.RR_Header{Name: z.Name, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: z.DefaultTTL},
		Ns: z.MName, Mbox: z.RName, Serial: z.Serial, Refresh: z.Refresh, Retry: z.Retry, Expire: z.Expire, Minttl: z.Minimum}
}

// With returns a copy with other records.
func (z *Zone) With(records []Record) *Zone {
	c := *z
	c.Records = records
	return &c
}

// Newer reports whether serial a comes after b (RFC 1982).
func Newer(a, b uint32) bool { return a != b && a-b < 1<<31 }

// NextSerial returns the serial after old: today's YYYYMMDD00 if that is greater, else old + 1, never 0.
func NextSerial(old uint32, now time.Time) uint32 {
	y, m, d := now.UTC().Date()
	today := uint32(y*1000000 + int(m)*10000 + d*100) //nolint:gosec // fits until the year 4294
	if old == 0 || Newer(today, old) {
		return today
	}
	if next := old + 1; next != 0 {
		return next
	}
	return 1
}
