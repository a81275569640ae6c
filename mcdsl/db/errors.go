package db

import (
	"context"
	"database/sql"
	"errors"

	"modernc.org/sqlite"

	"metacircular.net/mcdsl/fault"
)

// Primary and extended result codes of SQLite that we tell apart.
const (
	codeError      = 1
	codeBusy       = 5
	codeNoMem      = 7
	codeReadOnly   = 8
	codeInterrupt  = 9
	codeIOErr      = 10
	codeCorrupt    = 11
	codeFull       = 13
	codeTooBig     = 18
	codeConstraint = 19
	codeMismatch   = 20
	codeRange      = 25
	codeNotADB     = 26

	codePrimaryKey = 1555
	codeUnique     = 2067
	codeRowID      = 2579
	codeForeignKey = 787
	codeShmSize    = 4874 // SQLITE_IOERR_SHMSIZE: no room for the shared memory file
)

// ErrNoRows is returned by Row.Scan when there is no row.
var ErrNoRows = sql.ErrNoRows

// IsUnique reports whether err is a violated UNIQUE or PRIMARY KEY constraint.
func IsUnique(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code() == codeUnique || e.Code() == codePrimaryKey || e.Code() == codeRowID)
}

// IsForeignKey reports whether err is a violated FOREIGN KEY constraint.
func IsForeignKey(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code() == codeForeignKey
}

// IsConstraint reports whether err is any violated constraint. The transaction goes on.
func IsConstraint(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == codeConstraint
}

// mapError words the failures every service shares.
func mapError(err error) error {
	var e *sqlite.Error
	if err == nil || !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Code()&0xff == codeFull, e.Code() == codeShmSize:
		return fault.New(fault.Exhausted, "the disk is full, nothing was written").WithReason("DISK_FULL").
			WithNext("free space where the database lies; no restart is needed").Wrap(err)
	case e.Code()&0xff == codeInterrupt:
		return fault.New(fault.Timeout, "the write was interrupted, nothing was written").WithReason("CANCELED").Wrap(err)
	case e.Code()&0xff == codeBusy:
		return fault.New(fault.Unavailable, "the database is in use by another program").WithReason("DB_BUSY").Wrap(err)
	case e.Code()&0xff == codeReadOnly:
		return fault.New(fault.Precondition, "the database cannot be written").WithReason("READ_ONLY").Wrap(err)
	}
	return err
}

// endsTransaction reports whether SQLite has, or may have, rolled the whole transaction back.
// Only errors known to leave it alone count as harmless.
func endsTransaction(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false // a scan or conversion error of database/sql
	}
	switch e.Code() & 0xff {
	case codeError, codeConstraint, codeMismatch, codeRange, codeTooBig:
		return false
	}
	return true
}
