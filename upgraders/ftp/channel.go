package ftp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/upgraders"
)

const (
	// unusedTime is how long a port is kept that no transfer uses: as long as
	// a careful user takes to type the next command.
	unusedTime = 2 * time.Minute
	// acceptTime is how long a client may take to connect once its transfer
	// has begun.
	acceptTime = 30 * time.Second
)

// Why a transfer failed; for all else the connection broke.
var (
	errOpen  = errors.New("no data connection")
	errTLS   = errors.New("TLS on the data connection failed")
	errReuse = errors.New("the data connection did not resume the TLS session of its control connection")
	errCut   = errors.New("given up")
)

// words tells a client why. RFC 4217: 522 says that the TLS negotiation failed
// or was unacceptable.
func words(err error) string {
	switch {
	case errors.Is(err, errOpen):
		return "425 No data connection; use PASV, EPSV, PORT or EPRT"
	case errors.Is(err, errReuse):
		return "522 The data connection must resume the TLS session of the control connection"
	case errors.Is(err, errTLS):
		return "522 TLS on the data connection failed"
	}
	return "426 The data connection broke; transfer aborted"
}

// A channel is one data connection: a leg to the backend, which stands from the
// beginning, and one to the client, which the transfer opens.
type channel struct {
	data     upgraders.Data
	backend  upgraders.DataConn
	listener upgraders.DataListener // nil: the client waits at port
	port     uint16
	ctx      context.Context
	cancel   context.CancelFunc
	unused   *time.Timer
	began    bool // for down alone

	mu     sync.Mutex
	client upgraders.DataConn // once it is there
	err    error
	over   chan struct{} // closed when err says how it went
	isOver bool
}

// end says how it went, the first time it is called; if badly, nothing is left
// open. It reports whether it was the first.
func (c *channel) end(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isOver {
		return false
	}
	c.isOver, c.err = true, err
	close(c.over)
	c.unused.Stop()
	c.cancel()
	if c.listener != nil {
		c.listener.Close()
	}
	if err != nil {
		c.backend.Abort()
		if c.client != nil {
			c.client.Abort()
		}
	}
	return true
}

// hold keeps the client's leg where end finds it.
func (c *channel) hold(client upgraders.DataConn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isOver {
		client.Abort()
		return c.err
	}
	c.client = client
	return nil
}

// result waits for the end.
func (c *channel) result() error {
	<-c.over
	return c.err
}

// prepare makes a channel the one that the next transfer uses; nil: none. The
// one before is given up, unless it has done its work.
func (p *passage) prepare(c *channel) {
	p.mu.Lock()
	old := p.channel
	p.channel = c
	p.mu.Unlock()
	if old != nil {
		old.end(errCut)
	}
}

func (p *passage) current() *channel {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.channel
}

// prepared reports whether there is something for a transfer to use.
func (p *passage) prepared() bool {
	c := p.current()
	if c == nil {
		return false
	}
	select {
	case <-c.over:
		return false
	default:
		return true
	}
}

// cut ends the transfer that is going on, for ABOR: the backend, too, ends one
// whose data connection is gone. It answers for the transfer, and then finds
// nothing to abort any more (RFC 959, 4.1.3).
func (p *passage) cut() {
	if c, ok := p.owed.Next(); ok && c.kind == ofTransfer {
		if ch := p.current(); ch != nil {
			ch.end(errCut)
		}
	}
}

// open connects to the port that the backend has named, opens one for the
// client where it is to connect, and returns what the client is told.
func (p *passage) open(c *command, line string, n int) string {
	port := extendedPort(line)
	if n == 227 {
		port = passivePort(line)
	}
	if port == 0 {
		return p.fail(fmt.Errorf("%w: the backend names no port: %s", errOpen, clip(strings.TrimSpace(line))))
	}
	// A client that does not close must not come to hold ever more sockets.
	p.transfers.Wait()
	data := p.session.Data
	backend, err := data.DialBackend(p.ctx, port)
	if err != nil {
		return p.fail(fmt.Errorf("%w with the backend: %w", errOpen, err))
	}
	ch := &channel{data: data, backend: backend, port: c.port, over: make(chan struct{})}
	ch.ctx, ch.cancel = context.WithCancel(p.ctx)
	answer := "200 PORT ok"
	if c.kind == ofPassive {
		if ch.listener, err = data.Listen(p.first, p.last); err != nil {
			ch.cancel()
			backend.Abort()
			return p.fail(fmt.Errorf("%w: %w", errOpen, err))
		}
		answer = p.entering(ch.listener.Port(), c.long)
	}
	ch.unused = time.AfterFunc(unusedTime, func() { ch.end(errOpen) })
	// A session that is cut must not wait for the data of its transfer.
	context.AfterFunc(ch.ctx, func() { ch.end(errCut) })
	p.prepare(ch)
	return answer
}

