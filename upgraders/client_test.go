package upgraders_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A client that asks for TLS believes nothing that stands behind the go-ahead
// (CVE-2021-38371), and hands the handshake a connection on which nothing is
// lost.
func TestAskTLS(t *testing.T) {
	p := &upgraders.Protocol{Request: func(_ context.Context, c *wire.Conn, _ string) error {
		_, err := c.ReadLine(100)
		return err
	}}
	ask := func(said string) (net.Conn, error) {
		client, server := net.Pipe()
		t.Cleanup(func() { client.Close(); server.Close() })
		client.SetDeadline(time.Now().Add(10 * time.Second))
		go func() {
			io.WriteString(server, said)
			io.WriteString(server, "hello")
			server.Close()
		}()
		return p.AskTLS(t.Context(), client, "example.org")
	}
	if _, err := ask("go\r\n* forged\r\n"); !errors.Is(err, upgraders.ErrBackend) {
		t.Errorf("bytes behind the go-ahead: %v", err)
	}
	if _, err := ask("no line end"); err == nil {
		t.Error("no go-ahead is no error")
	}
	conn, err := ask("go\r\n")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "hello" {
		t.Errorf("then came %q, %v", b, err)
	}
}
