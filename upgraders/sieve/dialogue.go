package sieve

import (
	"context"
	"errors"
	"os"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A dialogue is the cleartext part of a session.
type dialogue struct {
	upgraders.Dialogue
	upgrader
}

// run greets and answers until the client asks for TLS, goes on without it, or
// is turned away.
func (d *dialogue) run(ctx context.Context) (upgraders.Handover, error) {
	greeting := d.capabilities(ctx) + "OK " + quote(d.Session.Listener.Hostname+" ManageSieve ready")
	d.MaxLine, d.Partings = maxClearLine, partings
	return d.Run(greeting, func(line []byte) (upgraders.Handover, error) { return d.command(ctx, line) })
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
			return d.Wrong(noArguments)
		}
	}
	switch c.verb {
	case "CAPABILITY":
		return d.Say(d.capabilities(ctx) + `OK "Capability completed"`)
	case "NOOP":
		return d.noop(c)
	case "LOGOUT":
		return d.Leave(`OK "Bye"`, upgraders.ErrQuit)
	case "STARTTLS":
		if !d.Session.CanTLS() {
			return d.Say(`NO (TRYLATER) "TLS is not available now"`)
		}
		return d.starttls(), nil
	}
	if !needsBackend(c.verb) {
		if c.verb == "XCLIENT" {
			return d.Wrong(noClientFacts)
		}
		return d.Wrong(noCommand)
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
	l := d.Session.Listener
	return !l.Cleartext || !l.CleartextAuth && c.verb == "AUTHENTICATE"
}

// join goes on in cleartext where that is allowed.
func (d *dialogue) join(c command, line []byte) (upgraders.Handover, error) {
	if d.refuses(c) {
		d.Told = true
		return d.Say(needsTLS)
	}
	return d.cleartext(d.Session, append([]byte(line), "\r\n"...)), nil
}

// literal answers a command whose line announces a literal. Clients send those
// unasked, so its bytes would be read as commands: the session ends.
func (d *dialogue) literal(c command, line []byte) (upgraders.Handover, error) {
	switch {
	case c.size == badLiteral:
		return d.Leave(`BYE "Invalid literal"`, upgraders.ErrLiteral)
	case needsBackend(c.verb) && !d.refuses(c):
		return d.join(c, line)
	case c.verb == "AUTHENTICATE":
		return d.Leave(needsTLS+"\r\n"+`BYE "Literals are not accepted before TLS"`, upgraders.ErrLiteral)
	}
	return d.Leave(`BYE "Literals are not accepted before TLS"`, upgraders.ErrLiteral)
}

// noop answers NOOP: RFC 5804, 2.13 has the answer repeat its string, by which
// clients find out where in the stream they are. None is repeated that could
// mean anything to another protocol.
func (d *dialogue) noop(c command) (upgraders.Handover, error) {
	switch {
	case len(c.args) == 0:
		return d.Say(`OK "Done"`)
	case len(c.args) == 1 && isTag(c.args[0]):
		return d.Say(`OK (TAG ` + quote(c.args[0]) + `) "Done"`)
	}
	return d.Wrong(`NO "NOOP takes a short string of letters, digits and hyphens before TLS"`)
}

// isTag reports whether a string is harmless wherever it is read.
func isTag(s string) bool {
	return len(s) <= 64 && (s == "" || isVerb([]byte(s)))
}

// capabilities lists what the backend offers a session in TLS, less what is
// true only there, plus STARTTLS.
func (d *dialogue) capabilities(ctx context.Context) string {
	l := d.Session.Listener
	o := offer{refuseAuth: !l.Cleartext || !l.CleartextAuth, starttls: d.Session.CanTLS()}
	return o.announce(d.Session.Capabilities(ctx))
}

// partings has the last words for an error of reading, or "" for one that
// leaves nobody to speak to.
var partings = upgraders.Answers[string]{
	{upgraders.ErrTooMany, `BYE "Too many errors"`},
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
