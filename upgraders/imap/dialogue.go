package imap

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// maxBad is how many commands a client may get wrong before TLS.
const maxBad = 5

// A dialogue is what one client says in cleartext, up to STARTTLS or to the
// first command that needs the backend.
type dialogue struct {
	*upgrader
	session *upgraders.Session
	bad     int
	told    bool // that TLS is required
}

// run greets and answers until the client asks for TLS, goes on without it, or
// is turned away.
func (d *dialogue) run(ctx context.Context) (upgraders.Handover, error) {
	greeting := "* OK [CAPABILITY " + d.capabilities(ctx) + "] " + d.session.Listener.Hostname + " IMAP ready\r\n"
	if err := write(d.session.Conn, greeting); err != nil {
		return upgraders.Handover{}, err
	}
	for {
		line, err := upgraders.ReadCommand(d.session.Conn, maxClearLine)
		if err != nil {
			return hangUp(partings.To(err), upgraders.LeftWithoutTLS(d.told, err))
		}
		h, err := d.command(ctx, line)
		if err != nil || h.Verdict != upgraders.HangUp {
			return h, err
		}
	}
}

func hangUp(words string, err error) (upgraders.Handover, error) {
	return upgraders.Handover{Reply: []byte(words)}, err
}

// capabilities are those of the session as it stands: in cleartext.
func (d *dialogue) capabilities(ctx context.Context) string {
	o := d.offer(d.session, true)
	o.refuseAuth = d.refusesAuth()
	return o.announce(d.session.Capabilities(ctx), d.session.CanTLS())
}

// refusesAuth reports whether a password must not be sent without TLS.
func (d *dialogue) refusesAuth() bool {
	return !d.session.Listener.Cleartext || !d.session.Listener.CleartextAuth
}

// command answers one line. A zero Handover without an error means that the
// dialogue goes on.
func (d *dialogue) command(ctx context.Context, line []byte) (upgraders.Handover, error) {
	if !printable(line) {
		return hangUp("* BAD Commands are made of printable characters\r\n* BYE Closing\r\n", upgraders.ErrSyntax)
	}
	if isProxyHeader(line) {
		return hangUp("* BAD Tag and command expected\r\n* BYE Closing\r\n", upgraders.ErrSyntax)
	}
	c := parseCommand(line)
	if _, kind := literal(line); kind != noLiteral {
		return d.literal(c, line, kind)
	}
	switch c.name {
	case "":
		return d.badCommand(c, "Tag and command expected")
	case "CAPABILITY", "NOOP", "LOGOUT", "STARTTLS":
		if len(c.args) > 0 {
			return d.badCommand(c, c.name+" takes no arguments")
		}
	case "ID":
		// RFC 2971, 3.1: a list or NIL, and none of it is remembered.
		if args := strings.ToUpper(string(c.args)); args != " NIL" && !(strings.HasPrefix(args, " (") && strings.HasSuffix(args, ")")) {
			return d.badCommand(c, "ID takes a list or NIL")
		}
	}
	switch c.name {
	case "CAPABILITY":
		return d.say("* CAPABILITY " + d.capabilities(ctx) + "\r\n" + c.tag + " OK CAPABILITY completed\r\n")
	case "NOOP":
		return d.say(c.tag + " OK NOOP completed\r\n")
	case "ID":
		return d.say("* ID NIL\r\n" + c.tag + " OK ID completed\r\n")
	case "LOGOUT":
		return hangUp("* BYE Logging out\r\n"+c.tag+" OK LOGOUT completed\r\n", upgraders.LeftWithoutTLS(d.told, upgraders.ErrQuit))
	case "STARTTLS":
		if !d.session.CanTLS() {
			// RFC 9051, 6.2.1: NO is for a TLS that cannot be had here.
			return d.say(c.tag + " NO [UNAVAILABLE] TLS is not available now\r\n")
		}
		return d.starttls(d.session, c.tag), nil
	}
	return d.needsBackend(c, line)
}

