package web

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"sync"
	"time"

	"metacircular.net/mcdsl/clock"
)

const (
	maxSessions = 1000
	sessionIdle = 12 * time.Hour
	idBytes     = 32
)

// Session is one browser that is signed in. What its methods return is a copy.
type Session struct {
	mu      sync.Mutex // guards state, and makes renewal one at a time
	state   SessionState
	idToken string // hint for signing out
}

// SessionState is what a session knows.
type SessionState struct {
	Subject  string
	Name     string
	Email    string
	Groups   []string // of the ID token
	SignedIn time.Time

	Token    string    // platform token for this service alone
	Expires  time.Time // of Token
	GrantID  string
	Claims   Claims   // of Token
	Decision Decision // what MCIAS's policy said at the last mint
}

// State returns what the session knows now.
func (s *Session) State() SessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// sessions holds them in memory: a restart costs one redirect and no password.
type sessions struct {
	clock clock.Clock

	mu  sync.Mutex // guards all
	all map[string]*entry
}

type entry struct {
	session *Session
	used    time.Time
}

// add keeps a session under a new id. When there are too many, the one idle longest gives way.
func (s *sessions) add(sess *Session) string {
	id := randomID()
	now := s.clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := ""
	for k, e := range s.all {
		if now.Sub(e.used) > sessionIdle {
			delete(s.all, k)
			continue
		}
		if oldest == "" || e.used.Before(s.all[oldest].used) {
			oldest = k
		}
	}
	if len(s.all) >= maxSessions {
		delete(s.all, oldest)
	}
	s.all[id] = &entry{sess, now}
	return id
}

// get returns the session of an id; a malformed id is no session.
func (s *sessions) get(id string) *Session {
	if len(id) != base64.RawURLEncoding.EncodedLen(idBytes) {
		return nil
	}
	now := s.clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.all[id]
	if e == nil {
		return nil
	}
	if now.Sub(e.used) > sessionIdle {
		delete(s.all, id)
		return nil
	}
	e.used = now
	return e.session
}

func (s *sessions) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, id)
}

func randomID() string {
	b := make([]byte, idBytes)
	_, _ = rand.Read(b) // never fails, by its documentation
	return base64.RawURLEncoding.EncodeToString(b)
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// sessionCookie returns the cookie that carries an id; age < 0 removes it, 0 = until the browser closes.
func sessionCookie(service, value string, age int) *http.Cookie {
	return &http.Cookie{Name: "__Host-" + service, Value: value, Path: "/", Secure: true, HttpOnly: true,
		SameSite: http.SameSiteLaxMode, MaxAge: age}
}
