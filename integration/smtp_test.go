package integration

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mx is the usual gateway before Postfix: STARTTLS and implicit.
const mx = `
listener "smtp" "mx" {
  address  = [{{listen "mx"}}]
  mode     = "starttls"
  hostname = "gw.example.org"
  backend  = backend.postfix
}
listener "smtp" "smtps" {
  address  = [{{listen "smtps"}}]
  mode     = "implicit"
  hostname = "gw.example.org"
  backend  = backend.postfix
}
backend "postfix" {
  servers = [{{postfix "mx"}}]
}
`

// A mailer is a command line that sends one message.
type mailer struct {
	name     string
	implicit bool
	argv     func(port, to, from string) []string // from: a source address to bind, where the client can
	stdin    string
	says     string // what it prints when TLS was verified, where it does
}

const sentText = "Subject: through the gate\r\n\r\nwhat the client had to say\r\n"

// smtpLib sends one message by Python's smtplib; argv: port, to, source, mode.
const smtpLib = `
import smtplib, ssl, sys
port, to, source, mode = sys.argv[1:]
ctx = ssl.create_default_context()
if mode == "implicit":
    s = smtplib.SMTP_SSL("localhost", int(port), context=ctx, source_address=(source, 0), timeout=20)
else:
    s = smtplib.SMTP("localhost", int(port), source_address=(source, 0), timeout=20)
    s.ehlo()
    assert s.has_extn("starttls") and not s.has_extn("auth"), s.esmtp_features
    s.starttls(context=ctx)
s.ehlo()
assert not s.has_extn("starttls"), s.esmtp_features
assert s.has_extn("8bitmime") and s.has_extn("chunking"), s.esmtp_features
s.sendmail("a@example.net", [to], sys.stdin.read())
s.quit()
print("sent over", s.sock if s.sock else "TLS")
`

func mailers() []mailer {
	ca := lab.pki.ca
	return []mailer{
		{name: "swaks", says: "TLS started", argv: func(port, to, from string) []string {
			return swaks(port, to, from, "-tls")
		}},
		{name: "swaks-pipelined", says: "TLS started", argv: func(port, to, from string) []string {
			return swaks(port, to, from, "-tls", "--pipeline")
		}},
		{name: "swaks-implicit", says: "TLS started", implicit: true, argv: func(port, to, from string) []string {
			return swaks(port, to, from, "--tls-on-connect")
		}},
		{name: "curl", stdin: sentText, argv: func(port, to, from string) []string {
			return []string{"curl", "-sS", "--ssl-reqd", "--cacert", ca, "--interface", from, "--url", "smtp://localhost:" + port,
				"--mail-from", "a@example.net", "--mail-rcpt", to, "-T", "-"}
		}},
		{name: "curl-implicit", stdin: sentText, implicit: true, argv: func(port, to, from string) []string {
			return []string{"curl", "-sS", "--cacert", ca, "--interface", from, "--url", "smtps://localhost:" + port,
				"--mail-from", "a@example.net", "--mail-rcpt", to, "-T", "-"}
		}},
		{name: "msmtp", stdin: sentText, argv: func(port, to, from string) []string {
			return []string{"msmtp", "--host=localhost", "--port=" + port, "--source-ip=" + from, "--tls=on", "--tls-starttls=on",
				"--tls-trust-file=" + ca, "--from=a@example.net", to}
		}},
		{name: "msmtp-implicit", stdin: sentText, implicit: true, argv: func(port, to, from string) []string {
			return []string{"msmtp", "--host=localhost", "--port=" + port, "--source-ip=" + from, "--tls=on", "--tls-starttls=off",
				"--tls-trust-file=" + ca, "--from=a@example.net", to}
		}},
		{name: "s-nail", stdin: "what the client had to say\n", argv: func(port, to, _ string) []string {
			return []string{"s-nail", "-n", "-Sv15-compat", "-Smta=smtp://localhost:" + port, "-Ssmtp-use-starttls", "-Stls-verify=strict",
				"-Stls-ca-file=" + ca, "-Ssmtp-auth=none", "-Sfrom=a@example.net", "-s", "through the gate", to}
		}},
		{name: "python", stdin: sentText, argv: func(port, to, from string) []string {
			return []string{"python3", "-c", smtpLib, port, to, from, "starttls"}
		}},
		{name: "python-implicit", stdin: sentText, implicit: true, argv: func(port, to, from string) []string {
			return []string{"python3", "-c", smtpLib, port, to, from, "implicit"}
		}},
	}
}

