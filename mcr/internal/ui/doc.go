// Package ui draws the registry's pages: repositories, what a repository and a manifest hold, policy and
// storage. Each page is a client of the registry's own gRPC with the token of the session, so it gets the
// verdict that REST and gRPC get. Annotations and tags are a stranger's text and are only ever shown as text.
package ui
