package upgradertest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A rig runs an upgrader in memory, with the guard of the gateway and without
// its sockets: where bytes are cut and when a stream ends is then exact, and
// thousands of dialogues take a second.
type rig struct {
	s        *script
	p        *upgraders.Protocol
	u        upgraders.Upgrader
	listener upgraders.Listener
	canTLS   bool
	caps     upgraders.Capabilities

	greeting []byte // what the backend says before TLS, to who dials early
	first    []byte // what the client says inside TLS before the backend does
	join     []byte // what the backend says until the client's turn
}

// newRig takes setting and words from a script.
func newRig(s *script, p *upgraders.Protocol) (*rig, error) {
	u, err := s.upgrader(p)
	if err != nil {
		return nil, err
	}
	r := &rig{
		s: s, p: p, u: u,
		listener: upgraders.Listener{Name: "scripted", Hostname: s.hostname, Cleartext: s.cleartext || p.Pages, CleartextAuth: s.authInCleartext(p)},
		canTLS:   !s.noCertificate,
		caps:     s.caps,
	}
	inTLS := s.mode == gateway.Implicit
	for _, st := range s.steps {
		switch {
		case st.op == "tls":
			inTLS = true
		case st.op == "B>" && !inTLS:
			r.greeting = append(r.greeting, st.text...)
		case st.op == "B>":
			r.join = append(r.join, st.text...)
		case st.op == "C>" && inTLS && r.join != nil:
			return r, nil
		case st.op == "C>" && inTLS:
			r.first = append(r.first, st.text...)
		}
	}
	return r, nil
}

// said lists what the client of a script says before TLS, segment by segment.
func (s *script) said() [][]byte {
	var segments [][]byte
	glue := false
	for _, st := range s.steps {
		if st.op == "tls" || st.op == "tls fails" {
			break
		}
		if st.op != "C>" {
			continue
		}
		if glue {
			last := len(segments) - 1
			segments[last] = slices.Concat(segments[last], st.text)
		} else {
			segments = append(segments, st.text)
		}
		glue = st.glue
	}
	return segments
}

// An outcome is how Upgrade ended.
type outcome struct {
	h     upgraders.Handover
	err   error
	said  [][]byte // by Upgrade, one element a Write
	rest  []byte   // sent by the client and not taken: what the guard sees
	ended bool     // Upgrade has met the end of the stream
	early *wire.Conn
	conn  *feed
	most  int // the most Writes between two Reads
}

// verdict is what must not depend on how the bytes were cut.
func (o *outcome) verdict() string {
	return fmt.Sprintf("verdict %d, reply %q, refusal %q, ALPN rule %d, reason %q, said %q, left %q",
		o.h.Verdict, masked(o.h.Reply), o.h.Injected, o.h.ALPN, upgraders.Reason(o.err), masked(slices.Concat(o.said...)), o.rest)
}

var unpredictable = regexp.MustCompile("[0-9a-f]{32}")

// masked hides what must be another each time: 128 bits in hexadecimal.
func masked(b []byte) []byte { return unpredictable.ReplaceAll(b, []byte("unpredictable")) }

// injected reports whether the gateway's guard would refuse.
func (o *outcome) injected() bool {
	if len(o.h.Reply) > 0 {
		return len(o.rest) > 0
	}
	record := []byte{0x16, 0x03}
	n := min(len(o.rest), len(record))
	return !bytes.Equal(o.rest[:n], record[:n])
}

// upgrade runs a dialogue in which all of the client's bytes are there, and
// come in these pieces.
func (r *rig) upgrade(pieces ...[]byte) (*outcome, error) {
	return r.run(&feed{pieces: pieces, end: io.EOF, eager: true})
}

var (
	errStuck = errors.New("Upgrade does not return when the stream has ended")
	errLeak  = errors.New("a byte in the clear after Upgrade has returned")
)

