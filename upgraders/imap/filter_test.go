package imap

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// exchange lets the client say something, demands what the backend gets,
// lets that answer, and demands what the client gets.
func (p *played) exchange(client, backendSees, backend, clientSees string) {
	p.t.Helper()
	p.client.says(client)
	p.backend.reads(backendSees)
	p.backend.says(backend)
	p.client.reads(clientSees)
}

// pass is exchange without a change.
func (p *played) pass(client, backend string) {
	p.t.Helper()
	p.exchange(client, client, backend, backend)
}

// Whatever way the bytes are cut, a session with nothing to rewrite passes as
// it is, in both directions.
func TestUnchanged(t *testing.T) {
	for seed := range uint64(25) {
		p := rig{}.play(t)
		p.starttls()
		p.client.cut = rand.New(rand.NewPCG(seed, 1))
		p.backend.cut = rand.New(rand.NewPCG(seed, 2))
		p.pass("1 CAPABILITY\r\n", "* CAPABILITY IMAP4rev1 IDLE AUTH=PLAIN\r\n1 OK done\r\n")
		p.pass("2 id (\"name\" \"mutt\" \"version\" NIL)\r\n", "* ID (\"name\" {7}\r\nDovecot \"x\" {2}\r\n\r\n)\r\n2 OK done {5}\r\n")
		p.pass("3 X-UNKNOWN \"{5}\" \\\"\r\n", "3 BAD unknown\r\n")
		p.pass("\r\n", "* BAD empty {7}\r\n* LIST () \"/\" {3}\r\na\nb\r\n")
		p.pass("4 NOOP\n", "4 OK bare newlines\n")
		p.pass("5 AUTHENTICATE GSSAPI\r\n", "+ \r\n")
		p.pass("a STARTTLS\r\n", "+ Y2hhbGxlbmdl\r\n") // M-08: in an exchange it is data
		p.pass("*\r\n", "5 BAD cancelled\r\n")
		p.pass("6 LOGIN {4}\r\n", "+ go\r\n")
		p.pass("us\r\r {8}\r\n", "+ go on\r\n")
		p.pass("b NOOP\r\n\r\n", "6 NO [AUTHENTICATIONFAILED] wrong\r\n")
		p.pass("7 LOGIN \"u\" \"p\\\"{5}\"\r\n", "* CAPABILITY IMAP4rev1 IDLE\r\n7 OK [CAPABILITY IMAP4rev1] in\r\n")
		// Opaque: nothing is parsed any more.
		p.pass("8 STARTTLS\r\n\x00\rx ID (\"x-originating-ip\" \"192.0.2.9\")\r\n", "* CAPABILITY STARTTLS\r\n+ {99999999999999999999}\r\n\x00")
		p.client.Close()
		p.backend.closed()
	}
}

// What is sent behind a login goes through unread, in the order in which it
// came.
func TestPipelinedLogin(t *testing.T) {
	for _, login := range []string{"a LOGIN u p\r\n", "a login \"u\" \"p\"\r\n", "a AUTHENTICATE PLAIN AHUAcA==\r\n", "a authenticate plain AHUAcA==\r\n"} {
		p := rig{}.play(t)
		p.starttls()
		behind := "b SELECT INBOX\r\nc ID (\"x-proxy-ttl\" \"1\")\r\nd STARTTLS\r\n"
		p.client.says(login + behind)
		p.backend.reads(login)
		time.Sleep(10 * time.Millisecond)
		p.backend.says("a OK [capability IMAP4rev1 STARTTLS IDLE] in\r\n* CAPABILITY STARTTLS\r\n")
		p.client.reads("a OK [capability IMAP4rev1 IDLE] in\r\n* CAPABILITY STARTTLS\r\n")
		p.backend.reads(behind)
		p.pass("e NOOP\r\n", "b OK\r\nc OK\r\nd BAD\r\ne OK\r\n")
		if !p.isOpaque() {
			t.Errorf("%q: still filtered", login)
		}
	}
}

