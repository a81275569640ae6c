// Package workspace tests the shape of the tree itself: who imports whom, what no file may contain, and that the
// list of promises names tests that exist. A rule that only stands in a document is broken within a month.
package workspace
