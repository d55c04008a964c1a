// Package onehttp serves HTTP/1.1 (RFC 9110, 9112) on a connection that
// somebody else has accepted, and whose end somebody else writes.
//
// net/http serves it, and gets to see only what has one reading: ReadHead is
// strict where RFC 9112 lets a recipient be lenient. What is added besides is
// what a gateway owes its clients and operators: one connection's end as a
// value, a stop between two requests, and no goroutine that outlives the
// connection.
package onehttp

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"
)

// ErrCutShort is what Serve returns when a handler gave up in the middle of an
// answer (http.ErrAbortHandler): the client must see the stream break off.
var ErrCutShort = fmt.Errorf("an answer was cut short: %w", io.ErrUnexpectedEOF)

// newConnGrace is a second more than what SetKeepAlivesEnabled leaves to a
// connection on which no request has begun.
const newConnGrace = 6 * time.Second

// Serve answers what comes on c with h until the client leaves, a deadline of
// whoever owns c ends a read, or the gateway stops: once stopping is closed,
// an answer says `Connection: close`, and between two requests the connection
// ends. A nil stopping is never closed.
//
// A request that is not strictly one gets 400, after the answers that are due,
// and is the last. A client that ends its side still gets its answers; one that
// breaks its side ends the request in hand.
//
// Serve does not close c, and when it returns nobody reads or writes c any
// more. The error is nil when the stream ended between two requests, and what
// ended it otherwise: wire.ErrIdle, wire.ErrShutdown, upgraders.ErrSyntax and
// its kin, or the connection's own; and ErrCutShort with it where an answer was
// begun. A panic of h goes on in the caller's goroutine.
func Serve(ctx context.Context, c net.Conn, h http.Handler, stopping <-chan struct{}) error {
	o := &one{conn: newConn(c), handler: h, done: make(chan struct{})}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	server := &http.Server{
		Handler:                      o,
		Protocols:                    protocols,
		DisableGeneralOptionsHandler: true, // `OPTIONS *` is the handler's
		BaseContext:                  func(net.Listener) context.Context { return context.WithValue(ctx, connKey{}, o.conn) },
		ConnState:                    o.state,
		ErrorLog:                     log.New(io.Discard, "", 0), // what is worth telling is returned
	}
	var watch sync.WaitGroup
	watch.Go(func() { o.stop(server, stopping) })
	server.Serve(o)
	o.conn.retire()
	watch.Wait()
	if o.caught != nil {
		panic(o.caught)
	}
	return o.result()
}

type connKey struct{}

// Broken returns what has broken the stream that a request came on: why its
// context was cancelled, or its body cannot be read. It is nil while nothing
// has.
func Broken(ctx context.Context) error {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		return c.broken()
	}
	return nil
}

// one is a listener that has one connection to give, and its handler.
type one struct {
	conn    *conn
	handler http.Handler
	given   bool
	done    chan struct{}
	over    sync.Once

	// What follows is the serving goroutine's, until done is closed.
	hijacked bool
	cut      bool
	caught   any
}

var (
	_ net.Listener = (*one)(nil)
	_ http.Handler = (*one)(nil)
)

// Accept implements net.Listener.
func (o *one) Accept() (net.Conn, error) {
	if !o.given {
		o.given = true
		return o.conn, nil
	}
	<-o.done
	return nil, net.ErrClosed
}

// Close implements net.Listener.
func (o *one) Close() error { return nil }

// Addr implements net.Listener.
func (o *one) Addr() net.Addr { return o.conn.LocalAddr() }

func (o *one) end() { o.over.Do(func() { close(o.done) }) }

func (o *one) state(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateHijacked:
		o.conn.hijacked()
		o.hijacked = true // the handler still runs
	case http.StateClosed:
		o.end()
	}
}

// ServeHTTP implements http.Handler. net/http forgives panics, and so hides
// what is broken.
func (o *one) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		o.conn.answered()
		switch caught := recover(); caught {
		case nil:
		case http.ErrAbortHandler:
			o.cut = true
			defer panic(caught)
		default:
			o.caught = fmt.Errorf("%v\n%s", caught, debug.Stack())
			defer panic(http.ErrAbortHandler)
		}
		if o.hijacked {
			o.end()
		}
	}()
	o.handler.ServeHTTP(w, r)
}

// stop ends the connection between two requests once stopping is closed.
func (o *one) stop(server *http.Server, stopping <-chan struct{}) {
	select {
	case <-o.done:
		return
	case <-stopping:
		server.SetKeepAlivesEnabled(false)
	}
	select {
	case <-o.done:
	case <-time.After(newConnGrace):
		server.SetKeepAlivesEnabled(false)
	}
}

func (o *one) result() error {
	err := o.conn.broken()
	switch {
	case !o.cut:
		return err
	case err == nil:
		return ErrCutShort
	}
	return fmt.Errorf("%w: %w", ErrCutShort, err)
}
