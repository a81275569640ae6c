// Package store is the agent's memory: services, generations, ports, operations with their journal, events.
//
// What an operation is about to do is written before it is done, and what it did after, so that whoever starts next
// knows what may have happened. All SQL of the agent is here, one method a query; decisions are made by the callers.
// A Store is safe for concurrent use.
package store
