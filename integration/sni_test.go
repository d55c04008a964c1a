package integration

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const sniRoutes = `
listener "smtp" "mx" {
  address = [{{listen "mx"}}]
  mode    = "starttls"
  route {
    sni     = ["mail.example.org"]
    backend = backend.second
  }
  route {
    sni     = ["*.corp.example"]
    backend = backend.third
  }
  route { backend = backend.first }
}
listener "imap" "imap" {
  address = [{{listen "imap"}}]
  mode    = "starttls"
  route {
    sni     = ["*.corp.example"]
    backend = backend.strict
  }
  route { backend = backend.dovecot }
}
listener "imap" "imaps" {
  address = [{{listen "imaps"}}]
  mode    = "implicit"
  route {
    sni     = ["*.corp.example"]
    backend = backend.strict
  }
  route { backend = backend.dovecot }
}
backend "first"   { servers = [{{postfix "mx"}}] }
backend "second"  { servers = [{{postfix "second"}}] }
backend "third"   { servers = [{{postfix "third"}}] }
backend "dovecot" { servers = [{{dovecot "imap"}}] }
backend "strict"  { servers = [{{strict "imap"}}] }
`

// The name in the handshake chooses certificate and backend, after STARTTLS as
// well as on an implicit port; no name, or one nobody serves, is the default's.
// Control: with a single route the same names all reach the same backend.
func TestSNI(t *testing.T) {
	t.Parallel()
	p, d, strict := thePostfix(t), theDovecot(t), theStrictDovecot(t)
	gw := serve(t, sniRoutes)
	for _, c := range []struct {
		sni, cert, smtp, imap string
	}{
		{"mail.example.org", "mail.example.org", "second", d.imap},
		{"MAIL.Example.ORG", "mail.example.org", "second", d.imap},
		{"imap.corp.example", "imap.corp.example", "third", strict.imap},
		{"a.b.corp.example", "localhost", "mx", d.imap}, // a wildcard is one label
		{"localhost", "localhost", "mx", d.imap},
		{"nobody.example.com", "localhost", "mx", d.imap},
		{"", "localhost", "mx", d.imap},
	} {
		t.Run(fmt.Sprintf("%q", c.sni), func(t *testing.T) {
			t.Parallel()
			name := []string{"-servername", c.sni, "-verify_hostname", c.cert}
			if c.sni == "" {
				name = []string{"-noservername", "-verify_hostname", c.cert}
			}
			host := map[string]string{"mx": "mx", "second": "second", "third": "third"}[c.smtp] + ".example.org"
			from := loopback()
			client(t, "EHLO inside.example.net\r\nQUIT\r\n", sclient(gw.addr("mx"), lab.pki.ca, append(name, "-bind", from, "-starttls", "smtp", "-quiet", "-verify_quiet")...)...).
				ok(t).says(t, "250-"+host)
			gw.session(from).is(t, "backend", p.addr(c.smtp), "sni", c.sni)

			from = loopback()
			client(t, "a LOGOUT\r\n", sclient(gw.addr("imap"), lab.pki.ca, append(name, "-bind", from, "-starttls", "imap", "-quiet", "-verify_quiet")...)...).
				ok(t).says(t, "a OK")
			gw.session(from).is(t, "backend", c.imap, "sni", c.sni)

			greeting := "dovecot ready"
			if c.imap == strict.imap {
				greeting = "strict ready"
			}
			client(t, "a LOGOUT\r\n", sclient(gw.addr("imaps"), lab.pki.ca, append(name, "-quiet", "-verify_quiet")...)...).
				ok(t).says(t, greeting)
		})
	}

	t.Run("control", func(t *testing.T) {
		gw := serve(t, mx)
		for _, sni := range []string{mailName, corpName, "localhost"} {
			c := dial(t, loopback(), gw.addr("mx"))
			if r := c.smtpTLS(lab.pki.client(sni)); !strings.HasPrefix(r.lines[0], "mx.example.org") {
				t.Errorf("%s leads to %s", sni, r.lines[0])
			}
		}
	})
}

