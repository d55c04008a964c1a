package ldap

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A passage keeps StartTLS between client and gateway: inside TLS until the
// client has authenticated, in a session that is cleartext for good.
type passage struct {
	clear      bool // the session is in cleartext, for good
	refuseAuth bool // and may not authenticate

	client, backend *wire.Conn
	toBackend       []byte // written by up before it waits
	toClient        []byte // written by down before it waits

	mu      sync.Mutex
	writing sync.Mutex      // a message to the client is written whole
	binds   map[string]bool // messageIDs of binds that go on, and whether by SASL
	sasl    bool            // a SASL bind succeeded: a security layer may follow
	over    bool            // nothing is left to filter, from before the client can know it
}

// maxBinds bounds the binds that go on at a time; a client may have one (RFC
// 4511, 4.2.1).
const maxBinds = 16

// errOver ends a direction that finds nothing left to filter.
var errOver = errors.New("nothing is left to filter")

func (p *passage) converse(_ context.Context, link *upgraders.Link) error {
	p.client, p.backend = link.Client, link.Backend
	p.binds = map[string]bool{}
	over := func(direction func() error) func() error {
		return func() error {
			if err := direction(); err != errOver {
				return err
			}
			return nil
		}
	}
	err := wire.Duplex(link.Client, link.Backend, over(p.up), over(p.down))
	if err != nil && err != io.EOF {
		return ended(link.Client, err)
	}
	return err
}

// up passes the client's messages, and answers StartTLS.
func (p *passage) up() error {
	for {
		if p.client.Buffered() < maxHeader {
			if err := p.flushBackend(); err != nil {
				return err
			}
		}
		if _, err := p.client.Peek(1); err != nil {
			return err
		}
		if p.client.Unread()[0] != tagSequence && p.layered() {
			return cmp.Or(p.flushBackend(), errOver)
		}
		length, err := measure(p.client)
		if err != nil {
			return err
		}
		if length > maxMessage {
			// An add or a modify with a photograph in it: not ours.
			if err := pass(p.client, p.backend, &p.toBackend, length); err != nil {
				return err
			}
			continue
		}
		raw, err := p.peek(length)
		if err != nil {
			return err
		}
		m, err := parse(raw)
		if err != nil {
			return err
		}
		if reply := p.own(m); reply != nil {
			p.client.Discard(length)
			if err := p.tell(reply); err != nil {
				return err
			}
			continue
		}
		p.toBackend = append(p.toBackend, raw...)
		p.client.Discard(length)
	}
}

// peek waits for a whole message of the client's. What the backend should have
// is written before.
func (p *passage) peek(length int) ([]byte, error) {
	if p.client.Buffered() < length {
		if err := p.flushBackend(); err != nil {
			return nil, err
		}
	}
	return p.client.Peek(length)
}

// own returns the gateway's answer to a message that is not the backend's, or
// nil, and notes binds.
func (p *passage) own(m message) []byte {
	p.mu.Lock()
	over := p.over
	p.mu.Unlock()
	switch {
	case over:
		return nil
	case m.isStartTLS() && p.clear:
		return m.result(unavailable, "TLS is not available any more")
	case m.isStartTLS():
		// RFC 4511, 4.14.1: TLS is active already.
		return m.result(operationsError, "TLS is active already")
	case m.op == opBind:
		b, err := m.bind()
		if err != nil {
			return nil // for the backend to refuse
		}
		if p.refuseAuth && !b.anonymous {
			return m.result(confidentialityRequired, needsTLS)
		}
		if !b.anonymous {
			p.mu.Lock()
			if len(p.binds) < maxBinds {
				p.binds[string(m.id)] = b.sasl
			}
			p.mu.Unlock()
		}
	}
	return nil
}

// layered reports whether what is no message may be a SASL security layer's.
func (p *passage) layered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sasl
}

// down passes the backend's messages, and takes the offer of StartTLS out of
// its root DSE.
func (p *passage) down() error {
	for {
		if p.backend.Buffered() < maxHeader {
			if err := p.flushClient(); err != nil {
				return err
			}
		}
		if _, err := p.backend.Peek(1); err != nil {
			return err
		}
		if p.backend.Unread()[0] != tagSequence && p.layered() {
			return cmp.Or(p.flushClient(), errOver)
		}
		length, err := measure(p.backend)
		if err != nil {
			if errors.Is(err, upgraders.ErrSyntax) || errors.Is(err, wire.ErrTooLong) || errors.Is(err, upgraders.ErrHTTP) || errors.Is(err, wire.ErrClientHello) {
				err = broken("not an LDAP message")
			}
			return err
		}
		over, err := p.answer(length)
		if err != nil {
			return err
		}
		if over {
			return cmp.Or(p.flushClient(), errOver)
		}
	}
}

// answer passes one message of the backend's, and reports whether it ends the
// filtered phase.
func (p *passage) answer(length int) (over bool, err error) {
	if length > maxMessage {
		// It is written whole, or an answer of ours would stand in it.
		p.writing.Lock()
		defer p.writing.Unlock()
		return false, pass(p.backend, p.client, &p.toClient, length)
	}
	if p.backend.Buffered() < length {
		if err := p.flushClient(); err != nil {
			return false, err
		}
	}
	raw, err := p.backend.Peek(length)
	if err != nil {
		return false, err
	}
	shown := raw
	if m, err := parse(raw); err == nil {
		switch m.op {
		case opSearchEntry:
			if corrected := withoutStartTLS(raw); corrected != nil {
				shown = corrected
			}
		case opBindResponse:
			over = p.bound(m)
		}
	}
	p.toClient = append(p.toClient, shown...)
	p.backend.Discard(length)
	if len(p.toClient) >= maxMessage {
		err = p.flushClient()
	}
	return over, err
}

// bound notes a bind that succeeded. Inside TLS there is nothing left to
// filter then; in cleartext StartTLS stays what is not to be had.
func (p *passage) bound(m message) (over bool) {
	code, _, err := want(tagEnumerated, m.contents)
	if err != nil || len(code) != 1 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	sasl, ok := p.binds[string(m.id)]
	delete(p.binds, string(m.id))
	if !ok || code[0] != success {
		return false
	}
	p.sasl = p.sasl || sasl
	p.over = !p.clear
	return p.over
}

// tell gives the client an answer of the gateway's, between two of the
// backend's.
func (p *passage) tell(reply []byte) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	_, err := p.client.Write(reply)
	return err
}

func (p *passage) flushClient() error {
	if len(p.toClient) == 0 {
		return nil
	}
	err := p.tell(p.toClient)
	p.toClient = p.toClient[:0]
	return err
}

func (p *passage) flushBackend() error {
	if len(p.toBackend) == 0 {
		return nil
	}
	_, err := p.backend.Write(p.toBackend)
	p.toBackend = p.toBackend[:0]
	return err
}

// pass copies a message of any length, after what is still in hand.
func pass(from, to *wire.Conn, inHand *[]byte, length int) error {
	if _, err := to.Write(*inHand); err != nil {
		return err
	}
	*inHand = (*inHand)[:0]
	for length > 0 {
		if _, err := from.Peek(1); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		piece := from.Unread()
		piece = piece[:min(len(piece), length)]
		if _, err := to.Write(piece); err != nil {
			return err
		}
		length -= len(piece)
		from.Discard(len(piece))
	}
	return nil
}
