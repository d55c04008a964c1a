package sieve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A passage leads one session from the join to authentication.
type passage struct {
	greet      bool   // the client waits for a capability list
	clear      bool   // the session is in cleartext, for good
	refuseAuth bool   // and may not authenticate
	pending    []byte // the command line of a session in cleartext that waits

	client, backend *wire.Conn
	offer           offer
	owed            wire.Owed[expected]
	toBackend       []byte // written by up before it waits for anything
	toClient        []byte // written by down before it waits

	// What the last response said; up reads it once nothing is owed.
	authenticated bool
	more          bool // the backend asks for another string of the mechanism's
}

// An expected response.
type expected struct {
	auth bool   // OK authenticates; a string asks for more
	own  string // the gateway's words, instead of the backend's
}

// join passes on the backend's greeting, or swallows it, and tells the backend
// who the client is.
func (p *passage) join(_ context.Context, link *upgraders.Link) error {
	p.offer = offer{refuseAuth: p.refuseAuth, binding: link.PassBinding}
	list, err := introduce(link)
	if bye := new(referral); errors.As(err, &bye) {
		link.Client.Write(bye.line)
		return err
	}
	if err != nil || !p.greet {
		return err
	}
	var greeting []byte
	for _, r := range list {
		line := r.line
		if r.status() == "" {
			line = p.offer.correct(r)
		}
		greeting = append(greeting, line...)
	}
	_, err = link.Client.Write(greeting)
	return err
}

// converse filters until the client has authenticated.
func (p *passage) converse(_ context.Context, link *upgraders.Link) error {
	p.client, p.backend = link.Client, link.Backend
	err := wire.Duplex(link.Client, link.Backend, p.up, p.down)
	if err != nil && err != io.EOF {
		if words := partings.To(err); words != "" {
			upgraders.Say(link.Client, words)
		}
	}
	return err
}

// errOver ends the direction that finds nothing left to filter.
var errOver = errors.New("authenticated")

// up passes commands to the backend, or answers them.
func (p *passage) up() error {
	defer p.owed.Close()
	line := p.pending
	for {
		if line == nil {
			var err error
			if line, err = p.line(); err != nil {
				return err
			}
		}
		switch err := p.command(line); err {
		case nil:
		case errOver:
			return nil
		default:
			return err
		}
		line = nil
	}
}

// line takes the client's next line.
func (p *passage) line() ([]byte, error) {
	return upgraders.ReadInside(p.client, maxLine, p.flush)
}

// command sees to one command of the client.
func (p *passage) command(line []byte) error {
	c := parseCommand(trimEnd(line))
	e := expected{}
	switch c.verb {
	case "AUTHENTICATE":
		e.auth = true
		if p.refuseAuth {
			e = expected{own: needsTLS}
		}
	case "STARTTLS":
		e.own = `NO "TLS is active already"`
		if p.clear {
			e.own = `NO "TLS is not available any more in this session"`
		}
	case "XCLIENT", "PROXY": // what a backend would believe from the gateway
		e.own = noClientFacts
	case "":
		e.own = noCommand
	}
	if e.own != "" {
		// An answer of ours keeps its place: NOOP has an answer of one line,
		// from servers that do not know it, too.
		if err := p.send([]byte("NOOP\r\n"), e); err != nil {
			return err
		}
		return p.literals(c.size, io.Discard)
	}
	if err := p.send(line, e); err != nil {
		return err
	}
	if err := p.literals(c.size, p.backend); err != nil || !e.auth {
		return err
	}
	return p.authenticate()
}

// literals passes on what belongs to a command beyond a line that announces a
// literal of that size.
func (p *passage) literals(size int64, to io.Writer) error {
	for size != noLiteral {
		if size < 0 || size > maxLiteral {
			return upgraders.ErrLiteral
		}
		if err := p.flush(); err != nil {
			return err
		}
		if _, err := io.CopyN(to, p.client, size); err != nil {
			return cutShort(err)
		}
		line, err := p.line()
		if err != nil {
			return cutShort(err)
		}
		// What a backend makes of a line that is none of the grammar's is not
		// guessed at.
		switch rest := trimEnd(line); {
		case len(rest) == 0:
			size = noLiteral
		case rest[0] != ' ':
			return upgraders.ErrSyntax
		default:
			var args []string
			if args, size = parseArguments(rest[1:]); args == nil && size == noLiteral {
				return upgraders.ErrSyntax
			}
		}
		if _, err := to.Write(line); err != nil {
			return err
		}
	}
	return nil
}