// entering tells a client where to connect.
func (p *passage) entering(port uint16, long bool) string {
	if long {
		return fmt.Sprintf("229 Entering Extended Passive Mode (|||%d|)", port)
	}
	address := p.address()
	if p.public.IsValid() {
		address = p.public
	}
	return fmt.Sprintf("227 Entering Passive Mode (%s,%d,%d)", comma(address), port>>8, port&0xff)
}

// comma writes an IPv4 address as PASV does.
func comma(a netip.Addr) string { return strings.ReplaceAll(a.String(), ".", ",") }

// begin begins the transfer that the backend is ready for, and reports whether
// the client should hear of that. A client that waits to be connected to is
// connected to first.
func (p *passage) begin(c *command) bool {
	ch := p.current()
	if ch == nil || ch.began {
		return true
	}
	ch.began = true
	ch.unused.Stop()
	if ch.listener == nil {
		client, err := ch.data.Dial(ch.ctx, ch.port)
		if err == nil {
			err = ch.hold(client)
		}
		if err != nil {
			p.fail(fmt.Errorf("%w with the client: %w", errOpen, err))
			ch.end(errOpen)
			return false
		}
	}
	private := p.private
	p.transfers.Go(func() {
		defer p.caught(ch)
		if err := p.carry(ch, c.up, private); err != nil && ch.end(err) {
			p.fail(err)
		}
	})
	return true
}

// caught keeps a panic for converse: it ends this session, and no other.
func (p *passage) caught(ch *channel) {
	if r := recover(); r != nil {
		ch.end(errCut)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.panicked = fmt.Errorf("%v\n%s", r, debug.Stack())
	}
}

// carry opens what is missing of a channel and moves the data. An error is for
// the channel to end with; after none it has ended.
func (p *passage) carry(ch *channel, up, private bool) error {
	if ch.listener != nil {
		ctx, cancel := context.WithTimeout(ch.ctx, acceptTime)
		client, err := ch.listener.Accept(ctx)
		cancel()
		if err != nil {
			return fmt.Errorf("%w with the client: %w", errOpen, err)
		}
		ch.listener.Close()
		if err := ch.hold(client); err != nil {
			return err
		}
	}
	if private {
		resumed, err := ch.client.Secure(ch.ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", errTLS, err)
		}
		if p.requireReuse && !resumed {
			return errReuse
		}
	}
	if _, err := ch.backend.Secure(ch.ctx); err != nil {
		return fmt.Errorf("%w with the backend: %w", errOpen, err)
	}
	from, to := ch.backend, ch.client
	if up {
		from, to = to, from
	}
	ch.data.Carry(from, to, func(err error) { ch.end(err) })
	return nil
}

// conclude waits until the data of a transfer are where they belong, or are
// given up, and returns what the client is told instead of the backend's last
// word; "" for that.
func (p *passage) conclude(c *command, n int) string {
	ch := p.current()
	if ch == nil {
		return ""
	}
	if n < 400 {
		// There are servers that end what they have not said to have begun: an
		// empty list.
		p.begin(c)
	} else {
		ch.end(errCut)
	}
	err := ch.result()
	p.prepare(nil)
	if err == nil || n >= 400 && !errors.Is(err, errOpen) && !errors.Is(err, errTLS) && !errors.Is(err, errReuse) {
		return ""
	}
	return words(err)
}

// fail tells the log why a data connection failed, once a session, and returns
// what the client is told.
func (p *passage) fail(err error) string {
	p.mu.Lock()
	moaned := p.moaned
	p.moaned = true
	p.mu.Unlock()
	if !moaned {
		p.link.Log("a data connection failed", "error", err)
	}
	return words(err)
}
