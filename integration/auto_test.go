package integration

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// autoWait is how long the auto listeners below wait for a ClientHello.
const autoWait = 700 * time.Millisecond

// oneForBoth is a gateway whose ports take STARTTLS and implicit TLS, or as
// the mode says.
func oneForBoth(t *testing.T, mode string) *gateway {
	t.Helper()
	wait := ""
	if mode == "auto" {
		wait = fmt.Sprintf("auto_wait = %q", autoWait)
	}
	hcl := fmt.Sprintf(`
backend "smtp" { servers = [{{postfix "mx"}}] }
backend "imap" { servers = [{{dovecot "imap"}}] }
backend "pop3" { servers = [%q] }
`, theStore(t).addr("pop3"))
	for _, protocol := range []string{"smtp", "imap", "pop3"} {
		hcl += fmt.Sprintf(`
listener %[1]q %[1]q {
  address  = [{{listen %[1]q}}]
  mode     = %[2]q
  hostname = "gw.example.org"
  opossum  = "accepted"
  backend  = backend.%[1]s
  %[3]s
}
`, protocol, mode, wait)
	}
	return serve(t, hcl)
}

// One auto port serves clients that ask for TLS and clients that begin with it.
// Control: a port of either kind alone serves only its own.
func TestAuto(t *testing.T) {
	t.Parallel()
	d := theDovecot(t)
	user := fresh("auto")
	d.deliver(t, user, "on one port")
	goodbye := map[string]string{"smtp": "221 2.0.0", "imap": "a OK", "pop3": "+OK"}
	for _, mode := range []string{"auto", "starttls", "implicit"} {
		gw := oneForBoth(t, mode)
		for protocol, answer := range goodbye {
			for _, asks := range []bool{true, false} {
				how := map[bool]string{true: "starttls", false: "implicit"}[asks]
				t.Run(fmt.Sprintf("%s/%s/%s", mode, protocol, how), func(t *testing.T) {
					t.Parallel()
					from := loopback()
					args := []string{"-bind", from, "-quiet", "-verify_quiet"}
					quit := "QUIT\r\n"
					if protocol == "imap" {
						quit = "a LOGOUT\r\n"
					}
					if asks {
						args = append(args, "-starttls", protocol)
					}
					if works := mode == "auto" || mode == how; works {
						client(t, quit, sclient(gw.addr(protocol), lab.pki.ca, args...)...).ok(t).says(t, answer)
						gw.session(from).is(t, "security", "encrypted", "outcome", "ok")
						return
					}
					// Would wait for ever for the other kind of beginning.
					argv := append([]string{"timeout", "3"}, sclient(gw.addr(protocol), lab.pki.ca, args...)...)
					if res := client(t, quit, argv...).silentOf(t, answer); res.code == 0 {
						t.Errorf("control: openssl is content: %s", res.out)
					}
				})
			}
		}
		if mode != "auto" {
			continue
		}
		for _, argv := range [][]string{{"imap", "--ssl-reqd"}, {"imaps"}} {
			client(t, "", append([]string{"curl", "-sS", "--cacert", lab.pki.ca, "--user", user + ":" + password,
				"--url", argv[0] + "://localhost:" + gw.port("imap") + "/INBOX;MAILINDEX=1"}, argv[1:]...)...).ok(t).says(t, "on one port")
		}
	}
}

// What an auto port says in cleartext is what a STARTTLS port says: after
// auto_wait it greets, refuses passwords, and takes nothing that was pipelined.
// A ClientHello that comes after the greeting ends the session, in
// cleartext, with a log line that names the cause; nothing of it reaches the
// backend.
func TestAutoGreets(t *testing.T) {
	t.Parallel()
	gw := oneForBoth(t, "auto")

	began := time.Now()
	c := dial(t, loopback(), gw.addr("imap"))
	c.want(`^\* OK .*LOGINDISABLED`)
	if waited := time.Since(began); waited < autoWait-50*time.Millisecond {
		t.Errorf("greeted after %s", waited)
	}
	if tagged, _ := c.imap("LOGIN sneak %s", password); !strings.HasPrefix(tagged, "NO [PRIVACYREQUIRED]") {
		t.Errorf("LOGIN: %s", tagged)
	}
	c.send("s STARTTLS\r\ninjected NOOP")
	if rest := c.rest(); strings.Contains(rest, "s OK") || strings.Contains(rest, "injected OK") {
		t.Errorf("injection: %q", rest)
	}

	// A client that speaks before the greeting, in cleartext, is no TLS client.
	c = dial(t, loopback(), gw.addr("imap"))
	c.send("a CAPABILITY")
	c.want(`^\* OK`)
	c.until(`^a OK`)

	for _, protocol := range []string{"smtp", "imap", "pop3"} {
		from := loopback()
		c := dial(t, from, gw.addr(protocol))
		c.line() // the greeting
		cfg := lab.pki.client("localhost")
		conn := tls.Client(c.conn, cfg)
		conn.SetDeadline(time.Now().Add(patience))
		err := conn.Handshake()
		var timeout net.Error
		if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: a handshake after the greeting: %v", protocol, err)
		}
		c.conn.Close()
		line := gw.session(from)
		line.is(t, "outcome", "rejected", "reason", "client_hello", "backend", "")
		if !strings.Contains(line.field("error"), "ClientHello") {
			t.Errorf("the log does not name the cause: %v", line)
		}
	}
}
