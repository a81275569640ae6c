// Package gc gives disk back, beside all traffic. It exists because a cleanup that stops the world is never
// run, and one that races with pushes deletes what was just acknowledged.
//
// What keeps content: a link is alive while a live or trashed manifest of its repository uses the blob, or
// while its lease is younger than the grace. A blob's file lives while any link does. Leases are renewed,
// durably and before the answer, by whatever lets a client rely on a blob: an upload, a mount, a manifest
// PUT, and a HEAD by somebody who may push.
//
// A run goes through trash, untagged manifests, links, blobs, uploads and orphaned files; each step is a
// short transaction, and a file is unlinked only under its digest's lock, after its row is gone. So a crash
// leaves orphans only, which the next run meets.
//
// After the clock jumped, or stands before the last time that was recorded, nothing is swept for one whole
// grace: ages would be wrong.
package gc
