// Package rpc answers the administrative contract of mcr/api by the registry's own parts. Each method decides
// by policy before its first answer, and turns rows into messages; it holds no state and no SQL.
//
// A Server is safe for concurrent use.
package rpc