// T-04: with strict_sni a name without a certificate ends the handshake with
// unrecognized_name; no name at all is still served (RFC 6066, 3). Control:
// the default serves the first certificate, above.
func TestStrictSNI(t *testing.T) {
	t.Parallel()
	gw := serve(t, strings.Replace(mx, `mode     = `, "strict_sni = true\n  mode     = ", 1))
	starttls := func(names ...string) result {
		return client(t, "QUIT\r\n", sclient(gw.addr("mx"), lab.pki.ca, append(names, "-starttls", "smtp", "-quiet", "-verify_quiet")...)...)
	}
	starttls("-servername", "localhost").ok(t).says(t, "221 2.0.0")
	starttls("-noservername").ok(t).says(t, "221 2.0.0")
	if res := starttls("-servername", "nobody.example.com").says(t, "unrecognized name"); res.code == 0 {
		t.Error("openssl is content")
	}
}

const onePort = `
tls "partners" {
  client_auth {
    mode    = "require"
    ca_file = {{printf "%q" ca}}
  }
}
listener "smtp" "mx" {
  address = [{{listen "mx"}}]
  mode    = "starttls"
  route {
    sni     = ["mail.example.org"]
    tls     = tls.partners
    backend = backend.postfix
  }
  route { backend = backend.postfix }
}
backend "postfix" { servers = [{{postfix "mx"}}] }
`

// A route may demand a certificate of its clients, and only who proved one is
// labelled authenticated. Control: the other route of the same listener takes
// the same client without one.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	gw := serve(t, onePort)
	own := []string{"-cert", lab.pki.file("localhost.crt"), "-key", lab.pki.file("localhost.key")}
	starttls := func(from string, more ...string) result {
		return client(t, "QUIT\r\n", sclient(gw.addr("mx"), lab.pki.ca, append(more, "-bind", from, "-starttls", "smtp", "-quiet", "-verify_quiet")...)...)
	}
	closed := []string{"-servername", mailName, "-verify_hostname", mailName}
	open := []string{"-servername", "localhost"}

	from := loopback()
	starttls(from, slices.Concat(closed, own)...).ok(t).says(t, "221 2.0.0")
	gw.session(from).is(t, "security", "authenticated")

	from = loopback()
	starttls(from, open...).ok(t).says(t, "221 2.0.0")
	gw.session(from).is(t, "security", "encrypted")

	from = loopback()
	starttls(from, closed...).says(t, "certificate required").silentOf(t, "221 2.0.0")
	gw.session(from).is(t, "outcome", "handshake_failed", "security", "cleartext")
}

// T-06: a ticket is good where it was issued and nowhere else: not on another
// listener, not for another name, whose certificate or policy may be another
// (CVE-2025-23419). Control: where it was issued it resumes.
func TestTickets(t *testing.T) {
	t.Parallel()
	gw := serve(t, mx+mailboxes)
	places := []struct{ listener, name string }{
		{"mx", "localhost"}, {"mx", mailName}, {"smtps", "localhost"}, {"imaps", "localhost"},
	}
	visit := func(listener, name string, cache tls.ClientSessionCache) bool {
		cfg := lab.pki.client(name)
		cfg.ClientSessionCache = cache
		cfg.InsecureSkipVerify = true // else Go offers no ticket of another name
		c := dial(t, loopback(), gw.addr(listener))
		if listener == "mx" {
			c.smtpTLS(cfg)
		} else {
			c.tls(cfg)
			c.line() // the ticket comes before the greeting
		}
		defer c.conn.Close()
		return c.state().DidResume
	}
	for _, from := range places {
		for _, to := range places {
			cache := oneTicket{tls.NewLRUClientSessionCache(1)}
			if visit(from.listener, from.name, cache) {
				t.Fatal("control: resumed without a ticket")
			}
			if resumed := visit(to.listener, to.name, cache); resumed != (from == to) {
				t.Errorf("a ticket of %v, offered to %v: resumed is %v", from, to, resumed)
			}
		}
	}
}

// oneTicket offers whatever ticket came last to any server, as an attacker
// would.
type oneTicket struct{ tls.ClientSessionCache }

func (c oneTicket) Get(string) (*tls.ClientSessionState, bool)  { return c.ClientSessionCache.Get("") }
func (c oneTicket) Put(_ string, state *tls.ClientSessionState) { c.ClientSessionCache.Put("", state) }
