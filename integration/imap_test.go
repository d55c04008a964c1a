package integration

import (
	"bufio"
	"compress/flate"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// mailboxes is the usual gateway before Dovecot: STARTTLS and implicit.
const mailboxes = `
listener "imap" "imap" {
  address = [{{listen "imap"}}]
  mode    = "starttls"
  backend = backend.dovecot
}
listener "imap" "imaps" {
  address = [{{listen "imaps"}}]
  mode    = "implicit"
  backend = backend.dovecot
}
backend "dovecot" {
  servers = [{{dovecot "imap"}}]
}
`

// deliver puts a message into a user's INBOX, by LMTP.
func (d *dovecot) deliver(t *testing.T, user, subject string) {
	t.Helper()
	conn, err := dialUnix(d.lmtp)
	if err != nil {
		t.Fatal(err)
	}
	c := newPeer(t, conn)
	c.reply(220)
	c.cmd(250, "LHLO test.example.net")
	c.cmd(250, "MAIL FROM:<a@example.net>")
	c.cmd(250, "RCPT TO:<%s>", user)
	c.cmd(354, "DATA")
	c.cmd(250, "Subject: %s\r\n\r\nhello\r\n.", subject)
	c.cmd(221, "QUIT")
}

// imapLib looks into the INBOX by Python's imaplib; argv: port, user,
// password, mode.
const imapLib = `
import imaplib, ssl, sys
port, user, password, mode = sys.argv[1:]
ctx = ssl.create_default_context()
if mode == "implicit":
    m = imaplib.IMAP4_SSL("localhost", int(port), ssl_context=ctx, timeout=20)
else:
    m = imaplib.IMAP4("localhost", int(port), timeout=20)
    assert "STARTTLS" in m.capabilities and "LOGINDISABLED" in m.capabilities, m.capabilities
    assert not [c for c in m.capabilities if c.startswith("AUTH=")], m.capabilities
    m.starttls(ctx)
assert "STARTTLS" not in m.capabilities and "LOGINDISABLED" not in m.capabilities, m.capabilities
assert "AUTH=PLAIN" in m.capabilities, m.capabilities
m.authenticate("PLAIN", lambda _: ("\0%s\0%s" % (user, password)).encode())
m.select()
print(m.fetch("1", "(BODY[HEADER.FIELDS (SUBJECT)])"))
m.logout()
`

// A reader is a command line that looks into an INBOX.
type reader struct {
	name     string
	implicit bool
	argv     func(t *testing.T, port, user string) []string
	stdin    func(user string) string
}

func readers() []reader {
	curl := func(scheme string, more ...string) func(*testing.T, string, string) []string {
		return func(_ *testing.T, port, user string) []string {
			return append([]string{"curl", "-sS", "--cacert", lab.pki.ca, "--user", user + ":" + password,
				"--url", scheme + "://localhost:" + port + "/INBOX;MAILINDEX=1;SECTION=HEADER.FIELDS%20(SUBJECT)"}, more...)
		}
	}
	mbsync := func(sslType string) func(*testing.T, string, string) []string {
		return func(t *testing.T, port, user string) []string { return mbsyncArgs(t, port, user, sslType) }
	}
	// openssl's and gnutls' clients are terminals: the session is typed.
	typed := func(user string) string {
		return fmt.Sprintf("a LOGIN %s %s\r\nb SELECT INBOX\r\nc FETCH 1 BODY[HEADER.FIELDS (SUBJECT)]\r\nd LOGOUT\r\n", user, password)
	}
	python := func(mode string) func(*testing.T, string, string) []string {
		return func(_ *testing.T, port, user string) []string {
			return []string{"python3", "-c", imapLib, port, user, password, mode}
		}
	}
	return []reader{
		{name: "curl", argv: curl("imap", "--ssl-reqd")},
		{name: "curl-implicit", implicit: true, argv: curl("imaps")},
		{name: "mbsync", argv: mbsync("STARTTLS")},
		{name: "mbsync-implicit", implicit: true, argv: mbsync("IMAPS")},
		{name: "python", argv: python("starttls")},
		{name: "python-implicit", implicit: true, argv: python("implicit")},
		{name: "openssl", stdin: typed, argv: func(_ *testing.T, port, _ string) []string {
			return sclient("127.0.0.1:"+port, lab.pki.ca, "-starttls", "imap", "-quiet", "-verify_quiet")
		}},
		{name: "openssl-implicit", implicit: true, stdin: typed, argv: func(_ *testing.T, port, _ string) []string {
			return sclient("127.0.0.1:"+port, lab.pki.ca, "-quiet", "-verify_quiet")
		}},
		{name: "gnutls-cli", stdin: typed, argv: func(_ *testing.T, port, _ string) []string {
			return []string{"gnutls-cli", "--x509cafile=" + lab.pki.ca, "-p", port, "--starttls-proto=imap", "localhost"}
		}},
	}
}

// mbsyncArgs writes a configuration that pulls the INBOX and has it printed.
func mbsyncArgs(t *testing.T, port, user, sslType string) []string {
	need(t, "mbsync")
	dir, err := os.MkdirTemp(lab.dir, "mbsync-")
	if err != nil {
		t.Fatal(err)
	}
	rc := filepath.Join(dir, "rc")
	text := fmt.Sprintf(`IMAPAccount gate
Host localhost
Port %s
User %s
Pass %s
SSLType %s
CertificateFile %s

IMAPStore far
Account gate

MaildirStore near
Path %s/
Inbox %s/INBOX

Channel all
Far :far:
Near :near:
Patterns INBOX
Create Near
Sync Pull
SyncState *
`, port, user, password, sslType, lab.pki.ca, dir, dir)
	if err := os.WriteFile(rc, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"sh", "-c", `mbsync -c "$1/rc" -a && cat "$1"/INBOX/new/*`, "sh", dir}
}

// Clients of all kinds read their mail over STARTTLS and implicit TLS, and the
// session is labelled as encrypted. Control: the same client against Dovecot
// itself, which has no TLS, must not read it.
func TestMailboxClients(t *testing.T) {
	t.Parallel()
	d := theDovecot(t)
	gw := serve(t, mailboxes)
	_, bare, _ := strings.Cut(d.imap, ":")
	for _, r := range readers() {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			listener := "imap"
			if r.implicit {
				listener = "imaps"
			}
			user := fresh("reader-" + r.name)
			subject := "for " + r.name + " behind the gate"
			d.deliver(t, user, subject)
			stdin := ""
			if r.stdin != nil {
				stdin = r.stdin(user)
			}
			client(t, stdin, r.argv(t, gw.port(listener), user)...).ok(t).says(t, subject)
			d.log.wait(t, `Login: user=<`+regexp.QuoteMeta(user)+`>`)

			if res := client(t, stdin, r.argv(t, bare, user)...); strings.Contains(res.out, subject) {
				t.Errorf("control: the client read its mail without TLS:\n%s", res.out)
			}
		})
	}
	t.Cleanup(func() { // after the parallel subtests
		for _, line := range gw.log() {
			if line["msg"] == "session" {
				line.is(t, "protocol", "imap", "security", "encrypted")
				line.ended(t)
			}
		}
	})
}

