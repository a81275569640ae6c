package cli

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
)

// Version is the version of the binary. The build sets it: -ldflags "-X metacircular.net/mcdsl/cli.Version=1.4.0".
var Version = "devel"

// Env is what a command may use: shared flags, streams, and the ways to services.
type Env struct {
	Service string // whose binary this is: "mcns"

	Root       string        // --root: folder of a platform; "" = this user's own login
	ConfigFile string        // --config
	Addr       string        // --addr: "host:port", "unix:/path", or "local" for the Unix socket
	CA         string        // --ca: file with the platform's root
	Timeout    time.Duration // --timeout, for the whole command; 0 = each call its own
	JSON       bool          // --json
	Quiet      bool          // --quiet
	Yes        bool          // --yes: don't ask

	In       io.Reader
	Out      io.Writer
	Err      io.Writer
	Terminal bool // In is a terminal, so questions can be asked
	Getenv   func(string) string
	Clock    clock.Clock

	// Started is told where the server listens once it does: for tests, which let the kernel choose the port.
	Started func(addrs []string)

	stdin *bufio.Reader
}

// NewEnv returns the environment of this process.
func NewEnv(service string) *Env {
	return &Env{Service: service, In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv,
		Clock: clock.System(), Terminal: term.IsTerminal(int(os.Stdin.Fd()))}
}

// Configured returns the configuration file: --config, else <root>/<service>/<service>.toml, where root is --root or /srv.
// It need not exist.
func (e *Env) Configured() string {
	if e.ConfigFile != "" {
		return e.ConfigFile
	}
	root := e.Root
	if root == "" {
		root = "/srv"
	}
	return filepath.Join(root, e.Service, e.Service+".toml")
}

// Secret reads a secret: from the file, from standard input if the file is "-", else from a prompt that shows nothing.
// Without file and terminal it is an error that names flag, the option to use.
func (e *Env) Secret(file, flag, prompt string) (secret.Value, error) {
	switch {
	case file == "-":
		return e.secretLine()
	case file != "":
		v, err := secret.ReadFile(file)
		if err != nil {
			return v, fault.New(fault.Invalid, "%s %s", flag, file).Wrap(err)
		}
		return v, nil
	case !e.Terminal:
		return secret.Value{}, fault.New(fault.Invalid, "no terminal to ask for %s", strings.ToLower(prompt)).
			WithNext("give it with %s FILE, or %s - for standard input", flag, flag)
	}
	return e.prompt(prompt)
}

// NewSecret is Secret for a value that is being chosen: a prompt asks twice.
func (e *Env) NewSecret(file, flag, prompt string) (secret.Value, error) {
	v, err := e.Secret(file, flag, prompt)
	if err != nil || file != "" {
		return v, err
	}
	again, err := e.prompt(prompt + " once more")
	if err != nil {
		return secret.Value{}, err
	}
	if !v.Equal(again) {
		return secret.Value{}, fault.New(fault.Invalid, "the two are not the same; nothing was changed")
	}
	return v, nil
}

func (e *Env) secretLine() (secret.Value, error) {
	line, err := e.line()
	if err != nil {
		return secret.Value{}, fault.New(fault.Invalid, "read the secret from standard input").Wrap(err)
	}
	if line == "" {
		return secret.Value{}, fault.New(fault.Invalid, "the secret on standard input is empty")
	}
	return secret.FromString(line), nil
}

func (e *Env) prompt(text string) (secret.Value, error) {
	e.Printf("%s: ", text)
	defer e.Printf("\n")
	f, ok := e.In.(*os.File)
	if !ok {
		return e.secretLine()
	}
	b, err := term.ReadPassword(int(f.Fd()))
	if err != nil {
		return secret.Value{}, fault.New(fault.Invalid, "read from the terminal").Wrap(err)
	}
	v := secret.New(b)
	clear(b)
	if v.IsZero() {
		return v, fault.New(fault.Invalid, "nothing was entered")
	}
	return v, nil
}

// Ask asks for a line of text that may be shown.
func (e *Env) Ask(flag, prompt string) (string, error) {
	if !e.Terminal {
		return "", fault.New(fault.Invalid, "no terminal to ask for %s", strings.ToLower(prompt)).WithNext("give it with %s", flag)
	}
	e.Printf("%s: ", prompt)
	line, err := e.line()
	if err != nil {
		return "", fault.New(fault.Invalid, "read from the terminal").Wrap(err)
	}
	return strings.TrimSpace(line), nil
}

// Confirm says what will happen and asks. --yes answers; without a terminal --yes is demanded.
func (e *Env) Confirm(what string) error {
	if e.Yes {
		return nil
	}
	if !e.Terminal {
		return fault.New(fault.Invalid, "%s: not without being asked", what).WithNext("repeat with --yes")
	}
	e.Printf("%s. Go on? [y/N] ", what)
	line, err := e.line()
	if err != nil && line == "" {
		return fault.New(fault.Invalid, "no answer").Wrap(err)
	}
	if a := strings.ToLower(strings.TrimSpace(line)); a != "y" && a != "yes" {
		return fault.New(fault.Invalid, "not done; nothing was changed")
	}
	return nil
}

// line reads one line of In without its end. It keeps what follows for the next call.
func (e *Env) line() (string, error) {
	if e.stdin == nil {
		e.stdin = bufio.NewReaderSize(e.In, 4096)
	}
	line, err := e.stdin.ReadString('\n')
	if errors.Is(err, io.EOF) && line != "" {
		err = nil
	}
	return strings.TrimRight(line, "\r\n"), err
}

// WriteSecret writes a new secret to a file of its own (0600). An existing file is never overwritten.
func (e *Env) WriteSecret(file string, v secret.Value) error {
	if _, err := os.Lstat(file); err == nil {
		return fault.New(fault.Exists, "%s is already there; nothing was written", file).WithNext("choose another file with --out")
	}
	if err := secret.WriteFile(file, append(append([]byte{}, v.Reveal()...), '\n')); err != nil {
		return fault.New(fault.Internal, "write %s", file).Wrap(err)
	}
	return nil
}

// context bounds a command by --timeout.
func (e *Env) context(ctx context.Context) (context.Context, context.CancelFunc) {
	if e.Timeout > 0 {
		return context.WithTimeout(ctx, e.Timeout)
	}
	return context.WithCancel(ctx)
}