func swaks(port, to, from string, more ...string) []string {
	return append([]string{"swaks", "--server", "localhost", "--port", port, "--local-interface", from, "--tls-verify", "--tls-ca-path", lab.pki.ca,
		"--helo", "client.example.net", "--from", "a@example.net", "--to", to, "--body", "what the client had to say"}, more...)
}

// Mail sent by clients of all kinds over STARTTLS and implicit TLS arrives,
// and the session is labelled as encrypted. Control: the same client against
// Postfix itself, which has no TLS, must fail and deliver nothing, or "sent"
// would not mean "sent in TLS".
func TestMailClients(t *testing.T) {
	t.Parallel()
	p := thePostfix(t)
	gw := serve(t, mx)
	for _, m := range mailers() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			listener := "mx"
			if m.implicit {
				listener = "smtps"
			}
			from, to := loopback(), fresh("gate-"+m.name)
			res := client(t, m.stdin, m.argv(gw.port(listener), to+"@raw.example.org", from)...).ok(t)
			if m.says != "" {
				res.says(t, m.says)
			}
			if message := string(p.delivered(t, to)); !strings.Contains(message, "what the client had to say\n") {
				t.Errorf("delivered was\n%s", message)
			}
			if m.name != "s-nail" { // which cannot be bound to an address
				line := gw.session(from)
				line.is(t, "listener", listener, "protocol", "smtp", "security", "encrypted", "backend", p.addr("mx"))
				line.ended(t)
			}

			_, port, _ := strings.Cut(p.addr("mx"), ":")
			bare := fresh("bare-" + m.name)
			if res := client(t, m.stdin, m.argv(port, bare+"@raw.example.org", from)...); res.code == 0 {
				t.Errorf("control: the client is content without TLS:\n%s", res.out)
			}
			if p.find(bare) != "" {
				t.Error("control: mail was delivered without TLS")
			}
		})
	}
}

// Those who look before they send find verified TLS behind STARTTLS, and the
// EHLO of the server inside: posttls-finger is Postfix's own client,
// s_client and gnutls-cli have dialogues of their own. Control: each with a CA
// that did not sign the certificate must complain.
func TestMailFingers(t *testing.T) {
	t.Parallel()
	gw := serve(t, mx)
	if err := os.WriteFile(filepath.Join(gw.dir, "main.cf"), []byte("compatibility_level = 3.6\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	other, err := newPKI(filepath.Join(gw.dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name     string
		stdin    string
		argv     func(ca string) []string
		trusted  string // said when the certificate is trusted
		stranger string // said when it is not
	}{
		{
			name: "posttls-finger",
			argv: func(ca string) []string {
				return []string{"env", "MAIL_CONFIG=" + gw.dir, "posttls-finger", "-c", "-l", "secure", "-t", "5", "-F", ca, "[127.0.0.1]:" + gw.port("mx"), "localhost"}
			},
			trusted:  "Verified TLS connection established",
			stranger: "Untrusted TLS connection established",
		},
		{
			name:  "openssl",
			stdin: "EHLO inside.example.net\r\nQUIT\r\n",
			argv: func(ca string) []string {
				return sclient(gw.addr("mx"), ca, "-starttls", "smtp", "-quiet", "-verify_quiet")
			},
			trusted:  "250-mx.example.org",
			stranger: "certificate verify failed",
		},
		{
			name:  "openssl-implicit",
			stdin: "EHLO inside.example.net\r\nQUIT\r\n",
			argv: func(ca string) []string {
				return sclient(gw.addr("smtps"), ca, "-quiet", "-verify_quiet")
			},
			trusted:  "250-mx.example.org",
			stranger: "certificate verify failed",
		},
		{
			name:  "gnutls-cli",
			stdin: "EHLO inside.example.net\r\nQUIT\r\n",
			argv: func(ca string) []string {
				return []string{"gnutls-cli", "--x509cafile=" + ca, "-p", gw.port("mx"), "--starttls-proto=smtp", "localhost"}
			},
			trusted:  "250-mx.example.org",
			stranger: "NOT trusted",
		},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			need(t, strings.Split(f.name, "-implicit")[0])
			client(t, f.stdin, f.argv(lab.pki.ca)...).ok(t).says(t, f.trusted).silentOf(t, f.stranger)
			client(t, f.stdin, f.argv(other.ca)...).says(t, f.stranger).silentOf(t, f.trusted)
		})
	}
}

