package gateway

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/relay"
	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// data opens the data connections of a session.
type data struct{ s *session }

var _ upgraders.Data = data{}

// dataDial is how long a client may take to answer when it is connected to.
const dataDial = 10 * time.Second

var (
	errNoAddress = errors.New("the session has no address to open data connections from")
	errOtherPeer = errors.New("a data connection that is not of the session's client")
)

// Listen implements upgraders.Data. The first port tried is one at random: a
// port that can be guessed can be connected to first (RFC 2577, 6).
func (d data) Listen(first, last uint16) (upgraders.DataListener, error) {
	local, ok := d.s.sock.LocalAddr().(*net.TCPAddr)
	if !ok {
		return nil, errNoAddress
	}
	n := int(last) - int(first) + 1
	start := mathrand.IntN(n)
	for i := range n {
		port := int(first) + (start+i)%n
		ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: local.IP, Zone: local.Zone, Port: port})
		if err == nil {
			return &dataListener{d.s, ln}, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("every port from %d to %d is taken", first, last)
}

// Dial implements upgraders.Data. The client sees the connection come from
// where it has connected to, unless a balancer stands there.
func (d data) Dial(ctx context.Context, port uint16) (upgraders.DataConn, error) {
	dialer := net.Dialer{Timeout: dataDial}
	if local, ok := d.s.sock.LocalAddr().(*net.TCPAddr); ok && len(d.s.l.cfg.Policy.ProxyFrom) == 0 {
		dialer.LocalAddr = &net.TCPAddr{IP: local.IP, Zone: local.Zone}
	}
	c, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(d.s.client.Addr(), port).String())
	if err != nil {
		return nil, err
	}
	return d.s.dataConn(c, true), nil
}

// DialBackend implements upgraders.Data.
func (d data) DialBackend(ctx context.Context, port uint16) (upgraders.DataConn, error) {
	server := addrPort(d.s.leg.sock.RemoteAddr()).Addr()
	if !server.IsValid() {
		return nil, errNoAddress
	}
	dialer := net.Dialer{Timeout: d.s.leg.backend.connectTimeout()}
	c, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(server, port).String())
	if err != nil {
		return nil, err
	}
	return d.s.dataConn(c, false), nil
}

// Carry implements upgraders.Data.
func (d data) Carry(from, to upgraders.DataConn, over func(error)) {
	relay.Copy(to.(*dataConn).end(), from.(*dataConn).end(), relay.Options{Buffers: d.s.gw.buffers}, over)
}

// A dataListener is one open port.
type dataListener struct {
	s  *session
	ln *net.TCPListener
}

var _ upgraders.DataListener = (*dataListener)(nil)

// Port implements upgraders.DataListener.
func (l *dataListener) Port() uint16 { return addrPort(l.ln.Addr()).Port() }

// Close implements upgraders.DataListener.
func (l *dataListener) Close() error { return l.ln.Close() }

// Accept implements upgraders.DataListener.
func (l *dataListener) Accept(ctx context.Context) (upgraders.DataConn, error) {
	defer context.AfterFunc(ctx, func() { l.ln.Close() })()
	for {
		c, err := l.ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, err
		}
		dc := l.s.dataConn(c, true)
		if err := l.s.identify(ctx, dc); err == nil {
			return dc, nil
		} else {
			l.s.gw.log.Debug("data connection dropped", "cid", l.s.cid, "peer", c.RemoteAddr().String(), "error", err)
		}
		dc.Abort()
	}
}

// identify makes sure that a data connection is the session's own client's. It
// comes as the control connection did: straight, or through a balancer that
// says so.
func (s *session) identify(ctx context.Context, c *dataConn) error {
	from := addrPort(c.sock.RemoteAddr()).Addr()
	if trusted := s.l.cfg.Policy.ProxyFrom; len(trusted) > 0 {
		if !slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(from) }) {
			return fmt.Errorf("%w: %s is not in proxy_protocol's from", upgraders.ErrProxy, from)
		}
		defer context.AfterFunc(ctx, c.Abort)()
		c.sock.SetReadDeadline(time.Now().Add(proxyTimeout))
		h, err := readProxyHeader(c.conn)
		if err != nil {
			return fmt.Errorf("%w: %w", upgraders.ErrProxy, err)
		}
		c.sock.SetReadDeadline(time.Time{})
		if !h.Command.IsLocal() {
			from = addrPort(h.SourceAddr).Addr()
		}
	}
	if from.WithZone("") != s.client.Addr().WithZone("") {
		return errOtherPeer
	}
	return nil
}

