package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"time"

	"github.com/sallyport/sallyport/internal/relay"
	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A session is one client connection from accept to its log line. Its methods
// run in the session's own goroutine, in the order in which serve calls them.
type session struct {
	gw     *Gateway
	l      *listener // as it was when the client came
	cid    string
	began  time.Time
	client netip.AddrPort
	local  netip.AddrPort

	sock *relay.Socket // the client's TCP connection
	conn *wire.Conn    // what is read and written now: over sock, then over TLS
	tls  *tls.ConnectionState

	security upgraders.Security
	implicit bool // TLS came first
	entered  bool
	admitted bool
	preamble int64 // the PROXY header's bytes
	joined   bool
	early    *leg   // dialled before TLS (MySQL)
	led      bool   // and given to Join
	preview  bool   // and of no use inside it
	host     string // that the client has named in the protocol's own words
	leg      *leg   // where the session is joined
	ticket   string // what names it in its tickets, where it has data connections

	// For the log line.
	server string
	err    error
	reason string
}

func newSession(g *Gateway, l *listener, c net.Conn) *session {
	if tcp, ok := c.(*net.TCPConn); ok {
		k := l.cfg.Policy.Keepalive
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: k > 0, Idle: k, Interval: max(k/4, time.Second), Count: 4})
	}
	sock := relay.NewSocket(c)
	return &session{
		gw:     g,
		l:      l,
		cid:    g.newCID(),
		began:  time.Now(),
		client: addrPort(c.RemoteAddr()),
		local:  addrPort(c.LocalAddr()),
		sock:   sock,
		conn:   wire.NewConn(sock),
	}
}

// addrPort returns a TCP address, with IPv4 as IPv4; zero for others.
func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// run is the session's goroutine.
func (s *session) run() {
	outcome := outcomePanic
	cut := context.AfterFunc(s.gw.ctx, s.sock.Abort)
	defer func() {
		cut()
		if r := recover(); r != nil {
			// One client's input must not end the sessions of all others.
			s.err = fmt.Errorf("panic: %v", r)
			s.gw.log.Error("a session panicked; please report this", "cid", s.cid, "listener", s.l.cfg.Name,
				"panic", fmt.Sprint(r), "stack", string(debug.Stack()))
		}
		s.sock.Close()
		if s.early != nil {
			s.early.close()
		}
		if s.entered {
			s.l.limits.leave(s.client.Addr(), s.admitted, s.joined)
		}
		s.finish(outcome)
	}()
	outcome, s.err = s.serve(s.gw.ctx)
}

// serve leads one connection from the first byte to the last.
func (s *session) serve(ctx context.Context) (outcome, error) {
	// What the client may cost, before it costs anything; and who it is.
	if limit := s.l.limits.enter(); limit != "" {
		return s.refuse(ctx, limit)
	}
	s.entered = true
	s.sock.SetStall(s.l.cfg.Policy.StallTimeout)
	if err := s.readProxy(); err != nil {
		return s.turnedAway(upgraders.Handover{}, err)
	}
	if limit := s.l.limits.admit(s.client.Addr(), s.began); limit != "" {
		return s.refuse(ctx, limit)
	}
	s.admitted = true

	// Cleartext: the dialogue, then the guard and the go-ahead.
	var h upgraders.Handover
	var err error
	if s.implicit, err = s.beginsWithTLS(); err != nil {
		return s.turnedAway(upgraders.Handover{}, err)
	}
	if s.implicit {
		h = s.l.cfg.Upgrader.Implicit(s.facts())
		h.Verdict = upgraders.StartTLS
	} else {
		if h, err = s.dialogue(ctx); err != nil || h.Verdict == upgraders.HangUp {
			return s.turnedAway(h, err)
		}
	}

	// TLS. From the go-ahead on, not one byte in the clear.
	if h.Verdict == upgraders.StartTLS {
		if s.preview && s.early != nil {
			s.early.close()
			s.early, s.preview = nil, false
		}
		if s.l.cfg.Mode != Implicit {
			if err := s.guard(h); err != nil {
				return s.turnedAway(upgraders.Handover{Reply: h.Injected}, err)
			}
		}
		if err := s.handshake(ctx, h.ALPN); err != nil {
			if s.silent() {
				return outcomeConnectOnly, err
			}
			return outcomeHandshake, err
		}
		if s.challenge() {
			s.bye()
			return outcomeChallenge, nil
		}
	}
	if s.l.cfg.Protocol.Pages {
		return s.pages(ctx, h)
	}

	// Route, dial, join.
	r, serve, err := s.route(ctx, h)
	if err != nil {
		return s.unavailable(ctx, h, err)
	}
	if serve != nil {
		return s.serving(ctx, r, serve)
	}
	backend, err := s.join(ctx, h, r)
	if err != nil {
		return s.unavailable(ctx, h, err)
	}
	defer backend.close()
	s.settle()
	s.conversing(backend)

	// The filtered phase, then out of the way.
	if h.Converse != nil {
		if err := h.Converse(ctx, s.link(r, backend)); err != nil {
			return s.ended(backend, err)
		}
	}
	return s.relay(backend)
}

