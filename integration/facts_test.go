package integration

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The ways to Postfix, and whether it learns the client's address.
var toPostfix = []struct {
	name    string
	backend string
	told    bool
}{
	{"none", `servers = [{{postfix "mx"}}]`, false},
	{"proxy-v2", "servers = [{{postfix \"proxy\"}}]\n  send = \"proxy-v2\"", true},
	{"xclient", "servers = [{{postfix \"xclient\"}}]\n  forward { xclient = true }", true},
}

// mxBy is mx with another backend.
func mxBy(backend string) string {
	return strings.Replace(mx, `servers = [{{postfix "mx"}}]`, backend, 1)
}

// Postfix logs the client's own address, and writes it into the Received
// field, by PROXY v2 and XCLIENT, behind STARTTLS and implicit TLS.
// Control: without any of them it logs the gateway's.
func TestPostfixKnowsClient(t *testing.T) {
	t.Parallel()
	p := thePostfix(t)
	for _, way := range toPostfix {
		gw := serve(t, mxBy(way.backend))
		for _, listener := range []string{"mx", "smtps"} {
			t.Run(way.name+"/"+listener, func(t *testing.T) {
				from := loopback()
				var c *peer
				if listener == "mx" {
					c = dial(t, from, gw.addr(listener))
					c.smtpTLS(lab.pki.client("localhost"))
				} else {
					c = dialTLS(t, from, gw.addr(listener), lab.pki.client("localhost"))
					c.reply(220)
					if r := c.cmd(250, "EHLO client.example.net"); r.has("XCLIENT") || r.has("STARTTLS") {
						t.Errorf("the client is offered what is not for it: %s", r)
					}
				}
				to := fresh("facts-" + way.name)
				c.mail(to+"@raw.example.org", "hello")
				c.cmd(221, "QUIT")
				c.clean()
				sees := gatewayAddr
				if way.told {
					sees = from
				}
				message := string(p.delivered(t, to))
				received := regexp.MustCompile(`Received: from (.*)\n`).FindStringSubmatch(message)
				if received == nil || !strings.Contains(received[1], "["+sees+"]") {
					t.Errorf("Postfix should have seen %s:\n%s", sees, message)
				}
				if logged := p.log.lines(`client=[^ ]*\[` + regexp.QuoteMeta(from) + `\]`); (logged != nil) != way.told {
					t.Errorf("Postfix logged %q", logged)
				}
				// XCLIENT without a name would leave the gateway's.
				if way.name == "xclient" && !strings.Contains(received[1], "(unknown ["+from+"])") {
					t.Errorf("Received: from %s", received[1])
				}
			})
		}
	}
}

// A Postfix that has the gateway's address in mynetworks relays for nobody
// who comes through the gateway with client facts. Control: without them it
// relays for everybody. That is the reason for client facts.
func TestOpenRelay(t *testing.T) {
	t.Parallel()
	for _, way := range toPostfix {
		t.Run(way.name, func(t *testing.T) {
			gw := serve(t, mxBy(way.backend))
			c := dial(t, loopback(), gw.addr("mx"))
			c.smtpTLS(lab.pki.client("localhost"))
			c.cmd(250, "MAIL FROM:<a@example.net>")
			r := c.cmd(0, "RCPT TO:<victim@far.example.com>")
			want := 250 // the open relay
			if way.told {
				want = 554
			}
			if r.code != want || way.told && !strings.Contains(r.String(), "Relay access denied") {
				t.Errorf("RCPT is answered %s, want %d", r, want)
			}
			c.cmd(250, "RCPT TO:<here@raw.example.org>") // its own mail is always welcome
		})
	}
}

