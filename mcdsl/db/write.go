package db

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"
)

// job is one call of Write. Its function always runs on its caller's goroutine, so that a panic or a
// test's FailNow ends that caller and nobody else. Whoever holds the writer is the leader: it runs its
// own function first, lets the waiting ones take their turn in the same transaction, commits, and tells
// all. Then the next waiting one leads.
type job struct {
	ctx   context.Context
	fn    func(*Tx) error
	since time.Time
	alone bool         // after a neighbour ended a shared transaction: no neighbours any more
	turn  chan signal  // to the caller
	ran   chan outcome // from the caller to the leader
}

type signalKind int

const (
	sigLead   signalKind = iota // the writer is yours
	sigRun                      // run your function in the leader's transaction
	sigDone                     // the shared transaction ended; err is your result
	sigClosed                   // the database was closed while you waited
)

type signal struct {
	kind signalKind
	err  error
}

// outcome is what a member's function did.
type outcome struct {
	err    error // of the function, or of its savepoint
	sticky error // the whole transaction is gone
	died   bool  // panic or Goexit: nobody waits for a result
}

type writeKey struct{}

// Write runs fn in a transaction and returns when its changes are on disk, or an error when none of them
// is. A fn that returns an error leaves no trace. See the package comment for what fn must not do.
func (d *DB) Write(ctx context.Context, fn func(*Tx) error) error {
	me := goroutineID()
	if ctx.Value(writeKey{}) == d || d.executing.Load() == me {
		return fault.New(fault.Internal, "db: Write inside Write would wait for itself")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	j := &job{ctx: ctx, fn: fn, since: time.Now(), turn: make(chan signal, 1), ran: make(chan outcome, 1)}
	d.mu.Lock()
	switch {
	case d.closed:
		d.mu.Unlock()
		return errClosed()
	case !d.busy:
		d.busy = true
		d.mu.Unlock()
		return d.lead(j, me)
	case len(d.queue) >= maxWaiting:
		d.mu.Unlock()
		return fault.New(fault.Exhausted, "%d writes are waiting already", maxWaiting).WithReason("WRITE_QUEUE_FULL")
	}
	d.queue = append(d.queue, j)
	d.mu.Unlock()
	return d.follow(j, me)
}

// follow waits for a turn. Giving up works until the function has started.
func (d *DB) follow(j *job, me int64) error {
	var sig signal
	select {
	case sig = <-j.turn:
	case <-j.ctx.Done():
		if d.withdraw(j) {
			return j.ctx.Err()
		}
		sig = <-j.turn // taken a moment ago: the outcome counts
	}
	for {
		switch sig.kind {
		case sigLead:
			return d.lead(j, me)
		case sigRun:
			d.runMember(j, me)
			sig = <-j.turn
		case sigClosed:
			return errClosed()
		default:
			return sig.err
		}
	}
}

// withdraw takes a job out of the queue; false if it is no longer there.
func (d *DB) withdraw(j *job) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, q := range d.queue {
		if q == j {
			d.queue = append(d.queue[:i], d.queue[i+1:]...)
			return true
		}
	}
	return false
}

// next takes the first waiting job, or nil.
func (d *DB) next() *job {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 || d.queue[0].alone {
		return nil
	}
	j := d.queue[0]
	d.queue = d.queue[1:]
	return j
}

// handOver makes the next waiting job the leader, or frees the writer.
func (d *DB) handOver() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 {
		d.busy = false
		return
	}
	j := d.queue[0]
	d.queue = d.queue[1:]
	j.turn <- signal{kind: sigLead}
}

// lead runs a transaction with this job first. The writer is ours until handOver.
func (d *DB) lead(j *job, me int64) (err error) {
	defer d.handOver()
	d.cfg.Metrics.DBWait(time.Since(j.since))
	started := time.Now()
	defer func() { d.cfg.Metrics.DBWrite(time.Since(started)) }()

	members, lost, err := d.attempt(j, me)
	if !lost {
		return err
	}
	// A shared transaction was lost: the innocent run again, each alone. They have started once, so they
	// wait for their true outcome whatever their callers do.
	again := make([]*job, 0, len(members))
	for _, m := range members {
		if m.err != nil { // its own failure stands
			m.j.turn <- signal{kind: sigDone, err: m.err}
			continue
		}
		m.j.alone, m.j.ctx = true, context.WithoutCancel(m.j.ctx)
		again = append(again, m.j)
	}
	d.mu.Lock()
	d.queue = append(again, d.queue...)
	d.mu.Unlock()
	j.alone, j.ctx = true, context.WithoutCancel(j.ctx)
	_, _, err = d.attempt(j, me)
	return err
}

