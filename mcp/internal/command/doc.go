// Package command holds the operator's verbs: deploy, undeploy, ps, logs and the rest, one noun or verb a file.
//
// A verb is a client: it talks to the master through MC-Proxy as the logged-in user or, with --local, to the agent of
// this node over its Unix socket, which works when the master, MCIAS and the network are gone. Both serve the same
// contract, so no verb knows the difference.
package command
