package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"metacircular.net/mcdsl/fault"
)

// maxFile bounds a configuration file.
const maxFile = 1 << 20

// Input says where settings come from.
type Input struct {
	Service string            // "mc-proxy"; gives "{service}" and the prefix MC_PROXY_ of variables
	Prefix  string            // prefix of variables if it is not the service's, e.g. "MCP_AGENT"
	File    string            // TOML file; empty = none
	Dir     string            // relative paths are relative to it; empty = the file's folder, else "."
	Env     []string          // os.Environ()
	Flags   map[string]string // "server.listen_addr" → text
}

// Load returns the settings and the report of their origins. Every error is a fault of kind Invalid.
func Load[T any](in Input) (T, *Report, error) {
	var cfg T
	rep := &Report{}
	if err := load(&cfg, in, rep); err != nil {
		var zero T
		return zero, rep, err
	}
	return cfg, rep, nil
}

func load(target any, in Input, rep *Report) error {
	if in.Dir == "" {
		in.Dir = "."
		if in.File != "" {
			in.Dir = filepath.Dir(in.File)
		}
	}
	leaves := walk(reflect.ValueOf(target).Elem(), "", nil)
	origin := map[string]string{}
	for _, l := range leaves {
		if l.def == "" {
			continue
		}
		if err := l.set(strings.ReplaceAll(l.def, "{service}", in.Service)); err != nil {
			return fmt.Errorf("default of %s: %w", l.key, err)
		}
	}
	if d, ok := target.(interface{ SetDefaults() }); ok {
		d.SetDefaults()
	}

	var problems []string
	if in.File != "" {
		p, err := readFile(target, in.File, leaves, origin)
		if err != nil {
			return err
		}
		problems = append(problems, p...)
	}
	problems = append(problems, applyEnv(leaves, in, origin, rep)...)
	problems = append(problems, applyFlags(leaves, in.Flags, origin)...)
	if len(problems) > 0 {
		return fault.New(fault.Invalid, "%s", strings.Join(problems, "\n")).WithReason("BAD_CONFIG")
	}
	for _, l := range leaves {
		l.resolve(in.Dir)
	}
	rep.fill(leaves, origin)
	return validate(target, in.File)
}

// readFile decodes strictly; it returns all faults of the file as lines.
func readFile(target any, name string, leaves []leaf, origin map[string]string) ([]string, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Invalid, "there is no configuration file %s", name).WithReason("BAD_CONFIG").Wrap(err)
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "cannot read configuration file %s", name).WithReason("BAD_CONFIG").Wrap(err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fault.New(fault.Invalid, "cannot read configuration file %s", name).Wrap(err)
	}
	if len(data) > maxFile {
		return nil, fault.New(fault.Invalid, "%s is over %d bytes", name, maxFile)
	}
	base := filepath.Base(name)
	err = toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(target)
	var missing *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case errors.As(err, &missing):
		var out []string
		for _, e := range missing.Errors {
			out = append(out, unknownKey(base, e, leaves))
		}
		return out, nil
	case errors.As(err, &bad):
		row, _ := bad.Position()
		text := strings.TrimPrefix(bad.Error(), "toml: ")
		if k := strings.Join(bad.Key(), "."); k != "" {
			text = k + ": " + text
		}
		return []string{fmt.Sprintf("%s:%d: %s", base, row, text)}, nil
	case err != nil:
		return []string{fmt.Sprintf("%s: %v", base, strings.TrimPrefix(err.Error(), "toml: "))}, nil
	}
	for key, line := range lines(data) {
		origin[key] = fmt.Sprintf("%s:%d", base, line)
	}
	return nil, nil
}

// unknownKey words the fault of one key nobody reads.
func unknownKey(base string, e toml.DecodeError, leaves []leaf) string {
	row, _ := e.Position()
	key := e.Key()
	section, last := strings.Join(key[:len(key)-1], "."), key[len(key)-1]
	text := fmt.Sprintf("%s:%d: unknown key %q", base, row, last)
	if section != "" {
		text += fmt.Sprintf(" in [%s]", section)
	}
	if near := nearest(section, last, leaves); near != "" {
		text += fmt.Sprintf("; did you mean %q?", near)
	}
	return text
}

// validate calls Validate of the whole and of each section, and reports all faults at once.
func validate(target any, file string) error {
	var lines []string
	out := fault.New(fault.Invalid, "").WithReason("BAD_CONFIG")
	collect := func(err error) {
		if err == nil {
			return
		}
		f := fault.From(err)
		out.Fields = append(out.Fields, f.Fields...)
		if out.Next == "" {
			out.Next = f.Next
		}
		lines = append(lines, err.Error())
	}
	type validator interface{ Validate() error }
	v := reflect.ValueOf(target).Elem()
	for i := range v.NumField() {
		if !v.Type().Field(i).IsExported() {
			continue
		}
		if s, ok := v.Field(i).Interface().(validator); ok {
			collect(s.Validate())
		} else if s, ok := v.Field(i).Addr().Interface().(validator); ok {
			collect(s.Validate())
		}
	}
	if s, ok := target.(validator); ok {
		collect(s.Validate())
	}
	if len(lines) == 0 {
		return nil
	}
	prefix := ""
	if file != "" {
		prefix = filepath.Base(file) + ": "
	}
	out.Message = prefix + strings.Join(lines, "\n"+prefix)
	return out
}