// facts is what the protocol may know of the session.
func (s *session) facts() *upgraders.Session {
	return &upgraders.Session{
		Conn:     s.conn,
		Client:   s.client,
		Local:    s.local,
		Listener: s.l.facts,
		CanTLS:   func() bool { return s.l.cfg.Certificates.Ready() == nil },
		Capabilities: func(ctx context.Context) upgraders.Capabilities {
			return s.l.defaultRoute().backend.capabilities(ctx)
		},
		Routed:   func(host string) bool { return s.l.routeForHost(host) != nil },
		Suits:    s.suitsHost,
		Backend:  s.dialFirst,
		Preview:  s.dialPreview,
		Stopping: s.gw.stopping,
		Data:     data{s},
	}
}

// pages lets the protocol show what is the gateway's own. Nobody is to stay:
// the time of a dialogue is all there is, and who is served by no backend stays
// among the pending, of which a client may have few.
func (s *session) pages(ctx context.Context, h upgraders.Handover) (outcome, error) {
	deadline := time.Now().Add(s.l.cfg.Policy.Dialogue.Timeout)
	s.sock.SetReadDeadline(deadline)
	s.sock.SetWriteDeadline(deadline.Add(lastWords))
	err := h.Serve(ctx, s.conn, nil)
	s.bye()
	if err != nil {
		return s.rejected(err), err
	}
	return outcomeOK, nil
}

// dialogue lets the protocol speak in cleartext, within one budget of time,
// bytes and commands for all of it.
func (s *session) dialogue(ctx context.Context) (upgraders.Handover, error) {
	d := s.l.cfg.Policy.Dialogue
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	s.sock.SetReadDeadline(s.began.Add(d.Timeout))
	// The words that say that time is up need time themselves.
	s.sock.SetWriteDeadline(s.began.Add(d.Timeout + lastWords))
	s.conn.SetBudget(d.Bytes, d.Commands)
	h, err := s.l.cfg.Upgrader.Upgrade(ctx, s.facts())
	s.conn.ClearBudget()
	return h, err
}

// lastWords is how long a refusal may take to reach the client.
const lastWords = 2 * time.Second

// guard stands between the request for TLS and the go-ahead, for all
// protocols. Whatever the client sent behind the request was sent in
// cleartext, by it or by somebody else, and must not be taken for something
// said inside TLS (CVE-2011-0411).
func (s *session) guard(h upgraders.Handover) error {
	if len(h.Reply) == 0 {
		// No go-ahead to wait for: the ClientHello may be here already, and
		// nothing else may.
		if !beginsRecord(s.conn.Unread()) {
			return upgraders.ErrInjection
		}
		return nil
	}
	if s.conn.Pipelined() {
		return upgraders.ErrInjection
	}
	if _, err := s.conn.Write(h.Reply); err != nil {
		return fmt.Errorf("write go-ahead: %w", err)
	}
	return nil
}

