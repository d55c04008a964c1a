package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A script is a connection that hands out its pieces one a read, as far as
// they fit, and then its end.
type script struct {
	net.Conn // nil: nothing else may be asked of it
	pieces   [][]byte
	end      error
	glued    bool // the end comes with the last piece
	most     int  // the largest read that was asked for
}

func (s *script) Read(p []byte) (int, error) {
	s.most = max(s.most, len(p))
	if len(s.pieces) == 0 {
		return 0, s.end
	}
	n := copy(p, s.pieces[0])
	s.pieces[0] = s.pieces[0][n:]
	if len(s.pieces[0]) > 0 {
		return n, nil
	}
	s.pieces = s.pieces[1:]
	if s.glued && len(s.pieces) == 0 {
		return n, s.end
	}
	return n, nil
}

// cuts returns the connections that deliver text: whole, in two pieces cut at
// every place, and byte by byte.
func cuts(text string) []*script {
	all := []*script{{pieces: [][]byte{[]byte(text)}}}
	if text == "" {
		all[0].pieces = nil
	}
	for i := 1; i < len(text); i++ {
		all = append(all, &script{pieces: [][]byte{[]byte(text[:i]), []byte(text[i:])}})
	}
	single := &script{}
	for i := range len(text) {
		single.pieces = append(single.pieces, []byte{text[i]})
	}
	all = append(all, single)
	for _, s := range all {
		s.end = io.EOF
	}
	return all
}

// dial returns both ends of a loopback connection.
func dial(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{a, b} {
		t.Cleanup(func() { c.Close() })
	}
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// Only CRLF ends a line; what could be read in two ways is an error; and
// nothing of that depends on how the bytes were cut.
func TestReadLine(t *testing.T) {
	const max = 10
	for _, tt := range []struct {
		text  string
		lines []string
		end   error
	}{
		{"", nil, io.EOF},
		{"\r\n", []string{""}, io.EOF},
		{"a\r\nb\r\n", []string{"a", "b"}, io.EOF},
		{"12345678\r\n1\r\n", []string{"12345678", "1"}, io.EOF},
		{"123456789\r\n", nil, ErrTooLong},
		{"1234567890", nil, ErrTooLong},
		{"12345678901\n", nil, ErrTooLong},
		{"ok\r\n123456789\r\n", []string{"ok"}, ErrTooLong},
		{"a\nb\r\n", nil, ErrBareNewline},
		{"\n", nil, ErrBareNewline},
		{"a\rb\r\n", nil, ErrBareNewline},
		{"a\r\r\n", nil, ErrBareNewline},
		{"\r\r\n", nil, ErrBareNewline},
		{"a\n\r\n", nil, ErrBareNewline},
		{"ok\r\n\n", []string{"ok"}, ErrBareNewline},
		{"a\x00b\r\n", nil, ErrNUL},
		{"\x00", nil, ErrNUL},
		{"a\r\x00\n", nil, ErrNUL},
		{"\x16\x03\x01\x02\x00\x01\x00", nil, ErrClientHello},
		{"ok\r\n\x16\x03\x01", []string{"ok"}, ErrClientHello},
		{"\x16\x02\r\n", []string{"\x16\x02"}, io.EOF},
		{"a\x16\x03\r\n", []string{"a\x16\x03"}, io.EOF},
		{"\x80\xff\t\x7f\r\n", []string{"\x80\xff\t\x7f"}, io.EOF},
		{"a", nil, io.ErrUnexpectedEOF},
		{"a\r", nil, io.ErrUnexpectedEOF},
		{"\x16", nil, io.ErrUnexpectedEOF},
		{"a\r\nb", []string{"a"}, io.ErrUnexpectedEOF},
	} {
		for i, s := range cuts(tt.text) {
			c := NewConn(s)
			var lines []string
			line, err := c.ReadLine(max)
			for ; err == nil; line, err = c.ReadLine(max) {
				lines = append(lines, string(line))
			}
			if !slices.Equal(lines, tt.lines) || err != tt.end {
				t.Errorf("%q, cut %d: lines %q, %v; want %q, %v", tt.text, i, lines, err, tt.lines, tt.end)
			}
		}
	}
}

// A line of the greatest length passes, and an endless one is found out
// without reading more than that and one fill.
func TestReadLineBound(t *testing.T) {
	for _, max := range []int{2, 512, 1000, 12288, maxBuffer} {
		line := strings.Repeat("x", max-2)
		c := NewConn(&script{pieces: [][]byte{[]byte(line + "\r\n")}, end: io.EOF})
		if got, err := c.ReadLine(max); err != nil || string(got) != line {
			t.Errorf("a line of %d bytes: %d bytes, %v", max, len(got), err)
		}
		endless := &endless{}
		if _, err := NewConn(endless).ReadLine(max); err != ErrTooLong {
			t.Errorf("an endless line: %v", err)
		}
		if endless.most > fillAhead {
			t.Errorf("%d bytes were read at once", endless.most)
		}
		if endless.sent > max+fillAhead {
			t.Errorf("%d bytes of an endless line were read to find more than %d", endless.sent, max)
		}
	}
}

type endless struct {
	net.Conn
	sent, most int
}

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	e.sent, e.most = e.sent+len(p), max(e.most, len(p))
	return len(p), nil
}

