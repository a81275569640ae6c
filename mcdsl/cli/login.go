package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
)

const (
	// A token is not used in its last moments, so that it does not run out on the way.
	tokenMargin  = 30 * time.Second
	maxAudience  = 32 // tokens kept in the file
	lockPatience = 15 * time.Second
	lockPause    = 20 * time.Millisecond
)

// Login is the saved login of a person, as kept in login.json (0600).
type Login struct {
	Issuer   string                `json:"issuer"`
	GRPCPort string                `json:"grpc_port"`
	CAFile   string                `json:"ca_file"`
	Root     string                `json:"root,omitempty"`
	Username string                `json:"username"`
	SID      string                `json:"sid"`
	Session  string                `json:"session"` // secret: the credential of Mint
	Expires  time.Time             `json:"expires_at"`
	Tokens   map[string]SavedToken `json:"tokens,omitempty"` // by audience
}

// SavedToken is a platform token for one audience.
type SavedToken struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires_at"`
}

// LoginFile returns where the saved login lies: in the root, or in the user's config folder.
func (e *Env) LoginFile() (string, error) {
	if e.Root != "" {
		return filepath.Join(e.Root, "login.json"), nil
	}
	dir := e.Getenv("XDG_CONFIG_HOME")
	if dir == "" {
		home := e.Getenv("HOME")
		if home == "" {
			return "", fault.New(fault.Invalid, "neither HOME nor XDG_CONFIG_HOME is set, so there is no place for a login").
				WithNext("give --root DIR")
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "metacircular", "login.json"), nil
}

// readLogin returns the saved login, nil if there is none.
func (e *Env) readLogin() (*Login, error) {
	file, err := e.LoginFile()
	if err != nil {
		return nil, nil // no place, no login
	}
	data, err := secret.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "read the saved login").Wrap(err)
	}
	var l Login
	if err := json.Unmarshal(data.Reveal(), &l); err != nil {
		return nil, fault.New(fault.Invalid, "the saved login %s is damaged", file).WithNext("mcp login")
	}
	return &l, nil
}

func writeLogin(file string, l *Login) error {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return secret.WriteFile(file, append(data, '\n'))
}

// withLogin runs fn on the saved login under its lock and writes back what fn changed. fn gets an empty login if
// there is none.
func (e *Env) withLogin(ctx context.Context, fn func(l *Login) (changed bool, err error)) error {
	file, err := e.LoginFile()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fault.New(fault.Internal, "make the folder of the login").Wrap(err)
	}
	unlock, err := lockFile(ctx, file+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	l, err := e.readLogin()
	if err != nil {
		return err
	}
	if l == nil {
		l = &Login{}
	}
	changed, err := fn(l)
	if err != nil || !changed {
		return err
	}
	if err := writeLogin(file, l); err != nil {
		return fault.New(fault.Internal, "save the login").Wrap(err)
	}
	return nil
}

// lockFile takes an exclusive lock, waiting a bounded time: two commands that refresh one login must not do it at once.
func lockFile(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fault.New(fault.Internal, "lock the login").Wrap(err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fault.New(fault.Internal, "lock the login").Wrap(err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fault.New(fault.Conflict, "another command has held the login for %s", Span(lockPatience)).Wrap(ctx.Err())
		case <-time.After(lockPause):
		}
	}
}

// errNotLoggedIn says so, and how to.
func (e *Env) errNotLoggedIn() error {
	next := "mcp login"
	if e.Root != "" {
		next = "mcp --root " + e.Root + " login"
	}
	return fault.New(fault.Unauthenticated, "not logged in").WithReason("NOT_LOGGED_IN").
		WithNext("%s    (root on this machine may use --addr local)", next)
}

// Token returns a platform token for one audience, minted from the saved login when the kept one is near its end.
func (e *Env) Token(ctx context.Context, audience string) (string, error) {
	return e.token(ctx, audience, "")
}

// token is Token; a kept token that equals refused is not given out again.
func (e *Env) token(ctx context.Context, audience, refused string) (string, error) {
	now := e.Clock.Now()
	if l, err := e.readLogin(); err != nil {
		return "", err
	} else if l == nil || l.Session == "" {
		return "", e.errNotLoggedIn()
	} else if t, ok := l.Tokens[audience]; ok && t.Token != refused && now.Before(t.Expires.Add(-tokenMargin)) {
		return t.Token, nil
	}
	var token string
	err := e.withLogin(ctx, func(l *Login) (bool, error) {
		if l.Session == "" {
			return false, e.errNotLoggedIn()
		}
		if t, ok := l.Tokens[audience]; ok && t.Token != refused && now.Before(t.Expires.Add(-tokenMargin)) {
			token = t.Token // another command was faster
			return false, nil
		}
		conn, err := e.dialPublic(ctx, "mcias")
		if err != nil {
			return false, err
		}
		defer func() { _ = conn.Close() }()
		res, err := mciasv1.NewTokenClient(conn).Mint(ctx, &mciasv1.MintRequest{
			Credential: &mciasv1.MintRequest_Session{Session: l.Session}, Audiences: []string{audience}})
		if err != nil {
			return false, e.mintError(err, audience)
		}
		token = res.GetToken()
		l.keep(audience, SavedToken{token, res.GetExpiresAt().AsTime()}, now)
		return true, nil
	})
	return token, err
}

