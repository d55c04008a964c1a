package xmpp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A passage leads one session from the opening of its stream until nothing is
// left to take out of it.
type passage struct {
	variant
	name     string     // what the gateway calls itself
	clear    bool       // the session is in cleartext, for good
	auth     bool       // and may send a password
	opening  []byte     // what the backend is to hear first
	versions bool       // of XMPP 1.0
	preview  *wire.Conn // the backend that was heard
	heard    *answer
	answered bool // the client has had a header

	link *upgraders.Link

	mu   sync.Mutex
	over bool // nothing is left to filter, from before the client can know it

	// Of the backend's stream.
	toClient      []byte
	depth         int
	closed        bool
	authenticated bool
}

// accept takes the client's stream inside TLS, which must be for the host that
// the one before TLS was for, if there was one.
func (p *passage) accept(before string) func(context.Context, *wire.Conn) (upgraders.Route, error) {
	return func(_ context.Context, client *wire.Conn) (upgraders.Route, error) {
		o, err := readOpening(&scan{c: client, max: maxElement})
		if err == nil {
			err = p.judge(o)
		}
		host := ""
		if err == nil {
			switch host = hostOf(o.tag.get("to")); {
			case host == "":
				err = errHost
			case before != "" && host != before:
				err = errMoved
			}
		}
		if err != nil {
			if words := lastWords(err); words != "" {
				client.Write([]byte(p.header(p.name, "") + words))
			}
			return upgraders.Route{}, err
		}
		p.opening, p.versions = o.raw, o.versions
		client.Discard(len(o.raw))
		return upgraders.Route{Host: host}, nil
	}
}

// hear opens the stream at a server, and looks at what it answers: that is
// passed on later.
func (p *passage) hear(backend *wire.Conn) (err error) {
	p.preview = backend
	if _, err = backend.Write(p.opening); err == nil {
		p.heard, err = readAnswer(backend, p.versions)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
	case p.heard.failed != nil && p.heard.passing():
		return &upgraders.Refusal{Reply: p.heard.condition()}
	}
	return nil
}

// join opens the stream at the backend, unless it is open.
func (p *passage) join(_ context.Context, link *upgraders.Link) error {
	if link.Backend != p.preview {
		if err := p.hear(link.Backend); err != nil {
			return err
		}
	}
	if p.heard.features != nil && !p.servers {
		if why := p.offer(link.PassBinding).complaint(p.heard.features); why != "" {
			link.Log(why, "mend", mendLogin)
		}
	}
	return nil
}

func (p *passage) offer(binding bool) offer {
	return offer{clear: p.clear, auth: p.auth, binding: binding && !p.clear}
}

// converse filters until the features that follow authentication have passed;
// in cleartext, for ever.
func (p *passage) converse(_ context.Context, link *upgraders.Link) error {
	p.link = link
	if p.answered {
		p.depth = 1
	}
	err := wire.Duplex(link.Client, link.Backend, p.up, p.down)
	if err != nil && err != io.EOF && p.depth <= 1 && !p.closed {
		if words := lastWords(err); words != "" {
			if p.depth == 0 {
				words = p.header(p.name, "") + words
			}
			link.Client.Write([]byte(words))
		}
	}
	return err
}

func (p *passage) isOver() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over
}

func (p *passage) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
}

// maxInHand is how much is held before it is written though more is there.
const maxInHand = 16 << 10

// up passes what the client says, but for what it may not ask for.
func (p *passage) up() error {
	client, depth := p.link.Client, 1 // the opening is gone ahead
	var toBackend []byte
	flush := func() (err error) {
		if len(toBackend) > 0 {
			_, err = p.link.Backend.Write(toBackend)
			toBackend = toBackend[:0]
		}
		return err
	}
	for {
		k, raw, err := (&scan{c: client, max: maxInside, flush: flush}).next()
		if p.isOver() {
			return flush() // what is there is the relay's
		}
		if err != nil {
			return err
		}
		if (k == starts || k == empty) && depth <= 1 {
			t, err := parseTag(raw)
			if err == nil {
				err = p.forbids(t)
			}
			if err != nil {
				return err
			}
			if t.local == "stream" {
				depth = 0 // a stream begins anew
			}
		}
		switch k {
		case starts:
			depth++
		case ends:
			depth--
		case prolog: // of a stream that begins anew
			if err := declaration(raw); err != nil {
				return err
			}
		}
		toBackend = append(toBackend, raw...)
		client.Discard(len(raw))
		if len(toBackend) >= maxInHand {
			if err := flush(); err != nil {
				return err
			}
		}
	}
}

// forbids says why an element may not be passed to the backend.
func (p *passage) forbids(t tag) error {
	switch t.local {
	case "starttls":
		return errAgain
	case "auth", "authenticate":
		if p.clear && !p.auth {
			return upgraders.ErrNeedsTLS
		}
	case "iq", "message", "presence":
		// RFC 6120, 4.9.3.12: nobody has logged in. Logins from before SASL
		// (XEP-0078) and registrations (XEP-0077) are made of these.
		if p.clear && !p.auth && !p.servers {
			return upgraders.ErrNeedsTLS
		}
	}
	return nil
}

// down passes what the backend says, and takes out of its features what is
// false here.
func (p *passage) down() error {
	backend := p.link.Backend
	for {
		s := &scan{c: backend, max: maxInside, flush: p.flush}
		k, raw, err := s.next()
		if err != nil {
			return orBroken(err)
		}
		if (k == starts || k == empty) && p.depth <= 1 {
			t, err := parseTag(raw)
			if err != nil {
				return orBroken(err)
			}
			switch last, pass := p.leads(t); {
			case t.local == "stream":
				p.depth, p.closed = 0, false
			case !pass:
				if err := p.features(s); err != nil {
					return orBroken(err)
				}
				if last {
					return p.flush()
				}
				continue
			case last:
				p.end()
				return p.flush() // and the rest is the relay's
			}
		}
		switch k {
		case starts:
			p.depth++
		case ends:
			p.depth--
			p.closed = p.depth == 0
		}
		p.toClient = append(p.toClient, raw...)
		backend.Discard(len(raw))
		if len(p.toClient) >= maxInHand {
			if err := p.flush(); err != nil {
				return err
			}
		}
	}
}

// leads says whether an element of the backend's is the last to be looked at,
// and whether it passes as it is. A session in cleartext has no last one: a
// server may offer TLS again after authentication (Prosody 0.12 does).
func (p *passage) leads(t tag) (last, pass bool) {
	switch t.local {
	case "features":
		return p.authenticated && !p.clear, false
	case "success":
		p.authenticated = true
	case "result": // dialback, XEP-0220
		return t.get("type") == "valid" && !p.clear, true
	case "iq", "message", "presence":
		return !p.clear, true
	}
	return false, true
}

// features passes a features element.
func (p *passage) features(s *scan) error {
	raw, err := s.element()
	if err != nil {
		return err
	}
	e, err := parseElement(raw)
	if err != nil {
		return err
	}
	p.toClient = append(p.toClient, p.offer(p.link.PassBinding).rewrite(raw, e)...)
	s.c.Discard(len(raw))
	if p.authenticated && !p.clear {
		p.end()
	}
	return nil
}

func (p *passage) flush() (err error) {
	if len(p.toClient) > 0 {
		_, err = p.link.Client.Write(p.toClient)
		p.toClient = p.toClient[:0]
	}
	return err
}

// orBroken makes what is wrong with a backend's words the backend's fault.
func orBroken(err error) error {
	if upgraders.Reason(err) == "" || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return broken(err.Error())
}
