// Package ui draws MCIAS's pages: sign-in, setup link, consent, the person's own account, and the lists of admins.
// It is a client of MCIAS's own gRPC over the connection in process and imports no domain package, so a page gets the
// verdict that REST and gRPC get.
//
// The session cookie holds the session's secret. Each request mints a token for MCIAS itself from it, so that a role
// taken or a session ended counts at the next click.
package ui
