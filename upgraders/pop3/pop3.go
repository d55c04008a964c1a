// Package pop3 upgrades POP3 by STLS: RFC 2595, 4, with the capabilities of RFC
// 2449 and the session of RFC 1939. Implicit TLS is RFC 8314.
//
// Before TLS the gateway answers CAPA, QUIT and STLS itself. Inside TLS it
// takes STLS, channel binding and XCLIENT out of what the backend offers until
// the client has authenticated, and is opaque from then on.
package pop3

import (
	"context"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes POP3.
func Protocol() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name:        "pop3",
		Title:       "POP3",
		Spec:        "RFC 2595, 1939, 2449, 8314",
		Keyword:     "STLS",
		Ports:       []uint16{110},
		Implicit:    []uint16{995},
		ALPN:        []string{"pop3"},
		ServerFirst: true,
		// RFC 1939, 3: an autologout timer is at least 10 minutes.
		IdleTimeout:   35 * time.Minute,
		CleartextAuth: true,
		Forwards:      []string{"xclient"},
		New:           func(any) (upgraders.Upgrader, error) { return &upgrader{}, nil },
		Probe:         probe,
		Audit:         audit,
		Request:       request,
		// Without a timestamp: APOP with that of the greeting in the clear
		// would be computed over something an attacker chose.
		Greeting: []byte("+OK ready\r\n"),
	}
}

type upgrader struct{}

var _ upgraders.Upgrader = (*upgrader)(nil)

// Upgrade implements upgraders.Upgrader.
func (u *upgrader) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	d := &dialogue{Dialogue: upgraders.Dialogue{Session: s}}
	return d.run(ctx)
}

// Implicit implements upgraders.Upgrader: the backend's greeting, with its APOP
// timestamp, is the client's.
func (u *upgrader) Implicit(s *upgraders.Session) upgraders.Handover {
	p := &passage{greet: true}
	return upgraders.Handover{
		Join:     p.join,
		Converse: p.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			return upgraders.Say(client, unavailable(cause))
		},
	}
}

// starttls is what follows STLS.
func (u *upgrader) starttls() upgraders.Handover {
	p := &passage{}
	return upgraders.Handover{
		Verdict:  upgraders.StartTLS,
		Reply:    []byte("+OK Begin TLS negotiation\r\n"),
		Injected: []byte("-ERR [SYS/PERM] Nothing may follow STLS before TLS\r\n"),
		Join:     p.join,
		Converse: p.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			// No greeting is due: the bad news answers the first command.
			line, err := client.ReadSlice(maxLine)
			if upgraders.IsHTTP(line) {
				return upgraders.ErrHTTP
			}
			if err != nil {
				return err
			}
			return upgraders.Say(client, unavailable(cause))
		},
	}
}

// cleartext is what follows the first command that needs the backend, which is
// replayed.
func (u *upgrader) cleartext(s *upgraders.Session, pending string) upgraders.Handover {
	p := &passage{clear: true, refuseAuth: !s.Listener.CleartextAuth, pending: pending}
	return upgraders.Handover{
		Verdict:  upgraders.Cleartext,
		Join:     p.join,
		Converse: p.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			return upgraders.Say(client, unavailable(cause))
		},
	}
}
