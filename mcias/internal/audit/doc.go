// Package audit keeps MCIAS's records in a hash chain: hash_n = SHA-256(hash_{n-1} ‖ record), the record in
// length-prefixed fields. A record is written in the transaction of the change it tells of, so there is no change
// without its record and no record without its change. [Verify] recomputes the chain and names the first record that
// does not fit.
//
// Records hold names, ids and decisions. Never a secret, never what somebody typed into the name field.
package audit
