package integration

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long a peer waits for anything.
const patience = 20 * time.Second

// A peer is a client, or a server, that says exactly what the test says.
type peer struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

// dial connects from a source address; "" is the machine's choice.
func dial(t *testing.T, from, addr string) *peer {
	t.Helper()
	p, err := tryDial(t, from, addr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tryDial(t *testing.T, from, addr string) (*peer, error) {
	d := net.Dialer{Timeout: patience}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return newPeer(t, conn), nil
}

func newPeer(t *testing.T, conn net.Conn) *peer {
	t.Cleanup(func() { conn.Close() })
	return &peer{t: t, conn: conn, r: bufio.NewReader(conn)}
}

// dialTLS connects to a port of implicit TLS.
func dialTLS(t *testing.T, from, addr string, cfg *tls.Config) *peer {
	t.Helper()
	p := dial(t, from, addr)
	p.tls(cfg)
	return p
}

// tls shakes hands, now. What was read ahead of the handshake is a failure:
// it came after the go-ahead.
func (p *peer) tls(cfg *tls.Config) {
	p.t.Helper()
	if err := p.tryTLS(cfg); err != nil {
		p.t.Fatalf("handshake: %v", err)
	}
}

func (p *peer) tryTLS(cfg *tls.Config) error {
	p.t.Helper()
	if n := p.r.Buffered(); n > 0 {
		rest, _ := p.r.Peek(n)
		p.t.Fatalf("cleartext after the go-ahead: %q", rest)
	}
	c := tls.Client(strict{p.conn}, cfg)
	c.SetDeadline(time.Now().Add(patience))
	if err := c.Handshake(); err != nil {
		return err
	}
	p.conn, p.r = c, bufio.NewReader(c)
	return nil
}

// A strict conn below TLS makes an end without close_notify an error, which
// crypto/tls forgives between two records.
type strict struct{ net.Conn }

var errTruncated = errors.New("the stream ended without close_notify")

func (s strict) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if err == io.EOF {
		err = errTruncated
	}
	return n, err
}

// state is that of the TLS session.
func (p *peer) state() tls.ConnectionState { return p.conn.(*tls.Conn).ConnectionState() }

// send writes a line, in one segment.
func (p *peer) send(format string, args ...any) {
	p.t.Helper()
	p.write([]byte(fmt.Sprintf(format, args...) + "\r\n"))
}

func (p *peer) write(b []byte) {
	p.t.Helper()
	p.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

// line reads a line and returns it without its CRLF.
func (p *peer) line() string {
	p.t.Helper()
	line, err := p.tryLine()
	if err != nil {
		p.t.Fatalf("read: %v (after %q)", err, line)
	}
	return line
}

func (p *peer) tryLine() (string, error) {
	p.conn.SetReadDeadline(time.Now().Add(patience))
	line, err := p.r.ReadString('\n')
	return strings.TrimSuffix(line, "\r\n"), err
}

// want reads a line that matches.
func (p *peer) want(pattern string) string {
	p.t.Helper()
	line := p.line()
	if !regexp.MustCompile(pattern).MatchString(line) {
		p.t.Fatalf("got %q, want %s", line, pattern)
	}
	return line
}

// until reads lines until one matches, past whatever a server has to tell in
// between.
func (p *peer) until(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	for {
		if line := p.line(); re.MatchString(line) {
			return line
		}
	}
}

// rest reads until the other side closes or resets, closes too, and returns
// what came.
func (p *peer) rest() string {
	p.t.Helper()
	defer p.conn.Close()
	p.conn.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(p.r)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		p.t.Fatalf("the connection stays open (after %q)", b)
	}
	return string(b)
}

// closed demands that nothing more comes before the other side closes.
func (p *peer) closed() {
	p.t.Helper()
	if rest := p.rest(); rest != "" {
		p.t.Fatalf("before the end of the stream came %q", rest)
	}
}

// clean demands that nothing more comes before the other side closes in good
// order, inside TLS with close_notify, and closes too.
func (p *peer) clean() {
	p.t.Helper()
	defer p.conn.Close()
	p.conn.SetReadDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(p.r); err != nil || len(b) > 0 {
		p.t.Fatalf("no clean end: %q, %v", b, err)
	}
}

// dialUnix connects to a unix socket.
func dialUnix(path string) (net.Conn, error) { return net.DialTimeout("unix", path, patience) }

// A reply is one of SMTP's, of one line or several.
type reply struct {
	code  int
	lines []string // without the codes
}

func (r reply) String() string { return fmt.Sprintf("%d %s", r.code, strings.Join(r.lines, " / ")) }

// has reports whether an EHLO reply lists a keyword.
func (r reply) has(keyword string) bool {
	for _, line := range r.lines[1:] {
		if word, _, _ := strings.Cut(line, " "); strings.EqualFold(word, keyword) {
			return true
		}
	}
	return false
}

// reply reads one, and demands its code unless that is 0.
func (p *peer) reply(code int) reply {
	p.t.Helper()
	var r reply
	for {
		line := p.line()
		n, err := strconv.Atoi(line[:min(3, len(line))])
		if err != nil || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
			p.t.Fatalf("not a reply: %q", line)
		}
		r.code = n
		r.lines = append(r.lines, line[min(4, len(line)):])
		if len(line) == 3 || line[3] == ' ' {
			break
		}
	}
	if code != 0 && r.code != code {
		p.t.Fatalf("got %s, want %d", r, code)
	}
	return r
}

