// Package barrier keeps secret rows in a database that its holder may read and edit. Nothing that leaves it towards the
// disk is in clear, not even names; whatever comes back changed, swapped, replayed, inserted or deleted is found.
//
// Each mount has keys of its own: data keys that encrypt, k_path that turns paths into hashes, k_mac. A row's value is
// bound to mount, path, revision and key. Per mount the XOR of a MAC over every row is kept; XOR is linear, so the
// accumulators exist only inside the encrypted integrity root, one row that also holds a digest of each live slot,
// key and mount, the row counts, and the commit counter (generation). It is rewritten once in every transaction.
//
// What cannot be seen from inside is a whole file put back: the generation is how others notice.
package barrier