// sclient is openssl's client, verifying the name localhost against a CA.
func sclient(addr, ca string, more ...string) []string {
	return append([]string{"openssl", "s_client", "-connect", addr, "-CAfile", ca, "-verify_return_error", "-verify_hostname", "localhost", "-ign_eof"}, more...)
}

// submission is a gateway before a Postfix that wants logins.
const submission = `
listener "smtp" "submission" {
  address = [{{listen "submission"}}]
  mode    = "starttls"
  backend = backend.submission
}
backend "submission" {
  servers = [{{postfix "submission"}}]
}
`

// Who logs in inside TLS may relay; before TLS no mechanism is offered, every
// attempt is answered 530, and the password goes nowhere. Controls: a wrong
// password is refused, no login may not relay, and Postfix itself, asked in
// cleartext, does offer AUTH and takes the password: hiding it is the
// gateway's work.
func TestSubmission(t *testing.T) {
	t.Parallel()
	p := thePostfix(t)
	gw := serve(t, submission)
	login := func(password string) []string {
		return swaks(gw.port("submission"), "far@relay.example.com", loopback(), "-tls", "--auth", "PLAIN", "--auth-user", "submitter@example.org", "--auth-password", password)
	}
	client(t, "", login(password)...).ok(t).says(t, "235 2.7.0")
	client(t, "", login("wrong")...).exited(t, 28).says(t, "535 5.7.8")
	client(t, "", swaks(gw.port("submission"), "far@relay.example.com", loopback(), "-tls")...).exited(t, 24).says(t, "554 5.7.1")

	client(t, "", "curl", "-sS", "--ssl-reqd", "--cacert", lab.pki.ca, "--user", "submitter@example.org:"+password, "--url", "smtp://localhost:"+gw.port("submission"),
		"--mail-from", "a@example.net", "--mail-rcpt", "far@relay.example.com", "-T", "/dev/null").ok(t)

	t.Run("cleartext", func(t *testing.T) {
		client(t, "", "swaks", "--server", "localhost", "--port", gw.port("submission"), "--from", "a@example.net", "--to", "far@relay.example.com").
			exited(t, 23).says(t, "530 5.7.0 Must issue a STARTTLS command first")
		token := base64.StdEncoding.EncodeToString([]byte("\x00clear@example.org\x00" + password))
		try := func(addr string) (offered bool, r reply) {
			c := dial(t, loopback(), addr)
			c.reply(220)
			offered = c.cmd(250, "EHLO client.example.net").has("AUTH")
			return offered, c.cmd(0, "AUTH PLAIN %s", token)
		}
		if offered, r := try(gw.addr("submission")); offered || r.code != 530 {
			t.Errorf("in cleartext: AUTH offered: %v; used: %s", offered, r)
		}
		if offered, r := try(p.addr("submission")); !offered || r.code != 235 {
			t.Errorf("control: Postfix itself: AUTH offered: %v; used: %s", offered, r)
		}
		if log := gw.said(); strings.Contains(log, token) || strings.Contains(log, password) {
			t.Error("the password is in the gateway's log")
		}
	})

	// A client that never heard of a mechanism before TLS still finds them
	// inside, since EHLO is asked again (RFC 3207, 4.2).
	c := dial(t, loopback(), gw.addr("submission"))
	if r := c.smtpTLS(lab.pki.client("localhost")); !r.has("AUTH") || r.has("STARTTLS") {
		t.Errorf("inside TLS: %s", r)
	}
}

