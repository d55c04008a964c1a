package pop3

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	maxCommand = 255   // RFC 2449, 4
	maxLine    = 12288 // RFC 5034, 4: of a line inside AUTH
)

// A dialogue is the cleartext part of a session.
type dialogue struct {
	upgraders.Dialogue
	upgrader
}

// run greets and answers until the client asks for TLS, goes on without it, or
// is turned away.
func (d *dialogue) run(ctx context.Context) (upgraders.Handover, error) {
	// Without the timestamp of RFC 1939, 7: it would have to be that of the
	// backend session after TLS, which does not exist yet.
	d.MaxLine, d.Partings = maxCommand, partings
	if d.Session.Listener.Cleartext {
		d.MaxLine = maxLine // AUTH with an initial response may be long
	}
	return d.Run("+OK "+d.Session.Listener.Hostname+" POP3 ready", func(line []byte) (upgraders.Handover, error) {
		if !printable(line) {
			return d.Leave("-ERR [SYS/PERM] Commands are made of printable characters", upgraders.ErrSyntax)
		}
		return d.command(ctx, string(line))
	})
}

// command answers one command. A zero Handover without an error means that the
// dialogue goes on.
func (d *dialogue) command(ctx context.Context, line string) (upgraders.Handover, error) {
	verb, argument := split(line)
	l := d.Session.Listener
	switch verb {
	case "CAPA":
		return d.Say(d.capabilities(ctx))
	case "QUIT":
		return d.Leave("+OK Bye", upgraders.ErrQuit)
	case "STLS":
		switch {
		case argument != "":
			return d.Wrong("-ERR STLS takes no arguments")
		case !d.Session.CanTLS():
			return d.Say("-ERR [SYS/TEMP] TLS is not available now")
		}
		return d.starttls(), nil
	case "USER", "PASS", "APOP", "AUTH":
		if l.Cleartext && !l.CleartextAuth {
			return d.Say(needsTLS)
		}
	case "LANG", "UTF8": // RFC 6856
	case "XCLIENT":
		return d.Wrong(noClientFacts)
	default:
		return d.Wrong(unknown)
	}
	if !l.Cleartext {
		d.Told = true
		return d.Say(needsTLS)
	}
	return d.cleartext(d.Session, line), nil
}

// Replies that are the same before and inside TLS. RFC 3206: SYS/PERM is for
// what trying again will not change.
const (
	needsTLS      = "-ERR [SYS/PERM] TLS required; use STLS first"
	noClientFacts = "-ERR [SYS/PERM] Not permitted"
	noTLS         = "-ERR [SYS/TEMP] TLS not available"
	unknown       = "-ERR Unknown command"
	alreadyTLS    = "-ERR Command not permitted when TLS active" // RFC 2595, 4
)

// capabilities lists what the backend offers a session in TLS, less what is
// true only there, plus STLS.
func (d *dialogue) capabilities(ctx context.Context) string {
	l := d.Session.Listener
	o := offer{clear: true, auth: l.Cleartext && l.CleartextAuth}
	lines := []string{"+OK Capability list follows"}
	codes := map[string]bool{"RESP-CODES": false, "AUTH-RESP-CODE": false}
	for _, line := range d.Session.Capabilities(ctx) {
		if shown := o.show(line); shown != "" && printable([]byte(shown)) {
			lines = append(lines, shown)
			codes[keyword(shown)] = true
		}
	}
	// The gateway's own answers have response codes: RFC 2449, 8; RFC 3206, 6.
	for _, code := range []string{"RESP-CODES", "AUTH-RESP-CODE"} {
		if !codes[code] {
			lines = append(lines, code)
		}
	}
	if d.Session.CanTLS() {
		lines = append(lines, "STLS")
	}
	return strings.Join(append(lines, "."), "\r\n")
}

// partings has the last words for an error of reading, or "" for one that
// leaves nobody to speak to.
var partings = upgraders.Answers[string]{
	{upgraders.ErrTooMany, "-ERR [SYS/PERM] Too many errors"},
	{wire.ErrTooLong, "-ERR Line too long"},
	{wire.ErrBareNewline, "-ERR Lines end in CRLF"},
	{wire.ErrNUL, "-ERR NUL in a command"},
	{wire.ErrBudget, "-ERR [SYS/PERM] Too much talk before TLS"},
	{wire.ErrShutdown, "-ERR [SYS/TEMP] Shutting down, try again later"},
	{wire.ErrStalled, ""},
	{os.ErrDeadlineExceeded, "-ERR [SYS/TEMP] Idle for too long"},
}

// unavailable says that there is no backend.
func unavailable(cause error) string {
	if errors.Is(cause, upgraders.ErrLimit) {
		return "-ERR [SYS/TEMP] Too many connections, try again later"
	}
	return "-ERR [SYS/TEMP] Service not available, try again later"
}

// isVerb reports whether a verb is one to every server: some end it at other
// control characters.
func isVerb(verb string) bool {
	for _, b := range []byte(verb) {
		if b != '-' && (b < '0' || b > '9') && (b < 'A' || b > 'Z') {
			return false
		}
	}
	return true
}

// split takes a command apart: the verb in upper case, and the rest.
func split(line string) (verb, argument string) {
	verb, argument, _ = strings.Cut(line, " ")
	return strings.ToUpper(verb), argument
}

// keyword is the name of a capability, in upper case.
func keyword(line string) string {
	word, _ := split(line)
	return word
}

// printable reports whether a command is one that every parser reads alike: no
// control characters. RFC 6856 lets USER and PASS hold UTF-8.
func printable(line []byte) bool {
	for _, b := range line {
		if b < ' ' || b == 0x7f {
			return false
		}
	}
	return true
}
