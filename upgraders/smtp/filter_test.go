package smtp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

var listener = &upgraders.Listener{Name: "mx", Hostname: "gw.example.org"}

// newLink is a link of a session in TLS.
func newLink(client, backend net.Conn) *upgraders.Link {
	return &upgraders.Link{
		Client:   wire.NewConn(client),
		Backend:  wire.NewConn(backend),
		Listener: listener,
		Security: upgraders.Encrypted,
		Facts: upgraders.Facts{
			Client: netip.MustParseAddrPort("[2001:db8::7]:49152"),
			Local:  netip.MustParseAddrPort("[2001:db8::1]:25"),
			Name:   "gw.example.org",
		},
		Log: func(string, ...any) {},
	}
}

// run plays what a client says against a model, through the Handover of a
// session in TLS, with every read cut by chance. It returns what the client
// gets, and whether the session became opaque.
func run(u *upgrader, m *model, says []byte, seed uint64) (got []byte, opaque bool, err error) {
	client, backend := newMemory(seed), newMemory(seed+1)
	client.in, client.ended = says, true
	client.written = func(p []byte) { got = append(got, p...) }
	backend.in = []byte(m.greeting())
	backend.written = func(p []byte) {
		backend.push(m.feed(p))
		backend.ended = backend.ended || m.state == gone
	}
	backend.end = func() { backend.ended = true; backend.changed.Broadcast() }

	h := u.starttls(&upgraders.Session{Listener: listener})
	link := newLink(client, backend)
	if err := h.Join(context.Background(), link); err != nil {
		return got, false, err
	}
	err = h.Converse(context.Background(), link)
	if err != nil {
		return got, false, err
	}
	// What the gateway does from here on: everything in order, both ways.
	io.Copy(struct{ io.Writer }{backend}, link.Client)
	backend.CloseWrite()
	rest, _ := io.ReadAll(link.Backend)
	return append(got, rest...), true, nil
}

func strictSMTP() *upgrader { return &upgrader{variant: smtpVariant} }

// Whatever the segments, a session gives the same replies, the backend executes
// the same commands and gets the same messages.
func TestConverseSegmentation(t *testing.T) {
	message := "Subject: x\r\n\r\nSTARTTLS\r\nXCLIENT ADDR=192.0.2.1\r\n..\r\n.x\r\n. \r\n"
	says := strings.Join([]string{
		"EHLO a.example", "XCLIENT ADDR=10.0.0.1", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>",
		"STARTTLS", "RCPT TO:<nobody@example.org>", "DATA", message + ".",
		"RSET", "BDAT 12", "XCLIENT A\r\n\x00BDAT 7 LAST", "\r\n.\r\nXXBDAT 0 LAST", "AUTH LOGIN", "STARTTLS",
		"XFORWARD ADDR=10.0.0.1", "", "NOOP", "QUIT", "",
	}, "\r\n")
	const want = "250-model.example\r\n250 CHUNKING\r\n" +
		"550 5.7.0 Not permitted\r\n250 MAIL 3\r\n250 RCPT 4\r\n503 5.5.1 TLS is active already\r\n550 no such user 6\r\n" +
		"354 go 7\r\n250 taken 0 8\r\n250 RSET 9\r\n250 chunk 10\r\n250 taken 0 11\r\n250 taken 0 12\r\n334 more 13\r\n535 no 14\r\n" +
		"550 5.7.0 Not permitted\r\n500 5.5.2 Syntax error, command unrecognized\r\n250 NOOP 17\r\n221 bye 18\r\n"
	for seed := range uint64(300) {
		m := &model{offers: []string{"XCLIENT NAME ADDR", "CHUNKING", "STARTTLS"}, dialect: dialect(seed % nDialects)}
		if m.dialect == skipsNUL {
			m.dialect = bareLF
		}
		got, opaque, err := run(strictSMTP(), m, []byte(says), seed)
		if err != io.EOF || opaque {
			t.Fatalf("seed %d: Converse = %v, opaque %v, want io.EOF", seed, err, opaque)
		}
		if string(got) != want {
			t.Fatalf("seed %d: the client gets\n%s\nwant\n%s", seed, got, want)
		}
		messages := []string{message, "XCLIENT A\r\n\x00\r\n.\r\nXX", ""}
		if got := fmt.Sprintf("%q", m.messages); got != fmt.Sprintf("%q", messages) {
			t.Fatalf("seed %d: the backend gets %s, want %q", seed, got, messages)
		}
		if m.executed("XCLIENT") || m.executed("XFORWARD") || m.executed("STARTTLS") {
			t.Fatalf("seed %d: the backend executes %q", seed, m.log)
		}
	}
}

