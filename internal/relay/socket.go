package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
)

// A Socket is a TCP or unix-domain connection as the gateway uses it, below
// TLS. It counts bytes, ends reads when its session is idle, ends writes when
// the peer takes nothing any more, and can be asked whether bytes wait.
//
// One goroutine reads at a time. Writes, deadlines and all other methods may
// be called from any.
type Socket struct {
	conn net.Conn
	raw  syscall.RawConn // nil where the system has no part in conn

	received atomic.Int64
	sent     atomic.Int64
	sum      *Socket // counts what this one moves, too; may be nil
	finSent  atomic.Bool
	needsEnd atomic.Bool // RequireCloseNotify
	clock    atomic.Pointer[Clock]

	// mu orders whoever sets a deadline of conn: each computes it from all
	// of these, so that none overwrites what another has just asked for.
	mu         sync.Mutex
	readLimit  time.Time // SetReadDeadline
	writeLimit time.Time // SetWriteDeadline
	stall      time.Duration
	shutdown   bool

	// What follows belongs to the goroutine that reads.
	nonblock bool // reads return errWouldBlock instead of waiting
	drained  bool // the last read took all there was
	read     rawRead
	wake     func(fd uintptr) bool
	woken    bool

	writing sync.Mutex // held while bytes go out, and guards what follows
	corked  bool
	gather  []byte // what is written while corked
}

var _ net.Conn = (*Socket)(nil)

// NewSocket wraps c. Without a system's file descriptor behind it (net.Pipe)
// the Socket works, but Pending is always false and Pump blocks in reads.
func NewSocket(c net.Conn) *Socket {
	s := &Socket{conn: c, raw: rawConn(c)}
	s.read.call = s.read.try
	s.wake = s.isReadable
	return s
}

var (
	errWouldBlock = &temporary{"nothing to read yet"}
	longAgo       = time.Unix(1, 0)
)

// temporary is a net.Error after which crypto/tls can be read on, with what it
// has of a record kept.
type temporary struct{ text string }

var _ net.Error = (*temporary)(nil)

func (e *temporary) Error() string { return e.text }
func (*temporary) Timeout() bool   { return true }
func (*temporary) Temporary() bool { return true }

// errTruncated is not io.ErrUnexpectedEOF itself, which crypto/tls forgives
// between two records: there it calls the end clean.
type truncated struct{}

func (truncated) Error() string        { return "the stream ended without close_notify" }
func (truncated) Is(target error) bool { return target == io.ErrUnexpectedEOF }

var errTruncated = truncated{}

// LocalAddr implements net.Conn.
func (s *Socket) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// RemoteAddr implements net.Conn.
func (s *Socket) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// Received returns how many bytes were read from the connection.
func (s *Socket) Received() int64 { return s.received.Load() }

// Sent returns how many bytes were written to the connection.
func (s *Socket) Sent() int64 { return s.sent.Load() }

// Beside makes s, which nobody uses yet, a connection of the session that main
// belongs to: the session is idle when neither moves a byte, and s has main's
// stall time. counted says that what s moves is counted as main's, too.
func (s *Socket) Beside(main *Socket, counted bool) {
	main.mu.Lock()
	stall := main.stall
	main.mu.Unlock()
	s.SetStall(stall)
	s.SetIdle(main.clock.Load())
	if counted {
		s.sum = main
	}
}

// Pending reports whether bytes, not only an end, wait in the kernel.
func (s *Socket) Pending() bool {
	return s.ask(hasBytes)
}

// RequireCloseNotify makes an end of the TCP stream an error that is
// io.ErrUnexpectedEOF: TLS above has an end of its own, and reads nothing more
// once it came.
func (s *Socket) RequireCloseNotify() { s.needsEnd.Store(true) }

// SetIdle makes reads end with wire.ErrIdle when the clock, which is wound up
// now, has run out; nil: never. Give the session's sockets one clock.
func (s *Socket) SetIdle(c *Clock) {
	c.wind()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock.Store(c)
	s.applyRead()
}

