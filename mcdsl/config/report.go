package config

import (
	"fmt"
	"io"
	"text/tabwriter"

	"metacircular.net/mcdsl/secret"
)

// Setting is one value with its origin.
type Setting struct {
	Key        string `json:"key"`
	Value      string `json:"value"`
	Source     string `json:"source"` // default, file:line, "env NAME" or flag
	Reloadable bool   `json:"reloadable"`
	Secret     bool   `json:"secret"`
	raw        string // the whole value, for Changes: print shortens tables
}

// Report says where each setting came from.
type Report struct {
	Settings []Setting `json:"settings"`
	Warnings []string  `json:"warnings"`
}

func (r *Report) fill(leaves []leaf, origin map[string]string) {
	for _, l := range leaves {
		s := Setting{Key: l.key, Value: l.text(), Source: "default", Reloadable: l.reload, Secret: l.secret,
			raw: fmt.Sprintf("%v", l.value.Interface())}
		if o, ok := origin[l.key]; ok {
			s.Source = o
		}
		if s.Secret && s.Value != `""` {
			s.Value = secret.Mask
		}
		r.Settings = append(r.Settings, s)
	}
}

// Print writes one setting a line: key, value, source.
func (r *Report) Print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range r.Settings {
		if _, err := fmt.Fprintf(tw, "%s\t%s\t%s\n", s.Key, s.Value, s.Source); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// Changes compares two loads of the same type: keys that changed and may take effect now, and keys that
// need a restart.
func Changes(before, after *Report) (now, restart []string) {
	old := map[string]string{}
	for _, s := range before.Settings {
		old[s.Key] = s.raw
	}
	for _, s := range after.Settings {
		if old[s.Key] == s.raw {
			continue
		}
		if s.Reloadable {
			now = append(now, s.Key)
		} else {
			restart = append(restart, s.Key)
		}
	}
	return now, restart
}
