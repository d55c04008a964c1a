package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// deliveriesBy is a gateway of LMTP before a backend: STARTTLS and implicit.
func deliveriesBy(backend string) string {
	return `
listener "lmtp" "lmtp" {
  address  = [{{listen "lmtp"}}]
  mode     = "starttls"
  hostname = "gw.example.org"
  backend  = backend.lmtp
}
listener "lmtp" "lmtps" {
  address  = [{{listen "lmtps"}}]
  mode     = "implicit"
  hostname = "gw.example.org"
  backend  = backend.lmtp
}
backend "lmtp" {
  ` + backend + `
}
`
}

// lhloTLS goes from a connection of LMTP through STARTTLS to the LHLO inside.
func (p *peer) lhloTLS() reply {
	p.t.Helper()
	p.reply(220)
	p.cmd(250, "LHLO client.example.net")
	p.cmd(220, "STARTTLS")
	p.tls(lab.pki.client("localhost"))
	return p.cmd(250, "LHLO client.example.net")
}

// Clients deliver over STARTTLS and implicit TLS to Dovecot, by TCP and by a
// unix socket. Control: the same client against Dovecot itself, which has no
// TLS, must not deliver.
func TestDeliveryClients(t *testing.T) {
	t.Parallel()
	s := theStore(t)
	tcp := fmt.Sprintf("servers = [%q]", s.addr("lmtp_inet"))
	_, bare, _ := strings.Cut(s.addr("lmtp_inet"), ":")
	for _, way := range []struct{ name, backend string }{
		{"tcp", tcp},
		{"unix", fmt.Sprintf("servers = [%q]", "unix:"+s.lmtp)},
	} {
		gw := serve(t, deliveriesBy(way.backend))
		swaks := func(port, to string, tls string) []string {
			return []string{"swaks", "--protocol", "LMTP", "--server", "localhost:" + port, tls, "--tls-verify", "--tls-ca-path", lab.pki.ca,
				"--helo", "client.example.net", "--from", "a@example.net", "--to", to, "--h-Subject", "for " + to, "--body", "hello"}
		}
		typed := func(to string) string {
			return fmt.Sprintf("LHLO client.example.net\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<%s>\r\nDATA\r\nSubject: for %s\r\n\r\nhello\r\n.\r\nQUIT\r\n", to, to)
		}
		msmtp := func(port, to, starttls string) []string {
			return []string{"msmtp", "--protocol=lmtp", "--host=localhost", "--port=" + port, "--tls=on", "--tls-starttls=" + starttls,
				"--tls-trust-file=" + lab.pki.ca, "--from=a@example.net", to}
		}
		for _, c := range []struct {
			name, listener string
			argv           func(port, to string) []string
			stdin          func(to string) string
		}{
			{name: "swaks", listener: "lmtp", argv: func(port, to string) []string { return swaks(port, to, "-tls") }},
			{name: "swaks-implicit", listener: "lmtps", argv: func(port, to string) []string { return swaks(port, to, "--tls-on-connect") }},
			{name: "msmtp", listener: "lmtp", argv: func(port, to string) []string { return msmtp(port, to, "on") }},
			{name: "msmtp-implicit", listener: "lmtps", argv: func(port, to string) []string { return msmtp(port, to, "off") }},
			{name: "openssl", listener: "lmtp", stdin: typed, argv: func(port, _ string) []string {
				return sclient("127.0.0.1:"+port, lab.pki.ca, "-starttls", "lmtp", "-quiet", "-verify_quiet")
			}},
			{name: "openssl-implicit", listener: "lmtps", stdin: typed, argv: func(port, _ string) []string {
				return sclient("127.0.0.1:"+port, lab.pki.ca, "-quiet", "-verify_quiet")
			}},
		} {
			t.Run(way.name+"/"+c.name, func(t *testing.T) {
				deliver := func(port, to string) result {
					stdin := fmt.Sprintf("Subject: for %s\n\nhello\n", to)
					if c.stdin != nil {
						stdin = c.stdin(to)
					}
					return client(t, stdin, c.argv(port, to)...)
				}
				to := s.user()
				deliver(gw.port(c.listener), to).ok(t)
				if !eventually(patience, func() bool { return s.received(to) != nil }) {
					t.Fatal("no mail arrived")
				}
				if mail := s.received(to); len(mail) != 1 || !strings.Contains(mail[0], "for "+to) {
					t.Errorf("what arrived is %q", mail)
				}
				gw.session(c.listener).is(t, "protocol", "lmtp", "security", "encrypted")

				to = s.user()
				deliver(bare, to)
				if mail := s.received(to); mail != nil {
					t.Errorf("control: delivered without TLS: %q", mail)
				}
			})
		}
	}
}

