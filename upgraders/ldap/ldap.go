// Package ldap upgrades LDAP by the StartTLS operation: RFC 4511, 4.14, with the
// rules of RFC 4513, 3.1.
//
// Before TLS the gateway answers what clients send before they ask for it: an
// anonymous bind and the root DSE (RFC 4512, 5.1). Answers are found by their
// messageID, so those of the gateway may come between those of the backend, and
// no messageID is ever changed.
package ldap

import (
	"context"
	"errors"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes LDAP.
func Protocol() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name:          "ldap",
		Title:         "LDAP",
		Spec:          "RFC 4511, 4513",
		Keyword:       "StartTLS",
		Ports:         []uint16{389},
		Implicit:      []uint16{636},
		CleartextAuth: true,
		New:           func(any) (upgraders.Upgrader, error) { return upgrader{}, nil },
		Probe:         probe,
		Request:       request,
	}
}

type upgrader struct{}

var _ upgraders.Upgrader = upgrader{}

// Upgrade implements upgraders.Upgrader.
func (u upgrader) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	told := false
	for {
		m, err := next(s.Conn)
		if err != nil {
			return upgraders.Handover{Reply: partings.To(err)}, upgraders.LeftWithoutTLS(told, err)
		}
		reply, h, err := u.answer(ctx, s, m)
		if errors.Is(err, upgraders.ErrNeedsTLS) {
			told, err = true, nil
		}
		if err != nil || h.Verdict != upgraders.HangUp {
			return h, upgraders.LeftWithoutTLS(told, err)
		}
		s.Conn.Discard(m.length)
		if len(reply) > 0 {
			if _, err := s.Conn.Write(reply); err != nil {
				return upgraders.Handover{}, err
			}
		}
	}
}

// answer answers one message, or hands over.
func (u upgrader) answer(ctx context.Context, s *upgraders.Session, m message) ([]byte, upgraders.Handover, error) {
	malformed := func(err error) ([]byte, upgraders.Handover, error) {
		return nil, upgraders.Handover{Reply: partings.To(err)}, err
	}
	switch m.op {
	case opUnbind:
		return nil, upgraders.Handover{}, upgraders.ErrQuit
	case opAbandon:
		return nil, upgraders.Handover{}, nil // there is nothing to abandon
	case opExtended:
		if m.isStartTLS() {
			switch {
			case m.critical:
				return m.result(unavailableCriticalExtension, "no control is understood with StartTLS"), upgraders.Handover{}, nil
			case m.hasValue():
				// RFC 4511, 4.14.1: the requestValue is absent.
				return m.result(protocolError, "StartTLS has no value"), upgraders.Handover{}, nil
			case !s.CanTLS():
				return m.result(unavailable, "TLS is not available now"), upgraders.Handover{}, nil
			}
			s.Conn.Discard(m.length)
			h := inTLS()
			h.Reply = m.result(success, "")
			h.Injected = m.result(operationsError, "nothing may follow StartTLS before TLS")
			return nil, h, nil
		}
	case opBind:
		b, err := m.bind()
		switch {
		case err != nil:
			return malformed(err)
		case b.anonymous && b.version == 3:
			return m.result(success, ""), upgraders.Handover{}, nil
		case b.version != 3:
			return m.result(protocolError, "LDAPv3 is spoken here"), upgraders.Handover{}, nil
		case s.Listener.Cleartext && !s.Listener.CleartextAuth:
			return m.result(confidentialityRequired, needsTLS), upgraders.Handover{}, nil
		}
	case opSearch:
		q, err := m.search()
		switch {
		case err != nil:
			return malformed(err)
		case q.base == "" && q.scope == scopeBase:
			return rootDSE(m, q, s.Capabilities(ctx), s.CanTLS()), upgraders.Handover{}, nil
		}
	default:
		if responses[m.op] == 0 {
			return malformed(upgraders.ErrSyntax)
		}
	}
	if !s.Listener.Cleartext {
		// RFC 4513, 3.1 and 6.3.
		return m.result(confidentialityRequired, needsTLS), upgraders.Handover{}, upgraders.ErrNeedsTLS
	}
	// The message is the backend's: it stays in the buffer. Of the anonymous
	// bind nothing is to be repeated; it is what a session begins with.
	p := &passage{clear: true, refuseAuth: !s.Listener.CleartextAuth}
	h := p.handover()
	h.Verdict = upgraders.Cleartext
	return nil, h, nil
}

const needsTLS = "TLS is required; use StartTLS first"

// Implicit implements upgraders.Upgrader.
func (u upgrader) Implicit(*upgraders.Session) upgraders.Handover { return inTLS() }

// inTLS is what follows a handshake.
func inTLS() upgraders.Handover {
	p := &passage{}
	h := p.handover()
	h.Verdict = upgraders.StartTLS
	return h
}

// handover is what a passage does.
func (p *passage) handover() upgraders.Handover {
	return upgraders.Handover{
		Converse: p.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			code, words := unavailable, "the directory is not available; try again later"
			if errors.Is(cause, upgraders.ErrLimit) {
				code, words = busy, "too many connections; try again later"
			}
			m, err := next(client)
			if err != nil {
				return ended(client, err)
			}
			client.Discard(m.length)
			_, err = client.Write(append(m.result(code, words), disconnection(code, words)...))
			return err
		},
	}
}
