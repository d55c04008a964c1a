// Package mysql upgrades the client/server protocol of MySQL and MariaDB,
// version 4.1 (protocol 10), by SSLRequest. TLS from the first byte is had on a
// port of one's own choice.
//
// The backend speaks first: the nonce of the login is in its greeting. So it is
// dialled before TLS, and its greeting is passed on with TLS offered in it. The
// client's SSLRequest has no go-ahead, and shifts the numbers of the packets
// that follow; they are shifted back until the login has ended, and then the
// session is opaque. A password that a client may say in TLS, and a backend in
// cleartext wants to be encrypted, is encrypted on the way (caching_sha2_password,
// sha256_password; RFC 8017, 7.1).
package mysql

import (
	"context"
	"errors"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes MySQL.
func Protocol() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name:          "mysql",
		Title:         "MySQL",
		Spec:          "MySQL client/server protocol 4.1, RFC 8017",
		Keyword:       "SSLRequest",
		Ports:         []uint16{3306},
		ServerFirst:   true,
		CleartextAuth: true,
		New:           func(any) (upgraders.Upgrader, error) { return upgrader{}, nil },
		Probe:         probe,
		Audit:         audit,
		Request:       request,
		Leave:         leave,
		SecureInJoin:  true,
		Greeting:      standIn(),
	}
}

type upgrader struct{}

var _ upgraders.Upgrader = upgrader{}

// Upgrade implements upgraders.Upgrader.
func (upgrader) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	p := &passage{session: s}
	if words, err := p.greet(ctx, s.Conn, s.CanTLS()); err != nil {
		return upgraders.Handover{Reply: words}, err
	}
	asks, err := p.asksForTLS(s.Conn)
	h := p.handover()
	switch {
	case err != nil:
	case asks:
		h.Verdict = upgraders.StartTLS
		h.Injected = refusals.To(upgraders.ErrInjection).packet(p.toClient)
		return h, nil
	case s.Listener.Cleartext && s.Listener.CleartextAuth:
		// There is no session without a login, so one that may not log in in
		// cleartext may not be in cleartext.
		h.Verdict = upgraders.Cleartext
		return h, nil
	default:
		err = upgraders.ErrNeedsTLS
	}
	return upgraders.Handover{Reply: p.words(s.Conn, err)}, err
}

// Implicit implements upgraders.Upgrader.
func (upgrader) Implicit(s *upgraders.Session) upgraders.Handover {
	p := &passage{session: s}
	h := p.handover()
	h.Accept = func(ctx context.Context, client *wire.Conn) (upgraders.Route, error) {
		if words, err := p.greet(ctx, client, false); err != nil {
			client.Write(words)
			return upgraders.Route{}, err
		}
		return p.accept(ctx, client)
	}
	return h
}

// handover is what follows the greeting and the request for TLS.
func (p *passage) handover() upgraders.Handover {
	return upgraders.Handover{
		Accept:   p.accept,
		Join:     p.join,
		Converse: p.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			words := noServer
			if errors.Is(cause, upgraders.ErrLimit) {
				words = failure{1040, "08004", "Too many connections; try again later"}
			}
			_, err := client.Write(words.packet(p.toClient))
			return err
		},
	}
}