// beginsRecord reports whether b could be the beginning of a TLS handshake
// record.
func beginsRecord(b []byte) bool {
	for i, want := range []byte{0x16, 0x03} {
		if i < len(b) && b[i] != want {
			return false
		}
	}
	return true
}

// turnedAway writes the last words of a dialogue that leads nowhere and waits
// a moment for the client to take them.
func (s *session) turnedAway(h upgraders.Handover, err error) (outcome, error) {
	o := s.rejected(err)
	if len(h.Reply) > 0 {
		s.sock.SetWriteDeadline(time.Now().Add(lastWords))
		s.conn.Write(h.Reply)
	}
	s.linger()
	return o, err
}

// rejected names the end of a session that never was joined, and counts it
// where a rule of ours was broken.
func (s *session) rejected(err error) outcome {
	switch reason := upgraders.Reason(err); {
	case errors.Is(err, errEarly) && errors.Is(err, upgraders.ErrTryNext):
		return outcomeBackendRefused
	case errors.Is(err, errEarly):
		return outcomeBackendDown
	case errors.Is(err, upgraders.ErrNoRoute):
		return outcomeNoRoute
	case reason == "timeout" && s.silent():
		return outcomeSilent
	case reason != "":
		s.reason = reason
		s.gw.metrics.rejected.WithLabelValues(s.l.cfg.Name, reason).Inc()
		return outcomeRejected
	case s.silent():
		return outcomeConnectOnly
	}
	return outcomeLeft
}

// silent reports whether the client itself has not said a byte.
func (s *session) silent() bool { return s.sock.Received() == s.preamble }

// linger closes the sending side and reads the rest for a moment: a close with
// unread bytes in the kernel is a reset, which can overtake the refusal.
func (s *session) linger() {
	s.leaveEarly()
	if s.sock.CloseWrite() != nil {
		return
	}
	s.sock.SetReadDeadline(time.Now().Add(lastWords))
	buf := make([]byte, 4<<10)
	for range 16 {
		if _, err := s.sock.Read(buf); err != nil {
			return
		}
	}
}

// refuse turns a connection away that would break a limit: in the protocol's
// words where a greeting is due in cleartext, and never at the cost of a
// handshake.
func (s *session) refuse(ctx context.Context, limit string) (outcome, error) {
	err := fmt.Errorf("%w: %s", upgraders.ErrLimit, limit)
	s.reason = "limit"
	if s.l.limits.tell(limit, s.began) {
		s.gw.log.Warn("a limit turns clients away", "listener", s.l.cfg.Name, "limit", limit, "client", s.client.String())
	}
	s.gw.metrics.rejected.WithLabelValues(s.l.cfg.Name, s.reason).Inc()
	if s.l.cfg.Mode != Implicit && s.l.cfg.Protocol.ServerFirst {
		if h := s.l.cfg.Upgrader.Implicit(s.facts()); h.Unavailable != nil {
			s.sock.SetDeadline(time.Now().Add(lastWords))
			h.Unavailable(ctx, s.conn, err)
		}
	}
	return outcomeLimit, err
}

// settle replaces the deadlines of the beginning by those of a session at
// work.
func (s *session) settle() {
	s.sock.SetDeadline(time.Time{})
	s.joined = true
	s.l.limits.joined(s.client.Addr())
	s.tally()
}

// conversing winds up one idle clock for both sides.
func (s *session) conversing(backend *leg) {
	s.leg = backend
	clock := relay.NewClock(s.l.idle)
	s.sock.SetIdle(clock)
	backend.sock.SetIdle(clock)
	backend.sock.SetDeadline(time.Time{})
}

// serving lets the protocol answer the client itself. One idle clock runs for
// the client and all that is dialled for it.
func (s *session) serving(ctx context.Context, r *route, serve func(context.Context, upgraders.Dialer) error) (outcome, error) {
	s.settle()
	clock := relay.NewClock(s.l.idle)
	s.sock.SetIdle(clock)
	d := newDialer(s, r, clock)
	defer d.close()
	served := serve(ctx, d)
	d.close()
	o, err := outcomeOf(served)
	if o == outcomeRejected {
		s.rejected(err)
	}
	if errors.Is(served, io.ErrUnexpectedEOF) {
		s.cut()
	} else {
		s.bye()
	}
	return o, err
}

