package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
)

const (
	// lingerTime is how long a client may still send without a pause after
	// the backend has ended its stream. A backend that has closed cannot be
	// told from one that only ended its half, so the other half stays open;
	// but a client that has nothing to say to a backend that has left must
	// not hold the session. RFC 9293 gives a half-closed connection no limit;
	// 30 s is more than a client takes to notice an end and write its last.
	lingerTime = 30 * time.Second

	// flushTime bounds what is still written once the relay ends a session
	// by itself.
	flushTime = 5 * time.Second

	// drainTime bounds how long a client that was told the end may take to
	// close.
	drainTime = 2 * time.Second

	// oneRecord is what a TLS connection surely sends in one call, though it
	// sizes its records as it likes. More is gathered below it.
	oneRecord = 1 << 10

	// recordRoom is what a TLS record may add to its data (RFC 5246, 6.2.3
	// allows more, but no cipher suite of crypto/tls needs it).
	recordRoom = 128
)

// An End is one side of a relayed session.
type End struct {
	Conn   net.Conn // what to read and write: a *tls.Conn after its handshake, or the Socket itself
	Socket *Socket  // what lies at the bottom of Conn
	Unread []byte   // already read from Conn, not yet passed on
}

// layered reports whether TLS lies between.
func (e *End) layered() bool { return e.Conn != net.Conn(e.Socket) }

// Options of a Pump.
type Options struct {
	Buffers   *Buffers // shared by all sessions; nil: every buffer is made anew
	MaxBuffer int      // the largest buffer a direction may borrow; 0: 256 KiB
}

// An Outcome is how a relayed session ended.
type Outcome string

// The outcomes.
const (
	OK          Outcome = "ok"           // both streams ended as they should
	ClientGone  Outcome = "client_gone"  // the client broke, or left without close_notify
	BackendGone Outcome = "backend_gone" // the backend broke
	Idle        Outcome = "idle"
	Stalled     Outcome = "stalled" // a peer took no bytes
	Shutdown    Outcome = "shutdown"
)

// A Result is an Outcome and the error behind it, nil for OK.
type Result struct {
	Outcome Outcome
	Err     error
}

// Pump copies both ways until both streams have ended, or one broke, and
// closes both sockets. Deadlines that were set explicitly are lifted; idle and
// stall times are those of the sockets.
//
// A stream that ends is ended on the other side too, and the other direction
// goes on. Once the backend's has ended, nothing the client does can make the
// outcome worse than OK. A client that breaks, or leaves without close_notify,
// is a backend connection reset; a backend that breaks is a client connection
// closed without close_notify, or reset where there is no TLS. A session that
// the relay ends itself, idle or shut down, gets what was read, then
// close_notify and FIN; but an idle backend whose client had not ended its
// stream is reset, lest half a message looks whole.
func Pump(client, backend End, opts Options) Result {
	p := &pump{
		up:   direction{src: &client, dst: &backend},
		down: direction{src: &backend, dst: &client},
	}
	p.up.prepare(opts)
	p.down.prepare(opts)
	done := make(chan struct{})
	go p.carryDown(done)
	p.carry(&p.up)
	<-done
	p.finish()
	return p.result
}

// A pump is a session being relayed.
type pump struct {
	up, down direction

	mu     sync.Mutex
	result Result    // how the session ended, as soon as that is known
	lost   error     // why the backend takes no more, while it is still read
	limit  time.Time // for all writes; none: zero
}

func (p *pump) carryDown(done chan<- struct{}) {
	defer close(done)
	p.carry(&p.down)
}

// carry runs one direction to its end, and says what that means for the
// session.
func (p *pump) carry(d *direction) {
	end, err := d.copy()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.result.Outcome != "": // the other direction had the last word

	case errors.Is(err, wire.ErrStalled):
		p.decide(Stalled, err)
	case errors.Is(err, wire.ErrShutdown):
		p.decide(Shutdown, err)

	case d == &p.up && p.down.ended && err != io.EOF: // the client was told the end and left
		p.decide(OK, nil)
	case d == &p.down && p.lost != nil:
		p.decide(BackendGone, p.lost)

	case err == io.EOF:
		d.ended = true
		p.mu.Unlock() // the end may have to wait for a slow peer
		p.closeWrite(d.dst)
		p.mu.Lock()
		if d == &p.down {
			p.up.src.Socket.linger(lingerTime)
		}

	case errors.Is(err, wire.ErrIdle):
		p.decide(Idle, err)
	case d == &p.up && end == d.dst:
		// The backend takes no more, but its last words, perhaps the
		// reason, may still be on the way.
		p.lost = err
		d.dst.Socket.linger(lingerTime)
	case end == p.up.src:
		p.decide(ClientGone, err)
	default:
		p.decide(BackendGone, err)
	}
}

// decide settles how the session ends, and wakes the other direction. p.mu is
// held.
func (p *pump) decide(o Outcome, err error) {
	p.result = Result{o, err}
	p.limit = longAgo
	if o == Idle || o == Shutdown {
		p.limit = time.Now().Add(flushTime)
	}
	for _, e := range []*End{p.up.src, p.up.dst} {
		e.Socket.SetReadDeadline(longAgo)
		e.Socket.SetWriteDeadline(p.limit)
	}
}

// closeWrite passes the end of a stream on.
func (p *pump) closeWrite(e *End) {
	e.closeWrite(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		e.Socket.SetWriteDeadline(p.limit)
	})
}

