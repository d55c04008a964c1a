package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
)

// A oneway is a Copy between two peers of the test: what is written to from
// must arrive at to.
type oneway struct {
	from, to       stream
	fromTCP, toTCP *net.TCPConn
	src, dst       *Socket
	over           chan error
	returned       chan struct{}
}

// copying starts a Copy with the mode at one end: of src if up, else of dst.
func copying(t *testing.T, m mode, up bool, stall time.Duration) *oneway {
	t.Helper()
	var srcTCP, dstTCP *net.TCPConn
	c := &oneway{over: make(chan error, 1), returned: make(chan struct{})}
	c.fromTCP, srcTCP = tcpPair(t)
	c.toTCP, dstTCP = tcpPair(t)
	c.src, c.dst = NewSocket(srcTCP), NewSocket(dstTCP)
	c.dst.SetStall(stall)
	src, dst := End{Conn: c.src, Socket: c.src}, End{Conn: c.dst, Socket: c.dst}
	c.from, c.to = c.fromTCP, c.toTCP
	if m.tls() {
		near, end := &c.from, &src
		if !up {
			near, end = &c.to, &dst
		}
		inner := tls.Server(end.Socket, serverTLS(m))
		outer := tls.Client(&strictEnd{(*near).(*net.TCPConn)}, &tls.Config{InsecureSkipVerify: true})
		shaken := make(chan error, 1)
		go func() { shaken <- inner.Handshake() }()
		if err := outer.Handshake(); err != nil {
			t.Fatal(err)
		}
		if err := <-shaken; err != nil {
			t.Fatal(err)
		}
		end.Conn, *near = inner, outer
	}
	for _, tcp := range []net.Conn{c.fromTCP, c.toTCP} {
		tcp.SetDeadline(time.Now().Add(patience))
	}
	go func() {
		defer close(c.returned)
		Copy(dst, src, Options{}, func(err error) { c.over <- err })
	}()
	t.Cleanup(func() {
		c.fromTCP.Close()
		c.toTCP.Close()
		c.src.Abort()
		c.dst.Abort()
		<-c.returned
	})
	return c
}

// eachEnd runs a test with the mode at either end.
func eachEnd(t *testing.T, test func(t *testing.T, m mode, up bool)) {
	t.Helper()
	eachMode(t, func(t *testing.T, m mode) {
		t.Run("up", func(t *testing.T) { test(t, m, true) })
		t.Run("down", func(t *testing.T) { test(t, m, false) })
	})
}

// What is sent arrives, and its end as an end; who sent it is told the end as
// well, and is not waited for.
func TestCopyEnds(t *testing.T) {
	eachEnd(t, func(t *testing.T, m mode, up bool) {
		c := copying(t, m, up, 0)
		data := pattern(1<<20+7, 3)
		go func() {
			c.from.Write(data)
			c.from.CloseWrite()
		}()
		got, err := io.ReadAll(c.to)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes of %d, %v", len(got), len(data), err)
		}
		if err := <-c.over; err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(c.from); len(got) > 0 || err != nil {
			t.Errorf("the sender gets %q, %v", got, err)
		}
	})
}

// A stream that breaks off is reset at the other side, whatever it was.
func TestCopyBreaks(t *testing.T) {
	eachEnd(t, func(t *testing.T, m mode, up bool) {
		c := copying(t, m, up, 0)
		send(t, c.from, "some")
		expect(t, c.to, "some")
		if m.tls() && up {
			c.fromTCP.Close() // a FIN is no end where a close_notify is due
		} else {
			c.fromTCP.SetLinger(0)
			c.fromTCP.Close()
		}
		if err := <-c.over; err == nil {
			t.Error("over, and well")
		}
		if _, err := io.ReadAll(c.toTCP); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the receiver sees %v", err)
		}
	})
}

// A receiver that is gone resets the sender; one that takes nothing is given up.
func TestCopyReceiverGone(t *testing.T) {
	eachEnd(t, func(t *testing.T, m mode, up bool) {
		c := copying(t, m, up, 200*time.Millisecond)
		send(t, c.from, "some")
		expect(t, c.to, "some")
		c.toTCP.SetLinger(0)
		c.toTCP.Close()
		data := pattern(1<<20, 1)
		for {
			if _, err := c.from.Write(data); err != nil {
				break
			}
		}
		if err := <-c.over; err == nil {
			t.Error("over, and well")
		}
	})
	c := copying(t, plain, true, 100*time.Millisecond)
	data := pattern(1<<20, 1)
	for {
		if _, err := c.from.Write(data); err != nil {
			break
		}
	}
	if err := <-c.over; !errors.Is(err, wire.ErrStalled) {
		t.Errorf("over: %v", err)
	}
}

// A socket beside another shares its idle clock and its counters.
func TestBeside(t *testing.T) {
	near, far := tcpPair(t)
	main := NewSocket(far)
	const idle = 400 * time.Millisecond
	main.SetIdle(NewClock(idle))
	main.SetStall(time.Hour)
	dataNear, dataFar := tcpPair(t)
	data := NewSocket(dataFar)
	data.Beside(main, true)
	otherNear, otherFar := tcpPair(t)
	other := NewSocket(otherFar)
	other.Beside(main, false)
	if data.stall != time.Hour {
		t.Errorf("stall time %s", data.stall)
	}
	ended := make(chan error, 1)
	go func() { _, err := main.Read(make([]byte, 1)); ended <- err }()
	began := time.Now()
	for time.Since(began) < 2*idle {
		send(t, dataNear, "x")
		expect(t, data, "x")
		send(t, data, "yz")
		send(t, otherNear, "x")
		expect(t, other, "x")
		time.Sleep(idle / 20)
	}
	if main.Received() != data.Received() || main.Sent() != data.Sent() || data.Sent() != 2*data.Received() {
		t.Errorf("main has %d and %d, its data %d and %d", main.Received(), main.Sent(), data.Received(), data.Sent())
	}
	select {
	case err := <-ended:
		t.Errorf("idle while data move: %v", err)
	default:
		if err := <-ended; err != wire.ErrIdle {
			t.Error(err)
		}
	}
	near.Close()
	dataNear.Close()
	otherNear.Close()
}
