package upgradertest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	patience = 10 * time.Second       // for what must come, also on a machine that is busy
	glance   = 10 * time.Millisecond  // for what must not
	gap      = 5 * time.Millisecond   // between the pieces of a split
	breath   = 100 * time.Microsecond // between two bytes sent singly
)

// A transcript is what was said, for the message of a failure.
type transcript struct {
	mu    sync.Mutex
	lines []string
}

func (t *transcript) add(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, fmt.Sprintf(format, args...))
}

// tail returns the last lines, indented.
func (t *transcript) tail() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := t.lines[max(0, len(t.lines)-24):]
	return "\t| " + strings.Join(lines, "\n\t| ")
}

// quoted shortens what nobody wants to read whole.
func quoted(b []byte) string {
	if len(b) > 400 {
		return fmt.Sprintf("%q … %q (%d bytes)", b[:200], b[len(b)-100:], len(b))
	}
	return fmt.Sprintf("%q", b)
}

// A peer is one end of the gateway: its client or its backend.
type peer struct {
	name     string // C or B
	raw      net.Conn
	conn     net.Conn // raw, or TLS over it
	buf      []byte   // read and not yet looked at
	all      []byte   // everything read in the clear
	bytewise bool
	patience time.Duration
	failed   bool // the handshake did
	byFIN    bool // a reset is no end
	t        *transcript
}

func (st *stage) newPeer(name string, c net.Conn) *peer {
	return &peer{name: name, raw: c, conn: c, bytewise: st.bytewise, patience: st.s.patience, t: st.t}
}

// send writes b, at once or byte by byte. That the other side has closed in
// the meantime is for the expectations that follow to tell.
func (p *peer) send(b []byte) {
	p.t.add("%s> %s", p.name, quoted(b))
	p.conn.SetWriteDeadline(time.Now().Add(p.patience))
	size := max(1, len(b))
	if p.bytewise {
		size = 1
	}
	for i := 0; i < len(b); i += size {
		if _, err := p.conn.Write(b[i:min(i+size, len(b))]); err != nil {
			p.t.add("%s> cannot send: %v", p.name, err)
			return
		}
		if p.bytewise && i < 256 {
			time.Sleep(breath)
		}
	}
}

// fill reads what is there, waiting for it until the deadline.
func (p *peer) fill(wait time.Duration) error {
	p.conn.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 16<<10)
	n, err := p.conn.Read(b)
	if n > 0 {
		p.t.add("%s< %s", p.name, quoted(b[:n]))
		p.buf = append(p.buf, b[:n]...)
		if p.conn == p.raw {
			p.all = append(p.all, b[:n]...)
		}
		return nil
	}
	return err
}

// see takes exactly want.
func (p *peer) see(want []byte) error {
	for len(p.buf) < len(want) && bytes.HasPrefix(want, p.buf) {
		if err := p.fill(p.patience); err != nil {
			return fmt.Errorf("want %s\n\tgot  %s, then %v", quoted(want), quoted(p.buf), p.explain(err))
		}
	}
	if !bytes.HasPrefix(p.buf, want) {
		p.fill(glance) // the rest of the line, for the message
		return fmt.Errorf("want %s\n\tgot  %s", quoted(want), quoted(p.buf))
	}
	p.buf = p.buf[len(want):]
	return nil
}

// seeMatch takes one line that matches, or what matches.
func (p *peer) seeMatch(re *regexp.Regexp, bare bool) error {
	for bare {
		if at := re.FindIndex(p.buf); at != nil {
			p.buf = p.buf[at[1]:]
			return nil
		}
		if err := p.fill(p.patience); err != nil {
			return fmt.Errorf("want what matches %s\n\tgot  %s, then %v", re, quoted(p.buf), p.explain(err))
		}
	}
	for bytes.IndexByte(p.buf, '\n') < 0 {
		if err := p.fill(p.patience); err != nil {
			return fmt.Errorf("want a line that matches %s\n\tgot  %s, then %v", re, quoted(p.buf), p.explain(err))
		}
	}
	line := p.buf[:bytes.IndexByte(p.buf, '\n')+1]
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || !re.Match(text) {
		return fmt.Errorf("want a line that matches %s\n\tgot  %s", re, quoted(line))
	}
	p.buf = p.buf[len(line):]
	return nil
}