// Before TLS no password can be sent: neither login is offered, both are
// refused with PRIVACYREQUIRED (RFC 5530), a literal is not asked for, and
// Dovecot sees nothing of it. Control: Dovecot itself offers and takes it.
func TestMailboxNeedsTLS(t *testing.T) {
	t.Parallel()
	d := theDovecot(t)
	gw := serve(t, mailboxes)
	c := dial(t, loopback(), gw.addr("imap"))
	c.want(`^\* OK \[CAPABILITY .*STARTTLS.*LOGINDISABLED|^\* OK \[CAPABILITY .*LOGINDISABLED.*STARTTLS`)
	caps := c.capabilities()
	for _, want := range []string{"IMAP4rev1", "IDLE", "STARTTLS", "LOGINDISABLED"} { // the backend's own, and ours
		if !slices.Contains(caps, want) {
			t.Errorf("no %s in %v", want, caps)
		}
	}
	for _, word := range caps {
		if strings.HasPrefix(word, "AUTH=") || word == "SASL-IR" {
			t.Errorf("%s is offered in cleartext", word)
		}
	}
	sneak := fresh("sneak")
	for _, command := range []string{"LOGIN " + sneak + " " + password, "AUTHENTICATE PLAIN AHNuZWFrAHg=", "LOGIN {5}"} {
		if tagged, untagged := c.imap("%s", command); !strings.HasPrefix(tagged, "NO [PRIVACYREQUIRED]") || untagged != nil {
			t.Errorf("%s: %q %q", command, untagged, tagged)
		}
	}
	c.imapOK("STARTTLS") // the session lives
	c.tls(lab.pki.client("localhost"))
	c.imapOK("LOGIN honest %s", password)
	if lines := d.log.lines(sneak); lines != nil {
		t.Errorf("Dovecot saw %q", lines)
	}

	bare := dial(t, "", d.imap)
	bare.want(`AUTH=PLAIN`)
	bare.imapOK("LOGIN %s %s", sneak, password)
	d.log.wait(t, sneak)
}

