package web

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"metacircular.net/mcdsl/auth"
)

// Claims are those of a platform token, for showing. They decide nothing: the service's verifier judges the token at
// each call.
type Claims struct {
	Issuer   string
	Subject  string
	Name     string
	Audience []string
	Kind     string
	Roles    []string
	Tags     []string
	AMR      []string
	SID      string
	JTI      string
	Epoch    int64
	AuthTime time.Time
	IssuedAt time.Time
	Expires  time.Time
	KeyID    string
}

// Decision is what MCIAS's policy said when it minted the token.
type Decision struct {
	Outcome        string
	Rule           string
	Rules          []string
	RequireMFA     bool
	RequirePasskey bool
	MaxAuthAge     time.Duration
	TokenTTL       time.Duration
	Revision       int64
}

func decisionOf(m auth.Minted) Decision {
	return Decision{Outcome: m.Outcome, Rule: m.RuleID, Rules: m.RuleIDs, RequireMFA: m.Must.MFA, RequirePasskey: m.Must.Passkey,
		MaxAuthAge: m.Must.MaxAuthAge, TokenTTL: m.Must.TokenTTL, Revision: m.Revision}
}

// readClaims decodes the claims of a token that came from MCIAS itself a moment ago.
func readClaims(token string) (Claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return Claims{}, errors.New("platform token: not three parts")
	}
	var head struct {
		KID string `json:"kid"`
	}
	var body struct {
		ISS      string          `json:"iss"`
		SUB      string          `json:"sub"`
		Name     string          `json:"name"`
		AUD      json.RawMessage `json:"aud"`
		Typ      string          `json:"typ"`
		Roles    []string        `json:"roles"`
		Tags     []string        `json:"tags"`
		AMR      []string        `json:"amr"`
		SID      string          `json:"sid"`
		JTI      string          `json:"jti"`
		EP       int64           `json:"ep"`
		AuthTime int64           `json:"auth_time"`
		IAT      int64           `json:"iat"`
		EXP      int64           `json:"exp"`
	}
	for i, into := range []any{&head, &body} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return Claims{}, errors.New("platform token: not base64")
		}
		if err := json.Unmarshal(raw, into); err != nil {
			return Claims{}, errors.New("platform token: not JSON")
		}
	}
	c := Claims{Issuer: body.ISS, Subject: body.SUB, Name: body.Name, Kind: body.Typ, Roles: body.Roles, Tags: body.Tags,
		AMR: body.AMR, SID: body.SID, JTI: body.JTI, Epoch: body.EP, KeyID: head.KID,
		IssuedAt: time.Unix(body.IAT, 0).UTC(), Expires: time.Unix(body.EXP, 0).UTC()}
	if body.AuthTime > 0 {
		c.AuthTime = time.Unix(body.AuthTime, 0).UTC()
	}
	var one string
	if json.Unmarshal(body.AUD, &one) == nil {
		c.Audience = []string{one}
	} else if err := json.Unmarshal(body.AUD, &c.Audience); err != nil {
		return Claims{}, errors.New("platform token: aud is no text")
	}
	return c, nil
}
