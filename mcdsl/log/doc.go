// Package log sets slog up the same way in every service: JSON to stderr, text on a terminal, one level
// that can change at run time, the request id in every line of a request, and a limit on repetition.
//
// Keys are the platform's: svc, method, code, dur (milliseconds as a number, see [Dur]), req_id, user,
// client. slog escapes values, so a line cannot be forged by its content; a message that comes more than
// ten times a second is counted instead of written.
package log
