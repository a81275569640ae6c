package policy

import "strings"

// Match reports whether a glob covers a name: * stands for anything within a segment, ** for anything.
// a/** covers what lies below a, not a itself. The work is at most len(glob) × len(name).
func Match(glob, name string) bool {
	for len(glob) > 0 && glob[0] != '*' {
		if name == "" || name[0] != glob[0] {
			return false
		}
		glob, name = glob[1:], name[1:]
	}
	switch glob {
	case "":
		return name == ""
	case "*":
		return !strings.Contains(name, "/")
	case "**":
		return true
	}
	// at[i] = the part of the glob read so far matches name[:i].
	at := make([]bool, len(name)+1)
	at[0] = true
	for len(glob) > 0 {
		if glob[0] != '*' {
			for i := len(name); i > 0; i-- {
				at[i] = at[i-1] && name[i-1] == glob[0]
			}
			at[0] = false
			glob = glob[1:]
			continue
		}
		deep := strings.HasPrefix(glob, "**")
		glob = strings.TrimLeft(glob, "*")
		for i := 1; i <= len(name); i++ {
			at[i] = at[i] || at[i-1] && (deep || name[i-1] != '/')
		}
	}
	return at[len(name)]
}