// printable reports whether the tag and the command of a line are text. A NUL,
// a bare CR or LF never comes this far; arguments may be UTF-8 (RFC 9051,
// 4.3).
func printable(line []byte) bool {
	words := 0
	for _, b := range line {
		if b == ' ' {
			words++
		}
		if words < 2 && (b < ' ' || b >= 0x7f) {
			return false
		}
	}
	return true
}

// needsBackend joins in cleartext where that is allowed.
func (d *dialogue) needsBackend(c commandLine, line []byte) (upgraders.Handover, error) {
	switch {
	case !d.session.Listener.Cleartext, d.refusesAuth() && isAuth(c.name):
		d.told = true
		return d.say(c.tag + privacyRequired)
	}
	first := append([]byte(line), "\r\n"...)
	return d.cleartext(d.session, c.tag, first), nil
}

// privacyRequired is what a command gets that may not go without TLS: RFC
// 5530, 3.
const privacyRequired = " NO [PRIVACYREQUIRED] TLS is required; use STARTTLS first\r\n"

// isAuth reports whether a command carries credentials and can authenticate.
func isAuth(name string) bool { return name == "LOGIN" || name == "AUTHENTICATE" }

// literal answers a command whose first line announces a literal. A client
// that waits for `+` is told NO, so that it never sends what it holds back;
// one that doesn't wait is cut off before its bytes are read as anything.
func (d *dialogue) literal(c commandLine, line []byte, kind literalKind) (upgraders.Handover, error) {
	backend := d.session.Listener.Cleartext && c.name != "" && !ours(c.name) && !(d.refusesAuth() && isAuth(c.name))
	switch {
	case kind == badLiteral:
		return hangUp(c.echo()+" BAD Invalid literal\r\n* BYE Closing\r\n", upgraders.ErrLiteral)
	case backend:
		return d.needsBackend(c, line)
	case kind == nonSynchronous:
		return hangUp(c.echo()+" BAD Literals are not accepted before TLS\r\n* BYE Closing\r\n", upgraders.ErrLiteral)
	case c.tag == "":
		return d.badCommand(c, "Tag and command expected")
	}
	d.told = d.told || d.refusesAuth()
	return d.say(c.tag + " NO [PRIVACYREQUIRED] Literals are not accepted before TLS\r\n")
}

// ours reports whether the gateway answers a command before TLS.
func ours(name string) bool {
	switch name {
	case "CAPABILITY", "NOOP", "LOGOUT", "ID", "STARTTLS":
		return true
	}
	return false
}

// say answers, and the dialogue goes on.
func (d *dialogue) say(answer string) (upgraders.Handover, error) {
	return upgraders.Handover{}, write(d.session.Conn, answer)
}

// badCommand answers a command that is none, a few times.
func (d *dialogue) badCommand(c commandLine, why string) (upgraders.Handover, error) {
	answer := c.echo() + " BAD " + why + "\r\n"
	if d.bad++; d.bad >= maxBad {
		return hangUp(answer+"* BYE Too many errors\r\n", upgraders.ErrTooMany)
	}
	return d.say(answer)
}

// write sends an answer in one piece.
func write(w io.Writer, answer string) error {
	if answer == "" {
		return nil
	}
	_, err := io.WriteString(w, answer)
	return err
}

// partings has the last words for an error of reading, or "" for one that
// leaves nobody to speak to.
var partings = upgraders.Answers[string]{
	{upgraders.ErrBackend, "* BYE [UNAVAILABLE] The mail server broke off\r\n"},
	{wire.ErrTooLong, "* BAD Line is too long\r\n* BYE Closing\r\n"},
	{wire.ErrBareNewline, "* BAD Lines end in CRLF\r\n* BYE Closing\r\n"},
	{wire.ErrNUL, "* BAD NUL in a command\r\n* BYE Closing\r\n"},
	{wire.ErrClientHello, "* BYE TLS begins with STARTTLS here\r\n"},
	{wire.ErrBudget, "* BYE Too much talk before TLS\r\n"},
	{wire.ErrStalled, ""},
	{wire.ErrShutdown, "* BYE Server shutting down\r\n"},
	{os.ErrDeadlineExceeded, "* BYE Autologout; idle for too long\r\n"},
}
