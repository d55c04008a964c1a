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
	errJoin = errors.New("join")
	errFull = errors.New("at its max_connections")
	errElse = fmt.Errorf("%w: the backend that spoke before TLS is another route's", upgraders.ErrNoRoute)
)

// join reaches a server of the route's backend that serves: the next one is
// tried when one cannot be dialled or refuses before a word went to the
// client.
func (s *session) join(ctx context.Context, h upgraders.Handover, r *route) (*leg, error) {
	var last error
	for _, sv := range r.backend.order(s.client.Addr()) {
		l, err := s.dial(ctx, r.backend, sv)
		if err != nil {
			last = err
			s.gw.log.Debug("backend server cannot be reached", "cid", s.cid, "backend", r.backend.cfg.Name, "server", sv.Address, "error", err)
			continue
		}
		s.server = l.server.Address
		if h.Join == nil {
			return l, nil
		}
		deadline := time.Now().Add(s.l.cfg.Policy.Dialogue.Timeout)
		s.sock.SetDeadline(deadline)
		l.sock.SetDeadline(deadline)
		err = h.Join(ctx, s.link(r, l))
		if err == nil {
			return l, nil
		}
		l.close()
		if !errors.Is(err, upgraders.ErrTryNext) {
			return nil, fmt.Errorf("%w: %w", errJoin, err)
		}
		s.gw.log.Debug("backend server refuses", "cid", s.cid, "backend", r.backend.cfg.Name, "server", sv.Address, "error", err)
		last = err
	}
	if last == nil {
		last = fmt.Errorf("backend %q: every server is %w", r.backend.cfg.Name, errFull)
	}
	return nil, last
}

// forwardTTL is how many proxies a backend may still forward client facts
// through: Dovecot's own default. With 1 a Dovecot director could not pass a
// login on.
const forwardTTL = 5

// link is what Join and Converse work on.
func (s *session) link(r *route, l *leg) *upgraders.Link {
	return &upgraders.Link{
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
		Log: func(msg string, args ...any) {
			s.gw.log.Warn(msg, append([]any{"cid", s.cid, "listener", s.l.cfg.Name, "backend", r.backend.cfg.Name, "server", l.server.Address}, args...)...)
		},
	}
}

// dialPreview serves the protocols whose client names a host and may then go on
// in cleartext.
func (s *session) dialPreview(ctx context.Context, host string) (*wire.Conn, error) {
	r, err := s.routeForHost(host, "")
	if err != nil {
		return nil, err
	}
	conn, err := s.dialEarly(ctx, r)
	s.preview = s.early != nil
	return conn, err
}

// dialEarly serves the protocols whose backend speaks first. There is no SNI
// yet.
func (s *session) dialEarly(ctx context.Context, r *route) (*wire.Conn, error) {
	if s.early != nil {
		return s.early.conn, nil
	}
	var last error
	b := r.backend
	for _, sv := range b.order(s.client.Addr()) {
		l, err := s.dial(ctx, b, sv)
		if err == nil {
			l.sock.SetDeadline(s.began.Add(s.l.cfg.Policy.Dialogue.Timeout))
			s.early = l
			return l.conn, nil
		}
		last = err
	}
	if last == nil {
		last = fmt.Errorf("backend %q: every server is %w", b.cfg.Name, errFull)
	}
	return nil, last
}

// dial connects to one server and sends the PROXY header.
func (s *session) dial(ctx context.Context, b *backend, sv *server) (*leg, error) {
	if e := s.early; e != nil {
		if e.backend != b {
			return nil, errElse
		}
		s.early = nil
		return e, nil
	}
	if !b.admit(sv) {
		return nil, fmt.Errorf("server %s is %w", sv.Address, errFull)
	}
	l, err := b.connect(ctx, s.gw.ctx, sv, s.host, func(netip.AddrPort) []byte { return s.proxyHeader(b.cfg.Send) })
	if err == nil {
		l.sock.SetStall(s.l.cfg.Policy.StallTimeout)
	}
	return l, err
}

// dial is connect for what the gateway itself wants to know, which is counted
// and held back by no limit.
func (b *backend) dial(ctx, life context.Context, sv *server, header func(self netip.AddrPort) []byte) (*leg, error) {
	b.count(sv, 1)
	return b.connect(ctx, life, sv, b.hostname, header)
}

// connect connects to one server, which has counted the leg already, and
// writes the PROXY header that header makes, given our own address. ctx bounds
// the dialling, life what comes after it; host is what the client has named.
func (b *backend) connect(ctx, life context.Context, sv *server, host string, header func(self netip.AddrPort) []byte) (*leg, error) {
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
	l := &leg{backend: b, server: sv, sock: sock, conn: wire.NewConn(sock), uncut: context.AfterFunc(life, sock.Abort)}
	if err := b.secure(ctx, l, host); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}
