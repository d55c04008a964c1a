package imap

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	clearCaps = "[CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED]"
	privacy   = "NO [PRIVACYREQUIRED] TLS is required; use STARTTLS first"
)

// What a client may say before TLS, and what it gets.
func TestDialogue(t *testing.T) {
	rejected := "* BYE Closing"
	for _, test := range []struct {
		name   string
		client string
		sees   []string
		ends   error
	}{
		{"commands", "a CAPABILITY\r\nb noop\r\nc ID NIL\r\nd ID (\"name\" \"x\")\r\ne LOGOUT\r\n", []string{
			"* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED", "a OK CAPABILITY completed",
			"b OK NOOP completed",
			"* ID NIL", "c OK ID completed",
			"* ID NIL", "d OK ID completed",
			"* BYE Logging out", "e OK LOGOUT completed"}, upgraders.ErrQuit},
		{"M-01: credentials", "a LOGIN u p\r\nb AUTHENTICATE PLAIN AGEAYg==\r\nc SELECT INBOX\r\nd FOO\r\n",
			[]string{"a " + privacy, "b " + privacy, "c " + privacy, "d " + privacy}, io.EOF},
		{"M-03: a client that waits", "a LOGIN {5}\r\nb NOOP\r\n",
			[]string{"a NO [PRIVACYREQUIRED] Literals are not accepted before TLS", "b OK NOOP completed"}, upgraders.ErrNeedsTLS},
		{"M-03: one that doesn't", "a LOGIN {11+}\r\nb STARTTLS\r\n",
			[]string{"a BAD Literals are not accepted before TLS", rejected}, upgraders.ErrLiteral},
		{"M-04: sizes", "a LOGIN {999999999999}\r\nb LOGIN {5}x\r\nc ID ({3}\r\nd LOGIN {-1}\r\n",
			[]string{"a NO [PRIVACYREQUIRED] Literals are not accepted before TLS", "b " + privacy,
				"c NO [PRIVACYREQUIRED] Literals are not accepted before TLS",
				"d BAD Invalid literal", rejected}, upgraders.ErrLiteral},
		{"M-04: no such size", "a ID ({999999999999999999999999+}\r\nx",
			[]string{"a BAD Invalid literal", rejected}, upgraders.ErrLiteral},
		{"M-05: tags", "* STARTTLS\r\n+ STARTTLS\r\n STARTTLS\r\n" + strings.Repeat("t", 1024) + " STARTTLS\r\na( STARTTLS\r\n",
			[]string{"* BAD Tag and command expected", "* BAD Tag and command expected", "* BAD Tag and command expected",
				"* BAD Tag and command expected", "* BAD Tag and command expected", "* BYE Too many errors"}, upgraders.ErrTooMany},
		{"G-04: arguments", "a STARTTLS x\r\nb STARTTLS \r\nc  STARTTLS\r\n\r\n",
			[]string{"a BAD STARTTLS takes no arguments", "b BAD STARTTLS takes no arguments",
				"c BAD Tag and command expected", "* BAD Tag and command expected"}, io.EOF},
		{"G-04: tab", "a STARTTLS\t\r\nb NOOP\r\n",
			[]string{"* BAD Commands are made of printable characters", rejected}, upgraders.ErrSyntax},
		{"ID without a list", "a ID\r\nb ID x\r\nc NOOP x\r\n",
			[]string{"a BAD ID takes a list or NIL", "b BAD ID takes a list or NIL", "c BAD NOOP takes no arguments"}, io.EOF},
		{"G-20: NUL", "a START\x00TLS\r\n", []string{"* BAD NUL in a command", rejected}, wire.ErrNUL},
		{"G-20: 8 bit", "a START\x80TLS\r\n", []string{"* BAD Commands are made of printable characters", rejected}, upgraders.ErrSyntax},
		{"G-20: bare LF", "a NOOP\nb STARTTLS\r\n", []string{"* BAD Lines end in CRLF", rejected}, wire.ErrBareNewline},
		{"G-20: bare CR", "a NOOP\rb STARTTLS\r\n", []string{"* BAD Lines end in CRLF", rejected}, wire.ErrBareNewline},
		{"UTF-8 in arguments", "a LOGIN \"j\xc3\xb6rg\" p\r\n", []string{"a " + privacy}, io.EOF},
		{"G-18: HTTP", "GET / HTTP/1.1\r\nHost: x\r\n", nil, upgraders.ErrHTTP},
		{"G-18: HTTP later", "a NOOP\r\nPOST /x HTTP/1.1\r\n", []string{"a OK NOOP completed"}, upgraders.ErrHTTP},
		{"G-16: ClientHello", "\x16\x03\x01\x02\x00\x01", []string{"* BYE TLS begins with STARTTLS here"}, wire.ErrClientHello},
		{"G-19: line", "a " + strings.Repeat("x", 8192), []string{"* BAD Line is too long", rejected}, wire.ErrTooLong},
		{"budget of bytes", strings.Repeat("a NOOP "+strings.Repeat("x", 4000)+"\r\n", 4) + strings.Repeat("y", 2000),
			[]string{"a BAD NOOP takes no arguments", "a BAD NOOP takes no arguments", "a BAD NOOP takes no arguments",
				"a BAD NOOP takes no arguments", "* BYE Too much talk before TLS"}, wire.ErrBudget},
		{"budget of commands", strings.Repeat("a NOOP\r\n", 51),
			append(repeat("a OK NOOP completed", 50), "* BYE Too much talk before TLS"), wire.ErrBudget},
		{"G-01: injection", "a STARTTLS\r\nb NOOP\r\n", []string{"a BAD Nothing may follow STARTTLS before TLS", rejected}, upgraders.ErrInjection},
		{"half a line", "a STARTTLS", nil, io.ErrUnexpectedEOF},
		{"nothing", "", nil, io.EOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := rig{}.play(t)
			p.client.sees("* OK " + clearCaps + " gw.example.org IMAP ready")
			p.client.says(test.client)
			p.client.Conn.(interface{ CloseWrite() error }).CloseWrite()
			if len(test.sees) > 0 {
				p.client.sees(test.sees...)
			}
			p.ends(test.ends)
			p.client.closed()
			p.backend.closed()
		})
	}
}

