// Package server puts MCIAS together: configuration, the order in which its parts are made, the work that goes on in
// the background, init, and what a restore must kill.
package server
