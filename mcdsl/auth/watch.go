package auth

import "time"

// silence is how long a live stream may be quiet: heartbeats come at most 5 s apart.
const silence = 12 * time.Second