func repeat(s string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

// G-05: legal commands before STARTTLS, in one segment with it.
func TestPipelinedBeforeStartTLS(t *testing.T) {
	p := rig{caps: upgraders.Capabilities{"IMAP4rev1", "IDLE", "AUTH=PLAIN"}}.play(t)
	p.client.sees("* OK [CAPABILITY IMAP4rev1 IDLE STARTTLS LOGINDISABLED] gw.example.org IMAP ready")
	p.client.say("a NOOP", "b STARTTLS")
	p.client.sees("a OK NOOP completed", "b OK Begin TLS negotiation now")
}

// Without a certificate there is no TLS to begin, and that is said.
func TestNoCertificate(t *testing.T) {
	p := rig{noCert: true}.play(t)
	p.client.sees("* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] gw.example.org IMAP ready")
	p.client.say("a STARTTLS", "b LOGOUT")
	p.client.sees("a NO [UNAVAILABLE] TLS is not available now", "* BYE Logging out", "b OK LOGOUT completed")
}

// Who takes no bytes is told nothing: that would wait as long again.
func TestNoWordsForTheStalled(t *testing.T) {
	if words := partings.To(fmt.Errorf("write: %w", wire.ErrStalled)); words != "" {
		t.Errorf("a client that takes no bytes is told %q", words)
	}
}

// A session in cleartext that may not send a password, before it is joined.
func TestClearWithoutAuth(t *testing.T) {
	p := rig{listener: upgraders.Listener{Cleartext: true}, caps: upgraders.Capabilities{"IMAP4rev1", "AUTH=PLAIN"}}.play(t)
	p.client.sees("* OK " + clearCaps + " gw.example.org IMAP ready")
	p.client.say("a LOGIN u p", "b LOGIN {5}", "c NOOP")
	p.client.sees("a "+privacy, "b NO [PRIVACYREQUIRED] Literals are not accepted before TLS", "c OK NOOP completed")
	p.client.say("d LOGIN {1+}", "u p")
	p.client.sees("d BAD Literals are not accepted before TLS", "* BYE Closing")
	p.ends(upgraders.ErrLiteral)
	p.backend.closed()
}
