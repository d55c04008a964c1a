package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/relay"
	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

var (
	errClear  = fmt.Errorf("%w: the listener requires TLS", upgraders.ErrNoRoute)
	errBare   = fmt.Errorf("%w: it requires a client certificate, and the session is in cleartext", upgraders.ErrNoRoute)
	errOther  = fmt.Errorf("%w: its tls is not that of the SNI's route", upgraders.ErrNoRoute)
	errMixed  = fmt.Errorf("%w: the SNI is another route's", upgraders.ErrNoRoute)
	errAccept = errors.New("first words inside TLS")
)

// route chooses the backend: by what Accept learned inside TLS, else by SNI.
// A session that is no relay comes back as a function to run.
func (s *session) route(ctx context.Context, h upgraders.Handover) (*route, func(context.Context, upgraders.Dialer) error, error) {
	host := ""
	if s.tls != nil {
		host = s.tls.ServerName
	}
	var serve func(context.Context, upgraders.Dialer) error
	if h.Serve != nil {
		serve = func(ctx context.Context, d upgraders.Dialer) error { return h.Serve(ctx, s.conn, d) }
	}
	var learned upgraders.Route
	if h.Accept != nil {
		d := s.l.cfg.Policy.Dialogue
		deadline := time.Now().Add(d.Timeout)
		s.sock.SetReadDeadline(deadline)
		s.sock.SetWriteDeadline(deadline.Add(lastWords)) // as in dialogue
		s.conn.SetBudget(d.Bytes, d.Commands)
		var err error
		learned, err = h.Accept(ctx, s.conn)
		s.conn.ClearBudget()
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errAccept, err)
		}
		if learned.Serve != nil {
			serve = learned.Serve
		}
		if learned.Host != "" {
			r, err := s.routeForHost(learned.Host, host)
			return r, serve, err
		}
	}
	r := s.l.routeFor(host)
	if r != nil && s.tls == nil && learned.Serve != nil {
		return r, serve, nil // the protocol says that this needs no TLS (CancelRequest)
	}
	r, err := s.suits(r, host)
	return r, serve, err
}

// suits returns the route if the session is what the route's tls demands. That
// was applied in the handshake to the route that the SNI chose, and to no
// other; a session in cleartext had none.
func (s *session) suits(r *route, sni string) (*route, error) {
	if r == nil {
		return nil, upgraders.ErrNoRoute
	}
	want := s.l.tlsOf(r)
	switch {
	case s.tls == nil && !s.l.cfg.Cleartext:
		return nil, errClear // the protocol has told the client so, or should have
	case s.tls == nil && want != nil && want.ClientAuth != nil && want.ClientAuth.Require:
		return nil, errBare
	case s.tls != nil && want != s.l.tlsOf(s.l.routeFor(sni)):
		return nil, errOther
	}
	return r, nil
}

// routeForHost returns the route of a host that the client has named, which
// must not be one route's where the SNI was another's: whose certificate was
// shown is who is spoken to.
func (s *session) routeForHost(host, sni string) (*route, error) {
	s.host = host
	r, err := s.suits(s.l.routeForHost(host), sni)
	if err != nil || sni == "" {
		return r, err
	}
	if of := s.l.routeFor(sni); of != nil && of != r && len(of.SNI)+len(of.Host) > 0 {
		return nil, errMixed
	}
	return r, nil
}

// suitsHost is Session.Suits. A backend of several routes would otherwise serve
// one of them to whom the tls of that one has not let in.
func (s *session) suitsHost(host string) bool {
	r := s.l.routeForHost(host)
	if r == nil {
		return true
	}
	sni := ""
	if s.tls != nil {
		sni = s.tls.ServerName
	}
	_, err := s.suits(r, sni)
	return err == nil
}

// tlsOf returns what applies to a route, or to a name that has none.
func (l *listener) tlsOf(r *route) *TLS {
	if r != nil && r.TLS != nil {
		return r.TLS
	}
	return l.cfg.TLS
}

// routeFor returns the first route that takes an SNI value; "" is taken only
// by routes that name no SNI.
func (l *listener) routeFor(sni string) *route {
	for _, r := range l.routes {
		if len(r.SNI) == 0 && len(r.Host) == 0 || matches(r.SNI, sni) || len(r.SNI) == 0 && matches(r.Host, sni) {
			return r
		}
	}
	return nil
}

