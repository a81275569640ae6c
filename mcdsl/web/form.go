package web

import (
	"net/http"
	"net/url"

	"metacircular.net/mcdsl/fault"
)

// Form is what was typed, and what is wrong with it.
type Form struct {
	Values  url.Values
	Problem string        // what is wrong with the whole
	Next    string        // what to do about it
	Fields  []fault.Field // what is wrong with each field
}

// NewForm returns an empty form with its defaults: name, value, name, value …
func NewForm(defaults ...string) *Form {
	f := &Form{Values: url.Values{}}
	for i := 0; i+1 < len(defaults); i += 2 {
		f.Values.Set(defaults[i], defaults[i+1])
	}
	return f
}

// Refused returns the form as it comes back: everything typed still there but the secrets named, the fields of err
// beside theirs. It returns nil when err is none the form can show (denied, unavailable …): then err is the answer.
func Refused(r *http.Request, err error, secrets ...string) *Form {
	e := fault.From(err)
	switch e.Kind {
	case fault.Invalid, fault.Exists, fault.Conflict, fault.Precondition, fault.NotFound:
	default:
		return nil
	}
	f := &Form{Values: url.Values{}, Problem: e.Public(), Next: e.Next, Fields: e.Fields}
	for k, v := range r.PostForm {
		f.Values[k] = v
	}
	for _, name := range secrets {
		f.Values.Del(name)
	}
	return f
}

// Value returns what a field holds.
func (f *Form) Value(name string) string {
	if f == nil {
		return ""
	}
	return f.Values.Get(name)
}

// Err returns what is wrong with a field.
func (f *Form) Err(name string) string {
	if f == nil {
		return ""
	}
	for _, fd := range f.Fields {
		if fd.Name == name {
			return fd.Problem
		}
	}
	return ""
}

// Bad reports whether the form was refused.
func (f *Form) Bad() bool { return f != nil && (f.Problem != "" || len(f.Fields) > 0) }

// fieldView is what the "field" component draws.
type fieldView struct {
	Form              *Form
	Name, Label, Help string
}