// Where the filter ends, not a byte is lost between it and the relay.
func TestConverseBecomesOpaque(t *testing.T) {
	says := "NOOP\r\nXCLIENT A=B\r\nEHLO a.example\r\nXCLIENT A=B\r\nSTARTTLS\r\nNOOP\r\nQUIT\r\n"
	const want = "250 NOOP 1\r\n550 5.7.0 Not permitted\r\n250-model.example\r\n250 PIPELINING\r\n" +
		"500 what 4\r\n500 what 5\r\n250 NOOP 6\r\n221 bye 7\r\n"
	for seed := range uint64(300) {
		m := &model{offers: []string{"PIPELINING"}}
		got, opaque, err := run(strictSMTP(), m, []byte(says), seed)
		if err != nil || !opaque {
			t.Fatalf("seed %d: Converse = %v, opaque %v, want nil", seed, err, opaque)
		}
		if string(got) != want {
			t.Fatalf("seed %d: the client gets\n%s\nwant\n%s", seed, got, want)
		}
	}
}

// RFC 2033, 4.2: after the message there is one reply per accepted recipient,
// and an answer of the gateway's still keeps its place behind them.
func TestConverseLMTP(t *testing.T) {
	says := strings.Join([]string{
		"LHLO a.example", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>", "RCPT TO:<nobody@example.org>",
		"RCPT TO:<c@example.org>", "DATA", "hi", ".", "XCLIENT A=B",
		"MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>", "RCPT TO:<c@example.org>", "RCPT TO:<d@example.org>",
		"BDAT 4 LAST", "hi\r\nXCLIENT A=B", "DATA", "XCLIENT A=B", "QUIT", "",
	}, "\r\n")
	const want = "250-model.example\r\n250 CHUNKING\r\n" +
		"250 MAIL 2\r\n250 RCPT 3\r\n550 no such user 4\r\n250 RCPT 5\r\n354 go 6\r\n250 taken 0 7\r\n250 taken 1 8\r\n550 5.7.0 Not permitted\r\n" +
		"250 MAIL 10\r\n250 RCPT 11\r\n250 RCPT 12\r\n250 RCPT 13\r\n250 taken 0 14\r\n250 taken 1 15\r\n250 taken 2 16\r\n550 5.7.0 Not permitted\r\n" +
		"503 not now 18\r\n550 5.7.0 Not permitted\r\n221 bye 20\r\n"
	for seed := range uint64(200) {
		m := &model{offers: []string{"XCLIENT ADDR", "CHUNKING"}, lmtp: true}
		got, _, err := run(&upgrader{variant: lmtpVariant}, m, []byte(says), seed)
		if err != io.EOF {
			t.Fatalf("seed %d: Converse = %v, want io.EOF", seed, err)
		}
		if string(got) != want {
			t.Fatalf("seed %d: the client gets\n%s\nwant\n%s", seed, got, want)
		}
	}
}

