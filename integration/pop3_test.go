package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// maildropsBy is a gateway before a backend of POP3: STLS and implicit.
func maildropsBy(backend string) string {
	return `
listener "pop3" "pop3" {
  address = [{{listen "pop3"}}]
  mode    = "starttls"
  backend = backend.pop3
}
listener "pop3" "pop3s" {
  address = [{{listen "pop3s"}}]
  mode    = "implicit"
  backend = backend.pop3
}
backend "pop3" {
  ` + backend + `
}
`
}

// maildrops is the usual one, before a store.
func maildrops(s *store) string { return maildropsBy(fmt.Sprintf("servers = [%q]", s.addr("pop3"))) }

// popLib reads the first message by Python's poplib; argv: port, user,
// password, mode.
const popLib = `
import poplib, ssl, sys
port, user, password, mode = sys.argv[1:]
ctx = ssl.create_default_context()
if mode == "implicit":
    p = poplib.POP3_SSL("localhost", int(port), context=ctx, timeout=20)
else:
    p = poplib.POP3("localhost", int(port), timeout=20)
    caps = p.capa()
    assert "STLS" in caps and "USER" not in caps and "SASL" not in caps, caps
    p.stls(ctx)
caps = p.capa()
assert "STLS" not in caps and "USER" in caps and "PLAIN" in caps["SASL"], caps
p.user(user)
p.pass_(password)
print(b"\n".join(p.retr(1)[1]).decode())
p.quit()
`

func popReaders() []reader {
	curl := func(scheme string, more ...string) func(*testing.T, string, string) []string {
		return func(_ *testing.T, port, user string) []string {
			return append([]string{"curl", "-sS", "--cacert", lab.pki.ca, "--user", user + ":" + password, "--url", scheme + "://localhost:" + port + "/1"}, more...)
		}
	}
	mpop := func(starttls string) func(*testing.T, string, string) []string {
		return func(t *testing.T, port, user string) []string {
			dir := clientDir(t, "mpop")
			mbox := filepath.Join(dir, "mbox")
			return []string{"sh", "-c", `"$@" && cat ` + mbox, "sh",
				"mpop", "--host=localhost", "--port=" + port, "--tls=on", "--tls-starttls=" + starttls, "--tls-trust-file=" + lab.pki.ca,
				"--user=" + user, "--passwordeval=echo " + password, "--auth=plain", "--keep=on",
				"--uidls-file=" + filepath.Join(dir, "uidls"), "--delivery=mbox," + mbox}
		}
	}
	python := func(mode string) func(*testing.T, string, string) []string {
		return func(_ *testing.T, port, user string) []string {
			return []string{"python3", "-c", popLib, port, user, password, mode}
		}
	}
	fetch := func(options string) func(*testing.T, string, string) []string {
		return func(t *testing.T, port, user string) []string { return fetchmail(t, port, user, options) }
	}
	typed := func(user string) string {
		return fmt.Sprintf("CAPA\r\nUSER %s\r\nPASS %s\r\nSTAT\r\nRETR 1\r\nQUIT\r\n", user, password)
	}
	return []reader{
		{name: "curl", argv: curl("pop3", "--ssl-reqd")},
		{name: "curl-implicit", implicit: true, argv: curl("pop3s")},
		{name: "mpop", argv: mpop("on")},
		{name: "mpop-implicit", implicit: true, argv: mpop("off")},
		{name: "fetchmail", argv: fetch(`sslproto "TLS1.2+"`)},
		{name: "fetchmail-implicit", implicit: true, argv: fetch("ssl")},
		{name: "python", argv: python("stls")},
		{name: "python-implicit", implicit: true, argv: python("implicit")},
		{name: "openssl", stdin: typed, argv: func(_ *testing.T, port, _ string) []string {
			return sclient("127.0.0.1:"+port, lab.pki.ca, "-starttls", "pop3", "-quiet", "-verify_quiet")
		}},
		{name: "openssl-implicit", implicit: true, stdin: typed, argv: func(_ *testing.T, port, _ string) []string {
			return sclient("127.0.0.1:"+port, lab.pki.ca, "-quiet", "-verify_quiet")
		}},
		{name: "gnutls-cli", stdin: typed, argv: func(_ *testing.T, port, _ string) []string {
			return []string{"gnutls-cli", "--x509cafile=" + lab.pki.ca, "-p", port, "--starttls-proto=pop3", "localhost"}
		}},
	}
}

// fetchmail writes a configuration that fetches everything and prints it.
func fetchmail(t *testing.T, port, user, options string) []string {
	dir := clientDir(t, "fetchmail")
	rc := filepath.Join(dir, "rc")
	text := fmt.Sprintf("poll localhost port %s proto pop3 user %q password %q %s sslcertck sslcertfile %q keep mda %q\n",
		port, user, password, options, lab.pki.ca, "/bin/cat >>"+filepath.Join(dir, "mail"))
	if err := os.WriteFile(rc, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"sh", "-c", `fetchmail -v -f "$1/rc" --pidfile "$1/pid" --idfile "$1/ids" --nosyslog && cat "$1/mail"`, "sh", dir}
}

