package upgraders

import (
	"context"
	"fmt"
	"net"

	"github.com/sallyport/sallyport/internal/wire"
)

// What a server may say to one that is not yet in TLS.
const (
	clientBytes = 64 << 10
	clientUnits = 1000
)

// AskTLS asks the server at the other end of a connection for TLS, as any
// client would, and returns the connection that the handshake goes on. An
// error wraps ErrNotOffered when TLS is refused, and ErrBackend when something
// stands behind the go-ahead: what was said in the clear must not be taken for
// an answer in TLS (CVE-2021-38371).
func (p *Protocol) AskTLS(ctx context.Context, conn net.Conn, host string) (net.Conn, error) {
	c := wire.NewConn(conn)
	c.SetBudget(clientBytes, clientUnits)
	if err := p.Request(ctx, c, host); err != nil {
		return nil, err
	}
	c.ClearBudget()
	if c.Pipelined() {
		return nil, fmt.Errorf("%w: bytes behind its go-ahead for TLS", ErrBackend)
	}
	return c, nil
}

// AskOffer asks the server at the other end of a connection what it offers a
// client in cleartext.
func (p *Protocol) AskOffer(ctx context.Context, conn net.Conn, name string) (Capabilities, error) {
	c := wire.NewConn(conn)
	c.SetBudget(clientBytes, clientUnits)
	return p.Probe(ctx, &Link{Backend: c, Facts: Facts{Name: name}, Log: func(string, ...any) {}})
}
