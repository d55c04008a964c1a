package nntp

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	maxCommand   = 512      // RFC 3977, 3.1
	maxArguments = 12 << 10 // RFC 4643, 2.4.2: of a line inside AUTHINFO SASL
)

// A dialogue is the cleartext part of a session.
type dialogue struct {
	upgraders.Dialogue
	upgrader
	reader bool // MODE READER was said
}

// run greets and answers until the client asks for TLS, goes on without it, or
// is turned away.
func (d *dialogue) run(ctx context.Context) (upgraders.Handover, error) {
	d.MaxLine, d.Partings = maxCommand, partings
	if d.Session.Listener.Cleartext {
		d.MaxLine = maxArguments
	}
	return d.Run(d.greeting(ctx), func(line []byte) (upgraders.Handover, error) {
		if !printable(line) {
			return d.Leave("400 Commands are made of printable characters", upgraders.ErrSyntax)
		}
		return d.command(ctx, line)
	})
}

// Responses that are the same before and inside TLS.
const (
	needsTLS   = "483 TLS is required; use STARTTLS first" // RFC 4642, 2.2.2; RFC 3977, 3.2.1
	alreadyTLS = "502 TLS is active already"               // RFC 4642, 2.2.1
	noTLS      = "580 TLS is not available any more in this session"
	unknown    = "500 Unknown command"
	syntax     = "501 Syntax error"
)

// greeting is 200 or 201, as the backend's is (RFC 3977, 5.1): it lists POST
// where one may.
func (d *dialogue) greeting(ctx context.Context) string {
	code := "200 "
	if learned := d.Session.Capabilities(ctx); learned != nil && !lists(learned, "POST") && !lists(learned, "IHAVE") {
		code = "201 "
	}
	return code + d.Session.Listener.Hostname + " NNTP ready"
}

// command answers one line. A zero Handover without an error means that the
// dialogue goes on.
func (d *dialogue) command(ctx context.Context, line []byte) (upgraders.Handover, error) {
	verb, arguments := split(line)
	switch verb {
	case "CAPABILITIES":
		// RFC 3977, 5.2.1: with a keyword for extensions that none uses yet.
		if len(arguments) > 1 {
			return d.Wrong(syntax)
		}
		return d.Say(d.capabilities(ctx))
	case "HELP":
		return d.Say("100 Before TLS\r\nCAPABILITIES\r\nHELP\r\nMODE READER\r\nQUIT\r\nSTARTTLS\r\n.")
	case "QUIT":
		return d.Leave("205 Bye", upgraders.ErrQuit)
	case "STARTTLS":
		switch {
		case len(arguments) > 0 || len(line) > len(verb):
			return d.Wrong(syntax)
		case !d.Session.CanTLS():
			return d.Say("580 TLS is not available now")
		}
		return d.starttls(), nil
	case "MODE":
		if len(arguments) == 1 && strings.EqualFold(arguments[0], "READER") {
			d.reader = true
			return d.Say(d.greeting(ctx))
		}
	}
	switch {
	case !needsBackend(verb):
		return d.Wrong(unknown)
	case !d.Session.Listener.Cleartext, !d.Session.Listener.CleartextAuth && hides(verb):
		d.Told = true
		return d.Say(needsTLS)
	}
	return d.cleartext(d.Session, d.reader, append([]byte(line), "\r\n"...)), nil
}

// needsBackend reports whether a command is one of NNTP that the gateway does
// not answer before TLS, or an extension.
func needsBackend(verb string) bool {
	switch verb {
	case "ARTICLE", "AUTHINFO", "BODY", "CHECK", "COMPRESS", "DATE", "GROUP", "HDR", "HEAD", "IHAVE", "LAST", "LIST",
		"LISTGROUP", "MODE", "NEWGROUPS", "NEWNEWS", "NEXT", "OVER", "POST", "SLAVE", "STAT", "TAKETHIS":
		return true
	}
	return len(verb) > 2 && verb[0] == 'X'
}

// hides reports whether a command carries a password, or makes the rest of the
// session something that cannot be read.
func hides(verb string) bool {
	return verb == "AUTHINFO" || verb == "COMPRESS" || verb == "XFEATURE"
}

// capabilities lists what the backend offers a session in TLS, less what is
// true only there, plus STARTTLS.
func (d *dialogue) capabilities(ctx context.Context) string {
	l := d.Session.Listener
	o := offer{refuseAuth: !l.Cleartext || !l.CleartextAuth}
	lines := []string{"101 Capability list:"}
	learned := d.Session.Capabilities(ctx)
	if !lists(learned, "VERSION") {
		// RFC 3977, 5.2.2: always there, and first.
		lines = append(lines, "VERSION 2")
	}
	for _, line := range learned {
		if shown := o.show(line); shown != "" && shown != "." && printable([]byte(shown)) {
			lines = append(lines, shown)
		}
	}
	if d.Session.CanTLS() {
		lines = append(lines, "STARTTLS")
	}
	return strings.Join(append(lines, "."), "\r\n")
}

// partings has the last words for an error of reading, or "" for one that
// leaves nobody to speak to. RFC 3977, 3.2.1: 400 is what a server says of its
// own accord before it closes.
var partings = upgraders.Answers[string]{
	{upgraders.ErrTooMany, "400 Too many errors"},
	{wire.ErrTooLong, "400 Line is too long"},
	{wire.ErrBareNewline, "400 Lines end in CRLF"},
	{wire.ErrNUL, "400 NUL in a command"},
	{wire.ErrClientHello, "400 TLS begins with STARTTLS here"},
	{wire.ErrBudget, "400 Too much talk before TLS"},
	{wire.ErrShutdown, "400 Shutting down, try again later"},
	{wire.ErrStalled, ""},
	{os.ErrDeadlineExceeded, "400 Idle for too long"},
}

// unavailable says that there is no backend.
func unavailable(cause error) string {
	if errors.Is(cause, upgraders.ErrLimit) {
		return "400 Too many connections, try again later"
	}
	return "400 Service not available, try again later"
}

// split takes a command apart: the verb in upper case, and its arguments. RFC
// 3977, 3.1: blanks and tabs separate, and none is before the verb.
func split(line []byte) (verb string, arguments []string) {
	words := strings.FieldsFunc(string(line), func(r rune) bool { return r == ' ' || r == '\t' })
	if len(words) == 0 {
		return "", nil
	}
	return strings.ToUpper(words[0]), words[1:]
}

// printable reports whether a command is one that every parser reads alike: no
// control characters but tabs. RFC 3977, 9.8 lets arguments hold UTF-8.
func printable(line []byte) bool {
	for _, b := range line {
		if b < ' ' && b != '\t' || b == 0x7f {
			return false
		}
	}
	return true
}