// Commands that are sent in one segment are all answered, in order, before TLS
// and inside it. Control: the same commands sent one by one get the same
// answers.
func TestPipelining(t *testing.T) {
	t.Parallel()
	gw := serve(t, mx)
	before := []string{"EHLO client.example.net", "NOOP", "STARTTLS"}
	inside := []string{"EHLO client.example.net", "NOOP", "MAIL FROM:<a@example.net>", "RCPT TO:<pipe@raw.example.org>",
		"RCPT TO:<@>", "RSET", "MAIL FROM:<a@example.net>", "RCPT TO:<pipe@raw.example.org>", "NOOP", "VRFY pipe@raw.example.org", "QUIT"}
	converse := func(c *peer, lines []string, atOnce bool) (answers []string) {
		if atOnce {
			c.write([]byte(strings.Join(lines, "\r\n") + "\r\n"))
		}
		for _, line := range lines {
			if !atOnce {
				c.send("%s", line)
			}
			answers = append(answers, c.reply(0).String())
		}
		return answers
	}
	session := func(atOnce bool) string {
		c := dial(t, loopback(), gw.addr("mx"))
		c.reply(220)
		answers := converse(c, before, atOnce)
		c.tls(lab.pki.client("localhost"))
		answers = append(answers, converse(c, inside, atOnce)...)
		c.closed()
		return strings.Join(answers, "\n")
	}
	oneByOne, atOnce := session(false), session(true)
	if oneByOne != atOnce {
		t.Errorf("one by one:\n%s\nat once:\n%s", oneByOne, atOnce)
	}
	for _, want := range []string{"220 2.0.0", "501 5.1.3", "252 2.0.0", "221 2.0.0"} {
		if !strings.Contains(atOnce, want) {
			t.Errorf("no %s in\n%s", want, atOnce)
		}
	}
}

// The cleartext EHLO is void: the backend knows nothing of it, and MAIL
// without a second EHLO is refused by the backend (RFC 3207, 4.2). Control:
// the EHLO inside TLS is the name in the Received field.
func TestCleartextIsVoid(t *testing.T) {
	t.Parallel()
	p := thePostfix(t)
	gw := serve(t, mx)
	c := dial(t, loopback(), gw.addr("mx"))
	c.reply(220)
	c.cmd(250, "EHLO before.example.net")
	c.cmd(220, "STARTTLS")
	c.tls(lab.pki.client("localhost"))
	c.cmd(250, "EHLO inside.example.net")
	to := fresh("void")
	c.mail(to+"@raw.example.org", "hello")
	message := string(p.delivered(t, to))
	if strings.Contains(message, "before.example.net") || !strings.Contains(message, "Received: from inside.example.net ") {
		t.Errorf("delivered was\n%s", message)
	}
}

// A listener that allows cleartext serves who never asks for TLS, and labels
// the session so; Postfix, which wants no TLS, sees an ordinary session.
// Control: the same on a listener that refuses, which is the default: 530.
func TestCleartextAllowed(t *testing.T) {
	t.Parallel()
	p := thePostfix(t)
	gw := serve(t, strings.Replace(mx, `hostname = `, "cleartext = \"allow\"\n  hostname = ", 1))
	from, to := loopback(), fresh("clear")
	client(t, "", "swaks", "--server", "localhost", "--port", gw.port("mx"), "--local-interface", from, "--from", "a@example.net", "--to", to+"@raw.example.org").ok(t)
	p.delivered(t, to)
	gw.session(from).is(t, "security", "cleartext", "outcome", "ok")

	c := dial(t, loopback(), serve(t, mx).addr("mx"))
	c.reply(220)
	c.cmd(250, "EHLO client.example.net")
	c.cmd(530, "MAIL FROM:<a@example.net>")
}

// bulky returns a message body of at least n bytes in lines that SMTP can
// carry: every octet value but NUL where text asks for it, no CR or LF but in
// CRLF, no line over 990 octets, and among them lines that begin with dots,
// or look like commands and like the end.
func bulky(n int, seed byte, binary bool) []byte {
	out := make([]byte, 0, n+2000)
	state := uint32(seed)*2654435761 + 1
	next := func() byte {
		state ^= state << 13
		state ^= state >> 17
		state ^= state << 5
		return byte(state >> 11)
	}
	tricks := []string{".", "..", ".leading dot", "QUIT", "STARTTLS", "BDAT 10 LAST", "", "From here", "\xff\xfe\x80", "EHLO x"}
	for line := 0; len(out) < n; line++ {
		if line%97 == 0 {
			out = append(out, tricks[(line/97)%len(tricks)]...)
			out = append(out, '\r', '\n')
			continue
		}
		for range 1 + int(next())*3 + line%200 {
			b := next()
			if b == '\r' || b == '\n' || b == 0 && !binary {
				b = 0xfe
			}
			out = append(out, b)
		}
		out = append(out, '\r', '\n')
	}
	return out
}

