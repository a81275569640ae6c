// Package seal is the state machine round the barrier.
//
//	uninitialized → initializing → sealed → unsealing → unsealed → sealing → sealed
//
// An operation takes the state and a counted [Lease] on the open barrier in one step. Sealing stops new leases, cancels
// the contexts of those that are out, waits for the last one, wipes, and only then says "sealed". Wiping under a running
// operation would encrypt with zeros; checking the state and acting later is the classic mistake.
package seal