// FuzzConverse looks for a client that has the backend execute what only the
// gateway may ask of it, in whichever way the backend reads lines; that sees an
// offer of it; or that gets a session stuck.
func FuzzConverse(f *testing.F) {
	for i, seed := range []string{
		"EHLO a\r\nXCLIENT A=B\r\nQUIT\r\n",
		"EHLO a\r\nDATA\r\nx\n.\nXCLIENT A=B\r\n.\r\nNOOP\r\n",
		"EHLO a\r\nDATA\r\nx\r\n\x00.\r\nXCLIENT A=B\r\n.\r\nNOOP\r\n",
		"EHLO a\r\nDATA\r\nx\r.\rXCLIENT A=B\r\r\n.\r\nNOOP\r\n",
		"EHLO a\r\nBDAT 12\r\nXCLIENT A=B\nBDAT 0 LAST\r\nRSET\nBDAT 5 LAST\r\n\r\n.\r\n",
		"HELO a\r\nBDAT 12\r\nXCLIENT A=B\r\nDATA\r\n.\r\n",
		"EHLO a\r\nAUTH LOGIN\r\nXCLIENT\r\n XCLIENT A=B\r\nNOOP\rXCLIENT A=B\r\n",
		"EHLO a\r\nMAIL\r\nRCPT\r\nRCPT\r\nDATA\r\nhi\r\n.\r\nTURN\r\nSTARTTLS\r\n\tXCLIENT\r\n",
	} {
		f.Add([]byte(seed), uint64(i), byte(i))
	}
	f.Fuzz(func(t *testing.T, says []byte, seed uint64, setting byte) {
		m := &model{
			dialect: dialect(setting % nDialects),
			offers:  []string{"XCLIENT NAME ADDR", "XFORWARD NAME", "STARTTLS", "CHUNKING"},
			noData:  setting&4 != 0,
		}
		if setting&8 != 0 {
			m.offers = m.offers[:3]
		}
		u := &upgrader{variant: smtpVariant, strictNewlines: setting&16 != 0}
		if m.lmtp = setting&32 != 0; m.lmtp {
			u.variant = lmtpVariant
		}
		var got []byte
		done := make(chan struct{})
		go func() {
			defer close(done)
			got, _, _ = run(u, m, says, seed)
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("the session is stuck")
		}
		for _, verb := range []string{"XCLIENT", "XFORWARD", "STARTTLS"} {
			if m.executed(verb) {
				t.Errorf("the backend executes %s: %q", verb, m.log)
			}
			if bytes.Contains(got, []byte(verb)) {
				t.Errorf("the client sees %s: %q", verb, got)
			}
		}
	})
}

