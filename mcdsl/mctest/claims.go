package mctest

import (
	"maps"
	"time"
)

// Claims are those of a platform token. Methods return changed copies.
type Claims map[string]any

// Human returns the claims of a signed-in person; their account id is "id-" and the name.
func Human(name string, roles ...string) Claims {
	return Claims{"sub": "id-" + name, "name": name, "typ": "human", "roles": roles, "amr": []string{"pwd"}, "ep": 1}
}

// System returns the claims of a service account.
func System(name string, tags ...string) Claims {
	return Claims{"sub": "id-" + name, "name": name, "typ": "system", "tags": tags, "amr": []string{"key"}, "ep": 1}
}

// With sets a claim; nil removes it, defaults included.
func (c Claims) With(name string, value any) Claims {
	out := maps.Clone(c)
	out[name] = value
	return out
}

// For names the audiences.
func (c Claims) For(audiences ...string) Claims { return c.With("aud", audiences) }

// Session sets the session id.
func (c Claims) Session(sid string) Claims { return c.With("sid", sid) }

// Expires sets the expiry.
func (c Claims) Expires(t time.Time) Claims { return c.With("exp", t.Unix()) }

// SignedIn sets the time of the last proof of a factor.
func (c Claims) SignedIn(t time.Time) Claims { return c.With("auth_time", t.Unix()) }
