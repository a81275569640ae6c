package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"metacircular.net/mcdsl/fault"
)

// Action is what somebody wants to do with a repository.
type Action string

// The actions. Push uploads blobs and manifests by digest; Tag creates or moves a tag; Delete deletes and
// restores; Pin keeps digests from deletion under the account's own name; Admin covers rules, pins of others,
// storage.
const (
	Pull   Action = "pull"
	Push   Action = "push"
	Tag    Action = "tag"
	Delete Action = "delete"
	Pin    Action = "pin"
	Admin  Action = "admin"
)

var actions = []Action{Pull, Push, Tag, Delete, Pin, Admin}

// The owners of a rule.
const (
	OwnerBuiltin = "builtin"
	OwnerConfig  = "config"
	OwnerDB      = "db"
)

// Limits of one rule.
const (
	maxList = 64
	maxGlob = 256
)

// Rule allows or denies. Subjects, Actions and Repositories are never empty.
type Rule struct {
	Name         string    `toml:"id"`
	Effect       string    `toml:"effect"`       // allow or deny
	Subjects     []string  `toml:"subjects"`     // user:NAME, system:NAME, role:ROLE, any
	Actions      []string  `toml:"actions"`      // pull, push, tag, delete, pin, admin
	Repositories []string  `toml:"repositories"` // * within a segment, ** across segments, {user}
	Tags         []string  `toml:"tags"`         // binds tag, and delete of a tag; empty = all
	NotAfter     time.Time `toml:"not_after"`
	Comment      string    `toml:"comment"`
	Owner        string    `toml:"-" json:"-"`
	Changed      time.Time `toml:"-" json:"-"`
	ChangedBy    string    `toml:"-" json:"-"`
}

// ruleNameExp and segmentExp bound what is shown in pages and put into globs.
var (
	ruleNameExp = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	segmentExp  = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)
	globExp     = regexp.MustCompile(`^[a-zA-Z0-9._/*{}-]+$`)
)

// CheckName returns a fault about a rule's name, or nil.
func CheckName(name string) error {
	if !ruleNameExp.MatchString(name) {
		return fault.Field1("name", "%.80q: a rule's name is up to 63 lower-case letters, digits, dots, underscores and hyphens", name)
	}
	return nil
}

// Validate checks a rule; the fault names the field.
func (r Rule) Validate() error {
	if err := CheckName(r.Name); err != nil {
		return err
	}
	if r.Effect != "allow" && r.Effect != "deny" {
		return fault.Field1("effect", "%.40q: say allow or deny", r.Effect)
	}
	if err := checkList("subjects", r.Subjects, 1, checkSubject); err != nil {
		return err
	}
	if err := checkList("actions", r.Actions, 1, checkAction); err != nil {
		return err
	}
	if err := checkList("repositories", r.Repositories, 1, CheckGlob); err != nil {
		return err
	}
	return checkList("tags", r.Tags, 0, CheckGlob)
}

func checkList(field string, list []string, least int, check func(string) error) error {
	if len(list) < least {
		return fault.Field1(field, "at least one is needed")
	}
	if len(list) > maxList {
		return fault.Field1(field, "%d entries; at most %d", len(list), maxList)
	}
	for _, s := range list {
		if err := check(s); err != nil {
			return fault.Field1(field, "%v", err)
		}
	}
	return nil
}

func checkSubject(s string) error {
	if s == "any" {
		return nil
	}
	kind, name, ok := strings.Cut(s, ":")
	if !ok || name == "" || len(name) > 128 || (kind != "user" && kind != "system" && kind != "role") {
		return fmt.Errorf("%.80q: say user:NAME, system:NAME, role:ROLE or any", s)
	}
	return nil
}

func checkAction(s string) error {
	if !slices.Contains(actions, Action(s)) {
		return fmt.Errorf("%.40q: say pull, push, tag, delete, pin or admin", s)
	}
	return nil
}

// CheckGlob returns an error that says what is wrong with a glob.
func CheckGlob(s string) error {
	if len(s) > maxGlob || !globExp.MatchString(s) {
		return fmt.Errorf("glob %.80q: letters, digits and . _ - /, with * within a segment, ** across segments, {user}", s)
	}
	if strings.Contains(s, "***") {
		return fmt.Errorf("glob %.80q: three stars in a row", s)
	}
	if rest := strings.ReplaceAll(s, "{user}", ""); strings.ContainsAny(rest, "{}") {
		return fmt.Errorf("glob %.80q: the only variable is {user}", s)
	}
	return nil
}

// Builtin are the rules every registry begins with: an admin may do everything, a user everything but
// administer below users/<own name>/.
func Builtin() []Rule {
	return []Rule{
		{Name: "builtin-admin", Effect: "allow", Subjects: []string{"role:admin"},
			Actions: []string{"pull", "push", "tag", "delete", "pin", "admin"}, Repositories: []string{"**"},
			Comment: "administrators may do everything", Owner: OwnerBuiltin},
		{Name: "builtin-own", Effect: "allow", Subjects: []string{"role:user"},
			Actions: []string{"pull", "push", "tag", "delete", "pin"}, Repositories: []string{"users/{user}/**"},
			Comment: "each user has users/NAME/ for their own", Owner: OwnerBuiltin},
	}
}

// Known reports whether an action is one of ours.
func (a Action) Known() bool { return slices.Contains(actions, a) }