// tcp returns the two ends of a connection on loopback.
func tcp(t testing.TB) (here, there *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	deadline := time.Now().Add(30 * time.Second)
	c.SetDeadline(deadline)
	s.SetDeadline(deadline)
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

// A played is a session through the filter over TCP.
type played struct {
	client   *net.TCPConn
	replies  *wire.Conn // of client
	done     chan error // Converse's result; the client is closed then
	backend  *net.TCPConn
	finished chan struct{} // the model has gone
}

// play runs join and converse between a client and a model, on loopback.
func play(t testing.TB, u *upgrader, m *model) *played {
	t.Helper()
	clientHere, client := tcp(t)
	backendHere, backend := tcp(t)
	p := &played{client: client, replies: wire.NewConn(client), done: make(chan error, 1), backend: backend, finished: make(chan struct{})}
	go func() {
		defer close(p.finished)
		defer backend.Close()
		io.WriteString(backend, m.greeting())
		buf := make([]byte, 64<<10)
		for m.state != gone {
			n, err := backend.Read(buf)
			if err != nil {
				return
			}
			if _, err := backend.Write(m.feed(buf[:n])); err != nil {
				return
			}
		}
	}()
	go func() {
		h := u.starttls(&upgraders.Session{Listener: listener})
		link := newLink(clientHere, backendHere)
		err := h.Join(context.Background(), link)
		if err == nil {
			err = h.Converse(context.Background(), link)
		}
		clientHere.Close()
		backendHere.Close()
		p.done <- err
	}()
	return p
}

// ask sends and takes one reply.
func (p *played) ask(t testing.TB, says string) string {
	t.Helper()
	if _, err := io.WriteString(p.client, says); err != nil {
		t.Fatal(err)
	}
	r, err := readReply(p.replies)
	if err != nil {
		t.Fatalf("after %.40q: %v", says, err)
	}
	return fmt.Sprintf("%d %s", r.code, strings.Join(r.lines, "|"))
}

// Bodies of 20 MiB pass byte for byte by DATA and by BDAT, and the filter still
// stands behind them.
func TestConverseBodies(t *testing.T) {
	const size = 20 << 20
	binary := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(binary)
	var text bytes.Buffer
	for line := range bytes.SplitSeq(binary, []byte("x")) { // of 256 bytes on average
		line = bytes.ReplaceAll(bytes.ReplaceAll(line, []byte("\r"), nil), []byte("\n"), nil)
		if bytes.HasPrefix(line, []byte(".")) {
			text.WriteByte('.') // RFC 5321, 4.5.2
		}
		text.Write(line)
		text.WriteString("\r\n")
	}
	m := &model{offers: []string{"XCLIENT ADDR", "CHUNKING"}}
	p := play(t, strictSMTP(), m)
	expect := func(got, want string) {
		t.Helper()
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	expect(p.ask(t, "EHLO a\r\n"), "250 model.example|CHUNKING")
	expect(p.ask(t, "DATA\r\n"), "354 go 2")
	expect(p.ask(t, text.String()+".\r\n"), "250 taken 0 3")
	expect(p.ask(t, fmt.Sprintf("BDAT %d LAST\r\n%s", size, binary)), "250 taken 0 4")
	expect(p.ask(t, "XCLIENT A=B\r\n"), "550 5.7.0 Not permitted")
	expect(p.ask(t, "QUIT\r\n"), "221 bye 6")
	p.client.Close()
	if err := <-p.done; err != io.EOF {
		t.Errorf("Converse = %v, want io.EOF", err)
	}
	<-p.finished
	if len(m.messages) != 2 || !bytes.Equal(m.messages[0], text.Bytes()) || !bytes.Equal(m.messages[1], binary) {
		t.Error("the messages did not arrive byte for byte")
	}
}

// A client that is in the middle of a message which is refused can read why:
// the rest of it is taken, and the backend is rid of it at once.
func TestConverseRefusedMessage(t *testing.T) {
	m := &model{}
	p := play(t, &upgrader{variant: smtpVariant, strictNewlines: true}, m)
	p.ask(t, "EHLO a\r\n")
	p.ask(t, "DATA\r\n")
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(p.client, "bare\n"+strings.Repeat("x\r\n", 8<<20/3)+".\r\n")
		sent <- err
	}()
	<-p.finished
	if err := <-sent; err != nil {
		t.Fatalf("the client cannot send its message: %v", err)
	}
	r, err := readReply(p.replies)
	if err != nil || r.code != 554 {
		t.Fatalf("the client reads %v, %v; want 554", r, err)
	}
	if _, err := p.replies.Peek(1); err != io.EOF {
		t.Errorf("behind the 554 the client reads %v, want the end", err)
	}
	p.client.Close()
	if err := <-p.done; upgraders.Reason(err) != "bare_newline" {
		t.Errorf("Converse = %v, want a bare newline", err)
	}
	if len(m.messages) != 0 || len(m.message) != 0 {
		t.Errorf("the backend has got %q and %q", m.messages, m.message)
	}
}

// The replies that may be outstanding are bounded: the client waits, and then
// gets every answer.
func TestConverseBackPressure(t *testing.T) {
	client, backend := newMemory(1), newMemory(2)
	const commands = 1000
	client.in = bytes.Repeat([]byte("NOOP\r\nXCLIENT A=B\r\n"), commands/2)
	client.ended = true
	got := 0
	client.written = func(p []byte) { got += bytes.Count(p, []byte("\n")) }
	backend.in = []byte("220 hi\r\n")
	received, answered, most := 0, 0, 0
	backend.written = func(p []byte) {
		received += bytes.Count(p, []byte("\n"))
		most = max(most, received-answered)
		if received < commands && received-answered < maxQueue {
			return // the backend takes its time
		}
		for ; answered < received; answered++ {
			backend.push([]byte("250 Ok\r\n"))
		}
	}
	backend.end = func() { backend.ended = true; backend.changed.Broadcast() }
	h := strictSMTP().starttls(&upgraders.Session{Listener: listener})
	link := newLink(client, backend)
	if err := h.Join(context.Background(), link); err != nil {
		t.Fatal(err)
	}
	if err := h.Converse(context.Background(), link); err != io.EOF {
		t.Fatalf("Converse = %v, want io.EOF", err)
	}
	if got != commands || most > maxQueue {
		t.Errorf("%d of %d answers, up to %d outstanding; want all, and %d at most", got, commands, most, maxQueue)
	}
}

// BenchmarkData measures a filter that stays: bytes of a message, in lines.
func BenchmarkData(b *testing.B) {
	for name, rule := range map[string]newlineRule{"any": anyNewline, "strict": noBareCRLF} {
		b.Run(name, func(b *testing.B) {
			body := bytes.Repeat([]byte(strings.Repeat("x", 76)+"\r\n"), bodyBuffer/78)
			b.SetBytes(int64(len(body)))
			var m message
			for b.Loop() {
				if n, _, clean := m.scan(body, rule); n != len(body) || !clean {
					b.Fatal("the scan stops")
				}
			}
		})
	}
}
