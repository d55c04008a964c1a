package onehttp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	// headTime is what a request's head may take from its first byte on.
	headTime = 30 * time.Second

	maxChunkLine = 1 << 10
	maxTrailers  = 2 << 10 // net/http has room for 4 KiB
	maxExcess    = 8 << 10 // of framing over what it frames; net/http ends at 16 KiB
)

// notARequest is what net/http gets in place of a head that is refused. It
// says 400 to it, in its turn: behind the answers that are still due.
const notARequest = "refused\r\n"

// A conn is the client's connection as net/http has it. Bytes pass unchanged,
// but only once it is certain what they are: a whole head, or a piece of the
// body that this head has announced. net/http forgives more (bare LF, a
// Content-Length beside a Transfer-Encoding); what it gets to see has one
// reading, in which both agree.
//
// net/http may close it, which leaves the connection to who owns it.
type conn struct {
	*wire.Conn
	reading sync.Mutex // held while Conn is read, and guards what follows
	part    part
	scan    scan
	pass    int   // buffered bytes that may pass
	left    int64 // of the body or the chunk
	trailer int   // bytes of trailers that have passed
	excess  int64 // of the framing of chunks
	instead string

	writing sync.Mutex // held while Conn is written

	mu      sync.Mutex
	changed sync.Cond
	closed  bool
	opaque  bool      // no HTTP any more
	owed    int       // requests that were not answered yet
	limit   time.Time // net/http's own deadline for reads
	headBy  time.Time // when the head must be complete
	err     error     // what broke the stream
}

// A part is what comes next.
type part uint8

const (
	inHead    part = iota
	inBody         // left bytes
	inSize         // the line before a chunk
	inChunk        // left bytes of it
	afterData      // the CRLF behind it
	inTrailers
	refused // nothing: the client has broken the rules
)

var _ net.Conn = (*conn)(nil)

func newConn(c net.Conn) *conn {
	w, ok := c.(*wire.Conn)
	if !ok {
		w = wire.NewConn(c)
	}
	g := &conn{Conn: w}
	g.changed.L = &g.mu
	return g
}

var longAgo = time.Unix(1, 0)

