package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A far server is one with TLS of its own.
type far struct {
	protocol string
	mode     string // how TLS begins on the way to it
	addr     string
	// byTLS returns what shows that the session of a user came to the server by
	// TLS, or "".
	byTLS func(t *testing.T, user string) string
}

func farServers(t *testing.T) []far {
	t.Helper()
	theInnerPKI(t)
	p, s := thePostfix(t), theSecureStore(t)
	received := func(t *testing.T, user string) string {
		return regexp.MustCompile(`\(using TLSv1.3 with cipher`).FindString(string(p.delivered(t, user)))
	}
	login := func(t *testing.T, user string) string {
		return s.log.wait(t, `Login: user=<`+user+`>.*, TLS,`)
	}
	stored := func(_ *testing.T, user string) string {
		return regexp.MustCompile(`\(using TLSv1.3 with cipher`).FindString(strings.Join(s.received(user), "\n"))
	}
	return []far{
		{"smtp", "starttls", p.addr("tls"), received},
		{"smtp", "implicit", p.addr("wrapped"), received},
		{"imap", "starttls", s.addr("imap"), login},
		{"imap", "implicit", s.addr("imaps"), login},
		{"pop3", "starttls", s.addr("pop3"), login},
		{"pop3", "implicit", s.addr("pop3s"), login},
		{"lmtp", "starttls", s.addr("lmtp_inet"), stored},
	}
}

// farGateway is a gateway with a listener for each way to begin TLS before a
// server, and settings for the tls block of the backend.
func farGateway(t *testing.T, protocol, mode, addr, settings string) *gateway {
	t.Helper()
	return serve(t, fmt.Sprintf(`
listener %[1]q "asks" {
  address  = [{{listen "asks"}}]
  mode     = "starttls"
  hostname = "gw.example.org"
  backend  = backend.far
}
listener %[1]q "begins" {
  address  = [{{listen "begins"}}]
  mode     = "implicit"
  hostname = "gw.example.org"
  backend  = backend.far
}
backend "far" {
  servers = [%[3]q]
  tls {
    mode = %[2]q
    %[4]s
  }
}
`, protocol, mode, addr, settings))
}

// enter goes through the gateway's TLS, on the listener that is asked or the
// one that begins with it, and returns the first line of what is told then: the
// greeting, or the answer to a first command.
func (p *peer) enter(protocol, listener string) string {
	p.t.Helper()
	hello := map[string]string{"smtp": "EHLO client.example.net", "lmtp": "LHLO client.example.net", "imap": "a CAPABILITY", "pop3": "CAPA"}[protocol]
	request := map[string]string{"smtp": "STARTTLS", "lmtp": "STARTTLS", "imap": "s STARTTLS", "pop3": "STLS"}[protocol]
	if listener == "begins" {
		p.tls(lab.pki.client("localhost"))
		return p.line()
	}
	p.line()
	if protocol == "smtp" || protocol == "lmtp" {
		p.send("%s", hello)
		p.reply(250)
	}
	p.send("%s", request)
	p.line()
	p.tls(lab.pki.client("localhost"))
	p.send("%s", hello)
	return p.line()
}

// greets is how what enter returns begins when there is a backend.
var greets = map[string]map[string]string{
	"smtp": {"asks": "250-", "begins": "220 "},
	"lmtp": {"asks": "250-", "begins": "220 "},
	"imap": {"asks": "* CAPABILITY", "begins": "* OK"},
	"pop3": {"asks": "+OK", "begins": "+OK"},
}

// refuses is how it begins when there is none.
var refuses = map[string]map[string]string{
	"smtp": {"asks": "421 ", "begins": "421 "},
	"lmtp": {"asks": "421 ", "begins": "421 "},
	"imap": {"asks": "* BYE", "begins": "* BYE"},
	"pop3": {"asks": "-ERR [SYS/TEMP]", "begins": "-ERR [SYS/TEMP]"},
}

