package pop3

import (
	"context"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// probe asks for the capability list, as a session in TLS would.
func probe(_ context.Context, link *upgraders.Link) (upgraders.Capabilities, error) {
	if _, _, err := introduce(link); err != nil {
		return nil, err
	}
	capabilities, err := capa(link.Backend)
	if err != nil {
		return nil, err
	}
	// The answer is known; a server that hangs up on QUIT has given it.
	if upgraders.Say(link.Backend, "QUIT") == nil {
		readLine(link.Backend)
	}
	return capabilities, nil
}

// capa asks for the capability list. A server from before RFC 2449 has none.
func capa(c *wire.Conn) (upgraders.Capabilities, error) {
	if err := upgraders.Say(c, "CAPA"); err != nil {
		return nil, err
	}
	line, err := readLine(c)
	if err != nil {
		return nil, err
	}
	capabilities := upgraders.Capabilities{}
	if !isOK(line) {
		return capabilities, nil
	}
	for range maxLines {
		line, err := readLine(c)
		if err != nil {
			return nil, err
		}
		if line == "." {
			return capabilities, nil
		}
		capabilities = append(capabilities, line)
	}
	return nil, fmt.Errorf("%w: a capability list of more than %d lines", upgraders.ErrBackend, maxLines)
}

// request asks a server for TLS: RFC 2595, 4.
func request(_ context.Context, backend *wire.Conn, _ string) error {
	greeting, err := readLine(backend)
	if err != nil {
		return err
	}
	if !isOK(greeting) {
		return fmt.Errorf("%w: %s", upgraders.ErrNotOffered, clip(greeting))
	}
	// Servers that have STLS and no CAPA exist: the answer to STLS decides.
	if err := upgraders.Say(backend, "STLS"); err != nil {
		return err
	}
	answer, err := readLine(backend)
	if err != nil {
		return err
	}
	if !isOK(answer) {
		return fmt.Errorf("%w: %s", upgraders.ErrNotOffered, strings.TrimSpace(clip(answer)))
	}
	if backend.Pipelined() {
		return fmt.Errorf("%w: bytes behind the go-ahead for TLS", upgraders.ErrBackend)
	}
	return nil
}