type member struct {
	j   *job
	err error
}

// attempt runs one transaction: the leader's function, those that wait, COMMIT. If lost, everything was
// rolled back through no fault of the leader, and the members that ran are returned unanswered. Otherwise
// err is the leader's result and the members have theirs.
func (d *DB) attempt(j *job, me int64) (members []member, lost bool, err error) {
	if _, err := d.writer.ExecContext(context.WithoutCancel(j.ctx), "BEGIN IMMEDIATE"); err != nil {
		return nil, false, mapError(err)
	}
	standing := true
	defer func() {
		if standing { // an error, or a panic or Goexit in the leader's function
			d.rollback()
		}
	}()
	tx := &Tx{ctx: context.WithValue(j.ctx, writeKey{}, d), conn: d.writer}
	err = d.run(tx, j.fn, me)
	if tx.sticky != nil {
		err = tx.sticky
	}
	if err != nil {
		return nil, false, err
	}
	begin := time.Now()
	for !j.alone && len(members) < groupMax-1 && (len(members) == 0 || time.Since(begin) < groupTime) {
		m := d.next()
		if m == nil {
			break
		}
		if err := m.ctx.Err(); err != nil {
			m.turn <- signal{kind: sigDone, err: err}
			continue
		}
		d.cfg.Metrics.DBWait(time.Since(m.since))
		m.turn <- signal{kind: sigRun}
		out := <-m.ran
		if out.sticky != nil {
			// The one whose statement ended it gets its error; the work of the others is gone with it.
			if !out.died {
				m.turn <- signal{kind: sigDone, err: out.sticky}
			}
			return members, true, nil
		}
		if !out.died {
			members = append(members, member{m, out.err})
		}
	}
	if err := d.commit(); err != nil {
		return members, len(members) > 0, err
	}
	standing = false
	for _, m := range members {
		m.j.turn <- signal{kind: sigDone, err: m.err}
	}
	return members, false, nil
}

// runMember runs a waiting job's function in the leader's transaction, within a savepoint.
func (d *DB) runMember(j *job, me int64) {
	out := outcome{died: true}
	// Cancellation of one must not interrupt a statement of the transaction of all.
	tx := &Tx{ctx: context.WithValue(context.WithoutCancel(j.ctx), writeKey{}, d), conn: d.writer}
	savepoint := func(stmt string) error {
		_, err := d.writer.ExecContext(context.WithoutCancel(j.ctx), stmt)
		return err
	}
	defer func() {
		if out.sticky == nil && (out.died || out.err != nil) {
			tx.finish()
			if err := errors.Join(savepoint("ROLLBACK TO member"), savepoint("RELEASE member")); err != nil {
				out.sticky = mapError(err)
			}
		}
		j.ran <- out
	}()
	if err := savepoint("SAVEPOINT member"); err != nil {
		out = outcome{sticky: mapError(err)}
		return
	}
	err := d.run(tx, j.fn, me)
	out = outcome{err: err, sticky: tx.sticky}
	if err == nil && tx.sticky == nil {
		if err := savepoint("RELEASE member"); err != nil {
			out.sticky = mapError(err)
		}
	}
}

// run calls fn as the one function that may write now.
func (d *DB) run(tx *Tx, fn func(*Tx) error, me int64) error {
	d.executing.Store(me)
	defer func() {
		d.executing.Store(0)
		tx.finish()
	}()
	return fn(tx)
}

func (d *DB) commit() error {
	// Never with a caller's context: an interrupted COMMIT leaves nobody knowing.
	_, err := d.writer.ExecContext(context.Background(), "COMMIT")
	return mapError(err)
}

// rollback ends whatever transaction is left. "No transaction is active" is what we want.
func (d *DB) rollback() {
	if _, err := d.writer.ExecContext(context.Background(), "ROLLBACK"); err != nil &&
		!bytes.Contains([]byte(err.Error()), []byte("no transaction is active")) {
		d.log.Error("rollback failed", log.Err(err))
	}
}

// goroutineID reads the number of this goroutine from its stack header ("goroutine 7 [running]:").
// Ugly on purpose: a Write inside Write often captures the outer context, and then nothing else can tell
// that it would wait for itself for ever. It costs about a microsecond, a commit some hundred.
func goroutineID() int64 {
	var buf [40]byte
	n := runtime.Stack(buf[:], false)
	s := bytes.TrimPrefix(buf[:n], []byte("goroutine "))
	if i := bytes.IndexByte(s, ' '); i > 0 {
		if id, err := strconv.ParseInt(string(s[:i]), 10, 64); err == nil {
			return id
		}
	}
	panic(fmt.Sprintf("db: unexpected stack header %q", buf[:n]))
}
