package sieve

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// maxErrors is how many commands a client may get wrong before TLS.
const maxErrors = 10

// A dialogue is the cleartext part of a session.
type dialogue struct {
	upgrader
	session *upgraders.Session
	errors  int
	told    bool // that TLS is required
}

// run greets and answers until the client asks for TLS, goes on without it, or
// is turned away.
func (d *dialogue) run(ctx context.Context) (upgraders.Handover, error) {
	greeting := d.capabilities(ctx) + "OK " + quote(d.session.Listener.Hostname+" ManageSieve ready")
	if err := say(d.session.Conn, greeting); err != nil {
		return upgraders.Handover{}, err
	}
	for {
		line, err := upgraders.ReadCommand(d.session.Conn, maxClearLine)
		if err != nil {
			return turnedAway(partings.To(err), upgraders.LeftWithoutTLS(d.told, err))
		}
		h, err := d.command(ctx, line)
		if err != nil || h.Verdict != upgraders.HangUp {
			return h, err
		}
	}
}

// turnedAway ends the dialogue with words, where there are any.
func turnedAway(words string, err error) (upgraders.Handover, error) {
	if words != "" {
		words += "\r\n"
	}
	return upgraders.Handover{Reply: []byte(words)}, err
}

// Responses that are the same before and inside TLS.
const (
	needsTLS      = `NO (ENCRYPT-NEEDED) "TLS is required; use STARTTLS first"` // RFC 5804, 1.3
	noArguments   = `NO "This command takes no arguments"`
	noCommand     = `NO "Not a command of ManageSieve"`
	noClientFacts = `NO "Not permitted"`
)

// command answers one line. A zero Handover without an error means that the
// dialogue goes on.
func (d *dialogue) command(ctx context.Context, line []byte) (upgraders.Handover, error) {
	c := parseCommand(line)
	if c.size != noLiteral {
		return d.literal(c, line)
	}
	switch c.verb {
	case "CAPABILITY", "LOGOUT", "STARTTLS":
		if len(c.args) > 0 {
			return d.wrong(noArguments)
		}
	}
	switch c.verb {
	case "CAPABILITY":
		return d.say(d.capabilities(ctx) + `OK "Capability completed"`)
	case "NOOP":
		return d.noop(c)
	case "LOGOUT":
		return turnedAway(`OK "Bye"`, upgraders.LeftWithoutTLS(d.told, upgraders.ErrQuit))
	case "STARTTLS":
		if !d.session.CanTLS() {
			return d.say(`NO (TRYLATER) "TLS is not available now"`)
		}
		return d.starttls(), nil
	}
	if !needsBackend(c.verb) {
		if c.verb == "XCLIENT" {
			return d.wrong(noClientFacts)
		}
		return d.wrong(noCommand)
	}
	return d.join(c, line)
}

// needsBackend reports whether a command is one of RFC 5804 that the gateway
// does not answer itself.
func needsBackend(verb string) bool {
	switch verb {
	case "AUTHENTICATE", "UNAUTHENTICATE", "HAVESPACE", "PUTSCRIPT", "LISTSCRIPTS", "SETACTIVE",
		"GETSCRIPT", "DELETESCRIPT", "RENAMESCRIPT", "CHECKSCRIPT":
		return true
	}
	return false
}

// refuses reports whether a command may not go without TLS.
func (d *dialogue) refuses(c command) bool {
	l := d.session.Listener
	return !l.Cleartext || !l.CleartextAuth && c.verb == "AUTHENTICATE"
}

// join goes on in cleartext where that is allowed.
func (d *dialogue) join(c command, line []byte) (upgraders.Handover, error) {
	if d.refuses(c) {
		d.told = true
		return d.say(needsTLS)
	}
	return d.cleartext(d.session, append([]byte(line), "\r\n"...)), nil
}

// literal answers a command whose line announces a literal. Clients send those
// unasked, so its bytes would be read as commands: the session ends.
func (d *dialogue) literal(c command, line []byte) (upgraders.Handover, error) {
	switch {
	case c.size == badLiteral:
		return turnedAway(`BYE "Invalid literal"`, upgraders.ErrLiteral)
	case needsBackend(c.verb) && !d.refuses(c):
		return d.join(c, line)
	case c.verb == "AUTHENTICATE":
		return turnedAway(needsTLS+"\r\n"+`BYE "Literals are not accepted before TLS"`, upgraders.ErrLiteral)
	}
	return turnedAway(`BYE "Literals are not accepted before TLS"`, upgraders.ErrLiteral)
}

// noop answers NOOP: RFC 5804, 2.13 has the answer repeat its string, by which
// clients find out where in the stream they are. None is repeated that could
// mean anything to another protocol.
func (d *dialogue) noop(c command) (upgraders.Handover, error) {
	switch {
	case len(c.args) == 0:
		return d.say(`OK "Done"`)
	case len(c.args) == 1 && isTag(c.args[0]):
		return d.say(`OK (TAG ` + quote(c.args[0]) + `) "Done"`)
	}
	return d.wrong(`NO "NOOP takes a short string of letters, digits and hyphens before TLS"`)
}

// isTag reports whether a string is harmless wherever it is read.
func isTag(s string) bool {
	return len(s) <= 64 && (s == "" || isVerb([]byte(s)))
}

// capabilities lists what the backend offers a session in TLS, less what is
// true only there, plus STARTTLS.
func (d *dialogue) capabilities(ctx context.Context) string {
	l := d.session.Listener
	o := offer{refuseAuth: !l.Cleartext || !l.CleartextAuth, starttls: d.session.CanTLS()}
	return o.announce(d.session.Capabilities(ctx))
}

// say answers, and the dialogue goes on.
func (d *dialogue) say(answer string) (upgraders.Handover, error) {
	return upgraders.Handover{}, say(d.session.Conn, answer)
}

// wrong answers what is no command, a few times.
func (d *dialogue) wrong(answer string) (upgraders.Handover, error) {
	if d.errors++; d.errors >= maxErrors {
		return turnedAway(`BYE "Too many errors"`, upgraders.ErrTooMany)
	}
	return d.say(answer)
}

// say sends one answer in one write.
func say(w io.Writer, answer string) error {
	_, err := io.WriteString(w, answer+"\r\n")
	return err
}

// partings has the last words for an error of reading, or "" for one that
// leaves nobody to speak to.
var partings = upgraders.Answers[string]{
	{upgraders.ErrBackend, `BYE (TRYLATER) "The server broke off"`},
	{upgraders.ErrSyntax, `BYE "Not a command of ManageSieve"`},
	{upgraders.ErrLiteral, `BYE "Invalid literal"`},
	{wire.ErrTooLong, `BYE "Line is too long"`},
	{wire.ErrBareNewline, `BYE "Lines end in CRLF"`},
	{wire.ErrNUL, `BYE "NUL in a command"`},
	{wire.ErrClientHello, `BYE "TLS begins with STARTTLS here"`},
	{wire.ErrBudget, `BYE "Too much talk before TLS"`},
	{wire.ErrShutdown, `BYE (TRYLATER) "Shutting down"`},
	{wire.ErrStalled, ""},
	{os.ErrDeadlineExceeded, `BYE "Idle for too long"`},
}

// unavailable says that there is no backend.
func unavailable(cause error) string {
	if errors.Is(cause, upgraders.ErrLimit) {
		return `BYE (TRYLATER) "Too many connections"`
	}
	return `BYE (TRYLATER) "The server cannot be reached"`
}
