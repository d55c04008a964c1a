package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/sallyport/sallyport/internal/relay"
	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A leg is a session's connection to a backend server.
type leg struct {
	backend *backend
	server  *server
	sock    *relay.Socket
	conn    *wire.Conn
	tls     *tls.Conn   // nil: the leg is cleartext
	secrets *tls.Config // what tls was made with
	uncut   func() bool // of the context that ends sessions
	closed  bool
}

func (l *leg) close() {
	if !l.closed {
		l.closed = true
		l.uncut()
		l.sock.Close()
		l.backend.count(l.server, -1)
	}
}

var (
	errJoin   = errors.New("join")
	errEarly  = errors.New("no backend to begin with")
	errSecure = errors.New("TLS to the backend")
	errFull   = errors.New("at its max_connections")
	errElse   = fmt.Errorf("%w: the backend that spoke before TLS is another route's", upgraders.ErrNoRoute)
)

// join leads the session to a server of the route's backend, which is the one
// that has greeted already where that came first.
func (s *session) join(ctx context.Context, h upgraders.Handover, r *route) (*leg, error) {
	l := s.early
	if l == nil {
		return s.reach(ctx, r.backend, func(l *leg) error { return s.lead(ctx, h, r, l) })
	}
	if l.backend != r.backend {
		return nil, errElse
	}
	s.led = true
	if err := s.lead(ctx, h, r, l); err != nil {
		return nil, err // the client has its greeting, so there is no other server
	}
	s.early = nil
	return l, nil
}

// reach returns a leg to a server that serves: the next one is tried when one
// cannot be dialled or refuses before a word went to the client.
func (s *session) reach(ctx context.Context, b *backend, greet func(*leg) error) (*leg, error) {
	var last error
	for _, sv := range b.order(s.client.Addr()) {
		l, err := s.dial(ctx, b, sv)
		if err != nil {
			last = err
			s.gw.log.Debug("backend server cannot be reached", "cid", s.cid, "backend", b.cfg.Name, "server", sv.Address, "error", err)
			continue
		}
		s.server = sv.Address
		if err = greet(l); err == nil {
			return l, nil
		}
		l.close()
		if !errors.Is(err, upgraders.ErrTryNext) {
			return nil, err
		}
		s.gw.log.Debug("backend server refuses", "cid", s.cid, "backend", b.cfg.Name, "server", sv.Address, "error", err)
		last = err
	}
	if last == nil {
		last = fmt.Errorf("backend %q: every server is %w", b.cfg.Name, errFull)
	}
	return nil, last
}

// lead runs Join. A leg that is to be in TLS is so when it returns.
func (s *session) lead(ctx context.Context, h upgraders.Handover, r *route, l *leg) error {
	if h.Join != nil {
		deadline := time.Now().Add(s.l.cfg.Policy.Dialogue.Timeout)
		s.sock.SetDeadline(deadline)
		l.sock.SetDeadline(deadline)
		switch err := h.Join(ctx, s.link(r, l)); {
		case errors.Is(err, errSecure), errors.Is(err, upgraders.ErrNotOffered), errors.Is(err, upgraders.ErrTryNext):
			return err
		case err != nil:
			return fmt.Errorf("%w: %w", errJoin, err)
		}
	}
	if l.insecure() {
		return fmt.Errorf("%w: it was not asked for", errSecure)
	}
	return nil
}

// forwardTTL is how many proxies a backend may still forward client facts
// through: Dovecot's own default. With 1 a Dovecot director could not pass a
// login on.
const forwardTTL = 5

// link is what Join and Converse work on.
func (s *session) link(r *route, l *leg) *upgraders.Link {
	link := &upgraders.Link{
		Client:   s.conn,
		Backend:  l.conn,
		Server:   l.server.Address,
		Listener: s.l.facts,
		Security: s.security,
		TLS:      s.tls,
		Facts: upgraders.Facts{
			Client: s.client,
			Local:  s.local,
			Name:   s.l.facts.Hostname,
			TTL:    forwardTTL,
		},
		Forward:     r.backend.cfg.Forward,
		PassBinding: r.backend.passBinding(),
		BackendTLS:  l.tls != nil,
		Log: func(msg string, args ...any) {
			s.gw.log.Warn(msg, append([]any{"cid", s.cid, "listener", s.l.cfg.Name, "backend", r.backend.cfg.Name, "server", l.server.Address}, args...)...)
		},
	}
	if l.insecure() {
		link.Secure = func(ctx context.Context) error {
			asked := func(context.Context, *wire.Conn) error { return nil } // by Join
			if err := l.backend.secure(ctx, l, asked); err != nil {
				return fmt.Errorf("%w: %w", errSecure, err)
			}
			link.Backend = l.conn
			return nil
		}
	}
	return link
}

