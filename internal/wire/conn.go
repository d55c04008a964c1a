// Package wire reads protocols before anyone may be trusted: lines and exact
// byte counts, each with a bound, from one buffer that its owner can see.
//
// No library owns the dialogue before TLS, because libraries buffer privately
// and a byte that hides in a private buffer across the upgrade is command
// injection (CVE-2011-0411). Here the buffer belongs to the connection, says
// how much is in it, and never reads more than one fill ahead.
package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// What a bounded read can end with, besides the connection's own errors. Each
// is an outcome of its own in metrics.
var (
	ErrTooLong     = errors.New("line or message is too long")
	ErrBareNewline = errors.New("bare CR or LF in a line")
	ErrNUL         = errors.New("NUL in a line")
	ErrClientHello = errors.New("a TLS ClientHello where a command is due")
	ErrBudget      = errors.New("the dialogue's budget of bytes or commands is used up")
	ErrIdle        = timeoutError("idle for too long")
	ErrShutdown    = timeoutError("the gateway is shutting down")
	ErrStalled     = timeoutError("the peer takes no bytes")
)

// timeoutError is a net.Error that crypto/tls does not hold against the
// connection: a Read that ends with it can be taken up again.
type timeoutError string

func (e timeoutError) Error() string        { return string(e) }
func (e timeoutError) Timeout() bool        { return true }
func (e timeoutError) Temporary() bool      { return true }
func (e timeoutError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

var _ net.Error = timeoutError("")

const (
	firstBuffer = 512      // enough for a dialogue; grown on demand
	maxBuffer   = 64 << 10 // no single read may ask for more than this
	fillAhead   = 4 << 10  // the most one fill reads from the connection
)

// A Conn is a connection whose read buffer belongs to the caller. It is a
// net.Conn: Read drains the buffer first, so a Conn can be handed to
// crypto/tls together with what is already read. Reads are for one goroutine,
// writes for another; Interrupt may be called from any.
type Conn struct {
	net.Conn
	buf      []byte // buf[r:] is unread
	r        int
	err      error // a read error met while the buffer still held bytes
	budgeted bool
	bytes    int
	units    int
	woken    atomic.Bool
	broke    atomic.Bool
}

// NewConn returns a Conn that reads from c and has nothing buffered.
func NewConn(c net.Conn) *Conn { return &Conn{Conn: c} }

// SetBudget bounds all that may be read from now on: bytes taken from the
// connection, and units (lines, packets, elements). Either used up gives
// ErrBudget.
func (c *Conn) SetBudget(bytes, units int) {
	c.budgeted, c.bytes, c.units = true, bytes-c.Buffered(), units
}

// ClearBudget lifts the bounds of SetBudget.
func (c *Conn) ClearBudget() { c.budgeted = false }

// Spend takes one unit from the budget. ReadLine does so by itself; readers of
// packets built on Peek and ReadFull call it once a packet.
func (c *Conn) Spend() error {
	if !c.budgeted {
		return nil
	}
	if c.units <= 0 {
		return ErrBudget
	}
	c.units--
	return nil
}

// Buffered returns how many bytes were read from the connection and not yet
// taken by the caller.
func (c *Conn) Buffered() int { return len(c.buf) - c.r }

// Unread returns the buffered bytes without taking them. The slice is valid
// until the next read.
func (c *Conn) Unread() []byte { return c.buf[c.r:] }

// Pipelined reports whether the peer has sent more than was taken: in the
// buffer, or, where the connection below can tell, in the kernel.
func (c *Conn) Pipelined() bool {
	if c.Buffered() > 0 {
		return true
	}
	p, ok := c.Conn.(interface{ Pending() bool })
	return ok && p.Pending()
}

// Read implements io.Reader. Buffered bytes come first and alone.
func (c *Conn) Read(p []byte) (int, error) {
	if c.Buffered() > 0 {
		n := copy(p, c.buf[c.r:])
		c.Discard(n)
		return n, nil
	}
	if err := c.takeErr(); err != nil {
		return 0, err
	}
	if c.budgeted {
		if c.bytes <= 0 {
			return 0, ErrBudget
		}
		p = p[:min(len(p), c.bytes)]
	}
	n, err := c.Conn.Read(p)
	c.bytes -= n
	return n, c.interrupted(err)
}

// Write implements io.Writer.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.broken(err)
	return n, err
}

