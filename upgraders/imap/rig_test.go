package imap

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A rig is a gateway of one session without its TLS: Upgrade, guard and
// go-ahead, Join, Converse, opaque relay. The scripts in testdata run through
// the real one.
type rig struct {
	implicit  bool
	listener  upgraders.Listener
	caps      upgraders.Capabilities
	noCert    bool
	forward   upgraders.Forward
	binding   bool
	options   options
	noBackend error
}

// A played session is what the test holds of it.
type played struct {
	t       testing.TB
	client  *peer
	backend *peer // of the newest server
	log     *recorder
	done    chan error
	mu      sync.Mutex
	opaque  bool
}

type recorder struct {
	mu   sync.Mutex
	said []string
}

func (r *recorder) log(msg string, _ ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, msg)
}

func (r *recorder) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.said...)
}

// loopback returns both ends of a TCP connection.
func loopback(t testing.TB) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

const patience = 10 * time.Second

func (r rig) play(t testing.TB) *played {
	t.Helper()
	if r.listener.Hostname == "" {
		r.listener.Hostname = "gw.example.org"
	}
	client, clientSide := loopback(t)
	backend, backendSide := loopback(t)
	p := &played{
		t:       t,
		client:  newPeer(t, "client", client),
		backend: newPeer(t, "backend", backend),
		log:     &recorder{},
		done:    make(chan error, 1),
	}
	go func() { p.done <- r.serve(p, clientSide, backendSide) }()
	t.Cleanup(func() {
		for _, c := range []net.Conn{client, clientSide, backend, backendSide} {
			c.Close()
		}
	})
	return p
}

// serve is the session. It closes both connections.
func (r rig) serve(p *played, clientSide, backendSide net.Conn) error {
	defer clientSide.Close()
	defer backendSide.Close()
	ctx := context.Background()
	up, err := newUpgrader(&r.options)
	if err != nil {
		return err
	}
	s := &upgraders.Session{
		Conn:         wire.NewConn(clientSide),
		Client:       netip.MustParseAddrPort("[2001:db8::7]:50000"),
		Local:        netip.MustParseAddrPort("192.0.2.1:143"),
		Listener:     &r.listener,
		CanTLS:       func() bool { return !r.noCert },
		Capabilities: func(context.Context) upgraders.Capabilities { return r.caps },
	}
	s.Conn.SetReadDeadline(time.Now().Add(patience))
	var h upgraders.Handover
	security := upgraders.Encrypted
	if r.implicit {
		h = up.Implicit(s)
	} else {
		s.Conn.SetBudget(16<<10, 50)
		h, err = up.Upgrade(ctx, s)
		s.Conn.ClearBudget()
		if err != nil || h.Verdict == upgraders.HangUp {
			clientSide.Write(h.Reply)
			return err
		}
		if h.Verdict == upgraders.StartTLS {
			if s.Conn.Pipelined() {
				clientSide.Write(h.Injected)
				return upgraders.ErrInjection
			}
			clientSide.Write(h.Reply)
		} else {
			security = upgraders.Clear
		}
	}
	if r.noBackend != nil {
		h.Unavailable(ctx, s.Conn, r.noBackend)
		return r.noBackend
	}
	link := &upgraders.Link{
		Client:   s.Conn,
		Backend:  wire.NewConn(backendSide),
		Listener: &r.listener,
		Security: security,
		Facts: upgraders.Facts{Client: s.Client, Local: s.Local, Name: r.listener.Hostname,
			TTL: 5},
		Forward:     r.forward,
		PassBinding: r.binding,
		Log:         p.log.log,
	}
	backendSide.SetReadDeadline(time.Now().Add(patience))
	if err := h.Join(ctx, link); err != nil {
		if errors.Is(err, upgraders.ErrTryNext) {
			h.Unavailable(ctx, s.Conn, err)
		}
		return err
	}
	if err := h.Converse(ctx, link); err != nil {
		return err
	}
	p.mu.Lock()
	p.opaque = true
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(backendSide, link.Client); link.Backend.CloseWrite() })
	wg.Go(func() { io.Copy(clientSide, link.Backend); link.Client.CloseWrite() })
	wg.Wait()
	return nil
}

// isOpaque reports whether the filter has ended.
func (p *played) isOpaque() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opaque
}

// ends demands that the session ends with an error.
func (p *played) ends(want error) {
	p.t.Helper()
	select {
	case err := <-p.done:
		if !errors.Is(err, want) {
			p.t.Errorf("session ended with %v, want %v", err, want)
		}
	case <-time.After(patience):
		p.t.Error("session goes on")
	}
}

// A peer is the test's end of a connection.
type peer struct {
	t    testing.TB
	name string
	net.Conn
	wire *wire.Conn
	cut  *rand.Rand // sends in pieces of random size
}

func newPeer(t testing.TB, name string, c net.Conn) *peer {
	c.SetDeadline(time.Now().Add(patience))
	return &peer{t: t, name: name, Conn: c, wire: wire.NewConn(c)}
}

// says sends text as it is.
func (p *peer) says(text string) {
	p.t.Helper()
	for text != "" {
		n := len(text)
		if p.cut != nil {
			n = min(n, 1+p.cut.IntN(7))
		}
		if _, err := io.WriteString(p.Conn, text[:n]); err != nil {
			p.t.Errorf("%s cannot write: %v", p.name, err)
			return
		}
		text = text[n:]
		if p.cut != nil && p.cut.IntN(8) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// say sends lines.
func (p *peer) say(lines ...string) {
	p.t.Helper()
	p.says(strings.Join(lines, "\r\n") + "\r\n")
}

// reads demands that exactly text comes next.
func (p *peer) reads(text string) {
	p.t.Helper()
	got := make([]byte, len(text))
	n, err := io.ReadFull(p.wire, got)
	if string(got[:n]) != text {
		p.t.Fatalf("%s got %q (%v), want %q", p.name, got[:n], err, text)
	}
}

// sees demands lines.
func (p *peer) sees(lines ...string) {
	p.t.Helper()
	p.reads(strings.Join(lines, "\r\n") + "\r\n")
}

// matches demands one line by a regular expression.
func (p *peer) matches(pattern string) {
	p.t.Helper()
	line, err := p.wire.ReadSlice(64 << 10)
	if err != nil || !regexp.MustCompile(`\A(?:`+pattern+`)\z`).Match(trimEOL(line)) {
		p.t.Fatalf("%s got %q (%v), want %q", p.name, line, err, pattern)
	}
}

// closed demands the end of the stream.
func (p *peer) closed() {
	p.t.Helper()
	if rest, err := io.ReadAll(p.wire); len(rest) > 0 {
		p.t.Errorf("%s got %q (%v), want nothing more", p.name, rest, err)
	}
}

// starttls brings a session to where the client is in TLS and the filter at
// work.
func (p *played) starttls() {
	p.t.Helper()
	p.client.matches(`\* OK \[CAPABILITY .*\] gw\.example\.org .*`)
	p.client.say("s STARTTLS")
	p.client.matches(`s OK .*`)
	p.backend.say("* OK [CAPABILITY IMAP4rev1 STARTTLS] backend ready")
}
