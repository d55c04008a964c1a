// Package nntp upgrades NNTP by STARTTLS: RFC 4642 and RFC 8143, over RFC 3977
// (commands), RFC 4643 (AUTHINFO), RFC 4644 (streaming) and RFC 8054 (COMPRESS).
//
// Before TLS the gateway answers CAPABILITIES, HELP, MODE READER, QUIT and
// STARTTLS itself. Inside TLS it takes STARTTLS, EXTERNAL and channel binding
// out of capability lists and refuses STARTTLS, until the client has
// authenticated or compresses. Many readers never do either, so articles pass
// the filter in large pieces, in both directions.
//
// A MODE READER from before TLS is forgotten, as all else is, and the client
// repeats it (RFC 4642, 2.2.2); only a session that goes on in cleartext takes it
// along.
package nntp

import (
	"context"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes NNTP.
func Protocol() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name:        "nntp",
		Title:       "NNTP",
		Spec:        "RFC 4642, 3977, 4643, 8143",
		Keyword:     "STARTTLS",
		Ports:       []uint16{119, 433},
		Implicit:    []uint16{563},
		ALPN:        []string{"nntp", "nnsp"},
		ServerFirst: true,
		// RFC 3977, 3.1: an autologout timer is at least three minutes. Readers
		// think for longer.
		IdleTimeout:   35 * time.Minute,
		CleartextAuth: true,
		New:           func(any) (upgraders.Upgrader, error) { return &upgrader{}, nil },
		Probe:         probe,
		Audit:         audit,
		Request:       request,
		// Whether one may post is not taken from what came in the clear; a
		// server that does not allow it says so to POST.
		Greeting: []byte("200 NNTP ready\r\n"),
	}
}

type upgrader struct{}

var _ upgraders.Upgrader = (*upgrader)(nil)

// Upgrade implements upgraders.Upgrader.
func (u *upgrader) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	d := &dialogue{Dialogue: upgraders.Dialogue{Session: s}}
	return d.run(ctx)
}

// Implicit implements upgraders.Upgrader: the backend's greeting is the
// client's.
func (u *upgrader) Implicit(*upgraders.Session) upgraders.Handover {
	p := &passage{greet: true}
	return upgraders.Handover{Join: p.join, Converse: p.converse, Unavailable: unavailableNow}
}

// starttls is what follows STARTTLS.
func (u *upgrader) starttls() upgraders.Handover {
	p := &passage{}
	return upgraders.Handover{
		Verdict:  upgraders.StartTLS,
		Reply:    []byte("382 Continue with TLS negotiation\r\n"),
		Injected: []byte("400 Nothing may follow STARTTLS before TLS\r\n"),
		Join:     p.join,
		Converse: p.converse,
		Unavailable: func(ctx context.Context, client *wire.Conn, cause error) error {
			// No greeting is due (RFC 4642, 2.2.2): the bad news answers the
			// first command.
			_, err := upgraders.ReadCommand(client, maxArguments)
			if err != nil {
				return err
			}
			return unavailableNow(ctx, client, cause)
		},
	}
}

// cleartext is what follows the first command that needs the backend, which is
// replayed, after MODE READER if the client has said that.
func (u *upgrader) cleartext(s *upgraders.Session, reader bool, pending []byte) upgraders.Handover {
	p := &passage{clear: true, reader: reader, refuseAuth: !s.Listener.CleartextAuth, pending: pending}
	return upgraders.Handover{Verdict: upgraders.Cleartext, Join: p.join, Converse: p.converse, Unavailable: unavailableNow}
}

// unavailableNow says that there is no backend: RFC 3977, 3.2.1 has 400 for a
// server that must close for now, and 5.1.1 for a greeting.
func unavailableNow(_ context.Context, client *wire.Conn, cause error) error {
	return upgraders.Say(client, unavailable(cause))
}
