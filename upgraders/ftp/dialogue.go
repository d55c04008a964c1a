package ftp

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	maxCommand = 512 // before TLS, where no path is named
)

// A dialogue is the cleartext part of a session.
type dialogue struct {
	upgraders.Dialogue
	*upgrader
}

// run greets and answers until the client asks for TLS, goes on without it, or
// is turned away.
func (d *dialogue) run(ctx context.Context) (upgraders.Handover, error) {
	d.MaxLine, d.Partings = maxCommand, partings
	return d.Run("220 "+d.Session.Listener.Hostname+" FTP ready", func(line []byte) (upgraders.Handover, error) {
		if !printable(line) {
			return d.Leave("500 Commands are made of printable characters", upgraders.ErrSyntax)
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
	case "AUTH":
		return d.auth(argument)
	case "FEAT":
		return d.Say(d.features(ctx))
	case "HELP":
		return d.Say("214 AUTH FEAT HELP NOOP QUIT SYST")
	case "NOOP":
		return d.Say("200 NOOP ok")
	case "QUIT":
		return d.Leave("221 Goodbye", upgraders.ErrQuit)
	case "SYST":
		// What nearly all servers say (RFC 959, 5.4); the backend's own word
		// comes with its session.
		return d.Say("215 UNIX Type: L8")
	case "PBSZ", "PROT":
		return d.Say(authFirst)
	case "USER":
		if l.Cleartext && l.CleartextAuth {
			return d.cleartext(d.Session, line), nil
		}
	case "CLNT", "HOST", "LANG", "OPTS": // what clients say before USER
		if l.Cleartext {
			return d.cleartext(d.Session, line), nil
		}
	default:
		switch {
		case !isVerb(verb):
			return d.Wrong(unknown)
		case l.Cleartext:
			return d.Wrong("530 Log in with USER and PASS first")
		}
	}
	d.Told = true
	return d.Say(needsTLS)
}

// Replies that are the same before and inside TLS.
const (
	needsTLS  = "530 TLS is required; use AUTH TLS"
	authFirst = "503 AUTH TLS comes first" // RFC 2228, 4
	noTLS     = "431 TLS is not available" // RFC 2228, 4: a necessary resource
	unknown   = "500 Unknown command"
)

// auth begins TLS, however it is called: the forms from before RFC 4217 differed in
// what they said of data connections.
func (d *dialogue) auth(mechanism string) (upgraders.Handover, error) {
	switch strings.ToUpper(mechanism) {
	case "":
		return d.Wrong("501 AUTH needs a mechanism: TLS")
	case "TLS", "TLS-C", "SSL":
		if !d.Session.CanTLS() {
			return d.Say(noTLS)
		}
		return d.starttls(d.Session), nil
	}
	return d.Wrong("504 The one mechanism is TLS")
}

// features lists what the backend offers, with what the gateway does itself.
func (d *dialogue) features(ctx context.Context) string {
	o := offer{auth: d.Session.CanTLS(), data: true}
	lines := []string{"211-Features:"}
	for _, line := range d.Session.Capabilities(ctx) {
		if o.shows(line) && printable([]byte(line)) {
			lines = append(lines, " "+line)
		}
	}
	return strings.Join(append(lines, o.own()), "\r\n") + "211 End"
}

// partings has the last words for an error of reading, or "" for one that
// leaves nobody to speak to.
var partings = upgraders.Answers[string]{
	{upgraders.ErrTooMany, "421 Too many errors"},
	{wire.ErrTooLong, "500 Line too long"},
	{wire.ErrBareNewline, "500 Lines end in CRLF"},
	{wire.ErrNUL, "500 NUL in a command"},
	{wire.ErrBudget, "421 Too much talk before TLS"},
	{wire.ErrShutdown, "421 Shutting down, try again later"},
	{wire.ErrStalled, ""},
	{os.ErrDeadlineExceeded, "421 Idle for too long"},
}

// unavailable says that there is no backend.
func unavailable(cause error) string {
	if errors.Is(cause, upgraders.ErrLimit) {
		return "421 Too many connections, try again later"
	}
	return "421 Service not available, try again later"
}