// Pipelined commands before a login are answered in order, and each of the
// gateway's own answers stands in its place.
func TestOwnAnswersKeepTheirPlace(t *testing.T) {
	p := rig{}.play(t)
	p.starttls()
	p.client.say("1 CAPABILITY", "2 STARTTLS", "3 compress DEFLATE", "4 NOOP", "* STARTTLS", "a  NOOP", "5 STARTTLS {3}", "6 LOGIN {65537}")
	backend := func(sees, says string) {
		t.Helper()
		p.backend.sees(sees)
		p.backend.say(says)
	}
	backend("1 CAPABILITY", "* CAPABILITY IMAP4rev1\r\n1 OK done")
	backend("gateway NOOP", "* OK still here\r\ngateway OK done")
	backend("gateway NOOP", "gateway NO nothing")
	backend("4 NOOP", "4 OK done")
	backend("gateway NOOP", "gateway OK done")
	backend("gateway NOOP", "gateway OK done")
	backend("gateway NOOP", "gateway OK done")
	backend("gateway NOOP", "gateway OK done")
	p.client.sees("* CAPABILITY IMAP4rev1", "1 OK done", "* OK still here", "2 BAD TLS is active already",
		"3 BAD COMPRESS is for authenticated sessions", "4 OK done", "* BAD Tag and command expected",
		"a BAD Tag and command expected", "5 BAD TLS is active already", "6 BAD Literal is too large")
	p.pass("7 NOOP\r\n", "7 OK done\r\n")
}

// A literal that the client sends unasked reaches the backend as one that it
// asks for: only the backend decides what is data.
func TestNonSynchronizingLiteral(t *testing.T) {
	p := rig{}.play(t)
	p.starttls()
	p.client.says("a LOGIN {2+}\r\nus {0+}\r\n\r\nb LOGIN {13+}\r\nx STARTTLS\r\n\r {4+}\r\nword\r\nc NOOP\r\n")
	p.backend.sees("a LOGIN {2}")
	p.backend.say("+ go")
	p.backend.reads("us {0}\r\n")
	p.backend.say("+ go")
	p.backend.reads("\r\n")
	p.backend.say("a NO wrong")
	p.backend.sees("b LOGIN {13}")
	p.backend.say("* OK [ALERT] calm down", "b BAD too large")
	// All that belongs to the refused command is gone.
	p.backend.sees("c NOOP")
	p.backend.say("c OK done")
	p.client.sees("a NO wrong", "* OK [ALERT] calm down", "b BAD too large", "c OK done")
}

// Sizes that nobody means end the session, and cost nothing (M-04).
func TestEnormousLiterals(t *testing.T) {
	for _, client := range []string{
		"a LOGIN {65537+}\r\n", "a LOGIN {9223372036854775807+}\r\n", "a NOOP {99999999999999999999}\r\n",
		"a ID ({65000}\r\n", "a X {-1}\r\n", "a ID ({999999999999+}\r\n",
	} {
		p := rig{}.play(t)
		p.starttls()
		p.client.says(client)
		p.client.matches(`a BAD .*`)
		p.client.sees("* BYE Closing")
		p.ends(upgraders.ErrSyntax)
		p.client.closed()
		p.backend.closed()
	}
}

