package ftp

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	maxCommand = 512 // before TLS, where no path is named
	maxErrors  = 10
)

// A dialogue is the cleartext part of a session.
type dialogue struct {
	*upgrader
	session *upgraders.Session
	errors  int
	told    bool // that TLS is required
}

// run greets and answers until the client asks for TLS, goes on without it, or
// is turned away.
func (d *dialogue) run(ctx context.Context) (upgraders.Handover, error) {
	if err := say(d.session.Conn, "220 "+d.session.Listener.Hostname+" FTP ready"); err != nil {
		return upgraders.Handover{}, err
	}
	for {
		line, err := upgraders.ReadCommand(d.session.Conn, maxCommand)
		switch {
		case err != nil:
			return turnedAway(partings.To(err), upgraders.LeftWithoutTLS(d.told, err))
		case !printable(line):
			return turnedAway("500 Commands are made of printable characters", upgraders.ErrSyntax)
		}
		h, err := d.command(ctx, string(line))
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

// command answers one command. A zero Handover without an error means that the
// dialogue goes on.
func (d *dialogue) command(ctx context.Context, line string) (upgraders.Handover, error) {
	verb, argument := split(line)
	l := d.session.Listener
	switch verb {
	case "AUTH":
		return d.auth(argument)
	case "FEAT":
		return d.say(d.features(ctx))
	case "HELP":
		return d.say("214 AUTH FEAT HELP NOOP QUIT SYST")
	case "NOOP":
		return d.say("200 NOOP ok")
	case "QUIT":
		return turnedAway("221 Goodbye", upgraders.LeftWithoutTLS(d.told, upgraders.ErrQuit))
	case "SYST":
		// What nearly all servers say (RFC 959, 5.4); the backend's own word
		// comes with its session.
		return d.say("215 UNIX Type: L8")
	case "PBSZ", "PROT":
		return d.say(authFirst)
	case "USER":
		if l.Cleartext && l.CleartextAuth {
			return d.cleartext(d.session, line), nil
		}
	case "CLNT", "HOST", "LANG", "OPTS": // what clients say before USER
		if l.Cleartext {
			return d.cleartext(d.session, line), nil
		}
	default:
		switch {
		case !isVerb(verb):
			return d.wrong(unknown)
		case l.Cleartext:
			return d.wrong("530 Log in with USER and PASS first")
		}
	}
	d.told = true
	return d.say(needsTLS)
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
		return d.wrong("501 AUTH needs a mechanism: TLS")
	case "TLS", "TLS-C", "SSL":
		if !d.session.CanTLS() {
			return d.say(noTLS)
		}
		return d.starttls(d.session), nil
	}
	return d.wrong("504 The one mechanism is TLS")
}

// features lists what the backend offers, with what the gateway does itself.
func (d *dialogue) features(ctx context.Context) string {
	o := offer{auth: d.session.CanTLS(), data: true}
	lines := []string{"211-Features:"}
	for _, line := range d.session.Capabilities(ctx) {
		if o.shows(line) && printable([]byte(line)) {
			lines = append(lines, " "+line)
		}
	}
	return strings.Join(append(lines, o.own()), "\r\n") + "211 End"
}

// say answers, and the dialogue goes on.
func (d *dialogue) say(answer string) (upgraders.Handover, error) {
	return upgraders.Handover{}, say(d.session.Conn, answer)
}

// wrong answers what leads nowhere, a few times.
func (d *dialogue) wrong(answer string) (upgraders.Handover, error) {
	if d.errors++; d.errors >= maxErrors {
		return turnedAway("421 Too many errors", upgraders.ErrTooMany)
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