// seeEnd takes the end of the stream, and nothing before it.
func (p *peer) seeEnd() error {
	for {
		if len(p.buf) > 0 && !(p.failed && onlyAlerts(p.buf)) {
			return fmt.Errorf("want the end of the stream\n\tgot  %s", quoted(p.buf))
		}
		if ended, err := p.ended(p.fill(p.patience)); ended {
			return err
		}
	}
}

// seeAbort takes the end of a stream that must not look finished: no
// close_notify inside TLS, a reset in the clear.
func (p *peer) seeAbort() error {
	for {
		if len(p.buf) > 0 {
			return fmt.Errorf("want a stream that breaks off\n\tgot  %s", quoted(p.buf))
		}
		switch err := p.fill(p.patience); {
		case err == nil:
		case errors.Is(err, syscall.ECONNRESET), errors.Is(err, errNoCloseNotify):
			p.t.add("%s< breaks off: %v", p.name, err)
			return nil
		default:
			return fmt.Errorf("want a stream that breaks off\n\tgot  %v", p.explain(err))
		}
	}
}

// drain takes everything until the end of the stream.
func (p *peer) drain() error {
	for {
		if ended, err := p.ended(p.fill(p.patience)); ended {
			p.buf = nil
			return err
		}
	}
}

// ended reports whether a read ended the stream, and what was wrong with that.
func (p *peer) ended(err error) (bool, error) {
	switch {
	case err == nil:
		return false, nil
	case err == io.EOF, !p.byFIN && p.conn == p.raw && errors.Is(err, syscall.ECONNRESET):
		p.t.add("%s< the end", p.name)
		return true, nil
	}
	return true, fmt.Errorf("want the end of the stream\n\tgot  %v", p.explain(err))
}

// quiet reports what was never asked for.
func (p *peer) quiet() error {
	if len(p.buf) == 0 && !p.failed {
		p.fill(glance)
	}
	if len(p.buf) > 0 && !p.failed {
		return fmt.Errorf("want no more\n\tgot  %s", quoted(p.buf))
	}
	return nil
}

// handshake puts TLS over the conn.
func (p *peer) handshake(roots *x509.CertPool, alpn []string) error {
	if len(p.buf) > 0 {
		return fmt.Errorf("cleartext where TLS is due: %s", quoted(p.buf))
	}
	p.raw.SetDeadline(time.Now().Add(p.patience))
	c := tls.Client(strict{p.raw}, &tls.Config{RootCAs: roots, ServerName: serverName, NextProtos: alpn})
	ctx, cancel := context.WithTimeout(context.Background(), p.patience)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		p.t.add("%s  handshake: %v", p.name, err)
		p.failed = true
		return err
	}
	state := c.ConnectionState()
	p.t.add("%s  %s %s", p.name, tls.VersionName(state.Version), state.NegotiatedProtocol)
	p.raw.SetDeadline(time.Time{})
	p.conn = c
	if len(alpn) > 0 && state.NegotiatedProtocol == "" {
		return fmt.Errorf("the gateway ignores the client's ALPN offer %q", alpn)
	}
	return nil
}

// strict makes a FIN an error for crypto/tls, which otherwise takes one between
// two records for an end in order, close_notify or not.
type strict struct{ net.Conn }

var errNoCloseNotify = errors.New("FIN without close_notify")

func (c strict) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == io.EOF {
		err = errNoCloseNotify
	}
	return n, err
}

// confirm makes sure that the gateway has accepted the handshake: in TLS 1.3 a
// client that is turned away learns of it only from its first read.
func (p *peer) confirm(wait time.Duration) error {
	if err := p.fill(wait); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

func (p *peer) closeWrite() error {
	p.t.add("%s> the end", p.name)
	if c, ok := p.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return fmt.Errorf("a %T has no half-close", p.conn)
}

// abort closes the connection with a reset, and without a close_notify.
func (p *peer) abort() {
	p.t.add("%s> reset", p.name)
	if c, ok := p.raw.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	p.raw.Close()
}

// explain says what a deadline means here.
func (p *peer) explain(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("nothing more in %v", p.patience)
	}
	return err
}

// onlyAlerts reports whether b is a sequence of TLS alert records in the
// clear: what may follow a failed handshake, and nothing else.
func onlyAlerts(b []byte) bool {
	for len(b) > 0 {
		if len(b) < 7 || b[0] != 21 || b[1] != 3 || b[3] != 0 || b[4] != 2 {
			return false
		}
		b = b[7:]
	}
	return true
}