// dialFirst serves the protocols whose backend speaks first. The session may
// have no SNI yet, so there is one route.
func (s *session) dialFirst(ctx context.Context, hear func(*wire.Conn) error) error {
	return s.dialEarly(ctx, s.l.defaultRoute(), hear)
}

// dialPreview serves the protocols whose client names a host and may then go on
// in cleartext.
func (s *session) dialPreview(ctx context.Context, host string, hear func(*wire.Conn) error) error {
	r, err := s.routeForHost(host, "")
	if err != nil {
		return err
	}
	s.preview = true
	return s.dialEarly(ctx, r, hear)
}

// dialEarly has a server greet before the session is routed.
func (s *session) dialEarly(ctx context.Context, r *route, hear func(*wire.Conn) error) (err error) {
	s.early, err = s.reach(ctx, r.backend, func(l *leg) error {
		deadline := time.Now().Add(s.l.cfg.Policy.Dialogue.Timeout)
		if d, ok := ctx.Deadline(); ok {
			deadline = d
		}
		l.sock.SetDeadline(deadline)
		return hear(l.conn)
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errEarly, err)
	}
	return nil
}

// leaveEarly ends an early leg that will not be joined, with a word where a
// server would hold it against the gateway's address, and so against everyone,
// that a client has left. One that is told who the client is may do so.
func (s *session) leaveEarly() {
	l := s.early
	if l == nil || l.closed {
		return
	}
	leave, send := s.l.cfg.Protocol.Leave, l.backend.cfg.Send
	if leave != nil && !s.led && (send == SendNone || send == "") {
		l.sock.SetDeadline(time.Now().Add(lastWords))
		leave(s.gw.ctx, l.conn)
	}
	l.close()
}

// dial connects to one server and sends the PROXY header. TLS is begun, too,
// unless the session's own words ask for it.
func (s *session) dial(ctx context.Context, b *backend, sv *server) (*leg, error) {
	if !b.admit(sv) {
		return nil, fmt.Errorf("server %s is %w", sv.Address, errFull)
	}
	l, err := b.connect(ctx, s.gw.ctx, sv, func(netip.AddrPort) []byte { return s.proxyHeader(b.cfg.Send) })
	if err == nil && !b.secureInJoin() {
		l, err = b.secured(ctx, l, s.host)
	}
	if err == nil {
		l.sock.SetStall(s.l.cfg.Policy.StallTimeout)
	}
	return l, err
}

// dial is connect for what the gateway itself wants to know, which is counted
// and held back by no limit.
func (b *backend) dial(ctx, life context.Context, sv *server, header func(self netip.AddrPort) []byte) (*leg, error) {
	b.count(sv, 1)
	l, err := b.connect(ctx, life, sv, header)
	if err != nil {
		return nil, err
	}
	return b.secured(ctx, l, b.hostname)
}

// connect connects to one server, which has counted the leg already, and
// writes the PROXY header that header makes, given our own address. ctx bounds
// the dialling, life what comes after it.
func (b *backend) connect(ctx, life context.Context, sv *server, header func(self netip.AddrPort) []byte) (*leg, error) {
	d := net.Dialer{Timeout: b.connectTimeout(), Resolver: b.resolver}
	network, address := sv.network()
	c, err := d.DialContext(ctx, network, address)
	if err == nil {
		c.SetWriteDeadline(time.Now().Add(b.connectTimeout()))
		if _, err = c.Write(header(addrPort(c.LocalAddr()))); err != nil {
			c.Close()
			err = fmt.Errorf("write PROXY header: %w", err)
		}
	}
	if err != nil {
		b.count(sv, -1)
		return nil, err
	}
	c.SetWriteDeadline(time.Time{})
	sock := relay.NewSocket(c)
	return &leg{backend: b, server: sv, sock: sock, conn: wire.NewConn(sock), uncut: context.AfterFunc(life, sock.Abort)}, nil
}
