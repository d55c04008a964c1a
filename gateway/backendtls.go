package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// backendHandshake bounds a backend's own upgrade, request and handshake
// together, after the connection stands.
const backendHandshake = 10 * time.Second

// backendTLS makes the configuration of the leg to a backend; nil for a
// cleartext one.
func backendTLS(cfg *Backend) *tls.Config {
	if cfg.TLS == nil {
		return nil
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            cfg.TLS.CAs,
		ServerName:         cfg.TLS.ServerName,
		InsecureSkipVerify: cfg.TLS.Insecure,
		ClientSessionCache: tls.NewLRUClientSessionCache(64),

		DynamicRecordSizingDisabled: true,
	}
}

// secureInJoin reports whether a session asks for TLS in words of its own.
func (b *backend) secureInJoin() bool {
	return b.protocol.SecureInJoin && b.tls != nil && b.cfg.TLS.Mode == StartTLS
}

// insecure reports whether a leg is in cleartext that must not stay so.
func (l *leg) insecure() bool { return l.backend.tls != nil && l.tls == nil }

// secured ends the cleartext of a leg, where there is any. There is no way
// back: a server that does not offer TLS, or does not prove who it is, is one
// that is down. host is what the client has named.
func (b *backend) secured(ctx context.Context, l *leg, host string) (*leg, error) {
	if b.tls == nil {
		return l, nil
	}
	var ask func(context.Context, *wire.Conn) error
	if b.cfg.TLS.Mode == StartTLS {
		ask = func(ctx context.Context, c *wire.Conn) error { return b.protocol.Request(ctx, c, host) }
	}
	if err := b.secure(ctx, l, ask); err != nil {
		l.close()
		return nil, err
	}
	if ask != nil {
		// The greeting that was heard in the clear is void, and there is no
		// other: Join finds the protocol's own in its place.
		l.conn.Putback(b.protocol.Greeting)
	}
	return l, nil
}

// secure has ask ask for TLS, where that is due, and shakes hands.
func (b *backend) secure(ctx context.Context, l *leg, ask func(context.Context, *wire.Conn) error) error {
	deadline := time.Now().Add(backendHandshake)
	l.sock.SetDeadline(deadline)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if ask != nil {
		l.conn.SetBudget(probeBytes, probeUnits)
		if err := ask(ctx, l.conn); err != nil {
			return fmt.Errorf("ask the backend for TLS: %w", err)
		}
		l.conn.ClearBudget()
		if l.conn.Pipelined() {
			// CVE-2021-38371, CVE-2021-23222: what stands behind the go-ahead
			// was said in the clear and must not be taken for an answer in
			// TLS.
			return fmt.Errorf("%w: bytes behind its go-ahead for TLS", upgraders.ErrBackend)
		}
	}
	cfg := b.tls
	if cfg.ServerName == "" {
		host, _, err := net.SplitHostPort(l.server.configured)
		if err != nil {
			host = b.hostname // behind a unix socket
		}
		cfg = cfg.Clone()
		cfg.ServerName = host
	}
	if len(b.protocol.DataALPN) > 0 {
		// Data connections must come with a ticket of their own session.
		cfg = cfg.Clone()
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	conn := tls.Client(l.conn, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake with the backend: %w", err)
	}
	l.sock.SetDeadline(time.Time{})
	l.conn.Release()
	l.sock.RequireCloseNotify()
	l.conn = wire.NewConn(conn)
	l.tls, l.secrets = conn, cfg
	return nil
}

// passBinding reports whether channel binding can hold through the gateway,
// because both legs show one key and certificate.
func (b *backend) passBinding() bool { return b.cfg.TLS != nil && b.cfg.TLS.PassBinding }

// finish says in good order that no more will come: close_notify, FIN.
func (l *leg) finish() {
	if l.tls != nil {
		l.tls.CloseWrite()
	}
	l.sock.CloseWrite()
}
