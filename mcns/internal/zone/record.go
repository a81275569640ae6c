package zone

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"metacircular.net/mcdsl/fault"
)

// MaxTTL is the greatest TTL (RFC 2181 section 8).
const MaxTTL = 1<<31 - 1

// Record is one value of a set of records.
type Record struct {
	ID      int64     `json:"id"`
	Name    string    `json:"name"` // canonical
	Type    uint16    `json:"type"`
	TTL     uint32    `json:"ttl"`  // of the whole set
	Text    string    `json:"text"` // value in canonical presentation form
	Owner   string    `json:"owner"`
	Note    string    `json:"note,omitempty"`
	Changed time.Time `json:"changed"`
}

// Key names a set of records.
type Key struct {
	Name string
	Type uint16
}

// Key returns the set the record belongs to.
func (r Record) Key() Key { return Key{r.Name, r.Type} }

// TypeName returns the type in words, "TYPE65400" for an unknown one.
func TypeName(t uint16) string { return dns.Type(t).String() }

// ParseType reads a type's name.
func ParseType(s string) (uint16, error) {
	s = strings.ToUpper(strings.TrimSpace(s))
	if t, ok := dns.StringToType[s]; ok {
		return t, nil
	}
	if n, ok := strings.CutPrefix(s, "TYPE"); ok {
		var t uint32
		for _, c := range n {
			if c < '0' || c > '9' || t > 6553 {
				t = 1 << 16
				break
			}
			t = t*10 + uint32(c-'0') //nolint:gosec // a digit
		}
		if n != "" && t < 1<<16 {
			return uint16(t), nil
		}
	}
	return 0, fault.Field1("type", "%q is no record type", s)
}

// refusedType says why a type can't be written; "" if it can.
func refusedType(t uint16) string {
	switch t {
	case dns.TypeSOA:
		return "the SOA is changed with `mcns zone edit`"
	case dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNSEC3, dns.TypeNSEC3PARAM, dns.TypeDNSKEY, dns.TypeCDS, dns.TypeCDNSKEY:
		return "only the signer makes it"
	case dns.TypeNone, dns.TypeOPT:
		return "it is no data"
	}
	if t >= 128 && t <= 255 {
		return "it is no data"
	}
	return ""
}

// ParseValue reads a value of a type in presentation form and returns its canonical text. Names in it are
// absolute or relative to origin.
func ParseValue(name string, t uint16, ttl uint32, value, origin string) (dns.RR, string, error) {
	if why := refusedType(t); why != "" {
		return nil, "", fault.Field1("type", "%s cannot be written: %s", TypeName(t), why)
	}
	if ttl > MaxTTL {
		return nil, "", fault.Field1("ttl", "must be at most %d", MaxTTL)
	}
	if strings.ContainsAny(value, "\n\r\x00;") && !quoted(value) {
		return nil, "", fault.Field1("value", "is one line without a comment")
	}
	if strings.TrimSpace(value) == "" {
		return nil, "", fault.Field1("value", "is empty")
	}
	if err := checkStrings(t, value); err != nil {
		return nil, "", err
	}
	zp := dns.NewZoneParser(strings.NewReader(name+" "+"0 IN "+TypeName(t)+" "+value+"\n"), origin, "")
	rr, ok := zp.Next()
	if !ok || zp.Err() != nil {
		return nil, "", fault.Field1("value", "%q is no value of type %s%s", value, TypeName(t), hint(t)).Wrap(zp.Err())
	}
	if _, more := zp.Next(); more {
		return nil, "", fault.Field1("value", "is one line")
	}
	rr.Header().Name, rr.Header().Ttl, rr.Header().Class = name, ttl, dns.ClassINET
	if _, known := dns.TypeToRR[t]; known {
		if u, ok := rr.(*dns.RFC3597); ok { // a known type written \# n hex
			typed, err := fromUnknown(u, t)
			if err != nil {
				return nil, "", fault.Field1("value", "is no value of type %s", TypeName(t)).Wrap(err)
			}
			rr = typed
		}
	}
	if err := checkRR(rr); err != nil {
		return nil, "", err
	}
	lowerTargets(rr)
	buf := make([]byte, dns.MaxMsgSize)
	if _, err := dns.PackRR(rr, buf, 0, nil, false); err != nil {
		return nil, "", fault.Field1("value", "%q is no value of type %s", value, TypeName(t)).Wrap(err)
	}
	return rr, Text(rr), nil
}

// Text returns the value of a record in presentation form, without its header.
func Text(rr dns.RR) string {
	if u, ok := rr.(*dns.RFC3597); ok { // the library prints the class as CLASS1, which others refuse
		return "\\# " + strconv.Itoa(len(u.Rdata)/2) + " " + u.Rdata
	}
	return strings.TrimPrefix(rr.String(), rr.Header().String())
}