func (c *Conn) broken(err error) {
	if err != nil && err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.broke.Store(true)
	}
}

// Broke reports whether a read or write has ended with an error that is
// neither the end of the stream nor a timeout: whether it was this side that
// broke the session.
func (c *Conn) Broke() bool { return c.broke.Load() }

// Putback puts bytes that Read gave back to where they came from: before all
// that is unread. It is for copying in large pieces up to an end that is only
// seen when it has come, and for words that stand in for what came in the
// clear.
func (c *Conn) Putback(p []byte) {
	if len(p) > 0 {
		c.buf, c.r = append(bytes.Clone(p), c.Unread()...), 0
	}
}

// Discard takes up to n buffered bytes; it never reads.
func (c *Conn) Discard(n int) {
	c.r += min(n, c.Buffered())
	if c.r == len(c.buf) {
		c.r = 0
		c.buf = c.buf[:0]
	}
}

// Release frees the buffer when nothing is in it, for a connection that may
// now wait long.
func (c *Conn) Release() {
	if c.Buffered() == 0 {
		c.buf, c.r = nil, 0
	}
}

// Peek returns the next n bytes without taking them, reading as needed. It
// returns fewer with the error that ended reading. n is at most 64 KiB.
func (c *Conn) Peek(n int) ([]byte, error) {
	if n > maxBuffer {
		return nil, ErrTooLong
	}
	for c.Buffered() < n {
		// Room for one more byte, not for n: what a peer announces must not
		// allocate before it came.
		if err := c.fill(c.Buffered() + 1); err != nil {
			return c.buf[c.r:], err
		}
	}
	return c.buf[c.r : c.r+n], nil
}

// ReadFull takes exactly len(p) bytes. An end before the first is io.EOF, an
// end between is io.ErrUnexpectedEOF.
func (c *Conn) ReadFull(p []byte) error {
	_, err := io.ReadFull(c, p)
	return err
}

