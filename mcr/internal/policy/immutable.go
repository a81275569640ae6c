package policy

import (
	"slices"
	"strings"

	"metacircular.net/mcdsl/fault"
)

// Immutable says which tags never move once they exist, and are never made again with other content.
type Immutable struct {
	Name         string   `toml:"id"`
	Repositories []string `toml:"repositories"`
	Tags         []string `toml:"tags"` // empty = all
	Comment      string   `toml:"comment"`
	Owner        string   `toml:"-" json:"-"`
}

// Validate checks a rule; the fault names the field.
func (r Immutable) Validate() error {
	if err := CheckName(r.Name); err != nil {
		return err
	}
	if err := checkList("repositories", r.Repositories, 1, checkPlainGlob); err != nil {
		return err
	}
	return checkList("tags", r.Tags, 0, checkPlainGlob)
}

func checkPlainGlob(s string) error {
	if err := CheckGlob(s); err != nil {
		return err
	}
	if strings.Contains(s, "{user}") {
		return fault.New(fault.Invalid, "glob %.80q: {user} means nothing here: a tag is held whoever asks", s)
	}
	return nil
}

// Holder returns the name of the first rule that holds a tag, or "".
func Holder(rules []Immutable, repo, tag string) string {
	for _, r := range rules {
		if slices.ContainsFunc(r.Repositories, func(g string) bool { return Match(g, repo) }) &&
			(len(r.Tags) == 0 || slices.ContainsFunc(r.Tags, func(g string) bool { return Match(g, tag) })) {
			return r.Name
		}
	}
	return ""
}