// unavailable says in the protocol's words that there is no backend.
func (s *session) unavailable(ctx context.Context, h upgraders.Handover, cause error) (outcome, error) {
	o := outcomeBackendDown
	switch {
	case errors.Is(cause, upgraders.ErrNoRoute):
		o = outcomeNoRoute
	case errors.Is(cause, upgraders.ErrTryNext):
		o = outcomeBackendRefused
	case errors.Is(cause, errAccept):
		return s.acceptFailed(cause)
	case errors.Is(cause, errJoin):
		// The protocol has spoken already, or cannot any more.
		return s.joinFailed(cause)
	}
	if h.Unavailable != nil {
		s.sock.SetDeadline(time.Now().Add(max(lastWords, s.l.cfg.Policy.Dialogue.Timeout)))
		h.Unavailable(ctx, s.conn, cause)
	}
	s.bye()
	return o, cause
}

// bye ends the client's side in good order: close_notify, FIN, and a moment
// for what is on its way.
func (s *session) bye() {
	s.sock.SetDeadline(time.Now().Add(lastWords))
	if s.tls != nil {
		s.conn.CloseWrite()
	}
	s.linger()
}

// acceptFailed ends a session whose first words inside TLS were none.
func (s *session) acceptFailed(err error) (outcome, error) {
	o := s.rejected(err)
	s.bye()
	return o, err
}

// joinFailed ends a session that broke between greeting and replay.
func (s *session) joinFailed(err error) (outcome, error) {
	s.bye()
	switch {
	case errors.Is(err, wire.ErrShutdown):
		return outcomeShutdown, err
	case errors.Is(err, io.EOF):
		return outcomeLeft, err
	}
	return outcomeBackendGone, err
}

// ended closes both sides of a session that ended in its filtered phase.
func (s *session) ended(backend *leg, err error) (outcome, error) {
	o, err := outcomeOf(err)
	switch {
	case o == outcomeRejected:
		s.rejected(err)
	case o == outcomeClientGone && backend.conn.Broke() && !s.conn.Broke():
		o = outcomeBackendGone
	}
	switch o {
	case outcomeOK, outcomeIdle, outcomeShutdown, outcomeRejected:
		backend.finish()
		s.bye()
	default:
		backend.sock.Abort()
		s.cut()
	}
	return o, err
}

// cut ends the client's side of a stream that broke, and must not look
// finished: in TLS the lack of a close_notify says so, in cleartext only a
// reset does.
func (s *session) cut() {
	if s.tls == nil {
		s.sock.Abort()
	} else {
		s.linger()
	}
}

// outcomeOf names how Converse or Serve ended.
func outcomeOf(err error) (outcome, error) {
	switch {
	case err == nil, err == io.EOF, errors.Is(err, upgraders.ErrQuit):
		return outcomeOK, nil
	case errors.Is(err, wire.ErrIdle):
		return outcomeIdle, err
	case errors.Is(err, wire.ErrShutdown):
		return outcomeShutdown, err
	case errors.Is(err, upgraders.ErrNoRoute):
		return outcomeNoRoute, err
	case errors.Is(err, upgraders.ErrNoServer):
		return outcomeBackendDown, err
	case errors.Is(err, upgraders.ErrBackend):
		return outcomeBackendGone, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return outcomeStalled, err
	case upgraders.Reason(err) != "":
		return outcomeRejected, err
	}
	return outcomeClientGone, err
}

// relay copies opaquely until both streams have ended.
func (s *session) relay(backend *leg) (outcome, error) {
	client := relay.End{Conn: s.conn.Conn, Socket: s.sock, Unread: s.conn.Unread()}
	other := relay.End{Conn: backend.conn.Conn, Socket: backend.sock, Unread: backend.conn.Unread()}
	result := relay.Pump(client, other, relay.Options{Buffers: s.gw.buffers})
	return relayOutcomes[result.Outcome], result.Err
}
