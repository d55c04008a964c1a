// Package telnet upgrades Telnet (RFC 854) by the option START_TLS: number 46,
// draft-altman-telnet-starttls-02. Port 992 is TLS from the first byte.
//
// The gateway asks for START_TLS alone and first. What else is negotiated
// before TLS is forgotten after it, and is the backend's to answer where a
// session goes on without. From then on START_TLS is taken out of what both
// sides negotiate, for ever: it is nobody's but the gateway's.
package telnet

import (
	"context"
	"errors"
	"os"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes Telnet.
func Protocol() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name:          "telnet",
		Title:         "Telnet",
		Spec:          "draft-altman-telnet-starttls-02, RFC 854, 855",
		Keyword:       "START_TLS",
		Ports:         []uint16{23},
		Implicit:      []uint16{992},
		ServerFirst:   true,
		CleartextAuth: true,
		New:           func(any) (upgraders.Upgrader, error) { return upgrader{}, nil },
		Probe:         probe,
		Request:       request,
	}
}

type upgrader struct{}

var _ upgraders.Upgrader = upgrader{}

// maxLine bounds what is read of a line that nobody will be given.
const maxLine = 512

// Upgrade implements upgraders.Upgrader.
func (u upgrader) Upgrade(_ context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	d := &dialogue{session: s}
	// What a Telnet session begins with is a login, so that one that may not
	// send a password in cleartext may not be in cleartext.
	d.cleartext = s.Listener.Cleartext && s.Listener.CleartextAuth
	if !s.CanTLS() {
		if d.cleartext {
			return d.withoutTLS(), nil
		}
		return turnedAway("TLS is required, and not available now; try again later", upgraders.ErrNeedsTLS)
	}
	if _, err := s.Conn.Write(negotiate(cmdDO, optStartTLS)); err != nil {
		return upgraders.Handover{}, err
	}
	return d.run()
}

// Implicit implements upgraders.Upgrader.
func (upgrader) Implicit(*upgraders.Session) upgraders.Handover { return opaque() }

// opaque is what follows TLS: the backend speaks first, and nothing is held
// back but START_TLS.
func opaque() upgraders.Handover {
	return upgraders.Handover{
		Converse: converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			words := "The service is not available; try again later\r\n"
			if errors.Is(cause, upgraders.ErrLimit) {
				words = "Too many connections; try again later\r\n"
			}
			_, err := client.Write([]byte(words))
			return err
		},
	}
}

// A dialogue is the cleartext part of a session.
type dialogue struct {
	session   *upgraders.Session
	cleartext bool   // the session may go on without TLS
	kept      []byte // what the client negotiated besides, for a backend in cleartext
	agreed    bool   // the client has said WILL START_TLS
}

// run waits for the client's answer to DO START_TLS.
func (d *dialogue) run() (upgraders.Handover, error) {
	for {
		if err := d.peekData(); err != nil {
			return d.failed(err)
		}
		command, err := next(d.session.Conn)
		switch {
		case err != nil:
			return d.failed(err)
		case command == nil:
			return d.data()
		case !command.about(optStartTLS):
			d.kept = append(d.kept, command...)
		case command.isFollows() && d.agreed:
			h := opaque()
			h.Verdict = upgraders.StartTLS
			h.Reply = follows()
			h.Injected = []byte("Nothing may stand between FOLLOWS and TLS\r\n")
			return h, nil
		case command[1] == cmdWILL:
			d.agreed = true
		case command[1] == cmdWONT, command[1] == cmdDONT:
			if d.cleartext && !d.agreed {
				return d.withoutTLS(), nil
			}
			return turnedAway(needsTLS, upgraders.ErrNeedsTLS)
		case command[1] == cmdDO:
			// That the gateway be the TLS client is not what it asked for.
			if _, err := d.session.Conn.Write(negotiate(cmdWONT, optStartTLS)); err != nil {
				return upgraders.Handover{}, err
			}
		default:
			return turnedAway("START_TLS was not agreed upon", upgraders.ErrSyntax)
		}
	}
}

// peekData makes a ClientHello the error that it is: its first byte alone is
// one that may be typed.
func (d *dialogue) peekData() error {
	head, err := d.session.Conn.Peek(1)
	if err != nil || head[0] != 0x16 {
		return err
	}
	if head, err = d.session.Conn.Peek(2); err != nil {
		return err
	}
	if head[1] == 0x03 {
		return wire.ErrClientHello
	}
	return nil
}

// data is what follows the first byte that negotiates nothing.
func (d *dialogue) data() (upgraders.Handover, error) {
	switch {
	case d.agreed:
		return turnedAway("FOLLOWS must follow WILL START_TLS", upgraders.ErrSyntax)
	case d.cleartext:
		return d.withoutTLS(), nil
	}
	// The line is looked at because a browser may have been led here.
	_, err := upgraders.ReadCommand(d.session.Conn, maxLine)
	switch {
	case err == nil, errors.Is(err, wire.ErrBareNewline), errors.Is(err, wire.ErrNUL):
		// RFC 854: CR NUL is a carriage return, as good as a line's end here.
		return turnedAway(needsTLS, upgraders.ErrNeedsTLS)
	}
	return d.failed(err)
}

// withoutTLS goes on in cleartext. The backend is told what the client has
// negotiated so far, and answers that itself.
func (d *dialogue) withoutTLS() upgraders.Handover {
	h := opaque()
	h.Verdict = upgraders.Cleartext
	h.Join = func(_ context.Context, link *upgraders.Link) error {
		if len(d.kept) == 0 {
			return nil
		}
		_, err := link.Backend.Write(d.kept)
		return err
	}
	return h
}

const needsTLS = "TLS is required: use a client that knows START_TLS"

func (d *dialogue) failed(err error) (upgraders.Handover, error) {
	return turnedAway(partings.To(err), err)
}

// turnedAway ends the dialogue with words, where there are any.
func turnedAway(words string, err error) (upgraders.Handover, error) {
	if words != "" {
		words += "\r\n"
	}
	return upgraders.Handover{Reply: []byte(words)}, err
}

// partings has the last words for an error of reading, or "" for one that
// leaves nobody to speak to.
var partings = upgraders.Answers[string]{
	{upgraders.ErrHTTP, ""},
	{wire.ErrClientHello, ""},
	{wire.ErrTooLong, "Too long"},
	{wire.ErrBudget, "Too much talk before TLS"},
	{wire.ErrShutdown, "Shutting down; try again later"},
	{wire.ErrStalled, ""},
	{os.ErrDeadlineExceeded, "Idle for too long"},
}
