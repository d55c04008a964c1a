package integration

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// A backend that is down is told in the protocol's words, inside TLS, with a
// clean end after it, without a word on where the backend is. Control: the
// same gateway serves on the other listener, whose backend is up.
func TestBackendDown(t *testing.T) {
	t.Parallel()
	gw := serve(t, `
listener "smtp" "mx" {
  address = [{{listen "mx"}}]
  mode    = "starttls"
  backend = backend.down
}
listener "smtp" "smtps" {
  address = [{{listen "smtps"}}]
  mode    = "implicit"
  backend = backend.down
}
listener "smtp" "open" {
  address   = [{{listen "open"}}]
  mode      = "starttls"
  cleartext = "allow"
  backend   = backend.down
}
listener "imap" "imap" {
  address = [{{listen "imap"}}]
  mode    = "starttls"
  backend = backend.down
}
listener "imap" "imaps" {
  address = [{{listen "imaps"}}]
  mode    = "implicit"
  backend = backend.down
}
listener "smtp" "up" {
  address = [{{listen "up"}}]
  mode    = "starttls"
  backend = backend.up
}
backend "down" { servers = [{{nowhere}}] }
backend "up"   { servers = [{{postfix "mx"}}] }
`)
	localhost := lab.pki.client("localhost")
	for _, c := range []struct {
		listener string
		security string
		provoke  func(c *peer) string // returns what the client is told
	}{
		{"mx", "encrypted", func(c *peer) string {
			c.reply(220)
			c.cmd(250, "EHLO client.example.net")
			c.cmd(220, "STARTTLS")
			c.tls(localhost)
			return c.cmd(421, "EHLO client.example.net").String()
		}},
		{"smtps", "encrypted", func(c *peer) string {
			c.tls(localhost)
			return c.reply(421).String()
		}},
		{"open", "cleartext", func(c *peer) string {
			c.reply(220)
			c.cmd(250, "EHLO client.example.net")
			return c.cmd(421, "MAIL FROM:<a@example.net>").String()
		}},
		{"imap", "encrypted", func(c *peer) string {
			c.imapTLS(localhost)
			tagged, _ := c.imap("CAPABILITY") // RFC 5530 has a code for it
			return tagged + c.want(`^\* BYE `)
		}},
		{"imaps", "encrypted", func(c *peer) string {
			c.tls(localhost)
			return c.want(`^\* BYE `)
		}},
	} {
		t.Run(c.listener, func(t *testing.T) {
			from := loopback()
			p := dial(t, from, gw.addr(c.listener))
			told := c.provoke(p)
			rest := p.rest()
			if strings.Contains(told+rest, "127.0.0.1") {
				t.Errorf("the client learned of the backend: %q", told+rest)
			}
			gw.session(from).is(t, "outcome", "backend_down", "security", c.security)
		})
	}
	t.Run("control", func(t *testing.T) {
		c := dial(t, loopback(), gw.addr("up"))
		c.smtpTLS(localhost)
		c.cmd(250, "MAIL FROM:<a@example.net>")
	})
}

