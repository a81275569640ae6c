// Package authn decides whether somebody is who they say they are: name and password, throttled, through the hash pool.
//
// Order of a sign-in: caps → pool admission → one transaction that counts the attempt before it is verified, so that
// there is no check-then-act race → Argon2 → policy → one transaction that resets the counter, opens the session and
// writes the audit record. Unknown, disabled, throttled and wrong are the same to the outside: same answer, same work,
// same writes. Policy's denial is told only after valid credentials.
//
// Throttle, not lockout: per (name, network) five free failures, then a delay that doubles to 15 min; per name over all
// networks a higher limit, which networks that succeeded before skip. An attempt inside the delay is not verified and
// does not extend it.
package authn
