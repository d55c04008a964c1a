package upgradertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders"
)

// A stage is a gateway of its own with one listener, a client, and a scripted
// backend, for one dialogue.
type stage struct {
	s        *script
	bytewise bool
	t        *transcript
	log      *sessionLog
	figures  *prometheus.Registry
	gw       *gateway.Gateway
	ca       *authority
	ln       net.Listener // the backend's
	conns    chan net.Conn
	client   *peer
	backend  *peer
	orderly  bool   // the client has ended its stream
	dir      string // of a unix socket
}

// play plays one script against the real gateway and returns what went
// otherwise.
func play(s *script, p *upgraders.Protocol, ca *authority, bytewise bool) error {
	st, err := setUp(s, p, ca, bytewise)
	if err != nil {
		return err
	}
	defer st.tearDown()
	for i := 0; i < len(s.steps); i++ {
		step := s.steps[i]
		if step.op == "C>" {
			var segment []byte
			for ; s.steps[i].glue; i++ {
				segment = append(segment, s.steps[i].text...)
			}
			st.client.send(append(segment, s.steps[i].text...))
			continue
		}
		if err := st.perform(step); err != nil {
			return st.fail(step.line, step.raw, err)
		}
	}
	last := s.steps[len(s.steps)-1].line
	if err := st.finish(); err != nil {
		return st.fail(last, "at the end", err)
	}
	return nil
}

// setUp starts the gateway and connects the client.
func setUp(s *script, p *upgraders.Protocol, ca *authority, bytewise bool) (st *stage, err error) {
	st = &stage{
		s: s, bytewise: bytewise, ca: ca,
		t: &transcript{}, log: &sessionLog{ended: make(chan session, 4)}, conns: make(chan net.Conn, 16),
		figures: prometheus.NewRegistry(),
	}
	defer func() {
		if err != nil {
			st.tearDown()
			err = fmt.Errorf("%s: %w", s.path, err)
		}
	}()
	u, err := s.upgrader(p)
	if err != nil {
		return st, err
	}
	address, err := st.listen()
	if err != nil {
		return st, err
	}
	proto := *p
	backend := &gateway.Backend{Name: "scripted", Servers: []gateway.Server{{Address: address}}, Forward: s.forward}
	proto.Probe = nil // nothing is known
	proto.Leave = nil // what the gateway says by itself is no part of a dialogue
	if s.caps != nil {
		proto.Probe = func(context.Context, *upgraders.Link) (upgraders.Capabilities, error) {
			return slices.Clone(s.caps), nil
		}
		backend.Probe = &gateway.Probe{Interval: time.Hour}
	}
	listener := &gateway.Listener{
		Name: "scripted", Protocol: &proto, Upgrader: u,
		Addresses: []string{"127.0.0.1:0"}, Mode: s.mode,
		Cleartext: s.cleartext, CleartextAuth: s.authInCleartext(p), Hostname: s.hostname,
		Certificates: s.certificates(ca),
		Policy:       s.policy, TLS: &gateway.TLS{},
		Routes: []*gateway.Route{{Host: s.hosts, Backend: backend}},
	}
	if p.Pages {
		listener.Mode, listener.Routes, listener.Pages = gateway.Auto, nil, s
	}
	st.gw = gateway.New(gateway.Options{Logger: slog.New(st.log), Metrics: gateway.NewMetrics(st.figures)})
	if err := st.gw.Apply(&gateway.Config{Listeners: []*gateway.Listener{listener}, Backends: []*gateway.Backend{backend}}); err != nil {
		return st, err
	}
	if s.caps != nil {
		// What is known of the backend is known before the client comes: the
		// gateway hangs up on the probed backend once it has kept the answer.
		c, err := st.accept()
		if err != nil {
			return st, fmt.Errorf("the gateway does not ask for the backend's capabilities: %w", err)
		}
		c.SetDeadline(time.Now().Add(s.patience))
		io.Copy(io.Discard, c)
		c.Close()
	}
	if s.backendDown && st.ln != nil {
		st.ln.Close()
		st.ln = nil
	}
	addrs := st.gw.Addrs("scripted")
	if len(addrs) != 1 {
		return st, fmt.Errorf("the gateway is bound to %v, want one address", addrs)
	}
	c, err := net.DialTimeout("tcp", addrs[0].String(), s.patience)
	if err != nil {
		return st, err
	}
	st.client = st.newPeer("C", c)
	return st, nil
}

