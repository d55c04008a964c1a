package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

// The demo's one mailbox.
const (
	demoUser     = "demo"
	demoPassword = "demo"
)

// demoBackends are legacy servers in this process: none of them knows TLS, and
// all believe the PROXY header, as such servers do behind a gateway.
type demoBackends struct {
	servers []demoServer

	inbox   *imapmemserver.User
	drop    maildrop // the same messages, for POP3
	scripts scriptBox
	group   newsgroup
	files   fileStore
	seen    sightings
}

func startBackends() (*demoBackends, error) {
	b := &demoBackends{inbox: imapmemserver.NewUser(demoUser, demoPassword)}
	if err := b.inbox.Create("INBOX", nil); err != nil {
		return nil, err
	}
	b.servers = demoServers(b)
	for i := range b.servers {
		s := &b.servers[i]
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.close()
			return nil, fmt.Errorf("demo backend %s: %w", s.backend, err)
		}
		s.ln = &legacyListener{
			Listener: &proxyproto.Listener{Listener: ln, ReadHeaderTimeout: 10 * time.Second},
			name:     s.backend,
			seen:     &b.seen,
		}
		go s.serve(s.ln)
	}
	return b, nil
}

func (b *demoBackends) close() {
	for _, s := range b.servers {
		if s.ln != nil {
			s.ln.Close()
		}
	}
}

// serveSMTP and serveLMTP put what comes where IMAP and POP3 find it.
func (b *demoBackends) serveSMTP(ln net.Listener) { b.serveMail(ln, false) }
func (b *demoBackends) serveLMTP(ln net.Listener) { b.serveMail(ln, true) }

func (b *demoBackends) serveMail(ln net.Listener, lmtp bool) {
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		return &demoMail{b}, nil
	}))
	s.LMTP = lmtp
	s.Domain = "legacy.example.org"
	s.AllowInsecureAuth = true // it never sees TLS; the gateway does
	s.MaxMessageBytes = 1 << 20
	s.ReadTimeout, s.WriteTimeout = 5*time.Minute, time.Minute
	s.ErrorLog = log.New(io.Discard, "", 0)
	defer s.Close()
	s.Serve(ln)
}

func (b *demoBackends) serveIMAP(ln net.Listener) {
	users := imapmemserver.New()
	users.AddUser(b.inbox)
	s := imapserver.New(&imapserver.Options{
		NewSession: func(*imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			return users.NewSession(), nil, nil
		},
		Caps:         imap.CapSet{imap.CapIMAP4rev1: {}},
		InsecureAuth: true, // as above
		Logger:       log.New(io.Discard, "", 0),
	})
	defer s.Close()
	s.Serve(ln)
}

// each is a server that handles connections one by one.
func each(handle func(net.Conn)) func(net.Listener) {
	return func(ln net.Listener) {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(5 * time.Minute))
				handle(conn)
			}()
		}
	}
}

func serveEcho(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if _, err := fmt.Fprintf(conn, "%s\r\n", lines.Text()); err != nil {
			return
		}
	}
}

// demoMail puts what SMTP and LMTP deliver where IMAP and POP3 find it.
type demoMail struct{ backends *demoBackends }

var _ smtp.AuthSession = (*demoMail)(nil)

func (m *demoMail) Reset()                                {}
func (m *demoMail) Logout() error                         { return nil }
func (m *demoMail) Mail(string, *smtp.MailOptions) error  { return nil }
func (m *demoMail) Rcpt(string, *smtp.RcptOptions) error  { return nil }
func (m *demoMail) AuthMechanisms() []string              { return []string{sasl.Plain} }
func (m *demoMail) Auth(mech string) (sasl.Server, error) { return sasl.NewPlainServer(m.login), nil }

func (m *demoMail) login(_, user, password string) error {
	if user != demoUser || password != demoPassword {
		return errors.New("wrong user or password")
	}
	return nil
}

func (m *demoMail) Data(r io.Reader) error {
	msg, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m.backends.drop.add(msg)
	_, err = m.backends.inbox.Append("INBOX", bytes.NewReader(msg), &imap.AppendOptions{})
	return err
}

// A sighting is what a backend knows of a client.
type sighting struct {
	backend string
	ends    ends   // as the PROXY header told them
	tls     string // the TLS version, as the PROXY header told it; empty: cleartext
	first   string // the first line it got
}

func (s sighting) String() string {
	if s.backend == "" {
		return "no server was reached"
	}
	security := "no TLS"
	if s.tls != "" {
		security = s.tls
	}
	return fmt.Sprintf("%s was told %s, %s; read %q", s.backend, s.ends.client, security, s.first)
}

// ends are both ends of a client's connection. One of them does not tell
// connections apart: the kernel gives a port out again.
type ends struct{ client, listener netip.AddrPort }

// sightings remembers who was seen.
type sightings struct {
	mu sync.Mutex
	by map[ends]sighting
}

func (s *sightings) add(seen sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[ends]sighting{}
	}
	s.by[seen.ends] = seen
}

func (s *sightings) of(e ends) (sighting, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen, ok := s.by[e]
	return seen, ok
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// A legacyListener notes who came.
type legacyListener struct {
	net.Listener // of proxyproto
	name         string
	seen         *sightings
}

func (l *legacyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &legacyConn{Conn: c, listener: l}, nil
}

// A legacyConn notes the first line its server reads, or of a protocol without
// lines what comes first.
type legacyConn struct {
	net.Conn
	listener *legacyListener
	line     []byte
	noted    bool
}

func (c *legacyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.noted && n > 0 {
		c.line = append(c.line, p[:n]...)
		line, _, ok := bytes.Cut(c.line, []byte("\n"))
		binary := bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\r' })
		if ok || binary || len(c.line) > 512 {
			c.noted = true
			c.listener.seen.add(sighting{
				backend: c.listener.name,
				ends:    ends{client: addrPort(c.RemoteAddr()), listener: addrPort(c.LocalAddr())},
				tls:     toldTLS(c.Conn),
				first:   firstWords(line, binary),
			})
		}
	}
	return n, err
}

// firstWords makes what a server read fit to be shown: a line up to where
// IMAP's LOGIN has its arguments, or how a message without lines begins.
func firstWords(line []byte, binary bool) string {
	if binary {
		return fmt.Sprintf("% x", line[:min(len(line), 8)])
	}
	verb, _, login := strings.Cut(strings.TrimSpace(string(line)), " LOGIN ")
	if login {
		return verb + " LOGIN …"
	}
	return verb
}

// toldTLS returns the TLS version that a connection's PROXY header tells of.
func toldTLS(c net.Conn) string {
	pc, ok := c.(*proxyproto.Conn)
	if !ok || pc.ProxyHeader() == nil {
		return ""
	}
	tlvs, err := pc.ProxyHeader().TLVs()
	if err != nil {
		return ""
	}
	ssl, ok := tlvparse.FindSSL(tlvs)
	if !ok || !ssl.ClientSSL() {
		return ""
	}
	version, _ := ssl.SSLVersion()
	return version
}
