// Package web shows the gateway's own pages: HTTP/1.1 (RFC 9110, RFC 9112) with
// nobody behind it. What it is for is an authority that looks for the answer to
// its challenge (RFC 8555, 8.3); what the pages are, the listener knows.
//
// The first byte decides between TLS and cleartext, so that port 80 and port 443
// are one listener. Requests are strict and bounded: GET and HEAD, no body, one
// Host, CRLF and nothing else at the end of a line. Left out: HTTP/2, bodies,
// ranges, conditions, compression, and belief in anything a client says of
// itself: of its fields, none but Host reaches a page.
package web

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes the gateway's own pages. It has no well-known ports: those
// of HTTP belong to who has servers for it.
func Protocol() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name:  "web",
		Title: "The gateway's own pages",
		Spec:  "RFC 9110, 9112, 8555, 8737",
		ALPN:  []string{"http/1.1"},
		Pages: true,
		New:   func(any) (upgraders.Upgrader, error) { return upgrader{}, nil },
	}
}

type upgrader struct{}

var _ upgraders.Upgrader = upgrader{}

// Upgrade goes on in cleartext at once: here nobody asks for TLS in words.
func (u upgrader) Upgrade(_ context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	h := u.Implicit(s)
	h.Verdict = upgraders.Cleartext
	return h, nil
}

// Implicit serves inside TLS what Upgrade serves in cleartext.
func (upgrader) Implicit(s *upgraders.Session) upgraders.Handover {
	pages := s.Listener.Pages
	if pages == nil {
		pages = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	}
	client := s.Client.String()
	return upgraders.Handover{Serve: func(ctx context.Context, conn net.Conn, _ upgraders.Dialer) error {
		return serve(ctx, conn, client, pages)
	}}
}

// maxRequests is how many requests a connection may make. What time it has is
// the gateway's affair.
const maxRequests = 20

// serve answers requests in their order until the client leaves, says something
// wrong, or has asked often enough.
func serve(ctx context.Context, conn net.Conn, client string, pages http.Handler) error {
	c := wire.NewConn(conn)
	for n := 1; ; n++ {
		c.SetBudget(maxHead, 1) // ReadHead counts the fields
		if _, err := c.Peek(1); err != nil {
			if n > 1 {
				return nil // between two requests a client may leave as it likes
			}
			return err
		}
		r, err := readRequest(c)
		a := newAnswer()
		if err != nil {
			status := refusals.To(err)
			if status == 0 {
				return err // it left
			}
			a.refuse(status)
			a.close = true
			if werr := a.writeTo(c, r.Method); werr != nil || upgraders.Reason(err) != "" {
				return err
			}
			return nil // it made a request that is only not served
		}
		r.RemoteAddr, r.TLS = client, tlsOf(conn)
		pages.ServeHTTP(a, r.WithContext(ctx))
		a.close = r.Close || n == maxRequests
		if err := a.writeTo(c, r.Method); err != nil || a.close {
			return err
		}
	}
}

// tlsOf is what a page may know of the client's TLS; nil in cleartext.
func tlsOf(conn net.Conn) *tls.ConnectionState {
	if c, ok := conn.(*wire.Conn); ok {
		conn = c.Conn
	}
	if c, ok := conn.(*tls.Conn); ok {
		state := c.ConnectionState()
		return &state
	}
	return nil
}
