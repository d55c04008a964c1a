package mysql

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const greetingBody = "\x0a8.0\x00\x01\x00\x00\x0012345678\x00\xff\xff\x21\x02\x00\xff\x81\x15\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00abcdefghijkl\x00plugin\x00"

// A line is what a scripted server hears, and then says.
type line struct {
	hears string // "": nothing, the server begins
	says  packet
}

// server plays lines and returns what the gateway's end is; what is heard
// otherwise fails the test.
func server(t *testing.T, lines ...line) *wire.Conn {
	t.Helper()
	inner, outer := net.Pipe()
	done := make(chan struct{})
	for _, c := range []net.Conn{inner, outer} {
		c.SetDeadline(time.Now().Add(10 * time.Second))
	}
	t.Cleanup(func() { inner.Close(); outer.Close(); <-done })
	go func() {
		defer close(done)
		defer outer.Close()
		for _, l := range lines {
			heard := make([]byte, len(l.hears))
			if _, err := io.ReadFull(outer, heard); err != nil || string(heard) != l.hears {
				t.Errorf("the server hears %q, %v; want %q", heard, err, l.hears)
				return
			}
			if l.says != nil {
				outer.Write(l.says)
			}
		}
	}()
	return wire.NewConn(inner)
}

func knocks(seq byte, own uint32, user string) string {
	return string(newPacket(seq, about(own), []byte(user), []byte("\x00\x00mysql_native_password\x00")))
}

// A probe is content to be refused, whatever it is asked on the way, and takes
// its leave where it is not; a server that serves nobody is down.
func TestProbe(t *testing.T) {
	denied := newPacket(2, []byte("\xff\x15\x04#28000Access denied"))
	for name, c := range map[string]struct {
		lines []line
		err   error
	}{
		"denied":  {[]line{{says: newPacket(0, []byte(greetingBody))}, {hears: knocks(1, ownFlags, "sallyport"), says: denied}}, nil},
		"let in":  {[]line{{says: newPacket(0, []byte(greetingBody))}, {hears: knocks(1, ownFlags, "sallyport"), says: newPacket(2, []byte{0, 0, 0})}, {hears: "\x01\x00\x00\x00\x01"}}, nil},
		"in TLS":  {[]line{{says: standIn()}, {hears: knocks(2, ownFlags|clientSSL, "sallyport"), says: denied}}, nil},
		"ed25519": {[]line{{says: newPacket(0, []byte(greetingBody))}, {hears: knocks(1, ownFlags, "sallyport"), says: newPacket(2, []byte("\xfeclient_ed25519\x00nonce"))}, {hears: string(newPacket(3, make([]byte, 64))), says: denied}}, nil},
		"sha2":    {[]line{{says: newPacket(0, []byte(greetingBody))}, {hears: knocks(1, ownFlags, "sallyport"), says: newPacket(2, []byte("\xfecaching_sha2_password\x00nonce"))}, {hears: "\x00\x00\x00\x03", says: denied}}, nil},
		"blocked": {[]line{{says: newPacket(0, []byte("\xff\x69\x04Host is blocked"))}}, upgraders.ErrTryNext},
		"full":    {[]line{{says: newPacket(0, []byte(greetingBody))}, {hears: knocks(1, ownFlags, "sallyport"), says: newPacket(2, []byte("\xff\x10\x04#08004Too many connections"))}}, upgraders.ErrTryNext},
		"no end": {append([]line{{says: newPacket(0, []byte(greetingBody))}, {hears: knocks(1, ownFlags, "sallyport"), says: newPacket(2, []byte{isMore})}},
			line{hears: "\x00\x00\x00\x03", says: newPacket(4, []byte{isMore})}, line{hears: "\x00\x00\x00\x05", says: newPacket(6, []byte{isMore})},
			line{hears: "\x00\x00\x00\x07", says: newPacket(8, []byte{isMore})}, line{hears: "\x00\x00\x00\x09", says: newPacket(10, []byte{isMore})},
			line{hears: "\x00\x00\x00\x0b", says: newPacket(12, []byte{isMore})}, line{hears: "\x00\x00\x00\x0d", says: newPacket(14, []byte{isMore})},
			line{hears: "\x00\x00\x00\x0f", says: newPacket(16, []byte{isMore})}), upgraders.ErrBackend},
		"not MySQL": {[]line{{says: packet("220 mail.example.org ESMTP\r\n")}}, wire.ErrTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			caps, err := probe(context.Background(), &upgraders.Link{Backend: server(t, c.lines...)})
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || (len(caps) == 0) != (err != nil) {
				t.Errorf("%q, %v", caps, err)
			}
		})
	}
}

// An audit says who gets in, and who wants TLS.
func TestAudit(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		finds  int
	}{
		"let in":    {"\x00\x00\x00\x02\x00\x00\x00", 1},
		"denied":    {"\xff\x15\x04#28000Access denied", 0},
		"wants TLS": {"\xff\x57\x0c#HY000Connections using insecure transport are prohibited", 1},
	} {
		t.Run(name, func(t *testing.T) {
			lines := []line{{says: newPacket(0, []byte(greetingBody))}, {hears: knocks(1, ownFlags, "root"), says: newPacket(2, []byte(c.answer))}}
			if c.answer[0] == isOK {
				lines = append(lines, line{hears: "\x01\x00\x00\x00\x01"})
			}
			findings, err := audit(context.Background(), &upgraders.Link{Backend: server(t, lines...)}, upgraders.Told{})
			if err != nil || len(findings) != c.finds {
				t.Fatalf("%v, %v", findings, err)
			}
			for _, f := range findings {
				if f.Severity != upgraders.Wrong || f.What == "" || f.Mend == "" {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

// The client side of a request for TLS: 32 bytes, and the ClientHello is next.
func TestRequest(t *testing.T) {
	plain := newPacket(0, []byte(greetingBody))
	g, err := parseGreeting(plain)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		lines []line
		err   error
	}{
		"offered":     {[]line{{says: plain}, {hears: string(newPacket(1, about(ownFlags|clientSSL)))}}, nil},
		"not offered": {[]line{{says: g.offering(false)}}, upgraders.ErrNotOffered},
		"blocked":     {[]line{{says: newPacket(0, []byte("\xff\x69\x04Host is blocked"))}}, upgraders.ErrTryNext},
	} {
		t.Run(name, func(t *testing.T) {
			if err := request(context.Background(), server(t, c.lines...), ""); !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Error(err)
			}
		})
	}
	if n := len(about(ownFlags)); n != requestLength {
		t.Errorf("a request has %d bytes", n)
	}
}
