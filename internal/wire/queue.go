package wire

import (
	"io"
	"sync"
)

// maxOwed bounds the replies that may be outstanding. A client that sends more
// commands ahead waits, as it would for a server whose window is full.
const maxOwed = 128

// An Owed is the list of replies that a backend still owes a client, in the
// order of the commands. A filter's upward direction adds to it before it
// writes a command, its downward direction takes from it as replies come.
// The zero value is ready.
type Owed[T any] struct {
	mu      sync.Mutex
	changed sync.Cond
	list    []T
	closed  bool
}

func (q *Owed[T]) lock() {
	q.mu.Lock()
	q.changed.L = &q.mu
}

// Add puts a reply at the end. While the list is full it waits; flush is
// called first, so that what the backend is to answer has reached it. It
// returns io.EOF once the list is closed.
func (q *Owed[T]) Add(reply T, flush func() error) error {
	q.lock()
	defer q.mu.Unlock()
	if len(q.list) >= maxOwed {
		q.mu.Unlock()
		err := flush()
		q.lock()
		if err != nil {
			return err
		}
	}
	for len(q.list) >= maxOwed && !q.closed {
		q.changed.Wait()
	}
	if q.closed {
		return io.EOF
	}
	q.list = append(q.list, reply)
	return nil
}

// Next returns the reply that is due, and false when none is: the backend then
// speaks of itself.
func (q *Owed[T]) Next() (reply T, ok bool) {
	q.lock()
	defer q.mu.Unlock()
	if len(q.list) == 0 {
		return reply, false
	}
	return q.list[0], true
}

// Paid takes the reply that was due from the list.
func (q *Owed[T]) Paid() {
	q.lock()
	defer q.mu.Unlock()
	if len(q.list) > 0 {
		q.list = append(q.list[:0], q.list[1:]...)
	}
	q.changed.Broadcast()
}

// Settle waits until nothing is owed. It returns io.EOF when the list is
// closed before.
func (q *Owed[T]) Settle() error {
	q.lock()
	defer q.mu.Unlock()
	for len(q.list) > 0 && !q.closed {
		q.changed.Wait()
	}
	if len(q.list) > 0 {
		return io.EOF
	}
	return nil
}

// Close ends all waiting: one direction has ended.
func (q *Owed[T]) Close() {
	q.lock()
	defer q.mu.Unlock()
	q.closed = true
	q.changed.Broadcast()
}