// linger shortens the idle time to at most d, for this socket alone.
func (s *Socket) linger(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clock.Load(); !c.runs() || c.idle > d {
		s.clock.Store(NewClock(d))
		s.applyRead()
	}
}

// SetStall makes a write end with wire.ErrStalled when the peer has taken no
// byte for d (and up to half of it more); 0: never.
func (s *Socket) SetStall(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stall = d
	s.applyWrite()
}

// Shutdown makes reads, the one going on and later ones, end with
// wire.ErrShutdown. It may be called from any goroutine.
func (s *Socket) Shutdown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shutdown = true
	s.applyRead()
}

// SetDeadline implements net.Conn.
func (s *Socket) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn. The idle clock may end a read earlier.
func (s *Socket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readLimit = t
	return s.applyRead()
}

// SetWriteDeadline implements net.Conn. A stall may end a write earlier.
func (s *Socket) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeLimit = t
	return s.applyWrite()
}

// Close closes the connection.
func (s *Socket) Close() error { return s.conn.Close() }

// CloseWrite ends what is written: FIN.
func (s *Socket) CloseWrite() error {
	cw, ok := s.conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("connection has no CloseWrite")
	}
	s.finSent.Store(true)
	return cw.CloseWrite()
}

// Abort closes with RST, so that the peer learns that the stream was cut. A
// unix-domain socket has no such thing: its peer sees an end.
func (s *Socket) Abort() {
	if c, ok := s.conn.(interface{ SetLinger(sec int) error }); ok {
		c.SetLinger(0)
	}
	s.conn.Close()
}

// Read implements io.Reader.
func (s *Socket) Read(p []byte) (int, error) {
	for {
		n, err := s.readOnce(p)
		switch {
		case n > 0:
			s.received.Add(int64(n))
			if s.sum != nil {
				s.sum.received.Add(int64(n))
			}
			s.clock.Load().wind()
			s.drained = n < len(p)
			return n, nil
		case err == nil || err == errWouldBlock:
			return 0, err
		case err == io.EOF:
			return 0, s.ended()
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, err
		}
		if err = s.readExpired(err); err != nil {
			return 0, err
		}
	}
}

func (s *Socket) readOnce(p []byte) (int, error) {
	if !s.nonblock || len(p) == 0 {
		return s.conn.Read(p)
	}
	// A read that got less than it had room for emptied the socket. What
	// came since is found by wait, which looks before it sleeps.
	if s.drained {
		return 0, errWouldBlock
	}
	s.read.p = p
	err := s.raw.Read(s.read.call)
	s.read.p = nil
	switch {
	case err != nil: // the deadline is over, or the socket closed
		return 0, err
	case s.read.err == syscall.EAGAIN:
		return 0, errWouldBlock
	case s.read.err != nil:
		return 0, &net.OpError{Op: "read", Net: s.LocalAddr().Network(), Source: s.LocalAddr(), Addr: s.RemoteAddr(),
			Err: os.NewSyscallError("read", s.read.err)}
	case s.read.n == 0:
		return 0, io.EOF
	}
	return s.read.n, nil
}

// rawRead is one read without waiting, kept so that none allocates.
type rawRead struct {
	p    []byte
	n    int
	err  error
	call func(fd uintptr) bool
}

func (r *rawRead) try(fd uintptr) bool {
	r.n, r.err = readNow(fd, r.p)
	return true
}

// wait returns when there is something to read: bytes, an end or an error.
func (s *Socket) wait() error {
	s.drained = false
	for {
		s.woken = false
		err := s.raw.Read(s.wake)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err = s.readExpired(err); err != nil {
			return err
		}
	}
}

// isReadable looks for itself the first time: the runtime forgets what became
// readable before it was asked to wait. After that it has just been woken.
func (s *Socket) isReadable(fd uintptr) bool {
	if s.woken {
		return true
	}
	s.woken = true
	return readable(fd)
}

