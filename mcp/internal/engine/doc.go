// Package engine says what the agent needs of whatever runs containers, and nothing more.
//
// Two engines satisfy it: docker (also Podman's socket) and proc, which runs an unpacked image as an isolated process
// and needs no daemon. The suite in enginetest is the contract in runnable form. What an engine cannot enforce is data
// (Info.Weaker), so that plans, doctor and tests can say it.
//
// Engines only do what they are told: restarts, order and health belong to the agent. An Engine is safe for concurrent
// use.
package engine