// stuffed doubles the dots at the beginning of lines (RFC 5321, 4.5.2).
func stuffed(body []byte) []byte {
	text := strings.ReplaceAll("\r\n"+string(body), "\r\n.", "\r\n..")
	return []byte(text[2:])
}

// bodyOf cuts a delivered message after its header and gives it its CRLFs
// back.
func bodyOf(message []byte) []byte {
	_, body, _ := strings.Cut(string(message), "\n\n")
	return []byte(strings.ReplaceAll(body, "\n", "\r\n"))
}

// differ says where two bodies differ, or returns "".
func differ(got, want []byte) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("they differ at byte %d: %q, want %q", i, window(got, i), window(want, i))
		}
	}
	if len(got) != len(want) {
		return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
	}
	return ""
}

func window(b []byte, at int) []byte { return b[max(0, at-10):min(len(b), at+20)] }

// A message of 50 MiB with bytes of all values arrives byte for byte, by DATA
// (8BITMIME) and by BDAT in chunks that end anywhere (CHUNKING). Control: a
// small message in which one byte was changed after the digest was taken must
// be found different, at that byte.
func TestBulk(t *testing.T) {
	t.Parallel()
	p := thePostfix(t)
	gw := serve(t, mx)
	inside := func(to, parameters string) *peer {
		c := dial(t, loopback(), gw.addr("mx"))
		if r := c.smtpTLS(lab.pki.client("localhost")); !r.has("8BITMIME") || !r.has("CHUNKING") {
			t.Fatalf("inside TLS Postfix offers %s", r)
		}
		c.cmd(250, "MAIL FROM:<a@example.net> %s", parameters)
		c.cmd(250, "RCPT TO:<%s@raw.example.org>", to)
		return c
	}
	const head = "Subject: bulk\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
	data := func(to string, body []byte) {
		c := inside(to, fmt.Sprintf("BODY=8BITMIME SIZE=%d", len(body)+len(head)))
		c.cmd(354, "DATA")
		c.write([]byte(head))
		c.write(stuffed(body))
		c.cmd(250, ".")
		c.cmd(221, "QUIT")
		c.closed()
	}
	bdat := func(to string, body []byte) {
		c := inside(to, "BODY=8BITMIME")
		rest := append([]byte(head), body...)
		for size := 1; len(rest) > size; size = size*7 + 1 {
			size = min(size, 5<<20)
			c.write(fmt.Appendf(nil, "BDAT %d\r\n%s", size, rest[:size]))
			c.reply(250)
			rest = rest[size:]
		}
		c.write(fmt.Appendf(nil, "BDAT %d LAST\r\n%s", len(rest), rest))
		c.reply(250)
		c.cmd(221, "QUIT")
		c.closed()
	}
	const size = 50 << 20
	t.Run("data", func(t *testing.T) {
		body := bulky(size, 1, false)
		to := fresh("bulk-data")
		data(to, body)
		if d := differ(bodyOf(p.delivered(t, to)), body); d != "" {
			t.Error(d)
		}
	})
	t.Run("bdat", func(t *testing.T) {
		body := bulky(size, 2, true)
		to := fresh("bulk-bdat")
		bdat(to, body)
		if d := differ(bodyOf(p.delivered(t, to)), body); d != "" {
			t.Error(d)
		}
	})
	t.Run("control", func(t *testing.T) {
		body := bulky(10<<10, 3, false)
		sent := append([]byte(nil), body...)
		sent[5000] ^= 0x20
		to := fresh("bulk-control")
		data(to, sent)
		if d := differ(bodyOf(p.delivered(t, to)), body); !strings.Contains(d, "at byte 5000:") {
			t.Errorf("the flipped byte was not found: %q", d)
		}
	})
}
