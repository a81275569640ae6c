// Package command is the command line: the administrator's client of the contract, and the offline bootstrap.
package command
