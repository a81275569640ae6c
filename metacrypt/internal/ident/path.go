package ident

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Path checks the path of a secret or key: 1 to 16 segments of 1 to 128 bytes, NFC; no ".", "..", control characters or
// percent signs, so that no router on the way can make another path of it.
func Path(s string) error {
	if !utf8.ValidString(s) || !norm.NFC.IsNormalString(s) {
		return fmt.Errorf("the path is not UTF-8 in composed form (NFC)")
	}
	segs := strings.Split(s, "/")
	if len(segs) > 16 {
		return fmt.Errorf("the path has %d segments, at most 16", len(segs))
	}
	for _, g := range segs {
		if g == "" || g == "." || g == ".." || len(g) > 128 {
			return fmt.Errorf("the path has an empty, dotted or overlong segment")
		}
		for _, r := range g {
			if unicode.IsControl(r) || r == '%' || r == '\\' || r == '*' {
				return fmt.Errorf("the path has a character that paths may not have: %q", r)
			}
		}
	}
	return nil
}
