package auth

import (
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"

	"metacircular.net/mcdsl/fault"
)

// MaxToken is the size in bytes over which a token is refused before it is looked at.
const MaxToken = 8 << 10

// Leeways of RFC 7519, section 4.1: a few seconds for expiry; more for tokens from the future, because a node
// without a battery clock may be behind for a while after it started.
const (
	expLeeway    = 5 * time.Second
	futureLeeway = 60 * time.Second
)

// header is the whole of what a platform token's header may hold.
type header struct {
	Alg string `json:"alg"`
	Typ string `json:"typ"`
	Kid string `json:"kid"`
}

// claims are those of platform.md 4; pointers tell a missing claim from a zero one.
type claims struct {
	Iss      *string       `json:"iss"`
	Sub      *string       `json:"sub"`
	Name     string        `json:"name"`
	Aud      *jwt.Audience `json:"aud"`
	Iat      *int64        `json:"iat"`
	Nbf      *int64        `json:"nbf"`
	Exp      *int64        `json:"exp"`
	Jti      *string       `json:"jti"`
	Sid      *string       `json:"sid"`
	Typ      *string       `json:"typ"`
	Ep       *int64        `json:"ep"`
	Roles    []string      `json:"roles"`
	Tags     []string      `json:"tags"`
	Amr      []string      `json:"amr"`
	AuthTime int64         `json:"auth_time"`
	Access   *[]Scope      `json:"access"`
}

// split refuses what cannot be a token before anything parses it, and returns its header.
func split(token string) (header, error) {
	var h header
	if len(token) > MaxToken {
		return h, errBad("longer than %d bytes", MaxToken)
	}
	if strings.Count(token, ".") != 2 {
		return h, errBad("not three parts")
	}
	for part := range strings.SplitSeq(token, ".") {
		if !canonical(part) {
			return h, errBad("not canonical base64url")
		}
	}
	raw, err := b64.DecodeString(token[:strings.IndexByte(token, '.')])
	if err != nil {
		return h, errBad("header is not base64url")
	}
	var members map[string]any // go-jose's JSON refuses duplicate names
	if err := json.Unmarshal(raw, &members); err != nil {
		return h, errBad("header is not a JSON object")
	}
	for name := range members {
		switch name {
		case "alg", "typ", "kid":
		default: // crit, jku, jwk, x5c, x5u and whatever comes next
			return h, errBad("header holds a member that is not allowed")
		}
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return h, errBad("header members are not strings")
	}
	switch {
	case h.Typ != "at+jwt":
		return h, errBad("typ is not at+jwt")
	case h.Alg != "EdDSA":
		return h, errBad("alg is not EdDSA")
	case h.Kid == "":
		return h, errBad("no kid")
	}
	return h, nil
}

// open checks the signature and returns the claims.
func open(token string, key any) (*claims, error) {
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return nil, errBad("malformed")
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return nil, errBad("bad signature")
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return nil, errBad("claims are malformed")
	}
	return &c, nil
}

// caller judges the claims for one service and makes the caller.
func (c *claims) caller(issuer, service, kid string, now time.Time) (Caller, error) {
	for _, m := range []struct {
		name    string
		missing bool
	}{
		{"iss", c.Iss == nil}, {"sub", c.Sub == nil || *c.Sub == ""}, {"aud", c.Aud == nil}, {"iat", c.Iat == nil},
		{"nbf", c.Nbf == nil}, {"exp", c.Exp == nil}, {"jti", c.Jti == nil || *c.Jti == ""},
		{"sid", c.Sid == nil || *c.Sid == ""}, {"typ", c.Typ == nil}, {"ep", c.Ep == nil},
	} {
		if m.missing {
			return Caller{}, errBad("claim %s is missing", m.name)
		}
	}
	switch {
	case *c.Iss != issuer:
		return Caller{}, errBad("issued by somebody else")
	case !c.Aud.Contains(service):
		return Caller{}, errBad("not for %s", service).WithNext("ask for a token with audience %s", service)
	}
	kind := Kind(*c.Typ)
	if kind != Human && kind != System {
		return Caller{}, errBad("typ claim is neither human nor system")
	}
	const y9999 = 253402300799 // beyond it time.Time has no RFC 3339 form
	for _, t := range []int64{*c.Iat, *c.Nbf, *c.Exp, c.AuthTime} {
		if t < 0 || t > y9999 {
			return Caller{}, errBad("a time is out of range")
		}
	}
	iat, nbf, exp := time.Unix(*c.Iat, 0), time.Unix(*c.Nbf, 0), time.Unix(*c.Exp, 0)
	if future := later(iat, nbf); future.Sub(now) > futureLeeway {
		return Caller{}, errFuture(future, now)
	}
	if now.Sub(exp) > expLeeway {
		return Caller{}, errExpired()
	}
	name := c.Name
	if name == "" {
		name = *c.Sub
	}
	out := Caller{Subject: *c.Sub, Name: name, Kind: kind, Roles: c.Roles, Tags: c.Tags, SID: *c.Sid, JTI: *c.Jti,
		Epoch: *c.Ep, AMR: c.Amr, IssuedAt: iat, Expires: exp, known: true, kid: kid}
	if kind == System {
		out.Roles = nil
	}
	if c.AuthTime > 0 {
		out.AuthTime = time.Unix(c.AuthTime, 0)
	}
	if c.Access != nil {
		out.scoped, out.Access = true, *c.Access
	}
	return out, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func errExpired() *fault.Error {
	return fault.New(fault.Unauthenticated, "token expired").WithReason(ReasonExpired).WithNext("mcp login")
}

// errFuture names both times, so that whoever reads it looks at the clocks.
func errFuture(token, here time.Time) *fault.Error {
	return errBad("it begins at %s and the clock here says %s: check both clocks",
		token.UTC().Format(time.RFC3339), here.UTC().Format(time.RFC3339))
}
