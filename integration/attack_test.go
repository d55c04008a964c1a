package integration

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A dialect is what the attacks need to know of a protocol.
type dialect struct {
	name     string
	greeting string
	hello    string // a harmless command, without CRLF
	request  string // for TLS
	extra    string // what is injected; the word injected is looked for
	goAhead  *regexp.Regexp
	answer   func(line string) string // of the vulnerable stub: the beginning of a reply
	listener string                   // HCL, before a backend named stub
}

var dialects = []dialect{
	{
		name:     "smtp",
		greeting: "220 vulnerable.example.org",
		hello:    "EHLO a",
		request:  "STARTTLS",
		extra:    "NOOP injected",
		goAhead:  regexp.MustCompile(`^220 `),
		answer: func(line string) string {
			if strings.Contains(strings.ToUpper(line), "STARTTLS") {
				return "220"
			}
			return "250"
		},
	},
	{
		name:     "imap",
		greeting: "* OK vulnerable.example.org",
		hello:    "a CAPABILITY",
		request:  "s STARTTLS",
		extra:    "injected NOOP",
		goAhead:  regexp.MustCompile(`^s OK`),
		answer: func(line string) string {
			tag, _, _ := strings.Cut(line, " ")
			return tag + " OK"
		},
	},
}

// serveStubbed is a gateway before a stub that remembers every line, with
// STARTTLS on the listener "clear", with little patience on "brief", and
// implicit TLS on "tls".
func serveStubbed(t *testing.T, d dialect) (*gateway, *stub) {
	t.Helper()
	converse := map[string]func(*stub, net.Conn){"smtp": smtpStub, "imap": imapStub}[d.name]
	s := serveStub(t, converse)
	return serve(t, fmt.Sprintf(`
listener %[1]q "clear" {
  address = [{{listen "clear"}}]
  mode    = "starttls"
  backend = backend.stub
}
listener %[1]q "brief" {
  address = [{{listen "brief"}}]
  mode    = "starttls"
  policy  = policy.brief
  backend = backend.stub
}
policy "brief" {
  dialogue { timeout = "2s" }
}
listener %[1]q "tls" {
  address = [{{listen "tls"}}]
  mode    = "implicit"
  backend = backend.stub
}
backend "stub" { servers = [%[2]q] }
`, d.name, s.addr)), s
}

// begun connects and goes to where TLS could be asked for.
func (d dialect) begun(t *testing.T, addr string) *peer {
	t.Helper()
	c := dial(t, loopback(), addr)
	c.line()
	c.send("%s", d.hello)
	d.answered(c)
	return c
}

// answered reads the reply to hello.
func (d dialect) answered(c *peer) {
	c.t.Helper()
	for {
		if line := c.line(); strings.HasPrefix(line, "250 ") || strings.HasPrefix(line, "a OK") {
			return
		}
	}
}

// inject sends text in pieces, some time apart, and then tries to shake hands
// if it is told to go ahead. It returns "" when that leads nowhere, else what
// is wrong.
func (d dialect) inject(t *testing.T, addr string, gap time.Duration, pieces ...string) (flaw string) {
	t.Helper()
	c := d.begun(t, addr)
	for i, piece := range pieces {
		if i > 0 {
			time.Sleep(gap)
		}
		if _, err := c.conn.Write([]byte(piece)); err != nil {
			return "" // it has hung up already
		}
	}
	c.conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return "" // closed, or an error and no go-ahead
		}
		if d.goAhead.MatchString(line) {
			break
		}
	}
	if c.r.Buffered() > 0 {
		rest, _ := c.r.Peek(c.r.Buffered())
		return fmt.Sprintf("cleartext after the go-ahead: %q", rest)
	}
	if err := c.tryTLS(lab.pki.client("localhost")); err != nil {
		return ""
	}
	c.conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	answered, _ := c.r.ReadString('\n')
	return fmt.Sprintf("upgraded although something was injected, and said %q inside", answered)
}

