package mysql

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A passage leads one session from the backend's greeting to the end of the
// login.
type passage struct {
	session  *upgraders.Session
	greeting greeting
	refusal  packet // of the last server that does not serve

	asked   bool   // the client has asked for TLS, and so counts a packet more
	flags   uint32 // and is capable of this, as it said then
	secured bool   // the backend was asked for TLS, and so counts a packet more

	// The numbers that the next packets have, whoever says them.
	toClient, toBackend byte

	plugin   string // by which the client proves who it is
	nonce    []byte
	multi    bool   // by several, if need be
	password []byte // waits for the backend's public key
}

// greet has a server greet, and passes that on with TLS offered or not. words
// are what to say in place of it.
func (p *passage) greet(ctx context.Context, client *wire.Conn, ssl bool) (words []byte, err error) {
	if err := p.session.Backend(ctx, p.hear); err != nil {
		if p.refusal != nil {
			return p.refusal, err
		}
		return noServer.packet(0), err
	}
	p.toClient = 1
	_, err = client.Write(p.greeting.offering(ssl))
	return nil, err
}

// hear takes a server's greeting. Whatever is wrong with it, the next server
// may do better.
func (p *passage) hear(backend *wire.Conn) error {
	first, err := peek(backend, maxGreeting)
	if err == nil && first.kind() == isError {
		p.refusal = bytes.Clone(first)
		return first.refused()
	}
	if err == nil && first.seq() != 0 {
		err = fmt.Errorf("%w: its first packet is number %d", upgraders.ErrBackend, first.seq())
	}
	if err == nil {
		p.greeting, err = parseGreeting(first)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
	}
	backend.Discard(len(first))
	return nil
}

// asksForTLS looks at the client's first packet. SSLRequest is taken; a login
// stays in the buffer.
func (p *passage) asksForTLS(client *wire.Conn) (bool, error) {
	request, err := first(client, p.toClient)
	if err != nil {
		return false, err
	}
	p.flags = flags(request.body())
	switch {
	case p.flags&clientSSL == 0:
		return false, nil
	case p.flags&clientProtocol41 == 0, request.length() != requestLength, !p.session.CanTLS():
		return false, upgraders.ErrSyntax
	}
	client.Discard(len(request))
	p.asked, p.toClient = true, p.toClient+1
	return true, nil
}

// words are the last ones to a client whose packet, if there is one, is in the
// buffer.
func (p *passage) words(client *wire.Conn, err error) []byte {
	seq := p.toClient
	if client.Buffered() > 0 {
		seq++
	}
	return refusals.To(err).packet(seq)
}

// accept waits for the login. It stays in the buffer, whole.
func (p *passage) accept(_ context.Context, client *wire.Conn) (upgraders.Route, error) {
	err := p.check(client)
	if err != nil {
		client.Write(p.words(client, err))
	}
	return upgraders.Route{}, err
}

func (p *passage) check(client *wire.Conn) error {
	if _, err := first(client, p.toClient); err != nil {
		return err
	}
	whole, err := peek(client, maxPacket)
	if err != nil {
		return err
	}
	l, err := parseLogin(whole.body())
	switch {
	case err != nil:
		return err
	case p.asked && l.flags != p.flags:
		return fmt.Errorf("%w: what the client says of itself in TLS is not what was said before it", upgraders.ErrSyntax)
	case !p.asked && l.flags&clientSSL != 0:
		return fmt.Errorf("%w: a request for TLS where there is none", upgraders.ErrSyntax)
	}
	return nil
}

// join asks the backend for TLS, where that is due, and passes the login on.
func (p *passage) join(ctx context.Context, link *upgraders.Link) error {
	whole, err := peek(link.Client, maxPacket)
	if err != nil {
		return err
	}
	body := bytes.Clone(whole.body())
	l, err := parseLogin(body)
	if err != nil {
		return err
	}
	p.toClient, p.toBackend = whole.seq()+1, 1
	p.plugin, p.nonce, p.multi = l.name, p.greeting.nonce, l.flags&clientMultiFactor != 0
	if !l.old() {
		binary.LittleEndian.PutUint32(body, l.flags&^clientSSL)
	}
	if link.Secure != nil {
		if !p.greeting.offers() || l.old() {
			return fmt.Errorf("%w by the backend, or the client is older than it", upgraders.ErrNotOffered)
		}
		binary.LittleEndian.PutUint32(body, l.flags|clientSSL)
		if _, err := link.Backend.Write(newPacket(p.toBackend, body[:requestLength])); err != nil {
			return fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
		}
		if err := link.Secure(ctx); err != nil {
			return err
		}
		p.secured, p.toBackend = true, p.toBackend+1
	}
	if p.hidesTLS() && l.name == sha256Password && isPassword(l.proof) {
		p.password = bytes.Clone(l.proof)
		clear(l.proof)
		body = l.with(body, askSHA256)
	}
	clear(whole.body())
	link.Client.Discard(len(whole))
	if _, err := link.Backend.Write(newPacket(p.toBackend, body)); err != nil {
		return fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
	}
	p.toBackend++
	return nil
}