// finish does what the protocol is for, once inside.
func (p *peer) finish(t *testing.T, protocol, listener, user string) {
	t.Helper()
	switch protocol {
	case "smtp", "lmtp":
		if listener == "asks" {
			for !strings.HasPrefix(p.line(), "250 ") { // the rest of the reply
			}
		} else {
			p.cmd(250, "%s client.example.net", map[string]string{"smtp": "EHLO", "lmtp": "LHLO"}[protocol])
		}
		to := user
		if protocol == "smtp" {
			to += "@raw.example.org"
		}
		p.mail(to, "far")
		p.cmd(221, "QUIT")
	case "imap":
		if listener == "asks" {
			p.until(`^a OK`)
		}
		p.imapOK("LOGIN %s %s", user, password)
		p.imapOK("LOGOUT")
	case "pop3":
		if listener == "asks" {
			p.until(`^\.$`)
		}
		p.pop(true, "USER %s", user)
		p.pop(true, "PASS %s", password)
		p.pop(true, "QUIT")
	}
	p.clean()
}

// Servers with TLS of their own, which take nothing without it, are reached by
// STARTTLS and by implicit TLS, with their certificate verified; what
// they log, or write into the mail, says that the gateway came by TLS. Control: without the tls block there
// is no such session.
func TestBackendTLS(t *testing.T) {
	t.Parallel()
	ca := fmt.Sprintf("ca_file = %q\n    server_name = %q", theInnerPKI(t).ca, innerName)
	s := theSecureStore(t)
	for _, f := range farServers(t) {
		t.Run(f.protocol+"/"+f.mode, func(t *testing.T) {
			t.Parallel()
			gw := farGateway(t, f.protocol, f.mode, f.addr, ca)
			for _, listener := range []string{"asks", "begins"} {
				user := s.user()
				from := loopback()
				c := dial(t, from, gw.addr(listener))
				if got := c.enter(f.protocol, listener); !strings.HasPrefix(got, greets[f.protocol][listener]) {
					t.Fatalf("%s: inside TLS came %q", listener, got)
				}
				c.finish(t, f.protocol, listener, user)
				gw.session(from).is(t, "outcome", "ok", "security", "encrypted", "backend", f.addr)
				if f.byTLS(t, user) == "" {
					t.Errorf("%s: the server does not say that the session came by TLS", listener)
				}
			}
		})
	}
	t.Run("tcp/implicit", func(t *testing.T) {
		gw := serve(t, fmt.Sprintf(`
listener "tcp" "raw" {
  address = [{{listen "raw"}}]
  backend = backend.far
}
backend "far" {
  servers = [%q]
  tls {
    mode = "implicit"
    %s
  }
}
`, s.addr("imaps"), ca))
		c := dialTLS(t, loopback(), gw.addr("raw"), lab.pki.client("localhost"))
		c.want(`^\* OK .*secure ready`)
		c.imapOK("LOGIN %s %s", s.user(), password)
		c.imapOK("LOGOUT")
		c.clean()
	})
	t.Run("control", func(t *testing.T) {
		gw := serve(t, maildropsBy(fmt.Sprintf("servers = [%q]", s.addr("pop3"))))
		c := dial(t, loopback(), gw.addr("pop3s"))
		c.tls(lab.pki.client("localhost"))
		c.want(`^\+OK`)
		c.pop(false, "USER %s", s.user())
	})
}

