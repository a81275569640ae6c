// Package policy decides who may do what, and can say why.
//
// A rule names who (usernames, roles, tags), what (resources as globs over type/mount/path), how (actions) and, for
// certificates, which identifiers. The lowest priority that matches decides; at equal priority deny beats allow;
// without a match the answer is no. The admin role bypasses rules. [Set.Explain] runs the very code of
// [Set.Decide] with a recorder, so it cannot tell another story.
package policy