// A reader never waits for bytes beyond those that it was asked for.
func TestNoReadAhead(t *testing.T) {
	near, far := dial(t)
	c := NewConn(far)
	far.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(near, "EHLO\r\n")
	if line, err := c.ReadLine(512); err != nil || string(line) != "EHLO" {
		t.Fatalf("%q, %v", line, err)
	}
	io.WriteString(near, "abcd")
	if p, err := c.Peek(4); err != nil || string(p) != "abcd" {
		t.Fatalf("%q, %v", p, err)
	}
	p := make([]byte, 4)
	if err := c.ReadFull(p); err != nil || string(p) != "abcd" {
		t.Fatalf("%q, %v", p, err)
	}
	io.WriteString(near, "wxyz")
	if p, err := c.ReadSlice(4); err != ErrTooLong || string(p) != "wxyz" {
		t.Fatalf("%q, %v", p, err)
	}
	io.WriteString(near, "e\n")
	if p, err := c.ReadSlice(512); err != nil || string(p) != "e\n" {
		t.Fatalf("%q, %v", p, err)
	}
}

// What a peer announces allocates nothing; what it sends does.
func TestNoAllocationByPromise(t *testing.T) {
	c := NewConn(&script{pieces: [][]byte{[]byte("30 84 7f")}, end: io.EOF})
	if p, err := c.Peek(maxBuffer); err != io.EOF || string(p) != "30 84 7f" {
		t.Errorf("%q, %v", p, err)
	}
	if cap(c.buf) > firstBuffer {
		t.Errorf("a buffer of %d bytes for 8", cap(c.buf))
	}
	if _, err := c.Peek(maxBuffer + 1); err != ErrTooLong {
		t.Error(err)
	}
	if _, err := NewConn(new(endless)).Peek(maxBuffer); err != nil {
		t.Error(err)
	}
}

// The budget of bytes counts what is read from the connection, and what was
// buffered already, whoever reads it; that of units counts lines.
func TestBudget(t *testing.T) {
	t.Run("bytes", func(t *testing.T) {
		for _, s := range cuts("12345678\r\n1") {
			c := NewConn(s)
			c.SetBudget(10, 100)
			if line, err := c.ReadLine(512); err != nil || string(line) != "12345678" {
				t.Fatalf("%q, %v", line, err)
			}
			for name, read := range readers(c) {
				if err := read(); err != ErrBudget {
					t.Errorf("%s beyond the budget: %v", name, err)
				}
			}
			c.ClearBudget()
			if p, err := c.Peek(1); err != nil || string(p) != "1" {
				t.Errorf("after ClearBudget: %q, %v", p, err)
			}
		}
	})
	t.Run("in a line", func(t *testing.T) {
		for _, s := range cuts("1234567890\r\n") {
			c := NewConn(s)
			c.SetBudget(5, 100)
			if _, err := c.ReadLine(512); err != ErrBudget {
				t.Error(err)
			}
			if string(c.Unread()) != "12345" {
				t.Errorf("%q was read", c.Unread())
			}
		}
	})
	t.Run("buffered", func(t *testing.T) {
		c := NewConn(&script{pieces: [][]byte{[]byte("12345"), []byte("6789")}, end: io.EOF})
		if _, err := c.Peek(1); err != nil {
			t.Fatal(err)
		}
		c.SetBudget(7, 1)
		if p, err := c.Peek(8); err != ErrBudget || string(p) != "1234567" {
			t.Errorf("%q, %v", p, err)
		}
		c.SetBudget(3, 1) // less than is buffered: that may still be taken
		if p, err := c.Peek(8); err != ErrBudget || string(p) != "1234567" {
			t.Errorf("%q, %v", p, err)
		}
	})
	t.Run("Read", func(t *testing.T) {
		c := NewConn(&script{pieces: [][]byte{[]byte("123"), []byte("45678")}, end: io.EOF})
		c.SetBudget(6, 1)
		if b, err := io.ReadAll(c); err != ErrBudget || string(b) != "123456" {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("units", func(t *testing.T) {
		c := NewConn(&script{pieces: [][]byte{[]byte("a\r\nb\r\nc\r\n")}, end: io.EOF})
		c.SetBudget(100, 3)
		for range 2 {
			if _, err := c.ReadLine(10); err != nil {
				t.Error(err)
			}
		}
		if err := c.Spend(); err != nil {
			t.Error(err)
		}
		if _, err := c.ReadLine(10); err != ErrBudget {
			t.Error(err)
		}
		if err := c.Spend(); err != ErrBudget {
			t.Error(err)
		}
		c.ClearBudget()
		if err := c.Spend(); err != nil {
			t.Error(err)
		}
	})
}

// readers are all the ways to read a byte that is not buffered.
func readers(c *Conn) map[string]func() error {
	return map[string]func() error{
		"Read":      func() error { _, err := c.Read(make([]byte, 1)); return err },
		"ReadFull":  func() error { return c.ReadFull(make([]byte, 1)) },
		"Peek":      func() error { _, err := c.Peek(c.Buffered() + 1); return err },
		"ReadLine":  func() error { _, err := c.ReadLine(512); return err },
		"ReadSlice": func() error { _, err := c.ReadSlice(512); return err },
	}
}

// ReadSlice returns lines as they are, pieces of those that are too long, and
// leaves buffered what the stream ended in.
func TestReadSlice(t *testing.T) {
	for _, tt := range []struct {
		text   string
		slices []string
		rest   string
	}{
		{"", nil, ""},
		{"a\r\n\x00\n\r\r\n", []string{"a\r\n", "\x00\n", "\r\r\n"}, ""},
		{"a\nrest", []string{"a\n"}, "rest"},
		{"123456\n", []string{"123456+", "\n"}, ""},
		{"12345\n", []string{"12345\n"}, ""},
		{"123456789012345\n1\n", []string{"123456+", "789012+", "345\n", "1\n"}, ""},
		{"12345678", []string{"123456+"}, "78"},
		{"\x16\x03\n", []string{"\x16\x03\n"}, ""},
	} {
		for i, s := range cuts(tt.text) {
			c := NewConn(s)
			var got []string
			var err error
			for err == nil {
				var p []byte
				p, err = c.ReadSlice(6)
				switch err {
				case nil:
					got = append(got, string(p))
				case ErrTooLong:
					got = append(got, string(p)+"+")
					err = nil
				}
			}
			if !slices.Equal(got, tt.slices) || err != io.EOF || string(c.Unread()) != tt.rest {
				t.Errorf("%q, cut %d: %q, %v, then %q; want %q, then %q", tt.text, i, got, err, c.Unread(), tt.slices, tt.rest)
			}
		}
	}
}

// Peek takes nothing, and returns what there is when there is too little.
func TestPeek(t *testing.T) {
	for i, s := range cuts("abcdef") {
		c := NewConn(s)
		for _, want := range []string{"a", "abc", "ab", "abcdef"} {
			if p, err := c.Peek(len(want)); err != nil || string(p) != want {
				t.Errorf("cut %d: %q, %v; want %q", i, p, err, want)
			}
		}
		c.Discard(4)
		if p, err := c.Peek(3); err != io.EOF || string(p) != "ef" {
			t.Errorf("cut %d: %q, %v", i, p, err)
		}
		c.Discard(100)
		if p, err := c.Peek(0); err != nil || len(p) > 0 {
			t.Errorf("cut %d: %q, %v", i, p, err)
		}
	}
}

// ReadFull tells an end before the first byte from one between.
func TestReadFull(t *testing.T) {
	for i, s := range cuts("abc") {
		c := NewConn(s)
		p := make([]byte, 2)
		if err := c.ReadFull(p); err != nil || string(p) != "ab" {
			t.Errorf("cut %d: %q, %v", i, p, err)
		}
		if err := c.ReadFull(p); err != io.ErrUnexpectedEOF {
			t.Errorf("cut %d: %v", i, err)
		}
		if err := c.ReadFull(p); err != io.EOF {
			t.Errorf("cut %d: %v", i, err)
		}
	}
}

// Read hands out the buffer first, and all of it, before it reads again: so a
// Conn can be given to crypto/tls with what is already read.
func TestReadDrainsFirst(t *testing.T) {
	s := &script{pieces: [][]byte{[]byte("EHLO\r\n\x16\x03\x01"), []byte("rest")}, end: io.EOF}
	c := NewConn(s)
	if _, err := c.ReadLine(512); err != nil {
		t.Fatal(err)
	}
	if c.Buffered() != 3 || string(c.Unread()) != "\x16\x03\x01" || !c.Pipelined() {
		t.Errorf("%d buffered: %q", c.Buffered(), c.Unread())
	}
	p := make([]byte, 100)
	for _, want := range []string{"\x16\x03", "\x01", "rest"} {
		n, err := c.Read(p[:max(2, len(want))])
		if err != nil || string(p[:n]) != want {
			t.Errorf("%q, %v; want %q", p[:n], err, want)
		}
	}
	if c.Pipelined() {
		t.Error("pipelined when all is taken")
	}
	if _, err := c.Read(p); err != io.EOF {
		t.Error(err)
	}
}

// An end that comes with the last bytes is kept for when they are taken.
func TestEndWithLastBytes(t *testing.T) {
	broken := errors.New("broken")
	newConn := func() *Conn {
		return NewConn(&script{pieces: [][]byte{[]byte("a\r\nb\n")}, end: broken, glued: true})
	}
	c := newConn()
	if line, err := c.ReadLine(10); err != nil || string(line) != "a" {
		t.Errorf("%q, %v", line, err)
	}
	if p, err := c.ReadSlice(10); err != nil || string(p) != "b\n" {
		t.Errorf("%q, %v", p, err)
	}
	if _, err := c.ReadLine(10); err != broken {
		t.Error(err)
	}
	c = newConn()
	if _, err := c.Peek(1); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(c); err != broken || string(b) != "a\r\nb\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// A timeout that comes with bytes is not kept: it may be lifted meanwhile, and
// comes again if not. (crypto/tls returns such a pair in TLS 1.2.)
func TestTimeoutWithBytes(t *testing.T) {
	s := &script{pieces: [][]byte{[]byte("a")}, end: os.ErrDeadlineExceeded, glued: true}
	c := NewConn(s)
	if _, err := c.Peek(1); err != nil {
		t.Error(err)
	}
	s.pieces, s.glued = [][]byte{[]byte("\r\n")}, false
	if line, err := c.ReadLine(10); err != nil || string(line) != "a" {
		t.Errorf("%q, %v", line, err)
	}
	if _, err := c.ReadLine(10); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

// A connection that returns neither bytes nor an error is not asked for ever.
func TestNoProgress(t *testing.T) {
	c := NewConn(&script{})
	if _, err := c.ReadLine(10); err != io.ErrNoProgress {
		t.Error(err)
	}
}

// Release frees an empty buffer and never a byte.
func TestRelease(t *testing.T) {
	c := NewConn(&script{pieces: [][]byte{[]byte("ab")}, end: io.EOF})
	if _, err := c.Peek(2); err != nil {
		t.Fatal(err)
	}
	c.Release()
	c.Discard(1)
	c.Release()
	if string(c.Unread()) != "b" {
		t.Errorf("%q is left", c.Unread())
	}
	c.Discard(1)
	c.Release()
	if c.buf != nil {
		t.Error("the empty buffer is kept")
	}
	if _, err := c.ReadLine(10); err != io.EOF {
		t.Error(err)
	}
}

// Pipelined asks the connection below, where that can tell.
func TestPipelined(t *testing.T) {
	for _, pending := range []bool{false, true} {
		if got := NewConn(kernel{pending: pending}).Pipelined(); got != pending {
			t.Errorf("pending %v: pipelined %v", pending, got)
		}
	}
}

type kernel struct {
	net.Conn
	pending bool
}

func (k kernel) Pending() bool { return k.pending }

// Interrupt ends the read that waits and the next ones, loses no byte, and is
// over with Resume.
func TestInterrupt(t *testing.T) {
	near, far := dial(t)
	c := NewConn(far)
	io.WriteString(near, "half a li")
	if _, err := c.Peek(9); err != nil {
		t.Fatal(err)
	}
	for name, read := range map[string]func() error{
		"ReadLine":  func() error { _, err := c.ReadLine(512); return err },
		"ReadSlice": func() error { _, err := c.ReadSlice(512); return err },
		"Peek":      func() error { _, err := c.Peek(10); return err },
	} {
		ended := make(chan error, 1)
		go func() { ended <- read() }()
		time.Sleep(5 * time.Millisecond)
		c.Interrupt()
		if err := <-ended; !errors.Is(err, errInterrupted) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		if err := read(); !errors.Is(err, errInterrupted) {
			t.Errorf("%s again: %v", name, err)
		}
		if string(c.Unread()) != "half a li" {
			t.Errorf("%s: %q is left", name, c.Unread())
		}
		c.Resume()
	}
	io.WriteString(near, "ne\r\n")
	if line, err := c.ReadLine(512); err != nil || string(line) != "half a line" {
		t.Errorf("%q, %v", line, err)
	}
	// A deadline of someone else is no interruption, and Resume without
	// Interrupt leaves it alone.
	c.SetReadDeadline(longAgo)
	c.Resume()
	if _, err := c.ReadLine(512); err == nil || errors.Is(err, errInterrupted) {
		t.Error(err)
	}
}

// The errors of a timeout are timeouts to crypto/tls and to package os.
func TestTimeoutErrors(t *testing.T) {
	for _, err := range []error{ErrIdle, ErrShutdown, ErrStalled, errInterrupted} {
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() || !ne.Temporary() || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v is no timeout", err)
		}
	}
	if errors.Is(ErrIdle, ErrShutdown) {
		t.Error("two timeouts are the same")
	}
}

// CloseWrite is passed on, or an error.
func TestCloseWrite(t *testing.T) {
	near, far := dial(t)
	if err := NewConn(far).CloseWrite(); err != nil {
		t.Error(err)
	}
	near.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := near.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
	if NewConn(&script{}).CloseWrite() == nil {
		t.Error("CloseWrite of what has none is said to work")
	}
}

// However the two directions of a conversation end, and in which order: one
// with nothing left to filter ends it with nil, and the other is interrupted;
// an end of one stream is passed on, and the other goes on; an error ends
// both.
func TestDuplex(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		first, second error // errInterrupted: the second must have been interrupted
		want          error
	}{
		{nil, errInterrupted, nil},
		{nil, nil, nil},
		{nil, io.EOF, nil},
		{nil, broken, broken},
		{io.EOF, io.EOF, io.EOF},
		{io.EOF, nil, nil},
		{io.EOF, broken, broken},
		{broken, errInterrupted, broken},
		{broken, nil, broken},
		{broken, io.EOF, broken},
		{broken, errors.New("later"), broken},
		{ErrIdle, errInterrupted, ErrIdle},
	} {
		for _, upFirst := range []bool{true, false} {
			t.Run(fmt.Sprintf("%v, %v, up first %v", tt.first, tt.second, upFirst), func(t *testing.T) {
				client, backend := newLeg(t), newLeg(t)
				from, to := client, backend // of the direction that ends first
				if !upFirst {
					from, to = backend, client
				}
				io.WriteString(from.peer, "ahead")
				io.WriteString(to.peer, "ahead")
				ready, ended := make(chan struct{}), make(chan struct{})
				first := func() error {
					defer close(ended)
					<-ready
					if _, err := from.Peek(5); err != nil {
						t.Error(err)
					}
					return tt.first
				}
				second := func() error {
					if _, err := to.Peek(5); err != nil {
						t.Error(err)
					}
					close(ready)
					<-ended
					if tt.first == io.EOF {
						// The end was passed on, and reading goes on.
						if _, err := to.peer.Read(make([]byte, 1)); err != io.EOF {
							t.Errorf("the end was not passed on: %v", err)
						}
						io.WriteString(to.peer, "more")
						if _, err := to.Peek(9); err != nil {
							t.Error(err)
						}
						return tt.second
					}
					_, err := to.Peek(100)
					if !errors.Is(err, errInterrupted) {
						t.Errorf("not interrupted: %v", err)
					}
					if tt.second == errInterrupted {
						return err
					}
					return tt.second
				}
				up, down := first, second
				if !upFirst {
					up, down = second, first
				}
				if err := Duplex(client.Conn, backend.Conn, up, down); err != tt.want {
					t.Errorf("%v, want %v", err, tt.want)
				}
				// Nothing is lost, and both can be read on.
				for _, l := range []leg{client, backend} {
					if !bytes.HasPrefix(l.Unread(), []byte("ahead")) {
						t.Errorf("%q is left", l.Unread())
					}
					l.Discard(l.Buffered())
					io.WriteString(l.peer, "x")
					if p, err := l.Peek(1); err != nil || string(p) != "x" {
						t.Errorf("after Duplex: %q, %v", p, err)
					}
				}
			})
		}
	}
}

// A direction that panics does so in the goroutine of Duplex's caller, and the
// other one is not left behind.
func TestDuplexPanic(t *testing.T) {
	client, backend := newLeg(t), newLeg(t)
	wait := func() error { _, err := backend.Peek(1); return err }
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "a bug in a filter") {
			t.Errorf("recovered %v", r)
		}
	}()
	Duplex(client.Conn, backend.Conn, func() error { panic("a bug in a filter") }, wait)
	t.Error("no panic")
}

// Putback puts bytes before all that is unread, in a buffer of its own.
func TestPutback(t *testing.T) {
	c := NewConn(&script{pieces: [][]byte{[]byte("second\r\nthird\r\n")}, end: io.EOF})
	if _, err := c.Peek(8); err != nil {
		t.Fatal(err)
	}
	first := []byte("first\r\n")
	c.Putback(first)
	c.Putback(nil)
	copy(first, "XXXXXXX")
	for _, want := range []string{"first", "second", "third"} {
		if line, err := c.ReadLine(10); err != nil || string(line) != want {
			t.Errorf("%q, %v; want %q", line, err, want)
		}
	}
}

type leg struct {
	*Conn
	peer *net.TCPConn
}

func newLeg(t *testing.T) leg {
	near, far := dial(t)
	near.SetDeadline(time.Now().Add(20 * time.Second))
	return leg{NewConn(far), near}
}

// FuzzCuts holds that no result depends on how the bytes were cut, that no
// byte is lost or made up, and that no read goes far beyond its bound.
func FuzzCuts(f *testing.F) {
	f.Add([]byte("EHLO client.example\r\nSTARTTLS\r\n"), []byte{1, 5}, []byte{0, 0}, uint16(1000))
	f.Add([]byte("a\nb\r\n\x00\r\nc\rd\r\n"), []byte{1}, []byte{0, 1, 2, 0}, uint16(12))
	f.Add([]byte("\x16\x03\x01\x00\x05hello"), []byte{}, []byte{2, 3, 4}, uint16(8))
	f.Add(bytes.Repeat([]byte("0123456789"), 200), []byte{255, 1}, []byte{1, 5, 1, 0}, uint16(3000))
	f.Fuzz(func(t *testing.T, data, sizes, ops []byte, budget uint16) {
		if len(ops) > 64 {
			ops = ops[:64]
		}
		whole := &script{end: io.EOF}
		if len(data) > 0 {
			whole.pieces = [][]byte{bytes.Clone(data)}
		}
		cut := &script{end: io.EOF}
		for i, rest := 0, bytes.Clone(data); len(rest) > 0; i++ {
			n := 1
			if len(sizes) > 0 {
				n = max(1, int(sizes[i%len(sizes)]))
			}
			n = min(n, len(rest))
			cut.pieces = append(cut.pieces, rest[:n])
			rest = rest[n:]
		}
		a, b := play(t, whole, data, ops, int(budget)), play(t, cut, data, ops, int(budget))
		if !slices.Equal(a, b) {
			t.Errorf("whole: %q\ncut:   %q", a, b)
		}
		for _, s := range []*script{whole, cut} {
			if s.most > fillAhead {
				t.Errorf("read %d bytes at once", s.most)
			}
		}
	})
}

// play does what ops say and returns what came of each, until an error after
// which a connection is only good for a last reply.
func play(t *testing.T, s *script, data, ops []byte, budget int) (results []string) {
	c := NewConn(s)
	c.SetBudget(budget, 32)
	var taken []byte
	for i, op := range ops {
		limit := 1 + 37*i
		var p []byte
		var err error
		switch op % 6 {
		case 0:
			p, err = c.ReadLine(limit + 1)
			if err == nil {
				if bytes.ContainsAny(p, "\r\n\x00") || len(p)+2 > limit+1 {
					t.Errorf("a line of %q", p)
				}
				taken = append(append(taken, p...), "\r\n"...)
			}
		case 1:
			p, err = c.ReadSlice(limit)
			taken = append(taken, p...)
			if err == ErrTooLong {
				results, err = append(results, "piece"), nil
			}
		case 2:
			p, err = c.Peek(limit)
			p = bytes.Clone(p)
		case 3:
			p = make([]byte, limit)
			if _, perr := c.Peek(len(p)); perr != nil {
				err = perr
				break
			}
			err = c.ReadFull(p)
			taken = append(taken, p...)
		case 4:
			c.Release()
		case 5:
			err = c.Spend()
		}
		results = append(results, fmt.Sprintf("%d %q %v", op%6, p, err))
		if c.Buffered() > limit+fillAhead+maxBuffer {
			t.Errorf("%d bytes are buffered", c.Buffered())
		}
		if err != nil {
			break
		}
	}
	if all := append(taken, c.Unread()...); !bytes.HasPrefix(data, all) {
		t.Errorf("taken and unread %q is not how %q begins", all, data)
	}
	if n := len(taken) + c.Buffered(); n > budget {
		t.Errorf("%d bytes were read of a budget of %d", n, budget)
	}
	return results
}
