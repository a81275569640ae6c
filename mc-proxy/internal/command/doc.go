// Package command is the command line: the verbs every service has, and the proxy's own, each a call over the socket.
package command