// run runs Upgrade on a feed. A panic comes back as an error.
func (r *rig) run(client *feed) (*outcome, error) {
	client.serverFirst = r.p.ServerFirst
	client.wake = make(chan struct{}, 1)
	conn := wire.NewConn(client)
	conn.SetBudget(r.s.policy.Dialogue.Bytes, r.s.policy.Dialogue.Commands)
	o := &outcome{conn: client}
	s := &upgraders.Session{
		Conn:         conn,
		Client:       clientAddr,
		Local:        localAddr,
		Listener:     &r.listener,
		CanTLS:       func() bool { return r.canTLS },
		Capabilities: func(context.Context) upgraders.Capabilities { return slices.Clone(r.caps) },
		Backend: func(_ context.Context, hear func(*wire.Conn) error) error {
			if r.s.backendDown {
				return errDial
			}
			o.early = wire.NewConn(&feed{pieces: [][]byte{r.greeting, r.join}, end: io.EOF, eager: true})
			return hear(o.early)
		},
		Routed: func(host string) bool { return len(r.s.hosts) == 0 || slices.Contains(r.s.hosts, host) },
		Suits:  func(string) bool { return true },
		Preview: func(_ context.Context, _ string, hear func(*wire.Conn) error) error {
			if r.s.backendDown {
				return errDial
			}
			return hear(wire.NewConn(&feed{pieces: [][]byte{r.greeting, r.join}, end: io.EOF, eager: true}))
		},
		Data: noData{},
	}
	done := make(chan error, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil {
				done <- fmt.Errorf("Upgrade panics: %v\n%s", v, debug.Stack())
			}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		o.h, o.err = r.u.Upgrade(ctx, s)
		done <- nil
	}()
	select {
	case err := <-done:
		if err != nil {
			return nil, err
		}
	case <-time.After(patience):
		return nil, errStuck
	}
	client.seal()
	o.said = client.written()
	o.most = client.most(len(o.h.Reply) > 0)
	o.ended = client.ended
	o.rest = append(bytes.Clone(conn.Unread()), slices.Concat(client.pieces...)...)
	if client.taken > r.s.policy.Dialogue.Bytes {
		return nil, fmt.Errorf("Upgrade reads %d bytes past the budget of %d: only s.Conn may be read", client.taken, r.s.policy.Dialogue.Bytes)
	}
	return o, nil
}

// tell runs what follows a StartTLS and returns what the backend is told
// before the client has said a word to it, and whether it was told all of it.
// Nothing of the cleartext dialogue may be in it, so it is the same for every
// dialogue.
func (r *rig) tell(o *outcome) (told []byte, whole bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the handover panics: %v\n%s", v, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := wire.NewConn(&feed{pieces: [][]byte{r.first}, end: io.EOF, eager: true})
	backend := o.early
	if backend == nil {
		backend = wire.NewConn(&feed{pieces: [][]byte{r.join}, end: io.EOF, eager: true})
	}
	link := &upgraders.Link{
		Client: client, Backend: backend, Server: "192.0.2.25:25", Listener: &r.listener,
		Security: upgraders.Encrypted,
		TLS:      &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true, CipherSuite: tls.TLS_AES_128_GCM_SHA256},
		Facts:    upgraders.Facts{Client: clientAddr, Local: localAddr, Name: r.listener.Hostname, TTL: 1},
		Forward:  r.s.forward,
		Log:      func(string, ...any) {},
	}
	whole = true
	if o.h.Accept != nil {
		_, err := o.h.Accept(ctx, client)
		whole = err == nil
	}
	if whole && o.h.Join != nil {
		whole = o.h.Join(ctx, link) == nil
	}
	if whole && o.h.Converse != nil {
		o.h.Converse(ctx, link)
	}
	if whole && o.h.Serve != nil {
		leg := backend.Conn.(*feed)
		leg.clientFirst, leg.wake = true, make(chan struct{}, 1)
		o.h.Serve(ctx, client, oneLeg{backend})
	}
	if o.conn.broken() {
		return nil, false, errLeak
	}
	return slices.Concat(backend.Conn.(*feed).written()...), whole, nil
}

var (
	clientAddr = netip.MustParseAddrPort("192.0.2.10:49152")
	localAddr  = netip.MustParseAddrPort("192.0.2.1:25")
	errDial    = &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.25:25")), Err: errors.New("connection refused")}
)