// B-03: a server whose certificate is of a CA that nobody named, or has another
// name, gets no session: the client is told in its protocol's words that there
// is no service now, the backend hears no login and no mail, and the log names
// the cause. Controls: the test above; and with verify = "none" the session is
// had.
func TestBackendTLSUnverified(t *testing.T) {
	t.Parallel()
	inner := theInnerPKI(t)
	for _, f := range farServers(t) {
		for name, settings := range map[string]string{
			"wrong CA":   fmt.Sprintf("ca_file = %q\n    server_name = %q", lab.pki.ca, innerName),
			"wrong name": fmt.Sprintf("ca_file = %q\n    server_name = \"other.example.org\"", inner.ca),
			"no name":    fmt.Sprintf("ca_file = %q", inner.ca), // 127.0.0.1, then
			"none":       `verify = "none"`,
		} {
			if strings.Contains(name, "name") && f.protocol != "pop3" {
				continue // the certificate is looked at in one place for all
			}
			t.Run(f.protocol+"/"+f.mode+"/"+name, func(t *testing.T) {
				t.Parallel()
				gw := farGateway(t, f.protocol, f.mode, f.addr, settings)
				want, outcome := refuses, "backend_down"
				if name == "none" {
					want, outcome = greets, "ok"
				}
				for _, listener := range []string{"asks", "begins"} {
					from := loopback()
					c := dial(t, from, gw.addr(listener))
					got := c.enter(f.protocol, listener)
					if f.protocol == "imap" && listener == "asks" && outcome != "ok" {
						got = c.line() // BYE behind the tagged NO of RFC 5530
					}
					if !strings.HasPrefix(got, want[f.protocol][listener]) || strings.Contains(got, "certificate") {
						t.Errorf("%s: inside TLS came %q", listener, got)
					}
					if outcome == "ok" {
						c.finish(t, f.protocol, listener, theSecureStore(t).user())
					} else {
						c.clean()
					}
					line := gw.session(from)
					line.is(t, "outcome", outcome)
					if outcome != "ok" && !strings.Contains(line.field("error"), "certificate") {
						t.Errorf("the log does not name the cause: %v", line)
					}
				}
			})
		}
	}
}

// A farStub greets, answers the request for TLS as it is told and, where that
// leads on, shakes hands with a good certificate and notes what it hears.
func farStub(t *testing.T, protocol string, behave farBehaviour) *stub {
	t.Helper()
	cert, err := theInnerPKI(t).server("store")
	if err != nil {
		t.Fatal(err)
	}
	return serveStub(t, func(s *stub, conn net.Conn) {
		conn.SetDeadline(time.Now().Add(patience))
		w := farWords[protocol]
		greeting := w.greeting
		if behave.preauth {
			greeting = w.preauth
		}
		conn.Write([]byte(greeting))
		r := bufio.NewReader(conn)
		secure := false
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			verb := strings.TrimSpace(line)
			tag := ""
			if protocol == "imap" {
				tag, verb, _ = strings.Cut(verb, " ")
				tag += " "
			}
			word, _, _ := strings.Cut(strings.ToUpper(verb), " ")
			if secure {
				s.note("inside: " + word)
			} else {
				s.note("clear: " + word)
			}
			switch {
			case word == w.request && !secure:
				answer := w.goAhead
				if behave.refuse {
					answer = w.refusal
				}
				if behave.inject {
					answer += tag + w.injected
				}
				conn.Write([]byte(tag + answer))
				if behave.refuse {
					continue
				}
				if behave.plain {
					conn.Write([]byte(tag + w.injected))
					continue
				}
				over := tls.Server(conn, cert)
				if over.Handshake() != nil {
					return
				}
				s.note("inside: handshake")
				conn, r, secure = over, bufio.NewReader(over), true
			case word == "EHLO" || word == "LHLO" || word == "CAPA" || word == "CAPABILITY":
				caps := w.caps
				if behave.silent || secure {
					caps = w.bare
				}
				if protocol == "imap" {
					caps += tag + "OK done\r\n"
				}
				conn.Write([]byte(caps))
			default:
				conn.Write([]byte(tag + w.fine))
			}
		}
	})
}

// A farBehaviour is what is wrong with a farStub.
type farBehaviour struct {
	inject  bool // words behind the go-ahead
	refuse  bool // TLS is offered and then refused
	silent  bool // TLS is not offered, and taken when asked for all the same
	preauth bool // greets as if the gateway were logged in, or refuses service
	plain   bool // goes on in cleartext behind the go-ahead
}

