// Package store holds what the registry knows: repositories, links, manifests, tags and their history,
// uploads, pins, rules, events. It has all the SQL, one function per question, and is the only owner of
// transactions.
//
// What a repository shows is decided here and nowhere else: every read of a blob or manifest goes through the
// repository's link (repo_blobs, repo_manifests). Only the collector and the verifier ask by digest alone.
//
// A deletion is an operation with an id: it sets deleted_at and removes tags with events, so that it can be
// undone until the trash expires. Each change writes its event in the same transaction.
//
// Who may do what is decided before a function here is called; what cannot be done (a pinned digest, an
// immutable tag, a missing layer) is refused here, inside the transaction, so that nothing slips between.
//
// A Store is safe for concurrent use.
package store
