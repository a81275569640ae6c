//go:build mctest

package clock

import (
	"os"
	"time"
)

// offset reads MC_CLOCK_OFFSET; a value that is no duration counts as none.
func offset() time.Duration {
	d, err := time.ParseDuration(os.Getenv("MC_CLOCK_OFFSET"))
	if err != nil {
		return 0
	}
	return d
}