func quoted(s string) bool { return strings.Contains(s, `"`) && !strings.ContainsAny(s, "\n\r\x00") }

// hint shows a right value for types people write by hand.
func hint(t uint16) string {
	example := map[uint16]string{dns.TypeA: "10.0.0.1", dns.TypeAAAA: "fd00::1", dns.TypeCNAME: "target.example.",
		dns.TypeMX: "10 mail.example.", dns.TypeSRV: "0 0 443 host.example.", dns.TypeTXT: `"text"`, dns.TypeCAA: `0 issue "ca.example"`}[t]
	if example == "" {
		return ""
	}
	return ", for example " + example
}

// checkStrings looks at quoted tokens: the parser splits a string of more than 255 octets silently.
func checkStrings(t uint16, value string) error {
	if t != dns.TypeTXT && t != dns.TypeSPF && t != dns.TypeHINFO {
		return nil
	}
	length, in, esc := 0, false, false
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case esc:
			esc = false
			if c >= '0' && c <= '9' && i+2 < len(value) {
				i += 2
			}
			length++
		case c == '\\':
			esc = true
		case c == '"':
			in, length = !in, 0
		case !in && (c == ' ' || c == '\t'):
			length = 0
		default:
			length++
		}
		if length > 255 {
			return fault.Field1("value", "a character-string has at most 255 octets; split it into several strings")
		}
	}
	return nil
}

// checkRR refuses values that are well-formed and wrong.
func checkRR(rr dns.RR) error {
	switch v := rr.(type) {
	case *dns.TXT:
		if len(v.Txt) == 0 {
			return fault.Field1("value", `a TXT record has at least one string; write ""`)
		}
	case *dns.HTTPS:
		return checkSVCB(v.Priority, v.Value)
	case *dns.SVCB:
		return checkSVCB(v.Priority, v.Value)
	}
	return nil
}

func checkSVCB(priority uint16, values []dns.SVCBKeyValue) error {
	seen := map[dns.SVCBKey]bool{}
	var mandatory []dns.SVCBKey
	for _, kv := range values {
		if seen[kv.Key()] {
			return fault.Field1("value", "key %s is there twice", kv.Key())
		}
		seen[kv.Key()] = true
		if m, ok := kv.(*dns.SVCBMandatory); ok {
			mandatory = m.Code
		}
	}
	for _, k := range mandatory {
		if !seen[k] {
			return fault.Field1("value", "key %s is mandatory and missing", k)
		}
	}
	_ = priority // AliasMode with keys is allowed and ignored (RFC 9460 section 2.4.2)
	return nil
}

func fromUnknown(u *dns.RFC3597, t uint16) (dns.RR, error) {
	buf := make([]byte, dns.MaxMsgSize)
	u.Hdr.Rrtype = t
	n, err := dns.PackRR(u, buf, 0, nil, false)
	if err != nil {
		return nil, err
	}
	rr, _, err := dns.UnpackRR(buf[:n], 0)
	return rr, err
}

// lowerTargets makes names inside the value lower-case, so that equal values are equal texts.
func lowerTargets(rr dns.RR) {
	switch v := rr.(type) {
	case *dns.CNAME:
		v.Target = strings.ToLower(v.Target)
	case *dns.DNAME:
		v.Target = strings.ToLower(v.Target)
	case *dns.NS:
		v.Ns = strings.ToLower(v.Ns)
	case *dns.PTR:
		v.Ptr = strings.ToLower(v.Ptr)
	case *dns.MX:
		v.Mx = strings.ToLower(v.Mx)
	case *dns.SRV:
		v.Target = strings.ToLower(v.Target)
	case *dns.HTTPS:
		v.Target = strings.ToLower(v.Target)
	case *dns.SVCB:
		v.Target = strings.ToLower(v.Target)
	}
}

// Sort orders records: by name from the apex down, then type, then value.
func Sort(rs []Record) {
	slices.SortFunc(rs, func(a, b Record) int {
		if c := compareNames(a.Name, b.Name); c != 0 {
			return c
		}
		if a.Type != b.Type {
			return int(a.Type) - int(b.Type)
		}
		return strings.Compare(a.Text, b.Text)
	})
}

// compareNames is canonical order (RFC 4034 section 6.1) on canonical names.
func compareNames(a, b string) int {
	la, lb := dns.SplitDomainName(a), dns.SplitDomainName(b)
	for i, j := len(la)-1, len(lb)-1; i >= 0 && j >= 0; i, j = i-1, j-1 {
		if c := strings.Compare(la[i], lb[j]); c != 0 {
			return c
		}
	}
	return len(la) - len(lb)
}
