// Package postgres upgrades the PostgreSQL protocol, version 3, by SSLRequest,
// or by TLS from the first byte with ALPN (sslnegotiation=direct): message
// flow, "SSL Session Encryption".
//
// Inside TLS the startup message comes first and chooses nothing; until the
// backend is ready for queries, the mechanisms that bind to a channel are
// taken out of its offer, and the key that cancels the session's queries is
// noted. GSSAPI encryption is not offered, and no version before 3 is spoken.
package postgres

import (
	"context"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes PostgreSQL.
func Protocol() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name:          "postgres",
		Title:         "PostgreSQL",
		Spec:          "PostgreSQL protocol 3, RFC 5802",
		Keyword:       "SSLRequest",
		Ports:         []uint16{5432},
		ALPN:          []string{"postgresql"},
		CleartextAuth: true,
		New:           func(any) (upgraders.Upgrader, error) { return &upgrader{keys: newKeyTable()}, nil },
		Probe:         probe,
		Request:       request,
	}
}

type upgrader struct{ keys *keyTable }

var _ upgraders.Upgrader = (*upgrader)(nil)

// Upgrade implements upgraders.Upgrader.
func (u *upgrader) Upgrade(_ context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	told := false // that there is no TLS
	for {
		kind, err := next(s.Conn)
		if err != nil {
			return turnedAway(err)
		}
		switch kind {
		case directTLS:
			if !s.CanTLS() {
				return upgraders.Handover{}, upgraders.ErrSyntax
			}
			h := u.inTLS()
			h.ALPN = upgraders.ALPNRequired
			return h, nil
		case sslRequest:
			s.Conn.Discard(requestLength)
			if s.CanTLS() {
				h := u.inTLS()
				h.Reply = []byte("S")
				h.Injected = fatal("08P01", "nothing may follow SSLRequest before TLS")
				return h, nil
			}
			if told {
				return turnedAway(upgraders.ErrSyntax)
			}
			told = true
			if _, err := s.Conn.Write([]byte("N")); err != nil {
				return upgraders.Handover{}, err
			}
		case gssRequest:
			s.Conn.Discard(requestLength)
			if _, err := s.Conn.Write([]byte("N")); err != nil {
				return upgraders.Handover{}, err
			}
		case cancelRequest:
			// libpq before 17 sends it in cleartext whatever sslmode says,
			// so it is taken where TLS is required too: all it tells is a
			// key that is good for this one thing.
			return upgraders.Handover{
				Verdict: upgraders.Cleartext,
				Accept: func(_ context.Context, client *wire.Conn) (upgraders.Route, error) {
					return u.keys.cancel(client)
				},
			}, nil
		default:
			if !s.Listener.Cleartext {
				return upgraders.Handover{Reply: fatal("28000", "TLS is required; set sslmode=require")}, upgraders.ErrNeedsTLS
			}
			p := &passage{keys: u.keys, clear: true, refuseAuth: !s.Listener.CleartextAuth}
			h := p.handover()
			h.Verdict = upgraders.Cleartext
			return h, nil
		}
	}
}

// Implicit implements upgraders.Upgrader.
func (u *upgrader) Implicit(*upgraders.Session) upgraders.Handover { return u.inTLS() }

// inTLS is what follows a handshake: the startup message, or a CancelRequest.
func (u *upgrader) inTLS() upgraders.Handover {
	p := &passage{keys: u.keys}
	h := p.handover()
	h.Verdict = upgraders.StartTLS
	h.Accept = func(_ context.Context, client *wire.Conn) (upgraders.Route, error) {
		kind, err := next(client)
		switch {
		case err == nil && kind == cancelRequest:
			return u.keys.cancel(client)
		case err == nil && kind == startup:
			return upgraders.Route{}, nil // Join takes it from the buffer
		case err == nil:
			err = upgraders.ErrSyntax // a second request for encryption
		}
		if h, _ := turnedAway(err); len(h.Reply) > 0 {
			client.Write(h.Reply)
		}
		return upgraders.Route{}, err
	}
	return h
}

// turnedAway says why a session cannot begin, where that has words.
func turnedAway(err error) (upgraders.Handover, error) {
	return upgraders.Handover{Reply: refusals.To(err)}, err
}
