// Package control is the one writer of the routing table.
//
// A write works on a draft of the present routes: it checks owners and revisions, changes what it changes, and builds
// the new index, which validates everything. Then the database commits, then the pointer is stored, then the answer
// goes out. Nothing can fail after the commit, so there is no state in which disk and traffic disagree.
//
// Reads take the Snapshot and no lock. Control is safe for concurrent use; writes go one at a time.
package control
