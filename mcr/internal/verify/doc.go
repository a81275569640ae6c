// Package verify reads everything again. It exists because disks lie: a blob that changed since it was
// acknowledged must be noticed before the day it is needed.
//
// A run hashes each blob, at a bounded rate, and each manifest's bytes; a quick run compares presence and
// length only. What is damaged moves to quarantine and answers 404 from then on, so that the next push of any
// image with it uploads it again and heals it for every repository. One run at a time.
package verify