// clientDir is a directory for what a client keeps.
func clientDir(t *testing.T, name string) string {
	t.Helper()
	need(t, name)
	dir, err := os.MkdirTemp(lab.dir, name+"-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Clients of all kinds fetch their mail over STLS and implicit TLS, and the
// session is labelled as encrypted. Control: the same client against Dovecot
// itself, which has no TLS, must not fetch it.
func TestMaildropClients(t *testing.T) {
	t.Parallel()
	s := theStore(t)
	gw := serve(t, maildrops(s))
	_, bare, _ := strings.Cut(s.addr("pop3"), ":")
	for _, r := range popReaders() {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			listener := "pop3"
			if r.implicit {
				listener = "pop3s"
			}
			user := s.user()
			subject := "for " + r.name + " in the drop"
			s.deliver(t, user, subject)
			stdin := ""
			if r.stdin != nil {
				stdin = r.stdin(user)
			}
			client(t, stdin, r.argv(t, gw.port(listener), user)...).ok(t).says(t, subject)
			s.log.wait(t, `pop3-login: .*Login: user=<`+regexp.QuoteMeta(user)+`>`)

			if res := client(t, stdin, r.argv(t, bare, user)...); strings.Contains(res.out, subject) {
				t.Errorf("control: the client read its mail without TLS:\n%s", res.out)
			}
		})
	}
	t.Cleanup(func() { // after the parallel subtests
		for _, line := range gw.log() {
			if line["msg"] == "session" {
				line.is(t, "protocol", "pop3", "security", "encrypted")
				line.ended(t)
			}
		}
	})
}

// O-02, O-03: before TLS no password can be sent: neither login is offered,
// each is refused for good (SYS/PERM, RFC 3206) and Dovecot hears nothing of
// it, and the session can still be upgraded. O-04: the greeting has no APOP
// timestamp, which would be that of another session. Control: Dovecot itself
// offers both and lets the user in.
func TestMaildropNeedsTLS(t *testing.T) {
	t.Parallel()
	s := theStore(t)
	gw := serve(t, maildrops(s))
	user, sneak := s.user(), fresh("sneak")
	c := dial(t, loopback(), gw.addr("pop3"))
	if line := c.want(`^\+OK `); strings.Contains(line, "<") || strings.Contains(line, "XCLIENT") {
		t.Errorf("greeting %q", line)
	}
	caps := c.popLines("CAPA")
	for _, want := range []string{"STLS", "TOP", "UIDL", "RESP-CODES"} { // ours, and the backend's own
		if !slices.Contains(caps, want) {
			t.Errorf("no %s in %q", want, caps)
		}
	}
	for _, line := range caps {
		if strings.HasPrefix(line, "USER") || strings.HasPrefix(line, "SASL") {
			t.Errorf("%s is offered in cleartext", line)
		}
	}
	for _, command := range []string{"USER " + sneak, "PASS " + password, "APOP " + sneak + " 0123456789abcdef0123456789abcdef", "AUTH PLAIN AHNuZWFrAHg=", "AUTH"} {
		if line := c.pop(false, "%s", command); !strings.HasPrefix(line, "-ERR [SYS/PERM]") {
			t.Errorf("%s: %q", command, line)
		}
	}
	c.pop(true, "STLS") // the session lives
	c.tls(lab.pki.client("localhost"))
	inside := c.popLines("CAPA")
	if slices.Contains(inside, "STLS") || !slices.Contains(inside, "USER") || !slices.ContainsFunc(inside, func(l string) bool { return strings.HasPrefix(l, "SASL PLAIN") }) {
		t.Errorf("inside TLS: %q", inside)
	}
	c.pop(false, "STLS") // O-01
	c.pop(true, "USER %s", user)
	c.pop(false, "STLS")
	c.pop(true, "USER %s", user)
	c.pop(true, "PASS %s", password)
	c.pop(false, "STLS")
	c.pop(true, "QUIT")
	c.clean()
	if lines := s.log.lines(sneak); lines != nil {
		t.Errorf("Dovecot saw %q", lines)
	}

	bare := dial(t, "", s.addr("pop3"))
	bare.want(`^\+OK `)
	if caps := bare.popLines("CAPA"); !slices.Contains(caps, "USER") {
		t.Errorf("control: Dovecot offers %q", caps)
	}
	bare.pop(true, "USER %s", user)
	bare.pop(true, "PASS %s", password)
}