// G-01 to G-04: what is sent with the request for TLS, in one segment, split
// anywhere, or after the go-ahead, and behind misspelt requests, never leads
// to a session in TLS, and the backend never hears of it. Control: a stub with
// the flaw of CVE-2011-0411 is found out by the same check; and without an
// injection the gateway does upgrade (G-05).
func TestInjection(t *testing.T) {
	t.Parallel()
	for _, d := range dialects {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			gw, backend := serveStubbed(t, d)
			addr := gw.addr("clear")
			request, extra := d.request+"\r\n", d.extra+"\r\n"
			whole := request + extra

			t.Run("G-01", func(t *testing.T) {
				if flaw := d.inject(t, addr, 0, whole); flaw != "" {
					t.Error(flaw)
				}
				gw.waitLog(`"reason":"injection"`)
			})
			t.Run("G-02", func(t *testing.T) {
				for at := 1; at < len(whole); at++ {
					if flaw := d.inject(t, addr, 5*time.Millisecond, whole[:at], whole[at:]); flaw != "" {
						t.Errorf("split at %d: %s", at, flaw)
					}
				}
			})
			t.Run("G-03", func(t *testing.T) {
				c := d.begun(t, addr)
				c.send("%s", d.request)
				c.want(d.goAhead.String())
				c.send("%s", d.extra)
				time.Sleep(50 * time.Millisecond)
				if err := c.tryTLS(lab.pki.client("localhost")); err == nil {
					t.Error("the handshake succeeds behind an injected command")
				}
			})
			t.Run("G-04", func(t *testing.T) {
				for _, misspelt := range []string{
					strings.ToLower(d.request), d.request + " ", d.request + "\t", " " + d.request, d.request + " x", d.request + "\r\n",
					d.request + "\x00", strings.Replace(d.request, "START", "START\x00", 1), d.request + "\r",
				} {
					if flaw := d.inject(t, addr, 0, misspelt+"\r\n"+extra); flaw != "" {
						t.Errorf("%q: %s", misspelt, flaw)
					}
				}
				// A bare LF is no line end, neither of the request nor of what follows.
				for _, text := range []string{d.request + "\n", d.request + "\n" + d.extra + "\n", d.request + "\r\n" + d.extra + "\n"} {
					if flaw := d.inject(t, addr, 0, text); flaw != "" {
						t.Errorf("%q: %s", text, flaw)
					}
				}
			})
			t.Run("G-05", func(t *testing.T) {
				c := dial(t, loopback(), addr)
				c.line()
				c.write([]byte(d.hello + "\r\n" + request))
				d.answered(c)
				c.want(d.goAhead.String())
				c.tls(lab.pki.client("localhost"))
				c.send("%s", d.hello)
				d.answered(c)
			})
			if lines := backend.heard("injected"); lines != nil {
				t.Errorf("the backend heard %q", lines)
			}
			if backend.heard(d.hello) == nil {
				t.Error("control: the backend heard nothing at all")
			}

			t.Run("control", func(t *testing.T) {
				flawed := vulnerable(t, d)
				if flaw := d.inject(t, flawed.addr, 0, whole); !strings.Contains(flaw, "injected") {
					t.Errorf("the check does not see CVE-2011-0411: %q", flaw)
				}
				if flaw := d.inject(t, flawed.addr, 0, " "+d.request+" x\r\n"+extra); flaw == "" {
					t.Error("the check does not see a lenient parser")
				}
			})
		})
	}
}

// G-10, G-11: inside TLS the request for TLS is an error, it is not listed,
// and the session goes on. Control: before TLS it is listed and works, in
// every other test.
func TestSecondUpgrade(t *testing.T) {
	t.Parallel()
	gw := serve(t, mx+mailboxes)
	c := dial(t, loopback(), gw.addr("mx"))
	if r := c.smtpTLS(lab.pki.client("localhost")); r.has("STARTTLS") {
		t.Errorf("listed inside TLS: %s", r)
	}
	if r := c.cmd(0, "STARTTLS"); r.code < 500 {
		t.Errorf("STARTTLS inside TLS: %s", r)
	}
	c.cmd(250, "NOOP")

	c = dial(t, loopback(), gw.addr("imap"))
	c.imapTLS(lab.pki.client("localhost"))
	if caps := c.capabilities(); strings.Contains(strings.Join(caps, " "), "STARTTLS") {
		t.Errorf("listed inside TLS: %v", caps)
	}
	if tagged, _ := c.imap("STARTTLS"); !strings.HasPrefix(tagged, "BAD") && !strings.HasPrefix(tagged, "NO") {
		t.Errorf("STARTTLS inside TLS: %s", tagged)
	}
	c.imapOK("NOOP")
}