// S-14: each recipient has a reply of its own after DATA (RFC 2033, 4.2), and
// each arrives in its place: of five recipients one is unknown, and one cannot
// get what was accepted for it. EHLO is no command. Control: without the two
// there are as many replies, and all are good.
func TestDeliveryReplies(t *testing.T) {
	t.Parallel()
	s := theStore(t)
	gw := serve(t, deliveriesBy(fmt.Sprintf("servers = [%q]", s.addr("lmtp_inet"))))
	for _, listener := range []string{"lmtp", "lmtps"} {
		t.Run(listener, func(t *testing.T) {
			c := dial(t, loopback(), gw.addr(listener))
			if listener == "lmtp" {
				c.lhloTLS()
			} else {
				c.tls(lab.pki.client("localhost"))
				c.reply(220)
				c.cmd(250, "LHLO client.example.net")
			}
			a, b, d := s.user(), s.user(), s.user()
			c.cmd(250, "MAIL FROM:<a@example.net>")
			c.cmd(250, "RCPT TO:<%s>", a)
			c.cmd(550, "RCPT TO:<nobody-here>")
			c.cmd(250, "RCPT TO:<%s>", b)
			c.cmd(250, "RCPT TO:<broken>")
			c.cmd(250, "RCPT TO:<%s>", d)
			c.cmd(354, "DATA")
			c.send("Subject: for all\r\n\r\nhello\r\n.")
			for _, want := range []struct {
				code int
				to   string
			}{{250, a}, {250, b}, {451, "broken"}, {250, d}} {
				if r := c.reply(want.code); !strings.Contains(r.String(), "<"+want.to+">") {
					t.Errorf("the reply for %s is %s", want.to, r)
				}
			}
			for _, user := range []string{a, b, d} {
				if mail := s.received(user); len(mail) != 1 {
					t.Errorf("%s has %d messages", user, len(mail))
				}
			}
			// Pipelined, and nothing refused.
			c.send("MAIL FROM:<a@example.net>\r\nRCPT TO:<%s>\r\nRCPT TO:<%s>\r\nDATA", a, b)
			c.reply(250)
			c.reply(250)
			c.reply(250)
			c.reply(354)
			c.send("Subject: again\r\n\r\nhello\r\n.\r\nQUIT")
			c.reply(250)
			c.reply(250)
			c.reply(221)
			c.clean()
		})
	}
	c := dial(t, loopback(), gw.addr("lmtp"))
	c.reply(220)
	c.cmd(500, "EHLO client.example.net")
	c.cmd(500, "HELO client.example.net")
	c.cmd(530, "MAIL FROM:<a@example.net>")
	c.lhloAfter(t)
}

// lhloAfter finds the session alive after refusals.
func (p *peer) lhloAfter(t *testing.T) {
	t.Helper()
	if r := p.cmd(250, "LHLO client.example.net"); !r.has("STARTTLS") || r.has("XCLIENT") {
		t.Errorf("LHLO is answered %s", r)
	}
	p.cmd(221, "QUIT")
}

// Dovecot learns the client's address by PROXY v2 and XCLIENT, which clients
// are neither offered nor allowed. Control: without them it learns the
// gateway's, and it believes XCLIENT from 127.0.0.1.
func TestDeliveryKnowsClient(t *testing.T) {
	t.Parallel()
	s := theStore(t)
	for _, way := range []struct {
		name, backend string
		told          bool
	}{
		{"none", fmt.Sprintf("servers = [%q]", s.addr("lmtp_inet")), false},
		{"proxy-v2", fmt.Sprintf("servers = [%q]\n  send = \"proxy-v2\"", s.addr("lmtp_proxied")), true},
		{"xclient", fmt.Sprintf("servers = [%q]\n  forward { xclient = true }", s.addr("lmtp_inet")), true},
	} {
		t.Run(way.name, func(t *testing.T) {
			gw := serve(t, deliveriesBy(way.backend))
			from := loopback()
			c := dial(t, from, gw.addr("lmtp"))
			if r := c.lhloTLS(); r.has("XCLIENT") || r.has("STARTTLS") {
				t.Errorf("inside TLS: %s", r)
			}
			c.cmd(550, "XCLIENT ADDR=192.0.2.96")
			to := s.user()
			c.mail(to, "hello")
			c.cmd(221, "QUIT")
			c.clean()
			sees := gatewayAddr
			if way.told {
				sees = from
			}
			mail := s.received(to)
			if len(mail) != 1 || !strings.Contains(mail[0], "(["+sees+"])") {
				t.Errorf("Dovecot should have seen %s: %q", sees, mail)
			}
		})
	}
	c := dial(t, "", s.addr("lmtp_inet"))
	c.reply(220)
	if r := c.cmd(250, "LHLO client.example.net"); !slices.ContainsFunc(r.lines, func(l string) bool { return strings.HasPrefix(l, "XCLIENT ") }) {
		t.Errorf("control: Dovecot offers %s", r)
	}
	c.cmd(220, "XCLIENT ADDR=192.0.2.96")
	c.cmd(250, "LHLO client.example.net")
	to := s.user()
	c.mail(to, "hello")
	if mail := s.received(to); len(mail) != 1 || !strings.Contains(mail[0], "([192.0.2.96])") {
		t.Errorf("control: Dovecot does not believe XCLIENT: %q", mail)
	}
}
