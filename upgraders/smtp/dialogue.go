package smtp

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	maxCommand = 512   // RFC 5321, 4.5.3.1.4
	maxLine    = 12288 // RFC 4954, 4: where the line may be for the backend
	maxErrors  = 10
)

// A dialogue is the cleartext part of a session.
type dialogue struct {
	*upgrader
	session *upgraders.Session

	hello    string // the last EHLO or HELO line
	extended bool   // it was an EHLO
	errors   int
	needsTLS bool // the client was told that TLS is required
}

func (d *dialogue) run(ctx context.Context) (upgraders.Handover, error) {
	if err := d.greet(ctx); err != nil {
		return upgraders.Handover{}, d.failed(err)
	}
	limit := maxCommand
	if d.session.Listener.Cleartext {
		limit = maxLine
	}
	for {
		line, err := upgraders.ReadCommand(d.session.Conn, limit)
		if err != nil {
			return upgraders.Handover{}, d.failed(err)
		}
		reply, handover, err := d.command(ctx, string(line))
		if handover != nil {
			return *handover, nil
		}
		if reply[0] >= '4' {
			d.errors++
		}
		if err == nil && d.errors >= maxErrors {
			return upgraders.Handover{}, d.failed(upgraders.ErrTooMany)
		}
		if werr := d.say(reply); err == nil {
			err = werr
		}
		if err != nil {
			return upgraders.Handover{}, upgraders.LeftWithoutTLS(d.needsTLS, err)
		}
	}
}

// greet sends the 220, after the client has shown the patience to wait for it:
// who talks before is not a mail server (RFC 5321, 3.1).
func (d *dialogue) greet(ctx context.Context) error {
	if d.greetWait > 0 {
		wait := time.NewTimer(d.greetWait)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if d.session.Conn.Pipelined() {
			return upgraders.ErrEarlyTalk
		}
	}
	return d.say("220 " + d.session.Listener.Hostname + " " + d.greeting)
}

// command answers one command. A Handover is the end of the dialogue; so is an
// error, after the reply.
func (d *dialogue) command(ctx context.Context, line string) (reply string, h *upgraders.Handover, err error) {
	verb, argument := split(line)
	l := d.session.Listener
	needsBackend := l.Cleartext && backendVerb(verb)
	if !needsBackend && !printable(line) {
		// RFC 5321, 4.1.1: US-ASCII. Only what a backend has offered
		// SMTPUTF8 for may hold more (RFC 6531), and only there.
		return "500 5.5.2 Syntax error, command unrecognized", nil, upgraders.ErrSyntax
	}
	switch verb {
	case d.helloVerb:
		if argument == "" {
			return "501 5.5.4 Syntax: " + verb + " hostname", nil, nil
		}
		d.hello, d.extended = line, true
		return d.ehlo(ctx), nil, nil
	case "HELO":
		if !d.helo() {
			break
		}
		if argument == "" {
			return "501 5.5.4 Syntax: HELO hostname", nil, nil
		}
		d.hello, d.extended = line, false
		return "250 " + l.Hostname, nil, nil
	case "NOOP":
		return "250 2.0.0 Ok", nil, nil
	case "QUIT":
		return "221 2.0.0 Bye", nil, upgraders.ErrQuit
	case "STARTTLS":
		return d.starttlsCommand(argument)
	case "PROXY":
		// The header of a proxy that the listener does not trust.
		return "500 5.5.2 Syntax error, command unrecognized", nil, upgraders.ErrProxy
	}

	known := backendVerb(verb) || localVerb(verb)
	switch {
	case !known:
		return "500 5.5.2 Syntax error, command unrecognized", nil, nil
	case !l.Cleartext:
		// RFC 3207, 4.
		d.needsTLS = true
		return "530 5.7.0 Must issue a STARTTLS command first", nil, nil
	}
	switch verb {
	case "RSET":
		return "250 2.0.0 Ok", nil, nil
	case "VRFY":
		return "252 2.5.2 Cannot verify, but will take mail and attempt delivery", nil, nil
	case "HELP":
		return "214 2.0.0 See RFC 5321", nil, nil
	case "XCLIENT", "XFORWARD":
		return noClientFacts, nil, nil
	case "AUTH", "X-EXPS":
		if !l.CleartextAuth {
			return noClearAuth, nil, nil
		}
	}
	join := d.cleartext(d.session, d.hello, line)
	return "", &join, nil
}

// Replies that are the same before and inside TLS.
const (
	noClientFacts = "550 5.7.0 Not permitted"
	noClearAuth   = "538 5.7.11 Encryption required for requested authentication mechanism"
	noTLS         = "454 4.7.0 TLS not available"
)

