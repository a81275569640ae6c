package web

import (
	"fmt"
	"html/template"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// funcs are what templates may call.
func (s *Site) funcs() template.FuncMap {
	return template.FuncMap{
		"asset":  func(name string) string { return s.static.byName[name] },
		"badge":  badge,
		"since":  func(t any) template.HTML { return s.since(t) },
		"stamp":  stamp,
		"middle": middle,
		"bytes":  bytesText,
		"cli":    cliTwin,
		"count":  count,
		"join":   strings.Join,
		"field": func(f *Form, name, label, help string) fieldView {
			return fieldView{Form: f, Name: name, Label: label, Help: help}
		},
		"theme": func(v view) []themeChoice { return themeChoices(v.Theme) },
	}
}

// StateClass returns the class of a state word (style.md): an unknown word is shown as unknown, never as healthy.
func StateClass(word string) string {
	switch word {
	case "healthy", "ok", "ready", "active", "valid":
		return "st-ok"
	case "starting", "draining", "syncing", "pending":
		return "st-run"
	case "degraded", "warn", "expiring":
		return "st-warn"
	case "sealed", "paused", "stopped", "disabled":
		return "st-off"
	case "down", "failed", "fail", "expired", "revoked":
		return "st-bad"
	}
	return "st-unknown"
}

func badge(word string) template.HTML {
	if word == "" {
		word = "unknown"
	}
	return template.HTML(fmt.Sprintf(`<span class="st %s">%s</span>`, StateClass(word), template.HTMLEscapeString(word)))
}

func asTime(v any) (time.Time, bool) {
	switch t := v.(type) {
	case time.Time:
		return t, !t.IsZero()
	case *time.Time:
		if t == nil {
			return time.Time{}, false
		}
		return *t, !t.IsZero()
	case *timestamppb.Timestamp:
		if t == nil || !t.IsValid() || t.AsTime().Unix() == 0 {
			return time.Time{}, false
		}
		return t.AsTime(), true
	}
	return time.Time{}, false
}

// since writes a time as people read it, whole in the title.
func (s *Site) since(v any) template.HTML {
	t, ok := asTime(v)
	if !ok {
		return `<span class="muted">never</span>`
	}
	return timeElement(t, relative(t, s.cfg.Clock.Now()))
}

// stamp writes a time in full.
func stamp(v any) template.HTML {
	t, ok := asTime(v)
	if !ok {
		return `<span class="muted">–</span>`
	}
	return timeElement(t, t.UTC().Format("2006-01-02 15:04:05 UTC"))
}

func timeElement(t time.Time, text string) template.HTML {
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s">%s</time>`, t.UTC().Format(time.RFC3339),
		t.UTC().Format("2006-01-02 15:04:05 UTC"), template.HTMLEscapeString(text)))
}

func relative(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case d < -7*24*time.Hour:
		return t.UTC().Format(time.DateOnly)
	case d < 0:
		return "in " + span(-d)
	case d < 5*time.Second:
		return "just now"
	case d < 7*24*time.Hour:
		return span(d) + " ago"
	}
	return t.UTC().Format(time.DateOnly)
}

func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// middle shortens a digest or id in its middle, whole in the title.
func middle(s string) template.HTML {
	prefix, rest := "", s
	if i := strings.IndexByte(s, ':'); i >= 0 && i < 12 {
		prefix, rest = s[:i+1], s[i+1:]
	}
	if r := []rune(rest); len(r) > 12 {
		rest = string(r[:4]) + "…" + string(r[len(r)-4:])
	}
	return template.HTML(fmt.Sprintf(`<code title="%s">%s</code>`, template.HTMLEscapeString(s), template.HTMLEscapeString(prefix+rest)))
}

func bytesText(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f /= 1024; f < 1024 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

func cliTwin(parts ...string) template.HTML {
	return template.HTML(`<span class="cli"><code>` + template.HTMLEscapeString(strings.Join(parts, " ")) + `</code></span>`)
}

// count writes a number with its word: count 1 "zone" "zones".
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

type themeChoice struct {
	Value, Label string
}

// themeChoices offers what is not set now.
func themeChoices(now string) []themeChoice {
	all := []themeChoice{{"light", "Use the light theme"}, {"dark", "Use the dark theme"}, {"", "Theme as this device"}}
	var out []themeChoice
	for _, c := range all {
		if c.Value != now {
			out = append(out, c)
		}
	}
	return out
}