func (s *script) authInCleartext(p *upgraders.Protocol) bool {
	if s.cleartextAuth != nil {
		return *s.cleartextAuth
	}
	return p.CleartextAuth
}

func (s *script) certificates(ca *authority) certificates {
	if s.noCertificate {
		return certificates{}
	}
	return certificates{&ca.leaf}
}

// listen opens the backend. One that is down has an address that nobody else
// can take meanwhile.
func (st *stage) listen() (address string, err error) {
	if !st.s.backendDown {
		st.ln, err = net.Listen("tcp", "127.0.0.1:0")
	} else {
		if st.dir, err = os.MkdirTemp("", "upgradertest"); err != nil {
			return "", err
		}
		address = filepath.Join(st.dir, "backend")
		if st.s.caps == nil {
			return "unix:" + address, nil
		}
		st.ln, err = net.Listen("unix", address)
	}
	if err != nil {
		return "", err
	}
	go acceptAll(st.ln, st.conns)
	if st.s.backendDown {
		return "unix:" + address, nil
	}
	return st.ln.Addr().String(), nil
}

func acceptAll(ln net.Listener, conns chan<- net.Conn) {
	defer close(conns)
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		conns <- c
	}
}

func (st *stage) accept() (net.Conn, error) {
	select {
	case c, ok := <-st.conns:
		if !ok {
			return nil, net.ErrClosed
		}
		return c, nil
	case <-time.After(st.s.patience):
		return nil, fmt.Errorf("nobody connected to the backend in %v", st.s.patience)
	}
}

// atBackend returns the backend's end of the session, once it is dialled.
func (st *stage) atBackend() (*peer, error) {
	if st.backend == nil {
		c, err := st.accept()
		if err != nil {
			return nil, err
		}
		st.t.add("B  is connected to")
		st.backend = st.newPeer("B", c)
	}
	return st.backend, nil
}

// perform does one step that isn't a C>.
func (st *stage) perform(step step) (err error) {
	p := st.client
	if step.op[0] == 'B' && step.op != "B none" {
		if p, err = st.atBackend(); err != nil {
			return err
		}
	}
	switch step.op {
	case "B>":
		p.send(step.text)
	case "C<", "B<":
		if step.match != nil {
			return p.seeMatch(step.match, step.bare)
		}
		return p.see(step.text)
	case "tls":
		return p.handshake(st.ca.roots, st.s.alpn)
	case "tls fails":
		err := p.handshake(st.ca.roots, st.s.alpn)
		if err == nil {
			err = p.confirm(p.patience)
		}
		switch {
		case err == nil:
			return errors.New("want a failed handshake\n\tgot  a session in TLS")
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("want a failed handshake\n\tgot  %v", p.explain(err))
		}
		p.failed, p.conn = true, p.raw
	case "eof", "B eof":
		st.orderly = st.orderly || p == st.client
		return p.closeWrite()
	case "closed", "B closed":
		p.byFIN = p == st.backend && st.orderly
		return p.seeEnd()
	case "abort", "B abort":
		p.abort()
	case "aborted", "B aborted":
		return p.seeAbort()
	case "B none":
		return st.noBackend()
	}
	return nil
}

// noBackend reports a backend that was dialled.
func (st *stage) noBackend() error {
	if st.backend != nil {
		return errors.New("want no connection to the backend\n\tgot  one")
	}
	select {
	case c, ok := <-st.conns:
		if !ok {
			return nil
		}
		return dialled(c)
	default:
		return nil
	}
}

// unheard reports a backend that was told something, or was dialled though it
// does not speak first.
func (st *stage) unheard() error {
	if st.s.backendFirst && st.backend != nil {
		if err := st.backend.seeEnd(); err != nil {
			return fmt.Errorf("the backend: %w", err)
		}
		st.backend.conn.Close()
		st.backend = nil
	}
	return st.noBackend()
}

// dialled says what came over a connection that should not be there.
func dialled(c net.Conn) error {
	defer c.Close()
	c.SetDeadline(time.Now().Add(glance))
	said, _ := io.ReadAll(io.LimitReader(c, 4<<10))
	return fmt.Errorf("want no connection to the backend\n\tgot  one that says %s", quoted(said))
}

