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

// secure ends the cleartext of a leg. There is no way back: a server that does
// not offer TLS, or does not prove who it is, is one that is down.
func (b *backend) secure(ctx context.Context, l *leg, host string) error {
	if b.tls == nil {
		return nil
	}
	deadline := time.Now().Add(backendHandshake)
	l.sock.SetDeadline(deadline)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if b.cfg.TLS.Mode == StartTLS {
		l.conn.SetBudget(probeBytes, probeUnits)
		if err := b.protocol.Request(ctx, l.conn, host); err != nil {
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
	conn := tls.Client(l.conn, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake with the backend: %w", err)
	}
	l.sock.SetDeadline(time.Time{})
	l.conn.Release()
	l.sock.RequireCloseNotify()
	l.conn = wire.NewConn(conn)
	l.tls = conn
	if b.cfg.TLS.Mode == StartTLS {
		// The greeting that was heard in the clear is void, and there is no
		// other: Join finds the protocol's own in its place.
		l.conn.Putback(b.protocol.Greeting)
	}
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
