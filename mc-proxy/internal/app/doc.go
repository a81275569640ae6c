// Package app builds a running proxy from its configuration: it is the one place where the parts meet.
package app
