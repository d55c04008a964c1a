package integration

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// T-01: a client that offers ALPN without an id of the protocol is turned away
// with no_application_protocol, on both kinds of port; one that offers the
// protocol's own, or none, is served (RFC 7301, 3.2). Controls: those.
func TestALPN(t *testing.T) {
	t.Parallel()
	gw := serve(t, mx+mailboxes)
	for _, c := range []struct {
		listener, alpn, bye, said string
		starttls                  string
	}{
		{listener: "mx", starttls: "smtp", alpn: "smtp", bye: "QUIT\r\n", said: "221 2.0.0"},
		{listener: "smtps", alpn: "smtp", bye: "QUIT\r\n", said: "221 2.0.0"},
		{listener: "imap", starttls: "imap", alpn: "imap", bye: "a LOGOUT\r\n", said: "a OK"},
		{listener: "imaps", alpn: "imap", bye: "a LOGOUT\r\n", said: "a OK"},
	} {
		t.Run(c.listener, func(t *testing.T) {
			t.Parallel()
			connect := func(more ...string) result {
				if c.starttls != "" {
					more = append(more, "-starttls", c.starttls)
				}
				return client(t, c.bye, sclient(gw.addr(c.listener), lab.pki.ca, append(more, "-quiet", "-verify_quiet")...)...)
			}
			for _, wrong := range []string{"h2,http/1.1", "ftp", "xmpp-client"} {
				if res := connect("-alpn", wrong).silentOf(t, c.said).says(t, "no application protocol"); res.code == 0 {
					t.Errorf("openssl is content with %s", wrong)
				}
			}
			connect("-alpn", "h2,"+c.alpn).ok(t).says(t, c.said)
			connect().ok(t).says(t, c.said)
		})
	}
}

// T-08: TLS 1.0 and 1.1 are refused with protocol_version (RFC 8996), TLS 1.2
// and 1.3 are served, and 1.2 only with forward secrecy, whatever the key of
// the certificate. Control: a stub that takes the old is reached by the same
// commands.
func TestVersions(t *testing.T) {
	t.Parallel()
	if err := lab.pki.issueRSA("rsa", "rsa.example.org"); err != nil {
		t.Fatal(err)
	}
	gw := serve(t, mx+lab.pki.hcl("rsa"))
	connect := func(addr string, more ...string) result {
		argv := append(sclient(addr, lab.pki.ca, "-servername", "rsa.example.org", "-quiet", "-verify_quiet"), more...)
		return client(t, "QUIT\r\n", append(argv, "-verify_hostname", "rsa.example.org")...)
	}
	starttls := []string{"-starttls", "smtp"}
	old := [][]string{
		{"-tls1", "-cipher", "ALL:@SECLEVEL=0"},
		{"-tls1_1", "-cipher", "ALL:@SECLEVEL=0"},
		{"-tls1_2", "-cipher", "AES128-GCM-SHA256:AES128-SHA"}, // RSA key exchange
	}
	for i, options := range old {
		for _, res := range []result{connect(gw.addr("smtps"), options...), connect(gw.addr("mx"), append(options, starttls...)...)} {
			if res.silentOf(t, "mx.example.org").says(t, []string{"protocol version", "protocol version", "handshake failure"}[i]); res.code == 0 {
				t.Errorf("openssl is content with %v", options)
			}
		}
	}
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		connect(gw.addr("smtps"), version).ok(t).says(t, "221 2.0.0")
		connect(gw.addr("mx"), append(starttls, version)...).ok(t).says(t, "221 2.0.0")
	}

	cfg, err := lab.pki.server("rsa")
	if err != nil {
		t.Fatal(err)
	}
	cfg.MinVersion = tls.VersionTLS10
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		cfg.CipherSuites = append(cfg.CipherSuites, suite.ID)
	}
	lenient := serveStub(t, func(_ *stub, conn net.Conn) {
		c := tls.Server(conn, cfg)
		fmt.Fprintf(c, "220 mx.example.org\r\n")
		c.CloseWrite()
		io.Copy(io.Discard, c)
	})
	for _, options := range old {
		connect(lenient.addr, options...).says(t, "mx.example.org")
	}
}