// A feed is a connection that delivers pieces, one a Read at most, and then
// its end. Nothing in it ever blocks, but for a server that reads before it
// greets where greeting first is the protocol.
type feed struct {
	eager       bool // pieces that are not delivered are in the kernel already
	serverFirst bool
	clientFirst bool // it is a backend that speaks when it is spoken to
	wake        chan struct{}

	mu       sync.Mutex
	pieces   [][]byte
	begun    bool // some of the first piece is delivered
	end      error
	ended    bool
	taken    int
	writes   []write
	reads    int
	sealed   bool
	leaked   bool
	deadline time.Time
}

// A write remembers how many Reads came before it.
type write struct {
	b     []byte
	reads int
}

var _ net.Conn = (*feed)(nil)

// Read implements net.Conn.
func (f *feed) Read(p []byte) (int, error) {
	for f.waitsForGreeting() {
		<-f.wake
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	if !f.deadline.IsZero() && f.deadline.Before(time.Now()) {
		return 0, os.ErrDeadlineExceeded
	}
	for len(f.pieces) > 0 && len(f.pieces[0]) == 0 {
		f.pieces = f.pieces[1:]
	}
	if len(f.pieces) == 0 {
		f.ended = true
		return 0, f.end
	}
	n := copy(p, f.pieces[0])
	f.pieces[0] = f.pieces[0][n:]
	f.begun = len(f.pieces[0]) > 0
	f.taken += n
	return n, nil
}

func (f *feed) waitsForGreeting() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return (f.serverFirst || f.clientFirst) && len(f.writes) == 0 && f.deadline.IsZero()
}

func (f *feed) awake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Pending is what wire.Conn asks about the kernel.
func (f *feed) Pending() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.serverFirst && len(f.writes) == 0 {
		return false
	}
	return f.begun || f.eager && len(slices.Concat(f.pieces...)) > 0
}

// Write implements net.Conn.
func (f *feed) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sealed {
		f.leaked = true
		return 0, net.ErrClosed
	}
	f.writes = append(f.writes, write{bytes.Clone(p), f.reads})
	f.awake()
	return len(p), nil
}

// seal forbids every further Write.
func (f *feed) seal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sealed = true
}

func (f *feed) broken() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leaked
}

func (f *feed) written() [][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all [][]byte
	for _, w := range f.writes {
		all = append(all, w.b)
	}
	return all
}

// most returns the most Writes between two Reads, a reply that the gateway
// writes at the end included.
func (f *feed) most(reply bool) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	count := map[int]int{}
	most := 0
	for _, w := range f.writes {
		count[w.reads]++
		most = max(most, count[w.reads])
	}
	if reply {
		most = max(most, count[f.reads]+1)
	}
	return most
}

// SetReadDeadline implements net.Conn: one that is past ends every Read.
func (f *feed) SetReadDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deadline = t
	f.awake()
	return nil
}

// SetDeadline implements net.Conn.
func (f *feed) SetDeadline(t time.Time) error { return f.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (f *feed) SetWriteDeadline(time.Time) error { return nil }

// Close implements net.Conn.
func (f *feed) Close() error { return f.SetReadDeadline(time.Unix(1, 0)) }

// CloseWrite is what wire.Conn passes an end on with.
func (f *feed) CloseWrite() error { return nil }

// LocalAddr implements net.Conn.
func (f *feed) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(localAddr) }

// RemoteAddr implements net.Conn.
func (f *feed) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(clientAddr) }

// oneLeg reaches the backend that is there.
type oneLeg struct{ leg *wire.Conn }

var _ upgraders.Dialer = oneLeg{}

func (d oneLeg) Servers() []string                                { return []string{"192.0.2.25:25"} }
func (d oneLeg) Dial(context.Context, string) (*wire.Conn, error) { return d.leg, nil }

// noData has no data connections to give.
type noData struct{}

var _ upgraders.Data = noData{}

var errNoData = errors.New("no data connections in memory")

func (noData) Listen(uint16, uint16) (upgraders.DataListener, error) { return nil, errNoData }
func (noData) Dial(context.Context, uint16) (upgraders.DataConn, error) {
	return nil, errNoData
}
func (noData) DialBackend(context.Context, uint16) (upgraders.DataConn, error) {
	return nil, errNoData
}
func (noData) Carry(_, _ upgraders.DataConn, over func(error)) { over(errNoData) }
