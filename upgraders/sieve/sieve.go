// Package sieve upgrades ManageSieve by STARTTLS: RFC 5804. There is no port of
// its own for implicit TLS (RFC 8314 names none), but a listener may say so.
//
// Before TLS the gateway answers CAPABILITY, NOOP, LOGOUT and STARTTLS itself.
// The backend's greeting is the capability list that is due after the
// handshake. Inside TLS, STARTTLS, XCLIENT, EXTERNAL and channel binding are
// taken out of what the backend offers until the client has authenticated;
// from then on nothing is parsed, since a SASL security layer may be in place.
//
// Left out: sessions that return to the non-authenticated state (RFC 5804,
// 2.14.1) are not filtered a second time.
package sieve

import (
	"context"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes ManageSieve.
func Protocol() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name:        "sieve",
		Title:       "ManageSieve",
		Spec:        "RFC 5804",
		Keyword:     "STARTTLS",
		Ports:       []uint16{4190},
		ALPN:        []string{"managesieve"},
		ServerFirst: true,
		// RFC 5804, 1.2: an autologout timer is at least 30 minutes once the
		// client has authenticated.
		IdleTimeout:   35 * time.Minute,
		CleartextAuth: true,
		Forwards:      []string{"xclient"},
		New:           func(any) (upgraders.Upgrader, error) { return &upgrader{}, nil },
		Probe:         probe,
		Audit:         audit,
		Request:       request,
		// No Greeting: after STARTTLS a server greets again (RFC 5804, 2.2).
	}
}

type upgrader struct{}

var _ upgraders.Upgrader = (*upgrader)(nil)

// Upgrade implements upgraders.Upgrader.
func (u *upgrader) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	d := &dialogue{Dialogue: upgraders.Dialogue{Session: s}}
	return d.run(ctx)
}

// Implicit implements upgraders.Upgrader.
func (u *upgrader) Implicit(*upgraders.Session) upgraders.Handover {
	return (&passage{greet: true}).handover()
}

// starttls is what follows STARTTLS: the same as on an implicit port, since
// the server greets again.
func (u *upgrader) starttls() upgraders.Handover {
	h := (&passage{greet: true}).handover()
	h.Verdict = upgraders.StartTLS
	h.Reply = []byte("OK \"Begin TLS negotiation now\"\r\n")
	h.Injected = []byte("BYE \"Nothing may follow STARTTLS before TLS\"\r\n")
	return h
}

// cleartext is what follows the first command that needs the backend, which is
// replayed.
func (u *upgrader) cleartext(s *upgraders.Session, pending []byte) upgraders.Handover {
	h := (&passage{clear: true, refuseAuth: !s.Listener.CleartextAuth, pending: pending}).handover()
	h.Verdict = upgraders.Cleartext
	return h
}

func (p *passage) handover() upgraders.Handover {
	return upgraders.Handover{
		Join:     p.join,
		Converse: p.converse,
		// A BYE may stand in for a greeting and for every response (RFC 5804,
		// 1.2), so it need not wait for a command.
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			return upgraders.Say(client, unavailable(cause))
		},
	}
}