// cutShort makes an end of stream inside a command what it is.
func cutShort(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// authenticate passes the strings of a SASL exchange, which are no commands,
// until the backend has decided.
func (p *passage) authenticate() error {
	for {
		if err := p.flush(); err != nil {
			return err
		}
		if err := p.owed.Settle(); err != nil {
			return err
		}
		switch {
		case p.authenticated:
			return errOver
		case !p.more:
			return nil
		}
		line, err := p.line()
		if err != nil {
			return err
		}
		_, size := parseArguments(trimEnd(line))
		if err := p.send(line, expected{auth: true}); err != nil {
			return err
		}
		if err := p.literals(size, p.backend); err != nil {
			return err
		}
	}
}

// send adds a line to what goes to the backend.
func (p *passage) send(line []byte, e expected) error {
	if err := p.owed.Add(e, p.flush); err != nil {
		return err
	}
	p.toBackend = append(p.toBackend, line...)
	return nil
}

func (p *passage) flush() error {
	if len(p.toBackend) == 0 {
		return nil
	}
	_, err := p.backend.Write(p.toBackend)
	p.toBackend = p.toBackend[:0]
	return err
}

// down passes responses to the client, corrected where they list capabilities.
func (p *passage) down() error {
	defer p.owed.Close()
	for {
		over, err := p.response()
		if err != nil || over {
			if ferr := p.flushClient(); err == nil {
				err = ferr
			}
			if over {
				p.owed.Paid() // not before the client has its OK
			}
			return err
		}
	}
}

// response passes one line of the backend's, and reports whether it
// authenticated the client.
func (p *passage) response() (over bool, err error) {
	r, err := readResponse(p.backend, p.flushClient)
	if err != nil {
		return false, err
	}
	e, asked := p.owed.Next()
	switch status := r.status(); {
	case status == "" && e.auth:
		// RFC 5804, 2.1: a challenge is a string.
		p.toClient = append(p.toClient, r.line...)
		p.more = true
	case !asked && status == "BYE":
		// The backend speaks of itself: it is about to close.
		p.toClient = append(p.toClient, r.line...)
		return false, nil
	case !asked:
		// It would be taken for the answer to what the client says next.
		return false, fmt.Errorf("%w: it speaks without being asked", upgraders.ErrBackend)
	case status == "":
		if e.own == "" {
			p.toClient = append(p.toClient, p.offer.correct(r)...)
		}
		return false, nil // the status of the list is to come
	case e.own != "" && status != "BYE":
		p.toClient = append(append(p.toClient, e.own...), "\r\n"...)
	default:
		p.toClient = append(p.toClient, r.line...)
		p.authenticated, p.more = e.auth && status == "OK", false
		if p.authenticated {
			return true, nil
		}
	}
	p.owed.Paid()
	return false, nil
}

func (p *passage) flushClient() error {
	if len(p.toClient) == 0 {
		return nil
	}
	_, err := p.client.Write(p.toClient)
	p.toClient = p.toClient[:0]
	return err
}

// readResponse takes one line of a response, with the literals in it. wait is
// called before anything is waited for.
func readResponse(c *wire.Conn, wait func() error) (response, error) {
	var whole []byte
	for {
		if bytes.IndexByte(c.Unread(), '\n') < 0 {
			if err := wait(); err != nil {
				return response{}, err
			}
		}
		line, err := c.ReadSlice(maxLine)
		switch {
		case err == io.EOF && (c.Buffered() > 0 || whole != nil):
			return response{}, io.ErrUnexpectedEOF
		case errors.Is(err, wire.ErrTooLong):
			return response{}, fmt.Errorf("%w: a line of more than %d bytes", upgraders.ErrBackend, maxLine)
		case err != nil:
			return response{}, err
		}
		whole = append(whole, line...)
		tokens, missing := scan(whole)
		switch {
		case missing == badLiteral || missing > maxLiteral || len(whole) > maxLine+maxLiteral:
			return response{}, fmt.Errorf("%w: a literal that never ends", upgraders.ErrBackend)
		case missing == noLiteral:
			return judge(response{whole, tokens})
		}
		if err := wait(); err != nil {
			return response{}, err
		}
		at := len(whole)
		whole = append(whole, make([]byte, missing)...)
		if err := c.ReadFull(whole[at:]); err != nil {
			return response{}, cutShort(err)
		}
	}
}

// judge returns a response that is one.
func judge(r response) (response, error) {
	if len(r.tokens) > 0 {
		switch r.status() {
		case "", "OK", "NO", "BYE":
			return r, nil
		}
	}
	return response{}, fmt.Errorf("%w: a line that is no response", upgraders.ErrBackend)
}
