package integration

import (
	"strings"
	"testing"
	"time"
)

// mxWith is mx with more in its STARTTLS listener.
func mxWith(attributes string) string {
	return strings.Replace(mx, `mode     = "starttls"`, "mode = \"starttls\"\n  "+attributes, 1)
}

// S-11: with greet_wait who speaks before the greeting is refused, as a spam
// robot is that does not wait; it reaches no backend. A real client waits
// and is served. Control: without greet_wait the robot gets through.
func TestEarlyTalk(t *testing.T) {
	t.Parallel()
	p := thePostfix(t)
	const robot = "EHLO robot.example.net\r\n"
	gw := serve(t, mxWith("options { greet_wait = \"1s\" }"))

	from := loopback()
	c := dial(t, from, gw.addr("mx"))
	c.write([]byte(robot))
	c.reply(554)
	c.closed()
	gw.session(from).is(t, "outcome", "rejected", "reason", "early_talk", "backend", "")

	from = loopback()
	c = dial(t, from, gw.addr("mx"))
	c.write([]byte("STARTTLS\r\n")) // no way around it
	c.reply(554)
	c.closed()

	from = loopback()
	began := time.Now()
	to := fresh("patient")
	client(t, "", swaks(gw.port("mx"), to+"@raw.example.org", from, "-tls")...).ok(t).says(t, "TLS started")
	if waited := time.Since(began); waited < time.Second {
		t.Errorf("swaks was greeted after %s", waited)
	}
	p.delivered(t, to)
	gw.session(from).is(t, "outcome", "ok", "security", "encrypted")

	gw = serve(t, mx)
	c = dial(t, loopback(), gw.addr("mx"))
	c.write([]byte(robot))
	c.reply(220)
	c.reply(250)
}

// Where cleartext is allowed and min_version = "1.0" is spelled out, a client
// that can do no more gets TLS 1.0, which is better than the cleartext it would
// go on in (RFC 7435, 3); it is labelled and counted, and who can do better gets
// TLS 1.3. Control: without it the same client gets no TLS, and mail in the
// clear.
func TestOldTLS(t *testing.T) {
	t.Parallel()
	thePostfix(t)
	old := "tls \"old\" { min_version = \"1.0\" }\n" + mxWith("cleartext = \"allow\"\n  tls = tls.old")
	for _, c := range []struct{ name, hcl, version, logged string }{
		{"1.0", old, "-tls1", "TLSv1"},
		{"1.1", old, "-tls1_1", "TLSv1.1"},
		{"1.3", old, "-tls1_3", "TLSv1.3"},
		{"control", mxWith(`cleartext = "allow"`), "-tls1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			gw := serve(t, c.hcl)
			from := loopback()
			res := client(t, "QUIT\r\n", sclient(gw.addr("mx"), lab.pki.ca, "-bind", from, "-starttls", "smtp", "-quiet", "-verify_quiet", c.version, "-cipher", "DEFAULT:@SECLEVEL=0")...)
			if c.logged == "" {
				if res.code == 0 {
					t.Errorf("control: openssl is content: %s", res.out)
				}
				gw.session(from).is(t, "outcome", "handshake_failed", "security", "cleartext")
				return
			}
			res.ok(t).says(t, "221 2.0.0")
			gw.session(from).is(t, "outcome", "ok", "security", "encrypted", "tls_version", c.logged)
			if n := gw.metric("sallyport_handshakes_total", `listener="mx"`, `version="`+c.logged+`"`); n != 1 {
				t.Errorf("%v handshakes are counted", n)
			}
		})
	}
}
