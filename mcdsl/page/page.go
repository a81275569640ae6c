// Package page makes the tokens of paged lists.
//
// Lists page by key: "give me what comes after this". The token carries the key of the last row and a
// digest of what was asked (filter and order), so a token can't be used with another question. It holds
// no secret and grants nothing: every page is authorised again.
//
//	p, err := page.Parse(req.PageSize, req.PageToken, "zones", req.Filter)
//	rows := store.ZonesAfter(p.After(0), p.Limit())      // asks for one more than the page
//	rows, next := page.Next(p, rows, func(z Zone) []string { return []string{z.Name} })
package page

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"

	"metacircular.net/mcdsl/fault"
)

// Sizes of a page.
const (
	DefaultSize = 50
	MaxSize     = 500
	maxToken    = 4096
)

// Page is one page that was asked for.
type Page struct {
	size    int
	after   []string
	binding string
}

type token struct {
	After   []string `json:"a"`
	Binding string   `json:"b"`
}

// Parse checks size and token. question is whatever decides which rows come in which order.
func Parse(size int32, tok string, question ...string) (Page, error) {
	p := Page{size: int(size), binding: bind(question)}
	switch {
	case size < 0:
		return Page{}, fault.Field1("page_size", "must not be negative")
	case size == 0:
		p.size = DefaultSize
	case size > MaxSize:
		p.size = MaxSize
	}
	if tok == "" {
		return p, nil
	}
	bad := func() (Page, error) {
		return Page{}, fault.Field1("page_token", "is not a token of this list").WithNext("ask for the first page again")
	}
	if len(tok) > maxToken {
		return bad()
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(tok)
	if err != nil {
		return bad()
	}
	var t token
	if err := json.Unmarshal(raw, &t); err != nil || len(t.After) == 0 {
		return bad()
	}
	if t.Binding != p.binding {
		return Page{}, fault.Field1("page_token", "belongs to a list with another filter or order").WithNext("ask for the first page again")
	}
	p.after = t.After
	return p, nil
}

// First reports whether this is the first page.
func (p Page) First() bool { return p.after == nil }

// After returns the i-th part of the key of the last row seen, or "" on the first page.
func (p Page) After(i int) string {
	if i >= len(p.after) {
		return ""
	}
	return p.after[i]
}

// Size returns how many rows the page has at most.
func (p Page) Size() int { return p.size }

// Limit returns how many rows to ask the store for: one more, to know whether there is a next page.
func (p Page) Limit() int { return p.size + 1 }

// Next cuts rows to the page and returns the token of the next one, "" at the end. key gives a row's key.
func Next[T any](p Page, rows []T, key func(T) []string) ([]T, string) {
	if len(rows) <= p.size {
		return rows, ""
	}
	rows = rows[:p.size]
	raw, err := json.Marshal(token{After: key(rows[len(rows)-1]), Binding: p.binding})
	if err != nil { // strings always marshal
		return rows, ""
	}
	return rows, base64.RawURLEncoding.EncodeToString(raw)
}

func bind(question []string) string {
	var b strings.Builder
	for _, q := range question {
		b.WriteString(q)
		b.WriteByte(0)
	}
	h := sha256.Sum256([]byte(b.String()))
	return base64.RawURLEncoding.EncodeToString(h[:6])
}