// keep stores a token and drops those that ran out.
func (l *Login) keep(audience string, t SavedToken, now time.Time) {
	if l.Tokens == nil {
		l.Tokens = map[string]SavedToken{}
	}
	for aud, old := range l.Tokens {
		if !now.Before(old.Expires) || len(l.Tokens) >= maxAudience {
			delete(l.Tokens, aud)
		}
	}
	l.Tokens[audience] = t
}

func (e *Env) mintError(err error, audience string) error {
	f := fault.From(err)
	if f.Kind == fault.Unauthenticated && f.Reason != "STEP_UP_REQUIRED" {
		g := fault.New(fault.Unauthenticated, "your login is no longer valid").WithReason(f.Reason).Wrap(err)
		if nf := fault.From(e.errNotLoggedIn()); nf != nil {
			g.Next = nf.Next
		}
		return g
	}
	if f.Kind == fault.Denied && f.Next == "" {
		f.Next = "mcias policy explain --service " + audience
	}
	return f
}

// LoginRequest is what a login needs.
type LoginRequest struct {
	Username string
	Password secret.Value
	OTP      func() (string, error) // asked for the second factor when MCIAS wants one; nil = fail
}

// LogIn opens a session at MCIAS and saves it.
func (e *Env) LogIn(ctx context.Context, req LoginRequest) (*Login, error) {
	p, err := e.Platform()
	if err != nil {
		return nil, err
	}
	conn, err := e.dialPublic(ctx, "mcias")
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	res, err := logIn(ctx, conn, req)
	if err != nil {
		return nil, err
	}
	var saved *Login
	err = e.withLogin(ctx, func(l *Login) (bool, error) {
		*l = Login{Issuer: p.Issuer, GRPCPort: p.GRPCPort, Username: res.GetUsername(), SID: res.GetSid(),
			Session: res.GetSession(), Expires: res.GetSessionExpiresAt().AsTime()}
		if l.CAFile, err = filepath.Abs(p.CAFile); err != nil {
			return false, err
		}
		if p.Root != "" {
			if l.Root, err = filepath.Abs(p.Root); err != nil {
				return false, err
			}
		}
		saved = l
		return true, nil
	})
	return saved, err
}

func logIn(ctx context.Context, conn grpc.ClientConnInterface, req LoginRequest) (*mciasv1.LoginResponse, error) {
	in := &mciasv1.LoginRequest{Username: req.Username, Password: string(req.Password.Reveal())}
	client := mciasv1.NewAuthClient(conn)
	res, err := client.Login(ctx, in)
	if !fault.HasReason(err, "OTP_REQUIRED") || req.OTP == nil {
		return res, err
	}
	if in.Otp, err = req.OTP(); err != nil {
		return nil, err
	}
	return client.Login(ctx, in)
}

// LogOut ends the saved session at MCIAS and forgets it here, also when MCIAS cannot be reached.
func (e *Env) LogOut(ctx context.Context) error {
	l, err := e.readLogin()
	if err != nil {
		return err
	}
	if l == nil || l.Session == "" {
		e.Note("Nobody was logged in.")
		return nil
	}
	var remote error
	if conn, err := e.Dial(ctx, "mcias"); err == nil {
		_, remote = mciasv1.NewAuthClient(conn).Logout(ctx, &mciasv1.LogoutRequest{})
		_ = conn.Close()
	} else {
		remote = err
	}
	if err := e.withLogin(ctx, func(l *Login) (bool, error) {
		*l = Login{Issuer: l.Issuer, GRPCPort: l.GRPCPort, CAFile: l.CAFile, Root: l.Root}
		return true, nil
	}); err != nil {
		return err
	}
	if remote != nil && !fault.Is(remote, fault.Unauthenticated) {
		return fault.New(fault.Unavailable, "forgotten here, but the session at MCIAS is still open: %s", fault.From(remote).Public()).
			WithNext("mcias session list").Wrap(remote)
	}
	return nil
}
