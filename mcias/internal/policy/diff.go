package policy

import "reflect"

// Diff lists what changes from old to new: "+ id", "- id", "~ id", in the order of new, removed ones last.
func Diff(old, new []Rule) []string {
	before := map[string]Rule{}
	for _, r := range old {
		before[r.ID] = r
	}
	var out []string
	after := map[string]bool{}
	for _, r := range new {
		after[r.ID] = true
		was, ok := before[r.ID]
		switch {
		case !ok:
			out = append(out, "+ "+r.ID)
		case !same(was, r):
			out = append(out, "~ "+r.ID)
		}
	}
	for _, r := range old {
		if !after[r.ID] {
			out = append(out, "- "+r.ID)
		}
	}
	return out
}

// same compares rules; nil and empty lists are equal, times by instant.
func same(a, b Rule) bool {
	if !a.NotBefore.Equal(b.NotBefore) || !a.ExpiresAt.Equal(b.ExpiresAt) {
		return false
	}
	a.NotBefore, b.NotBefore, a.ExpiresAt, b.ExpiresAt = a.NotBefore.UTC(), a.NotBefore.UTC(), a.ExpiresAt.UTC(), a.ExpiresAt.UTC()
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		fa, fb := va.Field(i), vb.Field(i)
		if fa.Kind() == reflect.Slice && fa.Len() == 0 && fb.Len() == 0 {
			continue
		}
		if !reflect.DeepEqual(fa.Interface(), fb.Interface()) {
			return false
		}
	}
	return true
}
