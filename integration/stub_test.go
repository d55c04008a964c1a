package integration

import (
	"bufio"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"testing"
)

// A stub is a server in the test, for what Postfix and Dovecot cannot be made
// to do: refuse, fall silent, remember every line.
type stub struct {
	addr string
	mu   sync.Mutex
	got  []string
}

// serveStub accepts connections and hands each to f, until the test ends.
func serveStub(t *testing.T, f func(s *stub, conn net.Conn)) *stub {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stub{addr: l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				f(s, conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for conn := range open {
			conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return s
}

func (s *stub) note(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, line)
}

// heard returns the lines so far that contain a text.
func (s *stub) heard(text string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []string
	for _, line := range s.got {
		if strings.Contains(strings.ToLower(line), strings.ToLower(text)) {
			found = append(found, line)
		}
	}
	return found
}

// greeting is a server that says one thing and hangs up.
func greeting(text string) func(*stub, net.Conn) {
	return func(s *stub, conn net.Conn) {
		s.note("connected")
		conn.Write([]byte(text + "\r\n"))
	}
}

// smtpStub is a backend that answers every command and remembers it.
func smtpStub(s *stub, conn net.Conn) {
	conn.Write([]byte("220 stub.example.org ESMTP\r\n"))
	s.converse(conn, func(line string) string {
		switch verb, _, _ := strings.Cut(strings.ToUpper(line), " "); verb {
		case "EHLO":
			return "250-stub.example.org\r\n250-PIPELINING\r\n250 8BITMIME\r\n"
		case "QUIT":
			return "221 2.0.0 bye\r\n"
		default:
			return "250 2.0.0 ok\r\n"
		}
	})
}

// imapStub is the same for IMAP.
func imapStub(s *stub, conn net.Conn) {
	const caps = "IMAP4rev1 ID AUTH=PLAIN"
	conn.Write([]byte("* OK [CAPABILITY " + caps + "] stub ready\r\n"))
	s.converse(conn, func(line string) string {
		tag, rest, _ := strings.Cut(line, " ")
		switch strings.ToUpper(rest) {
		case "CAPABILITY":
			return "* CAPABILITY " + caps + "\r\n" + tag + " OK done\r\n"
		case "LOGOUT":
			return "* BYE\r\n" + tag + " OK bye\r\n"
		default:
			return tag + " OK done\r\n"
		}
	})
}

func (s *stub) converse(conn net.Conn, answer func(line string) string) {
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if line != "" {
			s.note(strings.TrimRight(line, "\r\n"))
		}
		if err != nil {
			return
		}
		if _, err := conn.Write([]byte(answer(strings.TrimRight(line, "\r\n")))); err != nil {
			return
		}
	}
}

// vulnerable is a server with the flaw of CVE-2011-0411: what is in its buffer
// when it is asked for TLS it runs inside TLS. It also repeats in its replies
// what it was sent (ALPACA), and knows neither case nor arguments of a verb.
func vulnerable(t *testing.T, d dialect) *stub {
	cfg, err := lab.pki.server("localhost")
	if err != nil {
		t.Fatal(err)
	}
	return serveStub(t, func(s *stub, conn net.Conn) {
		conn.Write([]byte(d.greeting + "\r\n"))
		r := bufio.NewReader(conn)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			line = strings.TrimSpace(line)
			s.note(line)
			if !strings.Contains(strings.ToUpper(line), "STARTTLS") {
				conn.Write([]byte(d.answer(line) + " you said " + line + "\r\n"))
				continue
			}
			conn.Write([]byte(d.answer(line) + " go ahead\r\n"))
			// Here a careful server would look into r.
			secure := tls.Server(conn, cfg)
			if secure.Handshake() != nil {
				return
			}
			conn = secure
		}
	})
}