// Read implements io.Reader.
func (c *conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for len(p) > 0 {
		switch {
		case c.isClosed():
			return 0, net.ErrClosed
		case c.isOpaque():
			n, err := c.Conn.Read(p)
			return n, c.failed(err)
		case c.instead != "":
			n := copy(p, c.instead)
			c.instead = c.instead[n:]
			return n, nil
		case c.part == refused:
			return 0, io.EOF
		case c.pass > 0:
			n := copy(p, c.Unread()[:c.pass])
			c.Discard(n)
			c.pass -= n
			return n, nil
		case c.part == inBody || c.part == inChunk:
			n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
			if c.left -= int64(n); c.left == 0 {
				c.next()
			}
			return n, c.failed(err)
		}
		if err := c.judge(); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// judge looks at what comes next, and lets it pass or ends the stream.
func (c *conn) judge() error {
	err := c.look()
	switch {
	case err == nil:
		return nil
	case c.part == inHead && c.Buffered() == 0 && !lasting(err):
		return c.atRest(err)
	case c.late(err):
		return c.refuse(malformed("a head that takes too long"))
	case !ours(err):
		return c.failed(err)
	}
	return c.refuse(err)
}

// look reads up to the end of a head, a line of the framing, or neither.
func (c *conn) look() error {
	if c.part == inHead {
		if c.Buffered() == 0 {
			c.Release()
			if _, err := c.Peek(1); err != nil {
				return err
			}
		}
		c.begin()
		h, err := c.scan.head(c.Conn)
		if err != nil {
			return err
		}
		c.begun(h)
		return nil
	}
	line, err := c.line()
	if err != nil {
		return err
	}
	switch c.part {
	case inSize:
		size, _, _ := bytes.Cut(line, []byte(";"))
		// RFC 9112, 7.1: chunk-size is of hexadecimal digits alone.
		n, err := strconv.ParseUint(string(size), 16, 63)
		if err != nil || len(size) > 16 {
			return malformed("a chunk without a size")
		}
		// Counted as net/http does, which would blame the handler's reading.
		c.excess = max(0, c.excess+int64(len(line))-16-2*min(int64(n), maxExcess))
		if c.excess > maxExcess {
			return malformed("chunks that are framing above all")
		}
		c.left, c.part = int64(n), inChunk
		if n == 0 {
			c.trailer, c.part = 0, inTrailers
		}
	case afterData:
		if len(line) > 0 {
			return malformed("a chunk that is longer than its size")
		}
		c.part = inSize
	case inTrailers:
		if len(line) == 0 {
			c.part = inHead
			break
		}
		if c.trailer += len(line); c.trailer > maxTrailers {
			return wire.ErrTooLong
		}
		if _, err := fieldLine(line); err != nil {
			return err
		}
	}
	c.pass = len(line) + 2
	return nil
}

// line reads a line, which stays in the buffer, and returns it without CRLF.
func (c *conn) line() ([]byte, error) {
	for seen := 0; ; {
		b := c.Unread()
		for ; seen < len(b); seen++ {
			if seen >= maxChunkLine {
				return nil, wire.ErrTooLong
			}
			ended, err := strict(b[:seen+1])
			if err != nil {
				return nil, err
			}
			if ended {
				return b[:seen-1], nil
			}
		}
		if _, err := c.Peek(seen + 1); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// begin starts the time of a head.
func (c *conn) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.headBy.IsZero() {
		c.headBy = time.Now().Add(headTime)
		c.apply()
	}
}

// begun lets a head pass.
func (c *conn) begun(h *Head) {
	c.scan = scan{}
	c.pass = h.Size()
	switch {
	case h.Length == Chunked:
		c.part, c.excess = inSize, 0
	case h.Length > 0:
		c.left, c.part = h.Length, inBody
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owed++
	c.headBy = time.Time{}
	c.apply()
}

// next is what follows the bytes of a body or a chunk.
func (c *conn) next() {
	if c.part == inChunk {
		c.part = afterData
	} else {
		c.part = inHead
	}
}

// answered says that a handler has done its part.
func (c *conn) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owed--
}

// atRest is what a stream ends with between two requests. A client that has
// ended its own side in good order still waits for the answers that are due,
// which net/http would drop: it takes each end for one of both sides.
func (c *conn) atRest(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owed == 0 {
		return io.EOF
	}
	if err != io.EOF {
		c.brokeLocked(err)
		return err
	}
	for !c.closed && !passed(c.limit) {
		c.changed.Wait()
	}
	return os.ErrDeadlineExceeded // net/http ended the read, to have its turn
}

// lasting reports whether an error is one that did not end the stream.
func lasting(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// ours reports whether it is our rules that an error is about, and not the
// connection.
func ours(err error) bool {
	for _, rule := range []error{upgraders.ErrSyntax, wire.ErrTooLong, wire.ErrBareNewline, wire.ErrNUL, wire.ErrClientHello} {
		if errors.Is(err, rule) {
			return true
		}
	}
	return false
}

// late reports whether a read ended because the time of a head is over.
func (c *conn) late(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return lasting(err) && !named(err) && !passed(c.limit) && passed(c.headBy)
}

// refuse ends the stream for a rule that the client has broken.
func (c *conn) refuse(err error) error {
	head := c.part == inHead
	c.part = refused
	if head {
		c.instead = notARequest
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headBy = time.Time{}
	c.apply()
	c.brokeLocked(err)
	if head {
		return nil
	}
	return err
}

// failed remembers what broke the stream. A deadline that net/http set, to
// have its turn, breaks nothing; nor does the end of a stream that is opaque.
func (c *conn) failed(err error) error {
	if err == nil || err == io.EOF && c.isOpaque() || lasting(err) && !named(err) {
		return err
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.brokeLocked(err)
	return err
}

// named reports whether a timeout has a name, and so is an end.
func named(err error) bool {
	return errors.Is(err, wire.ErrIdle) || errors.Is(err, wire.ErrShutdown) || errors.Is(err, wire.ErrStalled)
}

func (c *conn) brokeLocked(err error) {
	if c.err == nil && !c.closed {
		c.err = err
	}
}

// broken returns what broke the stream.
func (c *conn) broken() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Write implements io.Writer.
func (c *conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Write(p)
	return n, c.failed(err)
}

// hijacked makes the rest opaque. Nobody reads now. A request, or the refusal of
// one, that has passed behind the one that is hijacked is in net/http's buffer,
// and must not be taken for what comes after the switch.
func (c *conn) hijacked() {
	c.reading.Lock()
	defer c.reading.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opaque = true
	if c.owed > 1 || c.part == refused {
		c.brokeLocked(malformed("a request behind one that switches protocols"))
		c.closeLocked()
	}
}

func (c *conn) isOpaque() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opaque
}

func (c *conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// Close implements net.Conn: it ends what goes on.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked()
	return nil
}

func (c *conn) closeLocked() {
	if !c.closed {
		c.closed = true
		c.changed.Broadcast()
		c.Conn.SetDeadline(longAgo)
	}
}

// retire closes, and waits until nobody reads or writes any more.
func (c *conn) retire() {
	c.Close()
	c.reading.Lock()
	c.reading.Unlock()
	c.writing.Lock()
	c.writing.Unlock()
	c.Conn.SetDeadline(time.Time{})
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = t
	c.changed.Broadcast()
	return c.apply()
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return c.Conn.SetWriteDeadline(t)
}

// apply sets the earlier of the two deadlines for reads.
func (c *conn) apply() error {
	if c.closed {
		return net.ErrClosed
	}
	t := c.limit
	if !c.headBy.IsZero() && (t.IsZero() || c.headBy.Before(t)) {
		t = c.headBy
	}
	return c.Conn.SetReadDeadline(t)
}

// passed reports whether a deadline, if it is one, is over.
func passed(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }
