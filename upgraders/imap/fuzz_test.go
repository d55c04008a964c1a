package imap

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A pipe is one direction of a connection in memory, with an end.
type pipe struct {
	mu       sync.Mutex
	cond     *sync.Cond
	buf      []byte
	ended    bool
	deadline bool // one that is past
}

func newPipe() *pipe {
	p := &pipe{}
	p.cond = sync.NewCond(&p.mu)
	return p
}

// do changes the pipe and wakes its reader.
func (p *pipe) do(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	p.cond.Broadcast()
}

// A pipeConn reads one pipe and writes another. It can be half-closed, which
// net.Pipe cannot.
type pipeConn struct {
	net.Conn
	in, out *pipe
	cut     *rand.Rand // reads come in pieces
}

func (c *pipeConn) Read(b []byte) (int, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	for len(c.in.buf) == 0 || c.in.deadline {
		switch {
		case c.in.deadline:
			return 0, os.ErrDeadlineExceeded
		case c.in.ended:
			return 0, io.EOF
		}
		c.in.cond.Wait()
	}
	if c.cut != nil {
		b = b[:min(len(b), 1+c.cut.IntN(9))]
	}
	n := copy(b, c.in.buf)
	c.in.buf = c.in.buf[n:]
	return n, nil
}

func (c *pipeConn) Write(b []byte) (int, error) {
	c.out.do(func() { c.out.buf = append(c.out.buf, b...) })
	return len(b), nil
}

func (c *pipeConn) CloseWrite() error {
	c.out.do(func() { c.out.ended = true })
	return nil
}

func (c *pipeConn) Close() error {
	c.in.do(func() { c.in.ended = true })
	return c.CloseWrite()
}

func (c *pipeConn) SetReadDeadline(t time.Time) error {
	c.in.do(func() { c.in.deadline = !t.IsZero() && t.Before(time.Now()) })
	return nil
}

// A model is a backend that reads commands in a way of its own: it takes any
// number in braces at the end of a line for a literal, whatever stands before
// it, and lets nobody in. It keeps what it was told to do.
type model struct {
	plus     bool // it takes {n+} for a literal too
	commands []string
	broken   bool
}

func (m *model) serve(c net.Conn) {
	in := wire.NewConn(c)
	io.WriteString(c, "* OK [CAPABILITY IMAP4rev1 STARTTLS] model\r\n")
	for {
		var command []byte
		for {
			line, err := in.ReadSlice(64 << 10)
			if err != nil {
				c.(*pipeConn).CloseWrite()
				return
			}
			line = bytes.TrimRight(line, "\r\n")
			command = append(command, line...)
			i := bytes.LastIndexByte(line, '{')
			if i < 0 || line[len(line)-1] != '}' {
				break
			}
			spec := string(line[i+1 : len(line)-1])
			if m.plus {
				spec = strings.TrimSuffix(spec, "+")
			}
			n, err := strconv.ParseUint(spec, 10, 16)
			if err != nil || n > 60000 {
				break // an atom with odd letters
			}
			if !strings.HasSuffix(string(line), "+}") {
				io.WriteString(c, "+ go\r\n")
			}
			data := make([]byte, n)
			if in.ReadFull(data) != nil {
				m.broken = true
				c.(*pipeConn).CloseWrite()
				return
			}
			command = append(command[:bytes.LastIndexByte(command, '{')], quote(data)...)
		}
		if len(command) == 0 {
			continue
		}
		m.commands = append(m.commands, string(command))
		tag, rest, _ := strings.Cut(string(command), " ")
		if name, args, _ := strings.Cut(rest, " "); strings.EqualFold(name, "AUTHENTICATE") && !strings.Contains(args, " ") {
			io.WriteString(c, "+ \r\n")
			if _, err := in.ReadSlice(64 << 10); err != nil {
				c.(*pipeConn).CloseWrite()
				return
			}
		}
		io.WriteString(c, "* CAPABILITY IMAP4rev1 STARTTLS\r\n"+tag+" NO [CAPABILITY STARTTLS] not you\r\n")
	}
}

// converse runs a filter between a client that says all of said and leaves, and
// a model.
func converse(t *testing.T, said []byte, clear, plus bool, seed uint64) (got []byte, m *model, err error) {
	t.Helper()
	toClient, toFilter, toBackend, fromBackend := newPipe(), newPipe(), newPipe(), newPipe()
	m = &model{plus: plus}
	served := make(chan struct{})
	go func() {
		defer close(served)
		m.serve(&pipeConn{in: toBackend, out: fromBackend})
	}()
	toFilter.buf, toFilter.ended = bytes.Clone(said), true
	client := &pipeConn{in: toFilter, out: toClient, cut: rand.New(rand.NewPCG(seed, 1))}
	backend := &pipeConn{in: fromBackend, out: toBackend, cut: rand.New(rand.NewPCG(seed, 2))}
	f := &filter{offer: offer{clear: clear, refuseAuth: clear}}
	link := &upgraders.Link{Client: wire.NewConn(client), Backend: wire.NewConn(backend), Log: func(string, ...any) {}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err = f.join(context.Background(), link); err == nil {
			err = f.converse(context.Background(), link)
		}
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatalf("%q: the filter hangs", said)
	}
	backend.Close()
	<-served
	return toClient.buf, m, err
}

// Whatever a client says, and however it is cut: a backend that reads literals
// in its own way is never told STARTTLS, COMPRESS or a client fact, a refused
// password is not among what it hears, no capability list has STARTTLS, and
// nothing hangs or panics.
func FuzzFilter(f *testing.F) {
	for i, said := range []string{
		"a CAPABILITY\r\nb STARTTLS\r\nc LOGIN u {3}\r\nfoo\r\nd LOGOUT\r\n",
		"a ID (\"name\" {4+}\r\nmutt {16+}\r\nx-originating-ip \"192.0.2.1\")\r\n",
		"a ID (\"x-proxy-ttl\" \"1\" \"a\" NIL)\r\nb id (x-session-id x)\r\nc ID NIL\r\n",
		"a LOGIN {11+}\r\nb STARTTLS\r\n {3+}\r\nabc\r\nc NOOP\r\n",
		"a AUTHENTICATE PLAIN\r\nb STARTTLS\r\nc COMPRESS DEFLATE\r\n",
		"a FOO {20+}\r\nb ID (\"x-a\" \"b\")\r\n\r\nc FOO \"{5}\r\nabcde\r\n",
		"a FOO bar{5+}\r\nb STARTTLS\r\nc FOO {5}x\r\nd FOO {70000}\r\n",
		"a ID (\"a\" {21+}\r\nx\r\nc ID (\"x-a\" \"b\")\r\n)\r\n\r\n\n",
		"a NOOP\nb  STARTTLS\n\nc STARTTLS\n* STARTTLS\n",
		"a \"STARTTLS\"\r\nb {8}\r\nSTARTTLS\r\nc {8+}\r\nSTARTTLS\r\n",
	} {
		f.Add([]byte(said), i&1 != 0, i&2 != 0, uint64(i))
	}
	f.Fuzz(func(t *testing.T, said []byte, clear, plus bool, seed uint64) {
		if len(said) > 8<<10 || bytes.Contains(said, []byte("\x00")) && seed%2 == 0 {
			return
		}
		got, m, err := converse(t, said, clear, plus, seed)
		for _, c := range m.commands {
			words := strings.FieldsFunc(c, func(r rune) bool { return r == ' ' || r == '\t' })
			if len(words) < 2 {
				continue
			}
			switch name := strings.ToUpper(words[1]); {
			case name == "STARTTLS", name == "COMPRESS", clear && isAuth(name):
				t.Fatalf("%q: the backend is told %q", said, c)
			case name == "ID" && namesFact(c):
				t.Fatalf("%q: the backend is told %q", said, c)
			}
		}
		for _, line := range strings.SplitAfter(string(got), "\n") {
			if slices.ContainsFunc(listed(line), equals("STARTTLS")) {
				t.Fatalf("%q: the client is offered %q", said, line)
			}
		}
		if errors.Is(err, upgraders.ErrBackend) {
			t.Fatalf("%q: client and backend are out of step: %v, %q", said, err, m.commands)
		}
	})
}

// namesFact reports whether an ID command has a string in the place of a name
// that begins with x-. It reads it in a way of its own: what is no string
// counts for nothing, and names are every other one.
func namesFact(command string) bool {
	_, list, _ := strings.Cut(command, "(")
	var strs []string
	for i := 0; i < len(list); i++ {
		s := ""
		switch {
		case list[i] == '"':
			for i++; i < len(list) && list[i] != '"'; i++ {
				if list[i] == '\\' && i+1 < len(list) {
					i++
				}
				s += list[i : i+1]
			}
		case strings.IndexByte(" ()", list[i]) < 0:
			for ; i < len(list) && strings.IndexByte(` ()"`, list[i]) < 0; i++ {
				s += list[i : i+1]
			}
			i--
		default:
			continue
		}
		strs = append(strs, s)
	}
	for i := 0; i < len(strs); i += 2 {
		if strings.HasPrefix(strings.ToLower(strs[i]), "x-") {
			return true
		}
	}
	return false
}

// What holds nothing to rewrite passes as it is, however it is cut.
func FuzzUnchanged(f *testing.F) {
	f.Add([]byte("a CAPABILITY\r\nb LOGIN {3}\r\nfoo {3}\r\nbar\r\n\r\nc AUTHENTICATE X\r\nx NOOP {5}\r\nd NOOP\n"), uint64(1))
	f.Add([]byte("a X \"{5}\" (\\\"\r\nb AUTHENTICATE\r\n\r\n"), uint64(2))
	f.Fuzz(func(t *testing.T, said []byte, seed uint64) {
		if len(said) > 8<<10 || rewritten(said) {
			return
		}
		toBackend := newPipe()
		m := &model{}
		fromBackend := newPipe()
		served := make(chan struct{})
		backendIn := newPipe()
		go func() {
			defer close(served)
			m.serve(&pipeConn{in: backendIn, out: fromBackend})
		}()
		// What the filter writes is kept, and goes on to the model.
		tee := &teeConn{pipeConn: pipeConn{in: fromBackend, out: backendIn, cut: rand.New(rand.NewPCG(seed, 2))}, kept: toBackend}
		toFilter := newPipe()
		toFilter.buf, toFilter.ended = bytes.Clone(said), true
		client := &pipeConn{in: toFilter, out: newPipe(), cut: rand.New(rand.NewPCG(seed, 1))}
		fl := &filter{}
		link := &upgraders.Link{Client: wire.NewConn(client), Backend: wire.NewConn(tee), Log: func(string, ...any) {}}
		if err := fl.join(context.Background(), link); err != nil {
			t.Fatal(err)
		}
		err := fl.converse(context.Background(), link)
		tee.Close()
		<-served
		if err == io.EOF && !bytes.HasPrefix(said, toBackend.buf) {
			t.Fatalf("%q became %q", said, toBackend.buf)
		}
		if err == io.EOF && !m.broken && bytes.IndexByte(said[len(toBackend.buf):], '\n') >= 0 {
			t.Fatalf("of %q only %q came through", said, toBackend.buf)
		}
	})
}

// rewritten reports whether there may be something in what a client says that
// the filter must not pass as it is: anything that might be a command of the
// gateway's, or a literal sent unasked.
func rewritten(said []byte) bool {
	up := bytes.ToUpper(said)
	for _, word := range []string{"STARTTLS", "COMPRESS", " ID", "+}", "-}", "\x00", "HTTP"} {
		if bytes.Contains(up, []byte(word)) {
			return true
		}
	}
	for _, line := range bytes.SplitAfter(said, []byte("\n")) {
		text := trimEOL(line)
		size, kind := literal(text)
		c := parseCommand(text)
		if len(text) > 0 && c.name == "" || bytes.IndexByte(text, '\r') >= 0 || kind == badLiteral || size > 60000 || upgraders.IsHTTP(text) {
			return true
		}
	}
	return false
}

type teeConn struct {
	pipeConn
	kept *pipe
}

func (c *teeConn) Write(b []byte) (int, error) {
	c.kept.do(func() { c.kept.buf = append(c.kept.buf, b...) })
	return c.pipeConn.Write(b)
}