// ReadLine takes one line and returns it without its CRLF, which alone ends a
// line. max counts the CRLF too and is at most 64 KiB. The slice is valid
// until the next read.
//
// A bare CR, a bare LF or a NUL is an error, never repaired: what two parsers
// may read differently is how commands are smuggled (CVE-2021-38542,
// CVE-2023-51764). A TLS record where a line is due is ErrClientHello. After
// any error the connection is only good for a last reply.
func (c *Conn) ReadLine(max int) ([]byte, error) {
	if err := c.Spend(); err != nil {
		return nil, err
	}
	seen := 0 // bytes of the line already looked at
	for {
		b := c.buf[c.r:]
		if len(b) >= 2 && b[0] == 0x16 && b[1] == 0x03 {
			return nil, ErrClientHello
		}
		for i := seen; i < len(b); i++ {
			switch {
			case i >= max:
				return nil, ErrTooLong
			case b[i] == 0:
				return nil, ErrNUL
			case b[i] == '\n':
				if i == 0 || b[i-1] != '\r' {
					return nil, ErrBareNewline
				}
				line := b[:i-1]
				c.Discard(i + 1)
				return line, nil
			case i > 0 && b[i-1] == '\r':
				return nil, ErrBareNewline
			}
		}
		seen = len(b)
		if seen >= max {
			return nil, ErrTooLong
		}
		if err := c.fill(seen + 1); err != nil {
			if err == io.EOF && seen > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// ReadSlice takes bytes up to and with the first LF, however the line is
// made, and returns them as they are. It is for phases in which bytes pass
// through and must not be judged. Without an LF in max bytes (at most 64 KiB)
// it takes and returns max bytes with ErrTooLong: a piece of the line, the
// rest of which comes with the next call. When the stream ends first, what came
// of the line stays buffered (Unread). The slice is valid until the next read.
func (c *Conn) ReadSlice(max int) ([]byte, error) {
	seen := 0
	for {
		b := c.buf[c.r:]
		if i := bytes.IndexByte(b[seen:min(len(b), max)], '\n'); i >= 0 {
			line := b[:seen+i+1]
			c.Discard(len(line))
			return line, nil
		}
		if len(b) >= max {
			c.Discard(max)
			return b[:max], ErrTooLong
		}
		seen = len(b)
		if err := c.fill(seen + 1); err != nil {
			return nil, err
		}
	}
}

// fill reads once, so that n bytes may fit. It never blocks when a byte came.
func (c *Conn) fill(n int) error {
	if err := c.takeErr(); err != nil {
		return err
	}
	if c.r > 0 {
		// Move what is unread to the front of a buffer of its own when a
		// caller may still hold a line of the old one: lines are valid
		// until the next read, and this is the next read.
		c.buf = c.buf[:copy(c.buf, c.buf[c.r:])]
		c.r = 0
	}
	if cap(c.buf) < n || cap(c.buf)-len(c.buf) == 0 {
		size := max(firstBuffer, 2*cap(c.buf))
		for size < n {
			size *= 2
		}
		c.buf = append(make([]byte, 0, size), c.buf...)
	}
	room := c.buf[len(c.buf):min(cap(c.buf), len(c.buf)+fillAhead)]
	if c.budgeted {
		if c.bytes <= 0 {
			return ErrBudget
		}
		room = room[:min(len(room), c.bytes)]
	}
	got, err := c.Conn.Read(room)
	c.buf = c.buf[:len(c.buf)+got]
	c.bytes -= got
	err = c.interrupted(err)
	if got > 0 {
		// A timeout is not kept: it may be lifted meanwhile, and comes again
		// if not. crypto/tls returns one with bytes when part of an alert
		// follows them.
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			c.err = err
		}
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

func (c *Conn) takeErr() error {
	err := c.err
	c.err = nil
	return err
}

// CloseWrite passes the end of the stream on: close_notify for TLS, FIN for
// TCP. It is an error where the connection has no such thing.
func (c *Conn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.New("connection has no CloseWrite")
}

var longAgo = time.Unix(1, 0)

// errPanic ends the other direction of a Duplex whose one direction panicked.
var errPanic = errors.New("panic")

// errInterrupted is what a read that Interrupt ended returns.
var errInterrupted = timeoutError("interrupted")

// Interrupt ends the read that is going on and every later one, until Resume.
// What was read stays in the buffer.
func (c *Conn) Interrupt() {
	c.woken.Store(true)
	c.Conn.SetReadDeadline(longAgo)
}

// Resume lifts Interrupt.
func (c *Conn) Resume() {
	if c.woken.Swap(false) {
		c.Conn.SetReadDeadline(time.Time{})
	}
}

func (c *Conn) interrupted(err error) error {
	c.broken(err)
	if err != nil && c.woken.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		return errInterrupted
	}
	return err
}

// Duplex runs both directions of a filtered conversation, up from the client
// to the backend and down from the backend to the client, until it is over.
//
// A direction returns nil when nothing is left to filter: the other one is
// then interrupted in its next read, and Duplex returns nil, with what both
// read ahead still in their buffers. It returns io.EOF when its peer ended the
// stream: the end is passed on and the other direction goes on by itself. Any
// other error ends both.
func Duplex(client, backend *Conn, up, down func() error) error {
	type end struct {
		up     bool
		err    error
		caught any // a panic, to go on in the caller's goroutine
	}
	ends := make(chan end, 2)
	run := func(e end, direction func() error) {
		defer func() { ends <- e }()
		defer func() {
			if r := recover(); r != nil {
				e.caught = fmt.Errorf("%v\n%s", r, debug.Stack())
				e.err = errPanic
			}
		}()
		e.err = direction()
	}
	go run(end{up: true}, up)
	go run(end{up: false}, down)

	var result error
	var caught any
	over, eofs := false, 0
	for range 2 {
		e := <-ends
		if e.caught != nil {
			caught = e.caught
		}
		switch {
		case e.err == nil:
			over = true
			client.Interrupt()
			backend.Interrupt()
		case over && errors.Is(e.err, errInterrupted):
		case e.err == io.EOF && e.up:
			eofs++
			backend.CloseWrite()
		case e.err == io.EOF:
			eofs++
			client.CloseWrite()
		case e.up && eofs > 0 && errors.Is(e.err, io.ErrUnexpectedEOF):
			// The backend has said all it will: many clients then leave
			// without a close_notify, and nothing can be cut short any more.
			eofs++
		default:
			if result == nil {
				result = e.err
			}
			over = true
			client.Interrupt()
			backend.Interrupt()
		}
	}
	client.Resume()
	backend.Resume()
	if caught != nil {
		panic(caught)
	}
	if result == nil && eofs == 2 {
		return io.EOF
	}
	return result
}
