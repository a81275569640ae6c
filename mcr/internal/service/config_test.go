package service_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"metacircular.net/mcdsl/config"
	"metacircular.net/mcr/internal/service"
)

func load(t *testing.T, text string) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "mcr.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := config.Load[service.Config](config.Input{Service: "mcr", File: file})
	return err
}

func TestConfigRefusals(t *testing.T) {
	t.Parallel()
	const base = "[mcias]\nserver_url = \"https://mcias.lab.example\"\nca_cert = \"ca.pem\"\n"
	const rule = "effect = \"allow\"\nsubjects = [\"any\"]\nactions = [\"pull\"]\nrepositories = [\"**\"]\n"
	if err := load(t, base+"[[policy]]\nid = \"x\"\n"+rule); err != nil {
		t.Errorf("a good file: %v", err)
	}
	for want, text := range map[string]string{
		"token_realm":          "",
		"one label":            "[mcias]\nserver_url = \"https://lan\"\nca_cert = \"ca.pem\"\n",
		"is an address":        base + "[registry]\ntoken_realm = \"https://10.0.0.1/registry/token\"\n",
		"no https URL":         base + "[registry]\ntoken_realm = \"http://mcias.lab.example/registry/token\"\n",
		"two rules are called": base + "[[policy]]\nid = \"x\"\n" + rule + "[[policy]]\nid = \"x\"\n" + rule,
		"say allow or deny":    base + "[[policy]]\nid = \"x\"\neffect = \"maybe\"\n",
		"grce":                 base + "[gc]\ngrce = \"1h\"\n",
		"ratios":               base + "[disk]\nwarn = 0.9\nrefuse = 0.5\n",
	} {
		if err := load(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want one with %q", err, want)
		}
	}
	example, err := os.ReadFile("../../deploy/mcr.toml")
	if err != nil {
		t.Fatal(err)
	}
	if err := load(t, string(example)); err != nil {
		t.Errorf("deploy/mcr.toml: %v", err)
	}
}