// A dataConn is one side of a data connection.
type dataConn struct {
	s      *session
	client bool
	sock   *relay.Socket
	conn   *wire.Conn // over sock, then over TLS
}

var _ upgraders.DataConn = (*dataConn)(nil)

func (s *session) dataConn(c net.Conn, client bool) *dataConn {
	sock := relay.NewSocket(c)
	sock.Beside(s.sock, client)
	return &dataConn{s: s, client: client, sock: sock, conn: wire.NewConn(sock)}
}

func (c *dataConn) end() relay.End {
	return relay.End{Conn: c.conn.Conn, Socket: c.sock, Unread: c.conn.Unread()}
}

// Abort implements upgraders.DataConn.
func (c *dataConn) Abort() { c.sock.Abort() }

// Secure implements upgraders.DataConn.
func (c *dataConn) Secure(ctx context.Context) (resumed bool, err error) {
	var conn *tls.Conn
	switch {
	case c.client:
		conn = tls.Server(c.conn, c.s.dataTLS())
	case c.s.leg.tls == nil:
		return false, nil
	default:
		conn = tls.Client(c.conn, c.s.leg.secrets)
	}
	begin := time.Now()
	c.sock.SetDeadline(begin.Add(c.s.l.cfg.Policy.HandshakeTimeout))
	err = conn.HandshakeContext(ctx)
	state := conn.ConnectionState()
	if c.client {
		c.s.gw.metrics.handshake(c.s.l.cfg.Name, &state, err, time.Since(begin))
		if err == nil {
			err = c.s.sameClient(&state)
		}
	}
	if err != nil {
		return false, fmt.Errorf("TLS handshake on a data connection: %w", err)
	}
	c.sock.SetDeadline(time.Time{})
	c.conn = wire.NewConn(conn)
	return state.DidResume, nil
}

// sameClient demands of a data connection what the control connection was
// asked for.
func (s *session) sameClient(state *tls.ConnectionState) error {
	switch {
	case s.l.tlsOf(s.l.routeFor(state.ServerName)) != s.l.tlsOf(s.l.routeFor(s.tls.ServerName)):
		return errOther
	case s.security != upgraders.Authenticated:
		return nil
	case len(state.VerifiedChains) == 0 || !state.PeerCertificates[0].Equal(s.tls.PeerCertificates[0]):
		return errors.New("the client certificate is not that of the control connection")
	}
	return nil
}

// ownTickets makes a session whose protocol has data connections put its name
// into its tickets.
func (s *session) ownTickets(base *tls.Config) *tls.Config {
	if len(s.l.cfg.Protocol.DataALPN) == 0 {
		return base
	}
	s.ticket = "sallyport session " + rand.Text()
	return s.named(base, nil)
}

// dataTLS is for a client's data connections. They resume what the session has
// begun, and nothing else.
func (s *session) dataTLS() *tls.Config {
	c := s.named(s.l.configs.base[upgraders.ALPNOptional], func(final *tls.Config) {
		final.NextProtos = s.l.cfg.Protocol.DataALPN // others end the handshake
		unwrap := final.UnwrapSession
		final.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
			state, err := unwrap(identity, cs)
			if state == nil || !slices.ContainsFunc(state.Extra, func(b []byte) bool { return string(b) == s.ticket }) {
				return nil, err
			}
			return state, nil
		}
	})
	choose := c.GetConfigForClient
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		other := *hello
		other.SupportedProtos = nil // they are not those of the control connection
		return choose(&other)
	}
	return c
}

// named returns a configuration whose tickets name the session, and which more
// may change further once the client's hello has chosen it.
func (s *session) named(base *tls.Config, more func(*tls.Config)) *tls.Config {
	choose := base.GetConfigForClient
	c := base.Clone()
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		final, err := choose(hello)
		if err != nil || final.WrapSession == nil { // a challenge gets no ticket
			return final, err
		}
		final = final.Clone()
		wrap := final.WrapSession
		final.WrapSession = func(cs tls.ConnectionState, state *tls.SessionState) ([]byte, error) {
			state.Extra = append(state.Extra, []byte(s.ticket))
			return wrap(cs, state)
		}
		if more != nil {
			more(final)
		}
		return final, nil
	}
	return c
}
