// Package rpc turns the contract into calls of control, ingress and certs, and their outcomes into messages. It decides
// nothing: who may call is the rule map's, what happens is control's.
package rpc
