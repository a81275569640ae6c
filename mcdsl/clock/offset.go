//go:build !mctest

package clock

import "time"

// offset is zero in real binaries: nobody moves the clock of a service by its environment.
func offset() time.Duration { return 0 }
