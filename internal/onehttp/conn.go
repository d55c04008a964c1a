package onehttp

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
)

// A conn is the client's connection as net/http has it: one that it may close
// without closing it, and that remembers what ended it.
type conn struct {
	net.Conn
	reading sync.Mutex // held while Conn is read
	writing sync.Mutex // held while Conn is written

	mu     sync.Mutex
	closed bool
	err    error // what broke the stream
}

var _ net.Conn = (*conn)(nil)

func newConn(c net.Conn) *conn { return &conn{Conn: c} }

var longAgo = time.Unix(1, 0)

// Read implements io.Reader.
func (c *conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Read(p)
	if err != nil && err != io.EOF {
		c.broke(err)
	}
	return n, err
}

// Write implements io.Writer.
func (c *conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		c.broke(err)
	}
	return n, err
}

// CloseWrite passes the end of a stream on that is HTTP no more.
func (c *conn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.New("connection has no CloseWrite")
}

// Close implements net.Conn: it ends what goes on, and leaves the connection
// to who owns it.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		c.Conn.SetDeadline(longAgo)
	}
	return nil
}

func (c *conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// retire closes and waits until nobody reads or writes any more.
func (c *conn) retire() {
	c.Close()
	c.reading.Lock()
	c.reading.Unlock()
	c.writing.Lock()
	c.writing.Unlock()
	c.Conn.SetDeadline(time.Time{})
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error { return c.set(t, c.Conn.SetDeadline) }

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.set(t, c.Conn.SetReadDeadline) }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.set(t, c.Conn.SetWriteDeadline) }

// set keeps what Close did.
func (c *conn) set(t time.Time, on func(time.Time) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return on(t)
}

// broke remembers what broke the stream first. A deadline that net/http set
// itself, to have its turn, breaks nothing.
func (c *conn) broke(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, wire.ErrIdle) && !errors.Is(err, wire.ErrShutdown) && !errors.Is(err, wire.ErrStalled) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && !c.closed {
		c.err = err
	}
}

func (c *conn) broken() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
