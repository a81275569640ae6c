// Package account knows what an account, a client and a service key are, and which names, addresses and passwords
// they may have. It holds types and rules only: no storage, no time, no network.
package account