// RFC 2971: the client's ID goes on without what a proxy would say in it.
func TestClientID(t *testing.T) {
	for args, want := range map[string]string{
		`("name" "mutt" "x-originating-ip" "192.0.2.9" "os" NIL)`: `("name" "mutt" "os" NIL)`,
		`("X-Originating-IP" "192.0.2.9")`:                        `NIL`,
		`(x-originating-ip "192.0.2.9" name "mutt")`:              `(name "mutt")`,
		`("\x-proxy-ttl" "1" "a\"b" "c\\")`:                       `("a\"b" "c\\")`,
		`( "name"   "mutt""x-session-id""7" "v" "1" )`:            `("name" "mutt" "v" "1")`,
		`("name" "x-connected-ip" "x-connected-ip" "name")`:       `("name" "x-connected-ip")`,
		`("name" a"x-originating-ip" "192.0.2.9")`:                `("name" a)`,
		`(("x-originating-ip" "192.0.2.9"))`:                      ``,
		`("name")`:                                                ``,
		`("name" "mutt`:                                           ``,
		`("name" "mutt\`:                                          ``,
		`"name" "mutt"`:                                           ``,
		`("name" {5}x "x-originating-ip" "192.0.2.9")`:            ``,
		``:                ``,
		`nil`:             `nil`,
		`()`:              `()`,
		`("name" "mutt")`: `("name" "mutt")`,
		`("name" "x-")`:   `("name" "x-")`,
		`("x-" "1" "X-forward-user" "2" "xname" "3" "x" "4")`:          `("xname" "3" "x" "4")`,
		"(\"na\xc3\xafve\" \"\xff\" \"x-\xff\" \"b\")":                 "(\"na\xc3\xafve\" \"\xff\")",
		`("name" ~ "x-originating-port" "1")`:                          `("name" ~)`,
		`("x-originating-ip" "192.0.2.9" "x-originating-ip" "192.0.")`: `NIL`,
	} {
		p := rig{forward: upgraders.Forward{}}.play(t)
		p.starttls()
		p.client.say("a ID " + args)
		if want == "" {
			p.backend.sees("gateway NOOP")
			p.backend.say("gateway OK")
			p.client.sees("a BAD ID takes a list of strings or NIL")
			continue
		}
		p.backend.sees("a ID " + want)
		p.backend.say("* ID NIL", "a OK")
		p.client.sees("* ID NIL", "a OK")
	}
}

// The same with literals, of both kinds; the gateway asks for those itself.
func TestClientIDWithLiterals(t *testing.T) {
	p := rig{}.play(t)
	p.starttls()
	p.client.says("a id ({4}\r\n")
	p.backend.sees("gateway NOOP")
	p.backend.say("gateway OK")
	p.client.sees("+ Ready for literal")
	p.client.says("name {3+}\r\n\"\\{ {16+}\r\nx-originating-ip {9+}\r\n192.0.2.9 \"v\" {1+}\r\n1)\r\n")
	p.backend.sees(`a id ("name" "\"\\{" "v" "1")`)
	p.backend.say("a OK")
	p.client.sees("a OK")

	// What can't be a quoted string is refused, whatever it says.
	p.client.says("b ID (\"name\" {21+}\r\nx\r\nc ID (\"x-a\" \"b\")\r\n)\r\n")
	p.backend.sees("gateway NOOP")
	p.backend.say("gateway OK")
	p.client.sees("b BAD ID takes a list of strings or NIL")
	p.pass("d NOOP\r\n", "d OK\r\n")
}

// M-03, cleartext allowed: a LOGIN with literals works as without a gateway.
func TestCleartextLoginWithLiterals(t *testing.T) {
	for _, plus := range []string{"", "+"} {
		p := rig{listener: upgraders.Listener{Cleartext: true, CleartextAuth: true}, caps: upgraders.Capabilities{"IMAP4rev1", "SASL-IR", "AUTH=PLAIN"}}.play(t)
		p.client.sees("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN STARTTLS] gw.example.org IMAP ready")
		p.client.says("a NOOP\r\nb LOGIN {11" + plus + "}\r\n")
		p.client.sees("a OK NOOP completed")
		p.backend.say("* OK [CAPABILITY IMAP4rev1 STARTTLS] backend ready")
		p.backend.sees("b LOGIN {11}")
		p.backend.say("+ go")
		if plus == "" {
			p.client.sees("+ go")
		}
		p.client.says("c STARTTLS\r p\r\nd SELECT INBOX\r\n")
		p.backend.reads("c STARTTLS\r p\r\n")
		p.backend.say("b OK in")
		p.client.sees("b OK in")
		p.backend.sees("d SELECT INBOX")
	}
}

// D4: a session that was joined in cleartext is not upgraded any more, neither
// here nor at the backend (G-09).
func TestCleartextIsFinal(t *testing.T) {
	p := rig{listener: upgraders.Listener{Cleartext: true, CleartextAuth: true}}.play(t)
	p.client.sees("* OK [CAPABILITY IMAP4rev1 STARTTLS] gw.example.org IMAP ready")
	p.client.say("a ENABLE CONDSTORE", "b STARTTLS", "c CAPABILITY")
	p.backend.say("* OK [CAPABILITY IMAP4rev1 STARTTLS] backend ready")
	p.backend.sees("a ENABLE CONDSTORE")
	p.backend.say("a BAD log in first")
	p.backend.sees("gateway NOOP")
	p.backend.say("gateway OK")
	p.backend.sees("c CAPABILITY")
	p.backend.say("* CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN LOGINDISABLED", "c OK")
	p.client.sees("a BAD log in first", "b BAD TLS is not available any more in this session", "* CAPABILITY IMAP4rev1 AUTH=PLAIN LOGINDISABLED", "c OK")
	if p.log.lines() != nil {
		t.Errorf("logged %q", p.log.lines())
	}
}

// cleartext_auth = false is enforced behind the join too: no byte of a
// credential reaches the backend.
func TestCleartextAuthRefused(t *testing.T) {
	p := rig{listener: upgraders.Listener{Cleartext: true}}.play(t)
	p.client.sees("* OK " + clearCaps + " gw.example.org IMAP ready")
	p.client.say("a ENABLE CONDSTORE", "b CAPABILITY", "c LOGIN u secret", "d LOGIN {6}", "e AUTHENTICATE PLAIN", "f authenticate plain c2VjcmV0")
	p.backend.say("* OK backend ready")
	p.backend.sees("a ENABLE CONDSTORE")
	p.backend.say("a BAD log in first")
	p.backend.sees("b CAPABILITY")
	p.backend.say("* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN STARTTLS", "b OK")
	for range 4 {
		p.backend.sees("gateway NOOP")
		p.backend.say("gateway OK")
	}
	refused := " NO [PRIVACYREQUIRED] This needs TLS, from the beginning of a session"
	p.client.sees("a BAD log in first", "* CAPABILITY IMAP4rev1 LOGINDISABLED", "b OK", "c"+refused, "d"+refused, "e"+refused, "f"+refused)
	p.client.says("g LOGIN u {6+}\r\nsecret\r\n")
	p.client.sees("g BAD No literal is accepted here", "* BYE Closing")
	p.ends(upgraders.ErrLiteral)
	p.backend.closed()
}

// What a client must not send inside TLS ends the session.
func TestCutOff(t *testing.T) {
	for _, test := range []struct {
		client string
		sees   string
		ends   error
	}{
		{"GET / HTTP/1.1\r\n", "", upgraders.ErrHTTP},
		{"a NOOP\x00\r\n", "* BAD NUL in a command\r\n* BYE Closing\r\n", wire.ErrNUL},
		{"a NOOP\rb STARTTLS\r\n", "* BAD Lines end in CRLF\r\n* BYE Closing\r\n", wire.ErrBareNewline},
		{strings.Repeat("a", 64<<10), "* BAD Line is too long\r\n* BYE Closing\r\n", wire.ErrTooLong},
		{"a STARTTLS {5+}\r\n", "a BAD No literal is accepted here\r\n* BYE Closing\r\n", upgraders.ErrLiteral},
	} {
		p := rig{}.play(t)
		p.starttls()
		p.client.says(test.client)
		p.client.reads(test.sees)
		p.ends(test.ends)
		p.client.closed()
		p.backend.closed()
	}
}

// A backend that breaks its protocol is not let through.
func TestBackendBreaks(t *testing.T) {
	broke := "* BYE [UNAVAILABLE] The mail server broke off\r\n"
	for name, test := range map[string]struct {
		backend, client string
	}{
		"+ unasked":          {"+ send me your next command\r\n", broke},
		"endless line":       {"* " + strings.Repeat("x", 64<<10), broke},
		"no length":          {"* LIST {99999999999999999999}\r\n", "* LIST {99999999999999999999}\r\n"},
		"endless capability": {"* CAPABILITY STARTTLS " + strings.Repeat("x ", 32<<10), broke},
	} {
		p := rig{}.play(t)
		p.starttls()
		p.client.say("a NOOP")
		p.backend.sees("a NOOP")
		p.backend.says(test.backend)
		p.client.reads(test.client)
		p.ends(upgraders.ErrBackend)
		p.client.closed()
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

// A backend that ends a session ends it for the client, with all it said; a
// response that ends in the middle is no end.
func TestBackendEnds(t *testing.T) {
	p := rig{}.play(t)
	p.starttls()
	p.client.say("a LOGOUT")
	p.backend.sees("a LOGOUT")
	p.backend.says("* BYE gone\r\na OK bye\r\n* half [CAPABILITY STARTTLS")
	p.backend.Close()
	p.client.sees("* BYE gone", "a OK bye")
	p.client.reads("* half [CAPABILITY STARTTLS")
	p.ends(io.EOF)
	p.client.closed()

	p = rig{}.play(t)
	p.starttls()
	p.backend.says("* LIST {10}\r\nabc")
	p.backend.Close()
	p.client.reads("* LIST {10}\r\nabc")
	p.ends(io.ErrUnexpectedEOF)
}

// The client's half-close reaches the backend, and what that still says
// reaches the client (G-24). Half a command is not passed on.
func TestClientHalfClose(t *testing.T) {
	p := rig{}.play(t)
	p.starttls()
	p.client.says("a NOOP\r\nb STARTTLS")
	p.client.Conn.(interface{ CloseWrite() error }).CloseWrite()
	p.backend.sees("a NOOP")
	p.backend.say("a OK")
	p.backend.closed()
	p.backend.say("* BYE gone")
	p.backend.Close()
	p.client.sees("a OK", "* BYE gone")
	p.client.closed()
	p.ends(io.EOF)
}

// Idle and shutdown are told in the protocol's words.
func TestLastWords(t *testing.T) {
	for err, words := range map[error]string{
		wire.ErrIdle:        "* BYE Autologout; idle for too long\r\n",
		wire.ErrShutdown:    "* BYE Server shutting down\r\n",
		upgraders.ErrHTTP:   "",
		io.ErrUnexpectedEOF: "",
		fmt.Errorf("%w: %w", upgraders.ErrBackend, wire.ErrTooLong): "* BYE [UNAVAILABLE] The mail server broke off\r\n",
	} {
		if got := partings.To(err); got != words {
			t.Errorf("%v: got %q", err, got)
		}
	}
}

// Bulk passes in the filtered phase and behind it: literals are copied, not
// held.
func TestBulk(t *testing.T) {
	const size = 20 << 20
	body := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(body)
	want := sha256.Sum256(body)

	p := rig{}.play(t)
	p.starttls()
	p.client.say("a ID NIL")
	p.backend.sees("a ID NIL")
	go func() {
		fmt.Fprintf(p.backend, "* ID (\"x\" {%d}\r\n", size)
		p.backend.Write(body)
		io.WriteString(p.backend, ")\r\na OK [CAPABILITY STARTTLS]\r\n")
	}()
	p.client.reads(fmt.Sprintf("* ID (\"x\" {%d}\r\n", size))
	h := sha256.New()
	if _, err := io.CopyN(h, p.client.wire, size); err != nil || !bytes.Equal(h.Sum(nil), want[:]) {
		t.Fatalf("literal broken: %v", err)
	}
	p.client.reads(")\r\na OK [CAPABILITY]\r\n")

	// AUTHENTICATE's lines have no bound of ours.
	p.pass("b AUTHENTICATE X\r\n", "+ \r\n")
	line := strings.Repeat("QUJD", 1<<18)
	go p.client.say(line)
	p.backend.sees(line)
	p.backend.say("b OK in")
	p.client.sees("b OK in")

	go func() {
		fmt.Fprintf(p.client, "c APPEND INBOX {%d+}\r\n", size)
		p.client.Write(body)
		io.WriteString(p.client, "\r\n")
	}()
	p.backend.reads(fmt.Sprintf("c APPEND INBOX {%d+}\r\n", size))
	h.Reset()
	if _, err := io.CopyN(h, p.backend.wire, size); err != nil || !bytes.Equal(h.Sum(nil), want[:]) {
		t.Fatalf("append broken: %v", err)
	}
	p.backend.reads("\r\n")
}