// A mailbox that changes while a client idles wakes it at once, through the
// opaque relay: mail goes in through the gateway by SMTP and is told of
// through the gateway by IMAP. Control: mail for another user wakes nobody.
func TestIdle(t *testing.T) {
	t.Parallel()
	gw := serve(t, mx+mailboxes)
	c := dial(t, loopback(), gw.addr("imap"))
	c.imapTLS(lab.pki.client("localhost"))
	user := fresh("idler") + "@example.org"
	c.imapOK("LOGIN %s %s", user, password)
	c.imapOK("SELECT INBOX")
	c.send("i IDLE")
	c.want(`^\+ `)

	send := func(to string) {
		s := dial(t, loopback(), gw.addr("mx"))
		s.smtpTLS(lab.pki.client("localhost"))
		s.mail(to, "wake up")
		s.cmd(221, "QUIT")
	}
	send(fresh("another") + "@example.org")
	for quiet := time.Now().Add(time.Second); ; {
		c.conn.SetReadDeadline(quiet)
		line, err := c.r.ReadString('\n')
		if err != nil {
			break
		}
		if !strings.HasPrefix(line, "* OK") { // "Still here"
			t.Fatalf("control: woken by mail for another: %q", line)
		}
	}
	send(user)
	c.until(`^\* 1 EXISTS`)
	c.send("DONE")
	c.until(`^i OK`)
	c.imapOK("LOGOUT")
	c.clean()
}

// Literals of both kinds and fetches of many megabytes pass byte for byte,
// also when they hold what looks like commands. Control: a message in which
// one byte was changed must be found different, at that byte.
func TestLiterals(t *testing.T) {
	t.Parallel()
	gw := serve(t, mailboxes)
	c := dialTLS(t, loopback(), gw.addr("imaps"), lab.pki.client("localhost"))
	c.want(`^\* OK`)
	// Literals before authentication, while the gateway still looks.
	user := fresh("literals")
	c.send("l LOGIN {%d}", len(user))
	c.want(`^\+ `)
	c.send("%s {%d+}\r\n%s", user, len(password), password)
	c.until(`^l OK`)
	body := append([]byte("Subject: literal\r\n\r\na STARTTLS\r\nb LOGOUT\r\n"), bulky(12<<20, 4, false)...)
	appended := func(body []byte) {
		c.send("a APPEND INBOX {%d}", len(body))
		c.want(`^\+ `)
		c.write(body)
		c.send("")
		c.until(`^a OK`) // "* 2 EXISTS" may come first
	}
	fetched := func(n int) []byte {
		c.send("f FETCH %d BODY.PEEK[]", n)
		m := regexp.MustCompile(`\{(\d+)\}$`).FindStringSubmatch(c.want(`FETCH .*\{\d+\}$`))
		size, _ := strconv.Atoi(m[1])
		got := make([]byte, size)
		c.conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(c.r, got); err != nil {
			t.Fatal(err)
		}
		c.want(`\)$`)
		c.want(`^f OK`)
		return got
	}
	appended(body)
	c.imapOK("SELECT INBOX")
	if d := differ(fetched(1), body); d != "" {
		t.Error(d)
	}
	changed := slices.Clone(body)
	changed[20] ^= 1
	appended(changed)
	c.imapOK("NOOP")
	if d := differ(fetched(2), body); !strings.Contains(d, "at byte 20:") {
		t.Errorf("control: the flipped bit was not found: %q", d)
	}
	c.imapOK("LOGOUT")
	c.clean()
}

// Once a session is opaque its stream need not be IMAP any more: COMPRESS
// (RFC 4978) passes. Control: the bytes on the wire are no IMAP text, or
// nothing would have been compressed.
func TestCompress(t *testing.T) {
	t.Parallel()
	gw := serve(t, mailboxes)
	c := dial(t, loopback(), gw.addr("imap"))
	c.imapTLS(lab.pki.client("localhost"))
	c.imapOK("LOGIN squeezed %s", password)
	c.imapOK("COMPRESS DEFLATE")
	w, err := flate.NewWriter(c.conn, flate.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(w, "z CAPABILITY\r\n")
	w.Flush()
	c.conn.SetReadDeadline(time.Now().Add(patience))
	if raw, err := c.r.Peek(10); err != nil || strings.HasPrefix(string(raw), "* CAPA") {
		t.Errorf("control: %q on the wire, %v", raw, err)
	}
	inflated := &peer{t, c.conn, bufio.NewReader(flate.NewReader(c.r))}
	inflated.want(`^\* CAPABILITY IMAP4rev1`)
	inflated.want(`^z OK`)
}