// O-05, O-06: a line of a SASL exchange is data, whatever it reads, and so is a
// message: one of many megabytes that holds what looks like commands and like
// its own end arrives byte for byte. Control: the same text a byte off is
// found to differ.
func TestMaildropBytes(t *testing.T) {
	t.Parallel()
	s := theStore(t)
	gw := serve(t, maildrops(s))
	c := dial(t, loopback(), gw.addr("pop3"))
	c.want(`^\+OK `)
	c.pop(true, "STLS")
	c.tls(lab.pki.client("localhost"))
	c.send("AUTH PLAIN")
	c.want(`^\+ `)
	c.pop(false, "STLS") // Dovecot's answer to bad base64
	user := s.user()

	text := "Subject: bytes\r\n\r\n.\r\n..\r\nSTLS\r\n-ERR\r\n+OK\r\nQUIT\r\n. \r\n" + string(bulky(6<<20, 5, false))
	conn, err := dialUnix(s.lmtp)
	if err != nil {
		t.Fatal(err)
	}
	in := newPeer(t, conn)
	in.reply(220)
	in.cmd(250, "LHLO test.example.net")
	in.cmd(250, "MAIL FROM:<a@example.net>")
	in.cmd(250, "RCPT TO:<%s>", user)
	in.cmd(354, "DATA")
	in.write([]byte(dotted(text) + ".\r\n"))
	in.reply(250)

	c.pop(true, "USER %s", user)
	c.pop(true, "PASS %s", password)
	got := strings.Join(c.popLines("RETR 1"), "\r\n") + "\r\n"
	if _, body, ok := strings.Cut(got, "Subject: bytes"); !ok {
		t.Fatalf("no such message: %.300q", got)
	} else if d := differ([]byte("Subject: bytes"+body), []byte(text)); d != "" {
		t.Error(d)
	} else if d := differ([]byte("Subject: bytes"+body), []byte(text[:40]+"?"+text[41:])); d == "" {
		t.Error("control: a changed byte was not found")
	}
	c.pop(true, "QUIT")
	c.clean()
}

// dotted is a text as it goes over the wire (RFC 5321, 4.5.2).
func dotted(text string) string {
	if strings.HasPrefix(text, ".") {
		text = "." + text
	}
	return strings.ReplaceAll(text, "\r\n.", "\r\n..")
}

// Dovecot logs the client's own address as rip by PROXY v1, PROXY v2 and
// XCLIENT, behind STLS and implicit TLS; neither the tag that offers XCLIENT
// nor the command itself is for clients. Controls: without any of them it logs
// the gateway's; Dovecot itself offers and takes XCLIENT from 127.0.0.1.
func TestMaildropKnowsClient(t *testing.T) {
	t.Parallel()
	s := theStore(t)
	for _, way := range []struct {
		name, backend string
		told          bool
	}{
		{"none", fmt.Sprintf("servers = [%q]", s.addr("pop3")), false},
		{"proxy-v1", fmt.Sprintf("servers = [%q]\n  send = \"proxy-v1\"", s.addr("pop3_proxied")), true},
		{"proxy-v2", fmt.Sprintf("servers = [%q]\n  send = \"proxy-v2\"", s.addr("pop3_proxied")), true},
		{"xclient", fmt.Sprintf("servers = [%q]\n  forward { xclient = true }", s.addr("pop3")), true},
	} {
		gw := serve(t, maildropsBy(way.backend))
		for _, listener := range []string{"pop3", "pop3s"} {
			t.Run(way.name+"/"+listener, func(t *testing.T) {
				from := loopback()
				c := dial(t, from, gw.addr(listener))
				if listener == "pop3" {
					c.want(`^\+OK `)
					c.pop(false, "XCLIENT ADDR=192.0.2.97")
					c.pop(true, "STLS")
					c.tls(lab.pki.client("localhost"))
				} else {
					c.tls(lab.pki.client("localhost"))
					if line := c.want(`^\+OK .*store ready`); strings.Contains(line, "XCLIENT") {
						t.Errorf("greeting %q", line)
					}
				}
				c.pop(false, "XCLIENT ADDR=192.0.2.97")
				user := s.user()
				c.pop(true, "USER %s", user)
				c.pop(true, "PASS %s", password)
				c.pop(true, "QUIT")
				c.clean()
				sees := gatewayAddr
				if way.told {
					sees = from
				}
				if line := s.log.wait(t, "Login: user=<"+user+">"); !strings.Contains(line, "rip="+sees+",") {
					t.Errorf("Dovecot logged %s, want rip=%s", line, sees)
				}
			})
		}
	}
	t.Run("control", func(t *testing.T) {
		c := dial(t, "", s.addr("pop3"))
		c.want(`^\+OK \[XCLIENT\]`)
		c.pop(true, "XCLIENT ADDR=192.0.2.97 PORT=4711")
		user := s.user()
		c.pop(true, "USER %s", user)
		c.pop(true, "PASS %s", password)
		if line := s.log.wait(t, "Login: user=<"+user+">"); !strings.Contains(line, "rip=192.0.2.97") {
			t.Errorf("Dovecot does not believe XCLIENT: %s", line)
		}
	})
}
