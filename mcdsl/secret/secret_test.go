package secret_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
)

func TestValueHasNoTextualForm(t *testing.T) {
	t.Parallel()
	const canary = "hunter2hunter2"
	v := secret.FromString(canary)
	holder := struct {
		name string
		v    secret.Value
		P    *secret.Value
	}{"x", v, &v}
	var buf bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&buf, verb, v)
		fmt.Fprintf(&buf, verb, &v)
		fmt.Fprintf(&buf, verb, holder)
		fmt.Fprintf(&buf, verb, []secret.Value{v})
	}
	slog.New(slog.NewJSONHandler(&buf, nil)).Info("m", "v", v, "h", holder)
	slog.New(slog.NewTextHandler(&buf, nil)).Info("m", "v", v, "h", holder)
	j, err := json.Marshal(map[string]any{"v": v, "p": &v})
	if err != nil {
		t.Fatal(err)
	}
	buf.Write(j)
	out := buf.String()
	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprint([]byte(canary))} {
		if strings.Contains(out, form) {
			t.Errorf("the secret was printed:\n%s", out)
		}
	}
	if string(v.Reveal()) != canary {
		t.Error("Reveal lost it")
	}
	c := v
	v.Wipe()
	if !c.IsZero() {
		t.Error("a copy survived Wipe")
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, body string, mode fs.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(body), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	v, err := secret.ReadFile(write("good", "s3cret\n", 0o600))
	if err != nil || string(v.Reveal()) != "s3cret" {
		t.Fatalf("ReadFile = %q, %v", v.Reveal(), err)
	}
	for name, path := range map[string]string{
		"loose": write("loose", "x", 0o644),
		"empty": write("empty", "\n", 0o600),
		"big":   write("big", strings.Repeat("x", 70<<10), 0o600),
		"dir":   dir,
	} {
		if _, err := secret.ReadFile(path); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: ReadFile = %v, want Invalid", name, err)
		}
	}
	if _, err := secret.ReadFile(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent file: %v, want fs.ErrNotExist", err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if v, err := secret.ReadFile("credential:good"); err != nil || string(v.Reveal()) != "s3cret" {
		t.Errorf("credential: %v", err)
	}
	if _, err := secret.ReadFile("credential:../good"); err == nil {
		t.Error("a credential name left its folder")
	}
}

func TestWriteFileIsPrivate(t *testing.T) {
	t.Parallel()
	p := filepath.Join(t.TempDir(), "k")
	for _, body := range []string{"one", "two"} {
		if err := secret.WriteFile(p, []byte(body)); err != nil {
			t.Fatal(err)
		}
		v, err := secret.ReadFile(p)
		if err != nil || string(v.Reveal()) != body {
			t.Fatalf("after WriteFile: %q, %v", v.Reveal(), err)
		}
	}
}

func ExampleValue() {
	v := secret.FromString("correct horse")
	fmt.Println(v, len(v.Reveal()))
	// Output: [secret] 13
}