// closeWrite ends what is written: close_notify and FIN. limit sets the
// deadline of writes.
func (e *End) closeWrite(limit func()) {
	if cw, ok := e.Conn.(interface{ CloseWrite() error }); ok && e.layered() {
		// crypto/tls gives its close_notify five seconds, too few for a
		// slow client with much on the way to it. It gets the time that
		// any other write has.
		e.Socket.cork(make([]byte, recordRoom))
		cw.CloseWrite()
		limit()
		e.Socket.uncork()
	}
	e.Socket.CloseWrite()
}

// finish closes both sockets, each as the outcome demands. Nothing else uses
// them any more.
func (p *pump) finish() {
	client, backend := p.up.src, p.up.dst
	if p.result.Outcome == "" {
		p.result.Outcome = OK
	}
	switch p.result.Outcome {
	case OK:
		p.closeBackend()
		if client.Socket.Pending() {
			drain(client.Socket)
		}
		client.Socket.Close()
	case Idle, Shutdown:
		p.closeWrite(client)
		p.closeBackend()
		drain(client.Socket)
		client.Socket.Close()
	case ClientGone:
		backend.Socket.Abort()
		client.Socket.Close()
	case BackendGone:
		backend.Socket.Close()
		if client.layered() {
			client.Socket.CloseWrite()
			drain(client.Socket)
			client.Socket.Close()
		} else {
			client.Socket.Abort()
		}
	case Stalled:
		backend.Socket.Abort()
		client.Socket.Abort()
	}
}

// closeBackend closes in order what the client has ended, or what is shut
// down; and resets the rest.
func (p *pump) closeBackend() {
	backend := p.up.dst
	switch {
	case p.up.ended:
		backend.Socket.Close()
	case p.result.Outcome == Shutdown:
		p.closeWrite(backend)
		backend.Socket.Close()
	default:
		backend.Socket.Abort()
	}
}

// drain reads away what a peer that was told the end still sends, until it
// closes. Closing with bytes unread is RST, which can overtake the end and the
// bytes before it (RFC 2525, 2.17).
func drain(s *Socket) {
	s.conn.SetReadDeadline(time.Now().Add(drainTime))
	var b [512]byte
	for {
		if _, err := s.conn.Read(b[:]); err != nil {
			return
		}
	}
}

// A direction is one stream of a session.
type direction struct {
	src, dst *End
	buffers  *Buffers
	class    int // of the next buffer
	largest  int
	ended    bool // the end of src was passed on; guarded by pump.mu
}

// prepare makes both ends ready to be copied between.
func (d *direction) prepare(opts Options) {
	d.src.Socket.SetDeadline(time.Time{})
	d.src.Socket.nonblock = d.src.Socket.raw != nil
	if d.src.layered() {
		d.src.Socket.RequireCloseNotify()
	}
	d.buffers = opts.Buffers
	d.largest = len(sizes) - 1
	for d.largest > 0 && opts.MaxBuffer > 0 && sizes[d.largest] > opts.MaxBuffer {
		d.largest--
	}
}

// copy moves bytes until src ends or either breaks, and says which and how.
func (d *direction) copy() (*End, error) {
	if len(d.src.Unread) > 0 {
		if _, err := d.dst.Conn.Write(d.src.Unread); err != nil {
			return d.dst, err
		}
		d.src.Unread = nil
	}
	for {
		err, werr := d.step()
		if werr != nil {
			return d.dst, werr
		}
		if err == errWouldBlock {
			err = d.src.Socket.wait()
		}
		if err != nil {
			return d.src, err
		}
	}
}

// step moves what is there, once, and holds a buffer no longer than that. It
// returns what reading and what writing ended with.
func (d *direction) step() (rerr, werr error) {
	b := d.buffers.get(d.class)
	room := b.bytes
	if d.dst.layered() {
		// What comes in one buffer goes out in another of the same size,
		// as records.
		room = room[:len(room)-recordRoom*(len(room)>>14+1)]
	}
	n, rerr := d.fill(room)
	d.adapt(n, len(room))
	if n == 0 {
		d.buffers.put(b)
		return rerr, nil
	}
	return rerr, d.write(b, n)
}

// fill reads until room is full or nothing more is there, never waiting for
// more once something came.
func (d *direction) fill(room []byte) (n int, err error) {
	for n < len(room) {
		m, err := d.src.Conn.Read(room[n:])
		n += m
		if err != nil {
			return n, err
		}
		if !d.src.Socket.nonblock {
			break
		}
	}
	return n, nil
}

// adapt chooses the size of the next buffer: larger when this one was filled,
// smaller when the one below would have had room twice over.
func (d *direction) adapt(n, room int) {
	switch {
	case n == room:
		d.class = min(d.class+1, d.largest)
	case d.class > 0 && n <= sizes[d.class-1]/2:
		d.class--
	}
}

// write writes the first n bytes of b, in one call as far as it can be, and
// gives b back.
func (d *direction) write(b *buffer, n int) error {
	if !d.dst.layered() || n <= oneRecord {
		_, err := d.dst.Conn.Write(b.bytes[:n])
		d.buffers.put(b)
		return err
	}
	records := d.buffers.get(b.class)
	d.dst.Socket.cork(records.bytes)
	_, err := d.dst.Conn.Write(b.bytes[:n])
	d.buffers.put(b) // a slow peer holds one buffer, not two
	if uerr := d.dst.Socket.uncork(); err == nil {
		err = uerr
	}
	d.buffers.put(records)
	return err
}