// What Postfix takes from the gateway's address alone it never takes from a
// client, whether the gateway itself uses XCLIENT or not: inside TLS neither
// XCLIENT nor XFORWARD is offered, both are refused, and a PROXY header in
// front of everything is bad input. Control: Postfix itself offers and takes
// XCLIENT from 127.0.0.1.
func TestClientsCannotForge(t *testing.T) {
	t.Parallel()
	p := thePostfix(t)
	const forged = "XCLIENT ADDR=192.0.2.99 NAME=trusted.example.org"

	bare := dial(t, "", p.addr("xclient"))
	bare.reply(220)
	if r := bare.cmd(250, "EHLO client.example.net"); !r.has("XCLIENT") || !r.has("XFORWARD") {
		t.Errorf("control: Postfix offers %s", r)
	}
	bare.cmd(220, forged)
	bare.cmd(250, "EHLO client.example.net")
	to := fresh("forged")
	bare.mail(to+"@raw.example.org", "hello")
	if !strings.Contains(string(p.delivered(t, to)), "[192.0.2.99]") {
		t.Error("control: Postfix did not believe the forged address")
	}

	for _, backend := range []string{
		"servers = [{{postfix \"xclient\"}}]\n  forward { xclient = true }",
		`servers = [{{postfix "xclient"}}]`, // where Postfix would believe the client
	} {
		gw := serve(t, mxBy(backend))
		for _, listener := range []string{"mx", "smtps"} {
			from := loopback()
			var c *peer
			var ehlo reply
			if listener == "mx" {
				c = dial(t, from, gw.addr(listener))
				ehlo = c.smtpTLS(lab.pki.client("localhost"))
			} else {
				c = dialTLS(t, from, gw.addr(listener), lab.pki.client("localhost"))
				c.reply(220)
				ehlo = c.cmd(250, "EHLO client.example.net")
			}
			if ehlo.has("XCLIENT") || ehlo.has("XFORWARD") {
				t.Errorf("the client is offered %s", ehlo)
			}
			c.cmd(550, forged)
			c.cmd(550, "XFORWARD ADDR=192.0.2.99")
			to := fresh("forged")
			c.mail(to+"@raw.example.org", "hello")
			if strings.Contains(string(p.delivered(t, to)), "192.0.2.99") {
				t.Error("Postfix believed the forged address")
			}

			c = dial(t, from, gw.addr(listener))
			c.send("PROXY TCP4 192.0.2.99 192.0.2.1 1234 25")
			if rest := c.rest(); strings.Contains(rest, "192.0.2.99") {
				t.Errorf("%s: %q", listener, rest)
			}
		}
	}
}

// The ways to Dovecot, and whether it learns the client's address.
var toDovecot = []struct {
	name    string
	backend string
	told    bool
}{
	{"none", `servers = [{{dovecot "imap"}}]`, false},
	{"proxy-v2", "servers = [{{dovecot \"proxied\"}}]\n  send = \"proxy-v2\"", true},
	{"id", "servers = [{{dovecot \"imap\"}}]\n  forward { id = true }", true},
}

func mailboxesBy(backend string) string {
	return strings.Replace(mailboxes, `servers = [{{dovecot "imap"}}]`, backend, 1)
}

// Dovecot logs the client's own address as rip by PROXY v2 and ID, behind
// STARTTLS and implicit TLS. Control: without any of them it logs the
// gateway's.
func TestDovecotKnowsClient(t *testing.T) {
	t.Parallel()
	d := theDovecot(t)
	for _, way := range toDovecot {
		gw := serve(t, mailboxesBy(way.backend))
		for _, listener := range []string{"imap", "imaps"} {
			t.Run(way.name+"/"+listener, func(t *testing.T) {
				from := loopback()
				var c *peer
				if listener == "imap" {
					c = dial(t, from, gw.addr(listener))
					c.imapTLS(lab.pki.client("localhost"))
				} else {
					c = dialTLS(t, from, gw.addr(listener), lab.pki.client("localhost"))
					c.want(`^\* OK`)
				}
				user := fresh("facts-" + way.name)
				c.imapOK("LOGIN %s %s", user, password)
				c.imapOK("LOGOUT")
				c.clean()
				sees := gatewayAddr
				if way.told {
					sees = from
				}
				if line := d.log.wait(t, "Login: user=<"+user+">"); !strings.Contains(line, "rip="+sees+",") {
					t.Errorf("Dovecot logged %s, want rip=%s", line, sees)
				}
			})
		}
	}
}