// finish makes sure that nothing else was said, lets both peers leave, and
// compares how the session ended.
func (st *stage) finish() error {
	if err := st.client.quiet(); err != nil {
		return fmt.Errorf("the client: %w", err)
	}
	if st.backend != nil {
		if err := st.backend.quiet(); err != nil {
			return fmt.Errorf("the backend: %w", err)
		}
	}
	st.client.conn.Close()
	if st.backend != nil {
		st.backend.conn.Close()
		st.backend = nil
	}
	ended, err := st.ended()
	if err != nil {
		return err
	}
	if err := st.noBackend(); err != nil { // another one, or one without a B line
		return err
	}
	if err := st.counted(ended); err != nil {
		return err
	}
	want := st.s.ends()
	switch {
	case ended.outcome == "panic":
		return errors.New("the session panicked")
	case want != "" && want != ended.reason && want != ended.outcome:
		return fmt.Errorf("want error %s\n\tgot  outcome %q, reason %q", want, ended.outcome, ended.reason)
	case want == "" && ended.reason != "":
		return fmt.Errorf("want a dialogue that is not rejected\n\tgot  outcome %q, reason %q (an `error` line would allow it)", ended.outcome, ended.reason)
	}
	return nil
}

// ended waits for the session's log line.
func (st *stage) ended() (session, error) {
	var unexpected <-chan net.Conn
	if !st.s.touchesBackend() && st.ln != nil {
		unexpected = st.conns
	}
	select {
	case e := <-st.log.ended:
		return e, nil
	case c := <-unexpected:
		return session{}, dialled(c)
	case <-time.After(st.s.patience):
		return session{}, fmt.Errorf("want a session that ends when its peers leave\n\tgot  one that is open after %v", st.s.patience)
	}
}

// counted compares the metrics with the log: one session, and one rejected
// dialogue if it was.
func (st *stage) counted(ended session) error {
	families, err := st.figures.Gather()
	if err != nil {
		return err
	}
	var got []string
	for _, family := range families {
		label := map[string]string{"sallyport_sessions_total": "outcome", "sallyport_dialogue_rejected_total": "reason"}[family.GetName()]
		for _, m := range family.GetMetric() {
			for _, pair := range m.GetLabel() {
				for n := m.GetCounter().GetValue(); pair.GetName() == label && n > 0; n-- {
					got = append(got, pair.GetValue())
				}
			}
		}
	}
	want := []string{ended.outcome}
	if ended.reason != "" {
		want = []string{ended.reason, ended.outcome} // the order of the families' names
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("want metrics that count %q, as the log has it\n\tgot  %q", want, got)
	}
	return nil
}

func (st *stage) tearDown() {
	for _, p := range []*peer{st.client, st.backend} {
		if p != nil {
			p.raw.Close()
		}
	}
	if st.ln != nil {
		st.ln.Close()
		for c := range st.conns {
			c.Close()
		}
	}
	if st.gw != nil {
		ctx, cancel := context.WithTimeout(context.Background(), st.s.patience)
		defer cancel()
		st.gw.Shutdown(ctx)
	}
	if st.dir != "" {
		os.RemoveAll(st.dir)
	}
}

// fail adds where, and what was said until then.
func (st *stage) fail(line int, raw string, err error) error {
	how := ""
	if st.bytewise {
		how = " (byte by byte)"
	}
	return fmt.Errorf("%s:%d%s: %s\n\t%w\n%s\n%s", st.s.path, line, how, raw, err, st.t.tail(), st.log.tail())
}

// A session is how the gateway says that one ended.
type session struct{ outcome, reason string }

// A sessionLog is the gateway's log: it knows the line of a session and keeps
// the rest for the message of a failure.
type sessionLog struct {
	ended chan session
	lines transcript
}

var _ slog.Handler = (*sessionLog)(nil)

// Enabled implements slog.Handler.
func (*sessionLog) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (l *sessionLog) Handle(_ context.Context, r slog.Record) error {
	var e session
	var line strings.Builder
	line.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "outcome":
			e.outcome = a.Value.String()
		case "reason":
			e.reason = a.Value.String()
		}
		fmt.Fprintf(&line, " %s=%v", a.Key, a.Value)
		return true
	})
	l.lines.add("%s", line.String())
	if r.Message == "session" {
		select {
		case l.ended <- e:
		default: // a second session: noBackend and the script will tell
		}
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (l *sessionLog) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements slog.Handler.
func (l *sessionLog) WithGroup(string) slog.Handler { return l }

func (l *sessionLog) tail() string { return l.lines.tail() }