// cmd sends a command of SMTP and reads the reply.
func (p *peer) cmd(code int, format string, args ...any) reply {
	p.t.Helper()
	p.send(format, args...)
	return p.reply(code)
}

// smtpTLS goes from a connection of SMTP through STARTTLS to the EHLO inside.
func (p *peer) smtpTLS(cfg *tls.Config) reply {
	p.t.Helper()
	p.reply(220)
	p.cmd(250, "EHLO client.example.net")
	p.cmd(220, "STARTTLS")
	p.tls(cfg)
	return p.cmd(250, "EHLO client.example.net")
}

// mail sends a message of a few bytes.
func (p *peer) mail(to, body string) {
	p.t.Helper()
	p.cmd(250, "MAIL FROM:<a@example.net>")
	p.cmd(250, "RCPT TO:<%s>", to)
	p.cmd(354, "DATA")
	p.cmd(250, "Subject: test\r\n\r\n%s\r\n.", body)
}

// imap sends a command of IMAP with a tag of its own and reads up to the
// tagged reply, which it returns without the tag, and all lines before it.
func (p *peer) imap(format string, args ...any) (tagged string, untagged []string) {
	p.t.Helper()
	const tag = "t1"
	p.send(tag+" "+format, args...)
	for {
		line := p.line()
		if rest, ok := strings.CutPrefix(line, tag+" "); ok {
			return rest, untagged
		}
		untagged = append(untagged, line)
	}
}

// imapOK is imap for a command that must succeed.
func (p *peer) imapOK(format string, args ...any) []string {
	p.t.Helper()
	tagged, untagged := p.imap(format, args...)
	if !strings.HasPrefix(tagged, "OK") {
		p.t.Fatalf("%s was answered %q", strings.Fields(format)[0], tagged)
	}
	return untagged
}

// imapTLS goes from a connection of IMAP through STARTTLS.
func (p *peer) imapTLS(cfg *tls.Config) {
	p.t.Helper()
	p.want(`^\* OK`)
	p.imapOK("STARTTLS")
	p.tls(cfg)
}

// capabilities asks for them and returns the words.
func (p *peer) capabilities() []string {
	p.t.Helper()
	for _, line := range p.imapOK("CAPABILITY") {
		if rest, ok := strings.CutPrefix(line, "* CAPABILITY "); ok {
			return strings.Fields(rest)
		}
	}
	p.t.Fatal("no capabilities in the answer to CAPABILITY")
	return nil
}

// broken reports whether an error means that the other side hung up.
func broken(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, errTruncated) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