// ended says what an end of the stream is. After RST a read may return an end
// too, when a write of another goroutine was told of the RST first: then the
// state is CLOSED, which an orderly end leads to only when both sides sent FIN.
func (s *Socket) ended() error {
	if s.ask(closed) && !s.finSent.Load() {
		return syscall.ECONNRESET
	}
	if s.needsEnd.Load() {
		return errTruncated
	}
	return io.EOF
}

// ask answers a question about the file descriptor; false without one.
func (s *Socket) ask(question func(fd uintptr) bool) (yes bool) {
	if s.raw == nil {
		return false
	}
	// Control, unlike Read, does not wait for a read that is going on.
	err := s.raw.Control(func(fd uintptr) { yes = question(fd) })
	return err == nil && yes
}

// readExpired returns what a read ends with whose deadline has passed, or nil
// when it may go on: the clock was wound up meanwhile.
func (s *Socket) readExpired(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch {
	case s.shutdown:
		return wire.ErrShutdown
	case passed(s.readLimit, now):
		return err
	case s.clock.Load().runs() && passed(s.clock.Load().end(), now):
		return wire.ErrIdle
	}
	return s.applyRead()
}

func (s *Socket) applyRead() error {
	t := s.readLimit
	if c := s.clock.Load(); c.runs() {
		t = earlier(t, c.end())
	}
	if s.shutdown {
		t = longAgo
	}
	return s.conn.SetReadDeadline(t)
}

// Write implements io.Writer.
func (s *Socket) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if !s.corked {
		return s.write(p)
	}
	if len(s.gather)+len(p) > cap(s.gather) {
		_, err := s.write(s.gather)
		s.gather = s.gather[:0]
		if err != nil {
			return 0, err
		}
	}
	if len(p) > cap(s.gather) {
		return s.write(p)
	}
	s.gather = append(s.gather, p...)
	return len(p), nil
}

// cork keeps what is written from now on in room, as far as it fits, so that
// the records of one write of TLS go out in one call.
func (s *Socket) cork(room []byte) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.corked, s.gather = true, room[:0]
}

// uncork writes what was kept.
func (s *Socket) uncork() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	_, err := s.write(s.gather)
	s.corked, s.gather = false, nil
	return err
}

// write writes p. The kernel, its buffer once full, wakes a writer only when a
// third of it is free again, which with a slow peer can take longer than the
// stall time. So conn's own deadline ends the wait from time to time, and
// trying again tells whether the peer took anything.
func (s *Socket) write(p []byte) (n int, err error) {
	var since time.Time // when the peer was last seen to take a byte
	for n < len(p) {
		m, err := s.conn.Write(p[n:])
		n += m
		if m > 0 {
			s.sent.Add(int64(m))
			if s.sum != nil {
				s.sum.sent.Add(int64(m))
			}
			s.clock.Load().wind()
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		now := time.Now()
		if m > 0 || since.IsZero() {
			since = now
		}
		if err := s.writeExpired(err, now, since); err != nil {
			return n, err
		}
	}
	return n, nil
}

// writeExpired returns what a write ends with whose deadline has passed, or
// nil when it may go on.
func (s *Socket) writeExpired(err error, now, since time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case passed(s.writeLimit, now):
		return err
	case s.stall > 0 && now.Sub(since) >= s.stall:
		return wire.ErrStalled
	}
	return s.applyWrite()
}

// applyWrite sets conn's deadline: four tries in a stall time.
func (s *Socket) applyWrite() error {
	t := s.writeLimit
	if s.stall > 0 {
		t = earlier(t, time.Now().Add(s.stall/4))
	}
	return s.conn.SetWriteDeadline(t)
}

// passed reports whether a deadline, if it is one, is over.
func passed(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

// earlier returns the earlier of a deadline that may be none and one that is.
func earlier(t, u time.Time) time.Time {
	if t.IsZero() || u.Before(t) {
		return u
	}
	return t
}
