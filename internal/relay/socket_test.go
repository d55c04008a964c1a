package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
)

// readEnds demands that a read ends, and with what.
func readEnds(t *testing.T, s *Socket, want error) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { _, err := s.Read(make([]byte, 1)); ended <- err }()
	select {
	case err := <-ended:
		if !errors.Is(err, want) {
			t.Errorf("read ended with %v, want %v", err, want)
		}
	case <-time.After(patience):
		s.Close()
		t.Fatalf("read goes on, want %v", want)
	}
}

// Pending tells bytes from none and from an end, without taking them, and
// while a read of another goroutine waits.
func TestPending(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			var near stream
			var far net.Conn
			if network == "tcp" {
				near, far = tcpPair(t)
			} else {
				near, far = unixPair(t)
			}
			s := NewSocket(far)
			if s.Pending() {
				t.Error("pending before anything was sent")
			}
			send(t, near, "x")
			eventually(t, "a byte to be pending", s.Pending)
			if !s.Pending() {
				t.Error("Pending took the byte")
			}
			expect(t, s, "x")
			near.CloseWrite()
			time.Sleep(10 * time.Millisecond)
			if s.Pending() {
				t.Error("an end is pending")
			}
			ends(t, s, io.EOF)

			_, far = tcpPair(t)
			s = NewSocket(far)
			ended := make(chan error, 1)
			go func() { _, err := s.Read(make([]byte, 1)); ended <- err }()
			time.Sleep(10 * time.Millisecond)
			if s.Pending() {
				t.Error("pending while nothing came")
			}
			s.Close()
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("the read ended with %v", err)
			}
			if s.Pending() {
				t.Error("pending after Close")
			}
		})
	}
}

// The counters count what went over the connection.
func TestCounters(t *testing.T) {
	near, far := tcpPair(t)
	s := NewSocket(far)
	send(t, near, "12345")
	expect(t, s, "12345")
	send(t, s, "123")
	s.cork(make([]byte, 4))
	for _, p := range []string{"45", "67", "89", "too long for the room", "x"} {
		send(t, s, p)
	}
	if err := s.uncork(); err != nil {
		t.Fatal(err)
	}
	expect(t, near, "123456789too long for the roomx")
	if s.Received() != 5 || s.Sent() != 31 {
		t.Errorf("received %d, sent %d; want 5 and 31", s.Received(), s.Sent())
	}
}

// Deadlines, idle clock and Shutdown each end a read with their own error, the
// earliest first, and the socket can be read on where that makes sense.
func TestReadEnds(t *testing.T) {
	near, far := tcpPair(t)
	s := NewSocket(far)
	const soon = 30 * time.Millisecond

	s.SetReadDeadline(time.Now().Add(soon))
	readEnds(t, s, os.ErrDeadlineExceeded)
	s.SetReadDeadline(time.Time{})

	s.SetIdle(NewClock(soon))
	readEnds(t, s, wire.ErrIdle)
	s.SetIdle(NewClock(time.Hour))
	s.SetReadDeadline(time.Now().Add(soon))
	_, err := s.Read(make([]byte, 1))
	if errors.Is(err, wire.ErrIdle) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the deadline came first, and the read ended with %v", err)
	}
	s.SetIdle(NewClock(soon))
	s.SetReadDeadline(time.Now().Add(time.Hour))
	readEnds(t, s, wire.ErrIdle)

	s.SetIdle(NewClock(0))
	s.SetDeadline(time.Time{})
	send(t, near, "alive")
	expect(t, s, "alive")

	go func() { time.Sleep(soon); s.Shutdown() }()
	readEnds(t, s, wire.ErrShutdown)
	s.SetDeadline(time.Time{})
	send(t, near, "too late")
	readEnds(t, s, wire.ErrShutdown)
}

// SetIdle counts from when it is called, and reaches a read that is going on.
func TestSetIdleDuringRead(t *testing.T) {
	_, far := tcpPair(t)
	s := NewSocket(far)
	old := NewClock(time.Millisecond)
	time.Sleep(5 * time.Millisecond)
	s.SetIdle(old)
	go func() {
		time.Sleep(30 * time.Millisecond)
		s.SetIdle(NewClock(30 * time.Millisecond))
	}()
	s.SetIdle(nil)
	readEnds(t, s, wire.ErrIdle)
}