// farWords are those of a farStub.
var farWords = map[string]struct{ greeting, preauth, request, goAhead, refusal, injected, caps, bare, fine string }{
	"smtp": {"220 far ESMTP\r\n", "554 no service\r\n", "STARTTLS", "220 go\r\n", "454 not now\r\n", "250 injected\r\n", "250-far\r\n250 STARTTLS\r\n", "250 far\r\n", "250 fine\r\n"},
	"lmtp": {"220 far LMTP\r\n", "554 no service\r\n", "STARTTLS", "220 go\r\n", "454 not now\r\n", "250 injected\r\n", "250-far\r\n250 STARTTLS\r\n", "250 far\r\n", "250 fine\r\n"},
	"imap": {"* OK far\r\n", "* PREAUTH far\r\n", "STARTTLS", "OK go\r\n", "NO not now\r\n", "OK injected\r\n", "* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED\r\n", "* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n", "OK fine\r\n"},
	"pop3": {"+OK far\r\n", "-ERR far\r\n", "STLS", "+OK go\r\n", "-ERR not now\r\n", "+OK injected\r\n", "+OK\r\nSTLS\r\n.\r\n", "+OK\r\nUSER\r\n.\r\n", "+OK fine\r\n"},
}

// B-01, B-02: words behind the go-ahead for TLS (CVE-2021-38371), a refusal of
// TLS, a greeting that leaves nothing to be asked, and a server that goes on in
// cleartext, lead to no session, and never to one in cleartext: what the client
// says inside TLS does not reach the server, and what the server said does not
// reach the client. Control: the same stub without a flaw is joined, inside
// TLS, and one that only leaves TLS out of its list is asked for it all
// the same, and if it is refused that was it.
func TestBackendTLSFlaws(t *testing.T) {
	t.Parallel()
	settings := fmt.Sprintf("ca_file = %q\n    server_name = %q", theInnerPKI(t).ca, innerName)
	for _, protocol := range []string{"smtp", "lmtp", "imap", "pop3"} {
		for name, behave := range map[string]farBehaviour{
			"good":                {},
			"injected":            {inject: true},
			"refused":             {refuse: true},
			"not offered":         {silent: true, refuse: true},
			"greets otherwise":    {preauth: true, refuse: true},
			"goes on in the open": {plain: true},
		} {
			t.Run(protocol+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := farStub(t, protocol, behave)
				gw := farGateway(t, protocol, "starttls", s.addr, settings)
				for _, listener := range []string{"asks", "begins"} {
					from := loopback()
					c := dial(t, from, gw.addr(listener))
					got := c.enter(protocol, listener)
					if name == "good" {
						if want := greets[protocol][listener]; !strings.HasPrefix(got, strings.TrimSuffix(want, "-")) {
							t.Errorf("control: %s: inside TLS came %q", listener, got)
						}
						continue
					}
					c.conn.SetWriteDeadline(time.Now().Add(patience))
					fmt.Fprintf(c.conn, "a secret\r\n") // where there is still somebody to say it to
					got += "\n" + c.rest()
					if !strings.Contains(got, refuses[protocol][listener]) || strings.Contains(got, "injected") || strings.Contains(got, "far") {
						t.Errorf("%s: inside TLS came %q", listener, got)
					}
					if outcome := gw.session(from).field("outcome"); !strings.HasPrefix(outcome, "backend_") {
						t.Errorf("%s: outcome %s", listener, outcome)
					}
				}
				if name == "good" {
					if s.heard("inside: handshake") == nil {
						t.Error("control: no session inside TLS")
					}
					return
				}
				for _, word := range []string{"secret", "LOGIN", "USER", "MAIL", "inside: EHLO", "inside: LHLO", "inside: CAP"} {
					if lines := s.heard(word); lines != nil {
						t.Errorf("the server heard %q", lines)
					}
				}
			})
		}
	}
}