// routeForHost is routeFor for a name in the protocol's own words.
func (l *listener) routeForHost(host string) *route {
	for _, r := range l.routes {
		if len(r.SNI) == 0 && len(r.Host) == 0 || matches(r.Host, host) || len(r.Host) == 0 && matches(r.SNI, host) {
			return r
		}
	}
	return nil
}

// probesFor returns the name that probes of a route's backend give: a host that
// it serves, where the route names one.
func (l *Listener) probesFor(r *Route) string {
	for _, host := range r.Host {
		if !strings.HasPrefix(host, "*") {
			return host
		}
	}
	return l.Hostname
}

// defaultRoute is where a session without a name goes. Before TLS it is the
// best guess of what the backend will be; where every route wants a name, the
// first is.
func (l *listener) defaultRoute() *route {
	if r := l.routeFor(""); r != nil {
		return r
	}
	return l.routes[0]
}

// matches compares a name with exact names and one-label wildcards (RFC 9525,
// 6.3), without regard to case.
func matches(patterns []string, name string) bool {
	for _, p := range patterns {
		if suffix, ok := strings.CutPrefix(p, "*"); ok {
			if i := strings.IndexByte(name, '.'); i > 0 && strings.EqualFold(name[i:], suffix) {
				return true
			}
		} else if name != "" && strings.EqualFold(p, name) {
			return true
		}
	}
	return false
}

// dialer reaches the servers of a route for protocols that serve instead of
// relaying.
type dialer struct {
	s      *session
	r      *route
	clock  *relay.Clock
	life   context.Context // ends with close
	cancel context.CancelFunc
	dials  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	legs   map[*leg]struct{}
}

func newDialer(s *session, r *route, clock *relay.Clock) *dialer {
	d := &dialer{s: s, r: r, clock: clock, legs: map[*leg]struct{}{}}
	d.life, d.cancel = context.WithCancel(s.gw.ctx)
	return d
}

// close ends what is being dialled and the legs that Serve has left behind.
func (d *dialer) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.dials.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	for l := range d.legs {
		l.close()
	}
}

var _ upgraders.Dialer = (*dialer)(nil)

// Servers implements upgraders.Dialer.
func (d *dialer) Servers() []string {
	var names []string
	for _, sv := range d.r.backend.servers() {
		names = append(names, sv.Address)
	}
	return names
}

// Dial implements upgraders.Dialer.
func (d *dialer) Dial(ctx context.Context, name string) (*wire.Conn, error) {
	if !d.begin() {
		return nil, net.ErrClosed
	}
	defer d.dials.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.life, cancel)()
	var errs []error
	for _, sv := range d.r.backend.order(d.s.client.Addr()) {
		if name != "" && sv.Address != name {
			continue
		}
		l, err := d.s.dial(ctx, d.r.backend, sv)
		if err == nil {
			return d.keep(l)
		}
		errs = append(errs, err)
	}
	if errs == nil {
		errs = append(errs, fmt.Errorf("backend %q has none, or is at its limits", d.r.backend.cfg.Name))
	}
	return nil, fmt.Errorf("%w: %w", upgraders.ErrNoServer, errors.Join(errs...))
}

// begin counts a dial in, unless the session has ended.
func (d *dialer) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.dials.Add(1)
	}
	return !d.closed
}

// keep makes a fresh leg one of the session's, which ends with it at the
// latest.
func (d *dialer) keep(l *leg) (*wire.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		l.close()
		return nil, net.ErrClosed
	}
	l.sock.SetDeadline(time.Time{})
	l.sock.SetIdle(d.clock)
	l.conn.Conn = &dialled{Conn: l.conn.Conn, leg: l, d: d}
	d.legs[l] = struct{}{}
	d.s.server = l.server.Address
	return l.conn, nil
}

// dialled is a leg whose end is its user's to say.
type dialled struct {
	net.Conn // TCP, or TLS over it
	leg      *leg
	d        *dialer
}

// Close implements net.Conn.
func (c *dialled) Close() error {
	err := c.Conn.Close()
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	c.leg.close()
	delete(c.d.legs, c.leg)
	return err
}

// CloseWrite ends what is written: close_notify in TLS, else FIN.
func (c *dialled) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}