// The next server serves when one does not listen, or greets only to refuse
// for now, and the client notices nothing. Control: with the refusing servers
// alone there is no session.
func TestNextServer(t *testing.T) {
	t.Parallel()
	thePostfix(t)
	busySMTP := serveStub(t, greeting("421 4.3.2 stub.example.org too busy"))
	busyIMAP := serveStub(t, greeting("* BYE too busy"))
	hcl := func(smtp, imap string) string {
		return strings.NewReplacer(`{{postfix "mx"}}`, smtp, `{{dovecot "imap"}}`, imap).Replace(mx + mailboxes)
	}
	localhost := lab.pki.client("localhost")
	gw := serve(t, hcl(fmt.Sprintf(`{{nowhere}}, %q, {{postfix "mx"}}`, busySMTP.addr), fmt.Sprintf(`{{nowhere}}, %q, {{dovecot "imap"}}`, busyIMAP.addr)))
	for range 6 { // so that round_robin begins with each of them twice
		c := dial(t, loopback(), gw.addr("mx"))
		if r := c.smtpTLS(localhost); r.lines[0] != "mx.example.org" {
			t.Errorf("EHLO is answered %s", r)
		}
		c = dialTLS(t, loopback(), gw.addr("smtps"), localhost)
		c.want("^220 mx.example.org")
		c = dial(t, loopback(), gw.addr("imap"))
		c.imapTLS(localhost)
		c.imapOK("LOGIN next %s", password)
		c = dialTLS(t, loopback(), gw.addr("imaps"), localhost)
		c.want("dovecot ready")
	}
	for _, s := range []*stub{busySMTP, busyIMAP} {
		if s.heard("connected") == nil {
			t.Error("the busy server was never tried")
		}
	}

	gw = serve(t, hcl(fmt.Sprintf(`{{nowhere}}, %q`, busySMTP.addr), fmt.Sprintf(`{{nowhere}}, %q`, busyIMAP.addr)))
	from := loopback()
	c := dialTLS(t, from, gw.addr("smtps"), localhost)
	c.reply(421)
	c.rest()
	if outcome := gw.session(from).field("outcome"); !strings.HasPrefix(outcome, "backend_") {
		t.Errorf("control: outcome %s", outcome)
	}
	c = dialTLS(t, loopback(), gw.addr("imaps"), localhost)
	c.want(`^\* BYE`)
}

// A backend that has no service for this client says so once and for all: its
// 554 answers the client, on whichever port. Control: a stub that greets with
// 220 is joined.
func TestRefusal(t *testing.T) {
	t.Parallel()
	hcl := func(f func(*stub, net.Conn)) string {
		return strings.Replace(mx, `{{postfix "mx"}}`, fmt.Sprintf("%q", serveStub(t, f).addr), 1)
	}
	localhost := lab.pki.client("localhost")
	gw := serve(t, hcl(greeting("554 5.7.1 no service for you")))
	c := dialTLS(t, loopback(), gw.addr("smtps"), localhost)
	c.want("^554 5.7.1 no service for you")
	c.send("QUIT")
	c.rest()
	c = dial(t, loopback(), gw.addr("mx"))
	c.reply(220)
	c.cmd(250, "EHLO client.example.net")
	c.cmd(220, "STARTTLS")
	c.tls(localhost)
	c.cmd(554, "EHLO client.example.net")

	gw = serve(t, hcl(smtpStub))
	c = dialTLS(t, loopback(), gw.addr("smtps"), localhost)
	c.want("^220 stub.example.org")
	c = dial(t, loopback(), gw.addr("mx"))
	c.smtpTLS(localhost)
}

// A backend that greets with PREAUTH has logged the gateway in: nobody gets
// that session (RFC 9051, 7.1.4). Control: a stub that greets with OK is
// joined.
func TestPreauth(t *testing.T) {
	t.Parallel()
	hcl := func(s *stub) string {
		return strings.Replace(mailboxes, `{{dovecot "imap"}}`, fmt.Sprintf("%q", s.addr), 1)
	}
	trusting := serveStub(t, greeting("* PREAUTH [CAPABILITY IMAP4rev1] welcome, root"))
	gw := serve(t, hcl(trusting))
	localhost := lab.pki.client("localhost")

	c := dialTLS(t, loopback(), gw.addr("imaps"), localhost)
	c.want(`^\* BYE`)
	c.closed()
	c = dial(t, loopback(), gw.addr("imap"))
	c.imapTLS(localhost)
	c.send("a CAPABILITY")
	c.want(`^\* BYE`)
	if rest := c.rest(); strings.Contains(rest, "a OK") {
		t.Errorf("the session goes on: %q", rest)
	}

	gw = serve(t, hcl(serveStub(t, imapStub)))
	c = dialTLS(t, loopback(), gw.addr("imaps"), localhost)
	c.want(`^\* OK .*stub ready`)
	c.imapOK("NOOP")
}