// hidesTLS reports whether the client knows its session to be in TLS, and the
// backend does not.
func (p *passage) hidesTLS() bool { return p.asked && !p.secured }

// converse shifts the numbers until the login has ended. Where both sides
// count alike there is nothing to do.
func (p *passage) converse(_ context.Context, link *upgraders.Link) error {
	if p.asked == p.secured {
		return nil
	}
	f := &filter{passage: p, client: link.Client, backend: link.Backend}
	defer func() { clear(p.password) }()
	err := wire.Duplex(link.Client, link.Backend, f.up, f.down)
	if err != nil && err != io.EOF {
		if words := p.words(link.Client, err); words != nil {
			link.Client.Write(words)
		}
	}
	return err
}

// A filter is the login at work, in both directions.
type filter struct {
	*passage
	client, backend *wire.Conn

	mu   sync.Mutex // one packet at a time
	due  bool       // the client's next packet is the password, if it is in TLS
	over bool       // the login is, from before the client can know it
	left bool       // the client did, before that
}

// up passes what the client says.
func (f *filter) up() error {
	for {
		p, err := peek(f.client, maxPacket)
		if err != nil {
			f.mu.Lock()
			f.left = true
			f.mu.Unlock()
			return err
		}
		if over, err := f.say(p); over || err != nil {
			return err
		}
		f.client.Discard(len(p))
	}
}

func (f *filter) say(p packet) (over bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body := p.body()
	switch {
	case f.over:
		return true, nil // nothing is taken: the relay goes on from here
	case p.seq() != f.toClient, f.password != nil:
		return false, upgraders.ErrSyntax
	case f.due && !f.hidesTLS():
		// The client would have the password encrypted, and the backend, which
		// is in TLS, take what it sends for the password.
		return false, upgraders.ErrNeedsTLS
	case f.due && isPassword(body):
		f.password = bytes.Clone(body)
		clear(body)
		body = askCachingSHA2
		if f.plugin == sha256Password {
			body = askSHA256
		}
	case f.due && len(body) > 1:
		return false, upgraders.ErrSyntax
	}
	f.due = false
	f.toClient++
	_, err = f.backend.Write(newPacket(f.toBackend, body))
	f.toBackend++
	return false, err
}

// down passes what the backend says, up to the end of the login.
func (f *filter) down() error {
	for {
		p, err := peek(f.backend, maxPacket)
		switch {
		case err == wire.ErrTooLong:
			return fmt.Errorf("%w: a packet of %d bytes in the login", upgraders.ErrBackend, packet(f.backend.Unread()).length())
		case err == io.EOF && !f.hasLeft():
			return fmt.Errorf("%w: it ends in the login", upgraders.ErrBackend)
		case err != nil:
			return err
		}
		if err := f.hear(p); err != nil || f.over {
			return err
		}
	}
}

func (f *filter) hasLeft() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.left
}

func (f *filter) hear(p packet) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	body := p.body()
	if f.password != nil && p.kind() == isMore {
		return f.encrypt(p)
	}
	switch kind := p.kind(); {
	case kind == isOK, kind == isError:
		f.over = true
	case kind == isSwitch, kind == isNextFactor && f.multi:
		name, nonce, _ := bytes.Cut(body[1:], []byte{0})
		f.plugin, f.nonce = string(name), bytes.TrimSuffix(bytes.Clone(nonce), []byte{0})
		f.due = f.plugin == sha256Password
	case f.plugin == cachingSHA2 && bytes.Equal(body, fullAuthentication):
		f.due = true
	}
	if f.password != nil { // and the backend does not want it
		clear(f.password)
		f.password = nil
	}
	// What the backend counts wrong stays wrong.
	shift := f.toClient - f.toBackend
	f.toBackend = p.seq() + 1
	f.toClient = f.toBackend + shift
	_, err := f.client.Write(newPacket(p.seq()+shift, body))
	f.backend.Discard(len(p))
	return err
}

// encrypt sends the password as the backend's public key has it, which is the
// answer to a packet that the client knows nothing of.
func (f *filter) encrypt(p packet) error {
	secret, err := encrypt(f.password, f.nonce, p.body()[1:])
	clear(f.password)
	f.password = nil
	if err != nil {
		return err
	}
	f.toBackend = p.seq() + 1
	f.backend.Discard(len(p))
	_, err = f.backend.Write(newPacket(f.toBackend, secret))
	f.toBackend++
	return err
}
