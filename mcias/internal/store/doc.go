// Package store holds all SQL of MCIAS, one function per query. Functions that change something take a *db.Tx, those
// that only read take a [Reader], which a transaction and a view both are, so a decision can be made on what the
// transaction itself sees.
//
// Nothing is decided here: rows go out as Go values. A row that is not there is [ErrNotFound]. Single use is
// expressed as "one row changed", reported by a bool.
package store
