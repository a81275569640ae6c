package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"metacircular.net/mcdsl/fault"
)

// Printf writes to the error stream: everything that is not the answer itself.
func (e *Env) Printf(format string, args ...any) { _, _ = fmt.Fprintf(e.Err, format, args...) }

// Note is Printf with a line end, silent with --quiet and --json.
func (e *Env) Note(format string, args ...any) {
	if !e.Quiet && !e.JSON {
		e.Printf(format+"\n", args...)
	}
}

// Emit prints v as one JSON document with --json, else what text writes. A proto.Message is printed by protojson with
// the field names of the contract. Lists must be empty, not nil.
func (e *Env) Emit(v any, text func(w io.Writer)) error {
	if !e.JSON {
		if text != nil {
			text(e.Out)
		}
		return nil
	}
	return e.EmitLine(v)
}

// EmitLine prints v as JSON on one line: for streams and stages.
func (e *Env) EmitLine(v any) error {
	data, err := marshal(v)
	if err != nil {
		return fmt.Errorf("print as JSON: %w", err)
	}
	_, err = fmt.Fprintf(e.Out, "%s\n", data)
	return err
}

func marshal(v any) ([]byte, error) {
	if m, ok := v.(proto.Message); ok {
		data, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
		if err != nil {
			return nil, err
		}
		// protojson varies its blanks on purpose; scripts and golden tests want one form.
		return compact(data)
	}
	return json.Marshal(v)
}

func compact(data []byte) ([]byte, error) {
	var raw json.RawMessage = data
	return json.Marshal(raw)
}

// EmitTable prints v with --json, else the table. An empty table prints its sentence to the error stream.
func (e *Env) EmitTable(v any, t *Table) error {
	return e.Emit(v, func(w io.Writer) {
		if len(t.rows) == 0 && t.Empty != "" {
			e.Note("%s", t.Empty)
			return
		}
		t.write(w, terminalWidth(w))
		if t.Foot != "" {
			_, _ = fmt.Fprintln(w, t.Foot)
		}
	})
}

// Table is aligned text without borders. A heading that begins with ">" is right-aligned.
type Table struct {
	Head  []string
	Empty string // the sentence for no rows
	Foot  string
	rows  [][]string
}

// Row adds a row; missing cells are blank, line breaks and control characters become blanks.
func (t *Table) Row(cells ...string) {
	for i, c := range cells {
		cells[i] = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, c)
	}
	t.rows = append(t.rows, cells)
}

// Len returns how many rows there are.
func (t *Table) Len() int { return len(t.rows) }

func (t *Table) write(w io.Writer, width int) {
	n := len(t.Head)
	widths, right := make([]int, n), make([]bool, n)
	head := make([]string, n)
	for i, h := range t.Head {
		head[i], right[i] = strings.TrimPrefix(h, ">"), strings.HasPrefix(h, ">")
		widths[i] = utf8.RuneCountInString(head[i])
	}
	for _, r := range t.rows {
		for i, c := range r {
			if i < n {
				widths[i] = max(widths[i], utf8.RuneCountInString(c))
			}
		}
	}
	for _, r := range append([][]string{head}, t.rows...) {
		var b strings.Builder
		for i := range n {
			cell := ""
			if i < len(r) {
				cell = r[i]
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if right[i] {
				cell, pad = pad+cell, ""
			}
			b.WriteString(cell)
			if i < n-1 {
				b.WriteString(pad + "  ")
			}
		}
		_, _ = fmt.Fprintln(w, cut(strings.TrimRight(b.String(), " "), width))
	}
}

// cut shortens a line to the terminal; 0 = a pipe, never cut.
func cut(s string, width int) string {
	if width <= 1 || utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

func terminalWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// Ago writes a time as people read it: "4 min ago", past a week the date; "never" for none.
func Ago(t, now time.Time) string {
	if t.IsZero() || t.Unix() == 0 {
		return "never"
	}
	d := now.Sub(t)
	if d < 0 {
		return "in " + Span(-d)
	}
	switch {
	case d < 5*time.Second:
		return "just now"
	case d < 7*24*time.Hour:
		return Span(d) + " ago"
	}
	return t.UTC().Format(time.DateOnly)
}

// Span writes a duration with one unit: "12 s", "4 min", "2 h", "9 days".
func Span(d time.Duration) string {
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

// Bytes writes a size with a binary unit: "31.7 MiB".
func Bytes(n int64) string {
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

// Middle shortens a digest or id in its middle: "sha256:3f1c…9a07".
func Middle(s string) string {
	prefix, rest := "", s
	if i := strings.IndexByte(s, ':'); i >= 0 && i < 12 {
		prefix, rest = s[:i+1], s[i+1:]
	}
	if len(rest) <= 12 {
		return s
	}
	return prefix + rest[:4] + "…" + rest[len(rest)-4:]
}

// errorDocument is the shape of an error with --json.
type errorDocument struct {
	Error errorBody `json:"error"`
}

type errorBody struct {
	Code    string      `json:"code"`
	Reason  string      `json:"reason"`
	Message string      `json:"message"`
	Next    string      `json:"next"`
	Fields  []fieldBody `json:"fields,omitempty"`
}

type fieldBody struct {
	Field   string `json:"field"`
	Problem string `json:"problem"`
}

// Fail prints an error the way of this run and returns its exit code.
func (e *Env) Fail(err error) int {
	var silent *exitError
	if asExit(err, &silent) {
		return silent.code
	}
	f := fault.From(err)
	if f == nil {
		return 0
	}
	if e.JSON {
		text, _, _ := strings.Cut(fault.Text(err), "\n")
		doc := errorDocument{errorBody{Code: f.Kind.String(), Reason: f.Reason, Message: text, Next: f.Next}}
		for _, fd := range f.Fields {
			doc.Error.Fields = append(doc.Error.Fields, fieldBody{fd.Name, fd.Problem})
		}
		if data, err := json.Marshal(doc); err == nil {
			e.Printf("%s\n", data)
		}
		return fault.ExitCode(err)
	}
	if f.Reason == "CANCELED" {
		e.Printf("%s: interrupted\n", e.Service)
		return fault.ExitCode(err)
	}
	e.Printf("%s: %s\n", e.Service, fault.Text(err))
	return fault.ExitCode(err)
}
