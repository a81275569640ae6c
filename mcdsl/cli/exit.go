package cli

import "errors"

// exitError is an exit code whose reason has been printed already.
type exitError struct{ code int }

func (*exitError) Error() string { return "unhealthy" }

// Exit returns an error that ends the command with a code and prints nothing more: for verbs whose answer is their
// exit code.
func Exit(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code}
}

func asExit(err error, target **exitError) bool { return errors.As(err, target) }