func (d *dialogue) starttlsCommand(argument string) (string, *upgraders.Handover, error) {
	switch {
	case argument != "":
		return "501 5.5.4 Syntax error (no parameters allowed)", nil, nil
	case !d.extended:
		// The keyword is announced in the reply to EHLO, which a client has
		// therefore read (RFC 3207, 4); after HELO there are no extensions.
		return "503 5.5.1 Send " + d.helloVerb + " first", nil, nil
	case !d.session.CanTLS():
		return noTLS + " due to temporary reason", nil, nil
	}
	h := d.starttls(d.session)
	return "", &h, nil
}

// ehlo lists what the backend offers a session in TLS, less what is only true
// there, plus STARTTLS. Of a backend that cannot be asked nothing is said.
func (d *dialogue) ehlo(ctx context.Context) string {
	lines := []string{d.session.Listener.Hostname}
	o := inClear(d.session.Listener)
	for _, line := range d.session.Capabilities(ctx) {
		if shown := new(extensions).read(o, line); shown != "" && printable(shown) {
			lines = append(lines, shown)
		}
	}
	if d.session.CanTLS() {
		lines = append(lines, "STARTTLS")
	}
	last := len(lines) - 1
	var b strings.Builder
	for _, line := range lines[:last] {
		b.WriteString("250-" + line + "\r\n")
	}
	b.WriteString("250 " + lines[last])
	return b.String()
}

// say sends one reply in one write.
func (d *dialogue) say(reply string) error {
	_, err := io.WriteString(d.session.Conn, reply+"\r\n")
	return err
}

// failed tells the client why the dialogue ends, where that has words.
func (d *dialogue) failed(err error) error {
	if words := lastWords(err, d.session.Listener.Hostname); words != "" {
		d.say(words)
	}
	return upgraders.LeftWithoutTLS(d.needsTLS, err)
}

// lastWords says how a session ends that the gateway ends, or nothing where
// nothing should be said: to a browser, to a TLS record, to one who takes no
// bytes or has left.
func lastWords(err error, hostname string) string {
	switch {
	case errors.Is(err, upgraders.ErrHTTP), errors.Is(err, wire.ErrClientHello), errors.Is(err, wire.ErrStalled):
		return ""
	case errors.Is(err, upgraders.ErrEarlyTalk):
		return "554 5.5.1 You spoke before the greeting"
	case errors.Is(err, upgraders.ErrTooMany):
		return "421 4.7.0 " + hostname + " Too many errors"
	case errors.Is(err, errMessage):
		return "554 5.6.0 Bare CR or LF in the message; lines end in CRLF"
	case errors.Is(err, errChunk):
		return "552 5.3.4 Chunk too large"
	case errors.Is(err, wire.ErrTooLong):
		return "500 5.5.2 Line too long"
	case errors.Is(err, wire.ErrBareNewline), errors.Is(err, wire.ErrNUL):
		return "500 5.5.2 Lines end in CRLF and hold no CR, LF or NUL"
	case errors.Is(err, wire.ErrBudget):
		return "421 4.7.0 " + hostname + " Too much before TLS"
	case errors.Is(err, wire.ErrShutdown):
		return "421 4.3.2 " + hostname + " Shutting down, try again later"
	case timedOut(err):
		return "421 4.4.2 " + hostname + " Timeout"
	}
	return ""
}

func timedOut(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// helo reports whether HELO is a command. LMTP has none (RFC 2033, 4.1).
func (v variant) helo() bool { return v.helloVerb == "EHLO" }

// split takes a command line apart: the verb in upper case, and the rest
// without the white space that RFC 5321, 4.1.1 wants tolerated at the end. What
// is no clean verb gives "": another parser might read it in another way.
func split(line string) (verb, argument string) {
	verb, argument, _ = strings.Cut(strings.TrimRight(line, " \t"), " ")
	for i := range len(verb) {
		switch b := verb[i]; {
		case 'A' <= b && b <= 'Z', 'a' <= b && b <= 'z', '0' <= b && b <= '9', b == '-':
		default:
			return "", ""
		}
	}
	return strings.ToUpper(verb), argument
}

// backendVerb lists the commands that only a backend can answer.
func backendVerb(verb string) bool {
	switch verb {
	case "MAIL", "RCPT", "DATA", "BDAT", "AUTH", "EXPN", // RFC 5321, 3030, 4954
		"ETRN", "TURN", "ATRN", "BURL", "SEND", "SOML", "SAML", // RFC 1985, 2645, 4468, 821
		"X-EXPS": // Exchange's AUTH
		return true
	}
	return false
}

// localVerb lists the other commands that are SMTP, and that the gateway
// answers where a session may go on without TLS.
func localVerb(verb string) bool {
	switch verb {
	case "RSET", "VRFY", "HELP", "XCLIENT", "XFORWARD":
		return true
	}
	return false
}

func printable(line string) bool {
	for i := range len(line) {
		if b := line[i]; b != '\t' && (b < ' ' || b > '~') {
			return false
		}
	}
	return true
}
