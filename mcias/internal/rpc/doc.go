// Package rpc serves the contract mcias.v1: it turns messages into calls of the domain packages and back. Rules says
// who may call what; methods ruled by policy ask MCIAS's own engine and record its answer.
package rpc