// A deadline that another goroutine sets is never lost to the reader's own
// setting of the idle one.
func TestInterruptRacesIdle(t *testing.T) {
	near, far := tcpPair(t)
	defer near.Close()
	s := NewSocket(far)
	clock := NewClock(500 * time.Microsecond) // so short that the reader sets it all the time
	s.SetIdle(clock)
	stop := make(chan struct{})
	wound := make(chan struct{})
	go func() {
		defer close(wound)
		for {
			select {
			case <-stop:
				return
			default:
				clock.wind()
			}
		}
	}()
	c := wire.NewConn(s)
	for i := range 300 {
		ended := make(chan error, 1)
		go func() {
			for {
				_, err := c.Peek(1)
				if err != wire.ErrIdle { // the winder was not scheduled in time
					ended <- err
					return
				}
			}
		}()
		time.Sleep(time.Duration(i) * 5 * time.Microsecond)
		c.Interrupt()
		select {
		case err := <-ended:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
		case <-time.After(patience):
			t.Fatal("the interrupt was lost")
		}
		c.Resume()
	}
	close(stop)
	<-wound
}

// A write deadline ends a write; so does a peer that takes nothing; a session
// is alive while its writes make progress.
func TestWriteEnds(t *testing.T) {
	_, far := tcpPair(t)
	s := NewSocket(far)
	much := make([]byte, 16<<20)
	s.SetWriteDeadline(time.Now().Add(30 * time.Millisecond))
	if n, err := s.Write(much); !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, wire.ErrStalled) || int64(n) != s.Sent() {
		t.Errorf("wrote %d (sent %d), %v", n, s.Sent(), err)
	}
	s.SetWriteDeadline(time.Time{})
	s.SetStall(30 * time.Millisecond)
	if _, err := s.Write(much); err != wire.ErrStalled {
		t.Error(err)
	}
	s.SetStall(time.Hour)
	s.SetWriteDeadline(time.Now().Add(30 * time.Millisecond))
	if _, err := s.Write(much); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

// A long pause between two writes is no stall.
func TestPauseIsNoStall(t *testing.T) {
	near, far := tcpPair(t)
	s := NewSocket(far)
	s.SetStall(20 * time.Millisecond)
	for range 3 {
		time.Sleep(50 * time.Millisecond)
		send(t, s, "x")
		expect(t, near, "x")
	}
}

// Abort is RST, Close is FIN, and a FIN is an error where close_notify is due.
func TestEnds(t *testing.T) {
	near, far := tcpPair(t)
	NewSocket(far).Abort()
	ends(t, near, syscall.ECONNRESET)

	near, far = tcpPair(t)
	NewSocket(far).Close()
	ends(t, near, io.EOF)

	near, far = tcpPair(t)
	s := NewSocket(far)
	s.RequireCloseNotify()
	send(t, near, "x")
	near.Close()
	expect(t, s, "x")
	ends(t, s, io.ErrUnexpectedEOF)

	// An end after our own is an end, whatever state it leads to.
	for range 50 {
		near, far = tcpPair(t)
		s = NewSocket(far)
		s.CloseWrite()
		ends(t, near, io.EOF)
		near.Close()
		ends(t, s, io.EOF)
	}

	pipe, _ := net.Pipe()
	if NewSocket(pipe).CloseWrite() == nil {
		t.Error("CloseWrite of a pipe is said to work")
	}
}

// Waiting and reading allocate nothing.
func TestReadAllocatesNothing(t *testing.T) {
	near, far := tcpPair(t)
	s := NewSocket(far)
	s.nonblock = true
	b := make([]byte, 10)
	n := testing.AllocsPerRun(100, func() {
		near.Write(b[:1])
		if err := s.wait(); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Read(b); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if _, err := s.Read(b); err != errWouldBlock {
			t.Fatal(err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations a round", n)
	}
}