// A client's own ID may name its software but not its address: the x- fields
// that Dovecot believes from the gateway's address are taken out, and the rest
// arrives. Control: Dovecot itself believes them from 127.0.0.1.
func TestClientsCannotForgeID(t *testing.T) {
	t.Parallel()
	d := theDovecot(t)
	const id = `ID ("name" "%s" "x-originating-ip" "192.0.2.98" "x-originating-port" "4711")`
	login := func(c *peer, user string) string {
		c.imapOK(id, user)
		c.imapOK("LOGIN %s %s", user, password)
		return d.log.wait(t, "Login: user=<"+user+">")
	}
	bare := dial(t, "", d.imap)
	bare.want(`^\* OK`)
	if line := login(bare, fresh("forged")); !strings.Contains(line, "rip=192.0.2.98") {
		t.Errorf("control: Dovecot does not believe ID: %s", line)
	}
	for _, way := range toDovecot {
		gw := serve(t, mailboxesBy(way.backend))
		c := dial(t, loopback(), gw.addr("imap"))
		c.imapTLS(lab.pki.client("localhost"))
		user := fresh("forged")
		if line := login(c, user); strings.Contains(line, "192.0.2.98") {
			t.Errorf("%s: %s", way.name, line)
		}
		if way.name != "id" { // Dovecot logs only the first ID, which is the gateway's here
			d.log.wait(t, `ID sent: .*name=`+user)
		}
	}
}

// A Dovecot that wants secured sessions and has no TLS itself takes one for
// secured when the PROXY v2 header says that the client came by TLS. Controls:
// without a header the same Dovecot says LOGINDISABLED, the gateway passes
// that on and its log names the setting; and a session in cleartext, though
// its header has the client's address all the same, is not taken for secured.
func TestDovecotTrustsTLS(t *testing.T) {
	t.Parallel()
	s := theStrictDovecot(t)
	told := strings.Replace(mailboxesBy("servers = [{{strict \"proxied\"}}]\n  send = \"proxy-v2\""),
		`mode    = "starttls"`, "mode = \"starttls\"\n  cleartext = \"allow\"\n  cleartext_auth = true", 1)
	untold := mailboxesBy(`servers = [{{strict "imap"}}]`)
	begin := func(t *testing.T, gw *gateway, listener, from string) *peer {
		if listener == "imaps" {
			c := dialTLS(t, from, gw.addr(listener), lab.pki.client("localhost"))
			c.want(`^\* OK.*strict ready`)
			return c
		}
		c := dial(t, from, gw.addr(listener))
		c.imapTLS(lab.pki.client("localhost"))
		return c
	}
	for _, listener := range []string{"imap", "imaps"} {
		t.Run("told/"+listener, func(t *testing.T) {
			gw := serve(t, told)
			from := loopback()
			c := begin(t, gw, listener, from)
			if caps := c.capabilities(); slices.Contains(caps, "LOGINDISABLED") || !slices.Contains(caps, "AUTH=PLAIN") {
				t.Errorf("inside TLS: %v", caps)
			}
			user := fresh("secured")
			c.imapOK("LOGIN %s %s", user, password)
			if line := s.log.wait(t, "Login: user=<"+user+">"); !strings.Contains(line, "rip="+from+",") {
				t.Errorf("Dovecot logged %s", line)
			}
		})
		t.Run("untold/"+listener, func(t *testing.T) {
			gw := serve(t, untold)
			c := begin(t, gw, listener, loopback())
			caps := c.capabilities()
			tagged, _ := c.imap("LOGIN unsecured %s", password)
			if !slices.Contains(caps, "LOGINDISABLED") || !strings.HasPrefix(tagged, "NO [PRIVACYREQUIRED]") {
				t.Errorf("control: %v, LOGIN %s", caps, tagged)
			}
			gw.waitLog(`"level":"WARN".*disable_plaintext_auth`)
		})
	}
	t.Run("cleartext", func(t *testing.T) {
		gw := serve(t, told)
		c := dial(t, loopback(), gw.addr("imap"))
		c.want(`^\* OK`)
		if tagged, _ := c.imap("LOGIN clear %s", password); !strings.HasPrefix(tagged, "NO [PRIVACYREQUIRED]") {
			t.Errorf("control: a session in cleartext may log in: %s", tagged)
		}
	})
}