// The group of the key exchange is post-quantum where the client can do it,
// and the log says which it was. Control: a client that cannot is logged with
// its own.
func TestGroup(t *testing.T) {
	t.Parallel()
	gw := serve(t, mx)
	for _, want := range []tls.CurveID{tls.X25519MLKEM768, tls.X25519} {
		cfg := lab.pki.client("localhost")
		if want != tls.X25519MLKEM768 {
			cfg.CurvePreferences = []tls.CurveID{want}
		}
		from := loopback()
		c := dial(t, from, gw.addr("mx"))
		c.smtpTLS(cfg)
		c.cmd(221, "QUIT")
		c.clean()
		gw.session(from).is(t, "group", want.String(), "tls_version", "TLSv1.3", "sni", "localhost", "resumed", "false")
	}
}

// Raw TLS is opaque from the first byte: what has no STARTTLS can stand behind
// it, in both directions at once, and a half-close passes on without cutting
// what the other side still has to say (RFC 8446, 6.1). Control: the digest
// that comes back is of what was sent, which the backend alone can know.
func TestRawTLS(t *testing.T) {
	t.Parallel()
	backend := serveStub(t, func(_ *stub, conn net.Conn) {
		h := sha256.New()
		io.Copy(h, conn) // until the client has half-closed
		time.Sleep(200 * time.Millisecond)
		conn.Write(bulky(4<<20, 9, true))
		fmt.Fprintf(conn, "%x\n", h.Sum(nil))
	})
	gw := serve(t, fmt.Sprintf(`
listener "tcp" "raw" {
  address = [{{listen "raw"}}]
  backend = backend.raw
}
listener "tcp" "postfix" {
  address = [{{listen "postfix"}}]
  backend = backend.postfix
}
backend "raw"     { servers = [%q] }
backend "postfix" { servers = [{{postfix "mx"}}] }
`, backend.addr))
	sent := bulky(8<<20, 8, true)
	c := dialTLS(t, loopback(), gw.addr("raw"), lab.pki.client("localhost"))
	c.write(sent)
	if err := c.conn.(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.conn.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(c.r)
	if err != nil {
		t.Errorf("no clean end: %v", err)
	}
	if want := fmt.Appendf(bulky(4<<20, 9, true), "%x\n", sha256.Sum256(sent)); !bytes.Equal(got, want) {
		t.Errorf("the answer: %s", differ(got, want))
	}

	client(t, "EHLO inside.example.net\r\nQUIT\r\n", sclient(gw.addr("postfix"), lab.pki.ca, "-quiet", "-verify_quiet")...).
		ok(t).says(t, "220 mx.example.org", "250-mx.example.org", "221 2.0.0")
}

// A backend that dies in mid-stream is no clean end: the client sees the TCP
// connection close without close_notify, so that truncation shows (RFC 8446,
// 6.1). Control: a backend that ends in good order is ended with close_notify.
func TestTruncation(t *testing.T) {
	t.Parallel()
	reset := serveStub(t, func(_ *stub, conn net.Conn) {
		conn.Read(make([]byte, 1))
		fmt.Fprintf(conn, "half of it")
		time.Sleep(200 * time.Millisecond)
		conn.(*net.TCPConn).SetLinger(0)
	})
	fin := serveStub(t, func(_ *stub, conn net.Conn) {
		conn.Read(make([]byte, 1))
		fmt.Fprintf(conn, "all of it")
	})
	gw := serve(t, fmt.Sprintf(`
listener "tcp" "reset" {
  address = [{{listen "reset"}}]
  backend = backend.reset
}
listener "tcp" "fin" {
  address = [{{listen "fin"}}]
  backend = backend.fin
}
backend "reset" { servers = [%q] }
backend "fin"   { servers = [%q] }
`, reset.addr, fin.addr))
	read := func(listener string) (string, error) {
		c := dialTLS(t, loopback(), gw.addr(listener), lab.pki.client("localhost"))
		c.write([]byte("x"))
		c.conn.SetReadDeadline(time.Now().Add(patience))
		b, err := io.ReadAll(c.r)
		return string(b), err
	}
	if got, err := read("reset"); err == nil || !broken(err) {
		t.Errorf("a backend that died reads %q, %v", got, err)
	}
	if got, err := read("fin"); err != nil || strings.TrimSpace(got) != "all of it" {
		t.Errorf("control: a backend that ended reads %q, %v", got, err)
	}
}