// G-06, G-09: a session that went on in cleartext, logged in or not, is never
// upgraded any more, so nothing that was said in it can be taken for something
// said in TLS; it goes on in cleartext. Control: before its first command to
// the backend the same session is upgraded.
func TestNoLateUpgrade(t *testing.T) {
	t.Parallel()
	open := strings.NewReplacer(`mode     = "starttls"`, "mode = \"starttls\"\n  cleartext = \"allow\"",
		`mode    = "starttls"`, "mode = \"starttls\"\n  cleartext = \"allow\"\n  cleartext_auth = true")
	gw := serve(t, open.Replace(mx+mailboxes))
	localhost := lab.pki.client("localhost")

	c := dial(t, loopback(), gw.addr("mx"))
	c.smtpTLS(localhost)
	from := loopback()
	c = dial(t, from, gw.addr("mx"))
	c.reply(220)
	c.cmd(250, "EHLO client.example.net")
	c.cmd(250, "MAIL FROM:<a@example.net>")
	c.cmd(454, "STARTTLS")
	c.cmd(250, "RCPT TO:<late@raw.example.org>")
	if r := c.cmd(250, "EHLO client.example.net"); r.has("STARTTLS") {
		t.Errorf("still offered: %s", r)
	}
	c.cmd(221, "QUIT")
	c.closed()
	gw.session(from).is(t, "security", "cleartext", "outcome", "ok")

	c = dial(t, loopback(), gw.addr("imap"))
	c.imapTLS(localhost)
	from = loopback()
	c = dial(t, from, gw.addr("imap"))
	c.want(`^\* OK`)
	c.imapOK("LOGIN attacker %s", password)
	if tagged, _ := c.imap("STARTTLS"); !strings.HasPrefix(tagged, "BAD") {
		t.Errorf("STARTTLS after LOGIN: %s", tagged)
	}
	if caps := c.capabilities(); strings.Contains(strings.Join(caps, " "), "STARTTLS") {
		t.Errorf("still offered: %v", caps)
	}
	c.imapOK("LOGOUT")
	c.closed()
	gw.session(from).is(t, "security", "cleartext", "outcome", "ok")
}

// G-22: a client that holds more connections than per_ip allows is told so in
// the protocol's words, and others are served. Control: those.
func TestLimits(t *testing.T) {
	t.Parallel()
	few := strings.ReplaceAll(mx+mailboxes, "  backend ", "  policy = policy.few\n  backend ") + `
policy "few" {
  limits { per_ip = 2 }
}
`
	gw := serve(t, few)
	for listener, full := range map[string]string{"mx": "^421 ", "imap": `^\* BYE`} {
		greedy := loopback()
		for range 2 {
			dial(t, greedy, gw.addr(listener)).want(`^220 |^\* OK`)
		}
		c := dial(t, greedy, gw.addr(listener))
		c.want(full)
		c.closed()
		dial(t, loopback(), gw.addr(listener)).want(`^220 |^\* OK`)
	}
}

// verbs are the beginnings of what a browser could be made to send.
var verbs = []string{"GET / HTTP/1.1\r\nHost: reflected\r\n\r\n", "POST /reflected HTTP/1.1\r\n\r\nreflected", "CONNECT reflected:25 HTTP/1.1\r\n\r\n"}

// browse sends an HTTP request and returns "" when the connection ends without
// a byte of it coming back, else what is wrong.
func browse(c *peer, request string) (flaw string) {
	c.line() // the greeting
	c.write([]byte(request))
	c.conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	answer := ""
	for {
		line, err := c.r.ReadString('\n')
		answer += line
		if err != nil {
			if !broken(err) {
				return fmt.Sprintf("the connection stays open after %q", answer)
			}
			break
		}
	}
	for _, word := range []string{"reflected", "HTTP", strings.Fields(request)[0]} {
		if strings.Contains(answer, word) {
			return fmt.Sprintf("the request is reflected: %q", answer)
		}
	}
	return ""
}

