// Package service puts the registry together: its configuration, its parts, its rules and its commands. What
// follows from one another is decided here and nowhere else; the parts know nothing of files and flags.
package service
