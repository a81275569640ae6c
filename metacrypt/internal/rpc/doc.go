// Package rpc turns the contract metacrypt.v1 into calls of seal and engines. It asks policy, takes leases, converts; it
// decides nothing by itself. [Rules] holds one access rule for every method and hand-written route.
package rpc