// G-18: an HTTP request, in cleartext or inside TLS, ends the connection on
// its first line, no byte of it comes back and none reaches the backend: what
// a browser can be led into (ALPACA) it cannot exploit. Control: a stub that
// repeats unknown commands is found out by the same check.
func TestHTTPVerbs(t *testing.T) {
	t.Parallel()
	for _, d := range dialects {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			gw, backend := serveStubbed(t, d)
			for _, request := range verbs {
				if flaw := browse(dial(t, loopback(), gw.addr("clear")), request); flaw != "" {
					t.Errorf("cleartext: %s", flaw)
				}
				c := dialTLS(t, loopback(), gw.addr("tls"), lab.pki.client("localhost"))
				if flaw := browse(c, request); flaw != "" {
					t.Errorf("inside TLS: %s", flaw)
				}
			}
			if lines := backend.heard("reflected"); lines != nil {
				t.Errorf("the backend heard %q", lines)
			}
			gw.waitLog(`"reason":"http"`)
			if flaw := browse(dial(t, loopback(), vulnerable(t, d).addr), verbs[0]); flaw == "" {
				t.Error("control: the check does not see a reflection")
			}
		})
	}
}

// G-16, G-17: a ClientHello where a command is due and a command where a
// ClientHello is due end soon, and reach no backend. Control: each on the
// other port is served.
func TestWrongPort(t *testing.T) {
	t.Parallel()
	for _, d := range dialects {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			gw, backend := serveStubbed(t, d)
			localhost := lab.pki.client("localhost")
			begin := time.Now()

			c := dial(t, loopback(), gw.addr("clear"))
			if err := c.tryTLS(localhost); err == nil {
				t.Error("a ClientHello is answered on a cleartext port")
			}
			gw.waitLog(`"reason":"client_hello"`)

			from := loopback()
			c = dial(t, from, gw.addr("tls"))
			c.send("%s injected", d.hello)
			if rest := c.rest(); strings.Contains(rest, "\n") {
				t.Errorf("a command is answered on a TLS port: %q", rest)
			}
			gw.session(from).is(t, "outcome", "handshake_failed")

			if spent := time.Since(begin); spent > 5*time.Second {
				t.Errorf("it took %s", spent)
			}
			if lines := backend.heard("injected"); lines != nil {
				t.Errorf("the backend heard %q", lines)
			}
			c = dialTLS(t, loopback(), gw.addr("tls"), localhost)
			c.line()
			c.send("%s", d.hello)
			d.answered(c)
		})
	}
}

// G-19 to G-21: endless lines and slow clients are answered in the protocol's
// words and ended within the budget, which is for the whole dialogue. Control:
// the same client, quick, is served.
func TestBudgets(t *testing.T) {
	t.Parallel()
	for _, d := range dialects {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			gw, _ := serveStubbed(t, d)
			from := loopback()
			c := dial(t, from, gw.addr("clear"))
			c.line()
			endless := strings.Repeat("x", 1<<20)
			for range 16 {
				c.conn.SetWriteDeadline(time.Now().Add(patience))
				if _, err := c.conn.Write([]byte(endless)); err != nil {
					break
				}
			}
			if rest := c.rest(); strings.Contains(rest, "xxx") {
				t.Errorf("reflected: %.100q", rest)
			}
			gw.session(from).is(t, "outcome", "rejected", "reason", "too_long")

			from = loopback()
			c = dial(t, from, gw.addr("brief"))
			c.line()
			begin := time.Now()
			for range 100 {
				if _, err := c.conn.Write([]byte("x")); err != nil {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			gw.session(from).is(t, "outcome", "rejected", "reason", "timeout")
			if spent := time.Since(begin); spent < 1900*time.Millisecond || spent > 6*time.Second {
				t.Errorf("a dialogue of at most 2s ended after %s", spent)
			}
			c = d.begun(t, gw.addr("clear"))
			c.send("%s", d.request)
			c.want(d.goAhead.String())
		})
	}
}
