package ftp

import (
	"errors"
	"testing"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// G-07: what a backend has said behind its greeting ends the session before a
// command could go to it and be answered by that; but a 421 of its own passes.
func TestTalksAhead(t *testing.T) {
	client, backend := &side{}, &side{}
	p := &passage{client: wire.NewConn(client), backend: wire.NewConn(backend)}
	p.backend.Putback([]byte("421-In ten\r\n421 seconds\r\n"))
	if err := p.early(); err != nil || client.got() != "421-In ten\r\n421 seconds\r\n" {
		t.Errorf("%v, and the client is told %q", err, client.got())
	}
	p.backend.Putback([]byte("230 Logged in\r\n"))
	if err := p.early(); !errors.Is(err, upgraders.ErrBackend) {
		t.Error(err)
	}
}
