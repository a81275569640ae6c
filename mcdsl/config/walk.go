package config

import (
	"encoding"
	"fmt"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// leaf is one setting of the struct.
type leaf struct {
	key    string // "server.listen_addr"
	value  reflect.Value
	def    string
	path   bool
	reload bool
	secret bool
	whole  bool // a table or list of tables: comes from the file only
}

// walk lists the settings in the order of the struct. Structs nest as sections, embedded ones inline.
func walk(v reflect.Value, prefix string, out []leaf) []leaf {
	t := v.Type()
	for i := range t.NumField() {
		sf := t.Field(i)
		if !sf.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(sf.Tag.Get("toml"), ",")
		if name == "-" {
			continue
		}
		fv := v.Field(i)
		if sf.Anonymous && name == "" && fv.Kind() == reflect.Struct {
			out = walk(fv, prefix, out)
			continue
		}
		if name == "" {
			name = strings.ToLower(sf.Name)
		}
		key := name
		if prefix != "" {
			key = prefix + "." + name
		}
		if _, text := fv.Addr().Interface().(encoding.TextUnmarshaler); fv.Kind() == reflect.Struct && !text {
			out = walk(fv, key, out)
			continue
		}
		out = append(out, leaf{key: key, value: fv, def: sf.Tag.Get("default"), path: sf.Tag.Get("path") == "true",
			reload: sf.Tag.Get("reload") == "true", secret: sf.Tag.Get("secret") == "true",
			whole: fv.Kind() == reflect.Map || (fv.Kind() == reflect.Slice && elemIsTable(fv.Type().Elem()))})
	}
	return out
}

func elemIsTable(t reflect.Type) bool {
	return (t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())) || t.Kind() == reflect.Map
}

// set parses text into the setting; lists are separated by commas.
func (l leaf) set(text string) error { return setValue(l.value, text) }

func setValue(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is not true or false", text)
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is no number that fits", text)
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is no number that fits", text)
		}
		v.SetUint(n)
	case reflect.Float64, reflect.Float32:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("%q is no number", text)
		}
		v.SetFloat(n)
	case reflect.Slice:
		out := reflect.MakeSlice(v.Type(), 0, 4)
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			e := reflect.New(v.Type().Elem()).Elem()
			if err := setValue(e, part); err != nil {
				return err
			}
			out = reflect.Append(out, e)
		}
		v.Set(out)
	default:
		return fmt.Errorf("can only be set in the file")
	}
	return nil
}

// resolve makes a path absolute with respect to the configuration's folder. Credentials are names.
func (l leaf) resolve(dir string) {
	if !l.path {
		return
	}
	fix := func(v reflect.Value) {
		s := v.String()
		if s != "" && !filepath.IsAbs(s) && !strings.HasPrefix(s, "credential:") {
			v.SetString(filepath.Join(dir, s))
		}
	}
	switch {
	case l.value.Kind() == reflect.String:
		fix(l.value)
	case l.value.Kind() == reflect.Slice && l.value.Type().Elem().Kind() == reflect.String:
		for i := range l.value.Len() {
			fix(l.value.Index(i))
		}
	}
}

// text writes the setting for people.
func (l leaf) text() string {
	if m, ok := l.value.Interface().(encoding.TextMarshaler); ok {
		b, err := m.MarshalText()
		if err == nil {
			return string(b)
		}
	}
	switch l.value.Kind() {
	case reflect.String:
		return strconv.Quote(l.value.String())
	case reflect.Slice:
		if l.whole {
			return fmt.Sprintf("(%d tables)", l.value.Len())
		}
		parts := make([]string, 0, l.value.Len())
		for i := range l.value.Len() {
			parts = append(parts, leaf{value: l.value.Index(i)}.text())
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.Map:
		return fmt.Sprintf("(%d entries)", l.value.Len())
	}
	return fmt.Sprint(l.value.Interface())
}

// envName returns the variable of a key: MC_PROXY_SERVER_LISTEN_ADDR.
func envName(prefix, key string) string {
	return prefix + "_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))
}

func (in Input) envPrefix() string {
	p := in.Prefix
	if p == "" {
		p = in.Service
	}
	return strings.ToUpper(strings.ReplaceAll(p, "-", "_"))
}

// applyEnv sets what the environment says; unknown names with our prefix become warnings, because
// container engines inject variables of their own.
func applyEnv(leaves []leaf, in Input, origin map[string]string, rep *Report) (problems []string) {
	prefix := in.envPrefix()
	if prefix == "" {
		return nil
	}
	byName := map[string]leaf{}
	for _, l := range leaves {
		byName[envName(prefix, l.key)] = l
	}
	for _, kv := range in.Env {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, prefix+"_") {
			continue
		}
		l, ok := byName[name]
		if !ok {
			rep.Warnings = append(rep.Warnings, fmt.Sprintf("environment variable %s names no setting and is ignored", name))
			continue
		}
		if err := l.set(value); err != nil {
			problems = append(problems, fmt.Sprintf("environment variable %s: %v", name, err))
			continue
		}
		origin[l.key] = "env " + name
	}
	return problems
}

func applyFlags(leaves []leaf, flags map[string]string, origin map[string]string) (problems []string) {
	for key, value := range flags {
		found := false
		for _, l := range leaves {
			if l.key != key {
				continue
			}
			found = true
			if err := l.set(value); err != nil {
				problems = append(problems, fmt.Sprintf("flag for %s: %v", key, err))
			}
			origin[key] = "flag"
		}
		if !found {
			problems = append(problems, fmt.Sprintf("flag for unknown setting %q", key))
		}
	}
	return problems
}

// lines maps each key of a valid document to its line.
func lines(data []byte) map[string]int {
	out := map[string]int{}
	var p unstable.Parser
	p.Reset(data)
	section := ""
	for p.NextExpression() {
		e := p.Expression()
		var parts []string
		line := 0
		for it := e.Key(); it.Next(); {
			n := it.Node()
			parts = append(parts, string(n.Data))
			if line == 0 && n.Raw.Length > 0 {
				line = p.Shape(n.Raw).Start.Line
			}
		}
		key := strings.Join(parts, ".")
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			section = key
			if e.Kind == unstable.ArrayTable {
				if _, seen := out[key]; !seen {
					out[key] = line
				}
			}
		case unstable.KeyValue:
			if section != "" {
				key = section + "." + key
			}
			out[key] = line
		}
	}
	return out
}

// nearest returns the known key most like the unknown one: in its section first, then anywhere.
func nearest(section, key string, leaves []leaf) string {
	best, dist := "", 4
	consider := func(name, shown string) {
		if d := distance(key, name); d < dist && d < len(key) {
			best, dist = shown, d
		}
	}
	sections := map[string]bool{}
	for _, l := range leaves {
		sec, last, ok := cutLast(l.key)
		if !ok {
			sec, last = "", l.key
		}
		if sec == section {
			consider(last, last)
		}
		sections[sec] = true
	}
	if section == "" {
		for s := range sections {
			consider(s, s)
		}
	}
	if best == "" {
		for _, l := range leaves {
			if sec, last, _ := cutLast(l.key); last == key {
				return last + `" in "[` + sec + "]"
			}
		}
	}
	return best
}

func cutLast(key string) (section, last string, ok bool) {
	i := strings.LastIndexByte(key, '.')
	if i < 0 {
		return "", key, false
	}
	return key[:i], key[i+1:], true
}

// distance is the Levenshtein distance; keys are short.
func distance(a, b string) int {
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
		}
		prev = cur
	}
	return prev[len(b)]
}
