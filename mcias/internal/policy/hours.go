package policy

import (
	"fmt"
	"strings"
	"time"
)

// span is a weekly window of local wall time: on days, from (inclusive) to (exclusive) in minutes of the day.
// to <= from runs over midnight and belongs to the day it begins on.
type span struct {
	days     [7]bool // by time.Weekday
	from, to int
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// parseSpan reads "mon-fri 08:00-18:00", "sat,sun 22:00-06:00" or "08:00-18:00" (every day).
func parseSpan(s string) (span, error) {
	var sp span
	fields := strings.Fields(strings.ToLower(s))
	if len(fields) == 0 || len(fields) > 2 {
		return sp, fmt.Errorf("%q: want \"mon-fri 08:00-18:00\"", s)
	}
	if len(fields) == 1 {
		for i := range sp.days {
			sp.days[i] = true
		}
	} else if err := sp.parseDays(fields[0]); err != nil {
		return sp, fmt.Errorf("%q: %w", s, err)
	}
	a, b, ok := strings.Cut(fields[len(fields)-1], "-")
	if !ok {
		return sp, fmt.Errorf("%q: want hours such as 08:00-18:00", s)
	}
	var err error
	if sp.from, err = minutes(a); err != nil {
		return sp, fmt.Errorf("%q: %w", s, err)
	}
	if sp.to, err = minutes(b); err != nil {
		return sp, fmt.Errorf("%q: %w", s, err)
	}
	if sp.from == 24*60 || sp.from == sp.to {
		return sp, fmt.Errorf("%q: an empty span", s)
	}
	return sp, nil
}

func (s *span) parseDays(list string) error {
	for part := range strings.SplitSeq(list, ",") {
		a, b, isRange := strings.Cut(part, "-")
		first, err := weekday(a)
		if err != nil {
			return err
		}
		last := first
		if isRange {
			if last, err = weekday(b); err != nil {
				return err
			}
		}
		for d := first; ; d = (d + 1) % 7 {
			s.days[d] = true
			if d == last {
				break
			}
		}
	}
	return nil
}

func weekday(s string) (int, error) {
	for i, n := range dayNames {
		if n == s {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%q is not a day (mon … sun)", s)
}

func minutes(s string) (int, error) {
	var h, m int
	if len(s) != 5 || s[2] != ':' {
		return 0, fmt.Errorf("%q is not a time such as 08:00", s)
	}
	if _, err := fmt.Sscanf(s, "%2d:%2d", &h, &m); err != nil || h < 0 || m < 0 || m > 59 || h > 24 || (h == 24 && m != 0) {
		return 0, fmt.Errorf("%q is not a time such as 08:00", s)
	}
	return h*60 + m, nil
}

// contains reports whether t, already in the rule's zone, lies in the window.
func (s span) contains(t time.Time) bool {
	min := t.Hour()*60 + t.Minute()
	day := int(t.Weekday())
	if s.from < s.to {
		return s.days[day] && min >= s.from && min < s.to
	}
	return s.days[day] && min >= s.from || s.days[(day+6)%7] && min < s.to
}

// end returns the first instant after t at which no span of the rule matches, looking eight days ahead by minute
// borders of the spans. t must be inside. The zero time means: never within that horizon.
func (c *compiled) hoursEnd(t time.Time) time.Time {
	if len(c.hours) == 0 {
		return time.Time{}
	}
	local := t.In(c.loc)
	// Candidates are the ends of the spans on each of the next days; the first one at which nothing matches wins.
	var best time.Time
	for d := 0; d <= 8; d++ {
		for _, s := range c.hours {
			// time.Date normalises wall times that a DST change skips or doubles, as people expect of a clock.
			end := time.Date(local.Year(), local.Month(), local.Day()+d, s.to/60, s.to%60, 0, 0, c.loc)
			if !end.After(t) || c.inHours(end) {
				continue
			}
			if best.IsZero() || end.Before(best) {
				best = end
			}
		}
		if !best.IsZero() {
			return best
		}
	}
	return best
}

func (c *compiled) inHours(t time.Time) bool {
	if len(c.hours) == 0 {
		return true
	}
	local := t.In(c.loc)
	for _, s := range c.hours {
		if s.contains(local) {
			return true
		}
	}
	return false
}
