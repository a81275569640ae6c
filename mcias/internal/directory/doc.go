// Package directory is who and what exists: accounts, their roles and links, service keys, clients, and the login
// policy. Every change is one transaction that holds the change, its audit record, its revocation rows and the guard
// against locking every admin out; the hub is told after COMMIT.
//
// A [Directory] is safe for concurrent use.
package directory
