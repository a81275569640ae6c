package clock_test

import (
	"fmt"
	"testing"
	"time"

	"metacircular.net/mcdsl/clock"
)

func TestOr(t *testing.T) {
	t.Parallel()
	f := clock.NewFake(time.Unix(1, 0))
	if got := clock.Or(f).Now(); !got.Equal(time.Unix(1, 0)) {
		t.Errorf("Or(fake).Now() = %v", got)
	}
	if clock.Or(nil).Now().IsZero() {
		t.Error("Or(nil) has no time")
	}
}

func ExampleFake() {
	c := clock.NewFake(time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC))
	c.Advance(90 * time.Minute)
	fmt.Println(c.Now().Format(time.RFC3339))
	// Output: 2026-11-25T01:30:00Z
}
