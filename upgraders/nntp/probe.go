package nntp

import (
	"context"
	"fmt"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// probe asks for the capability list, as a session in TLS would.
func probe(_ context.Context, link *upgraders.Link) (upgraders.Capabilities, error) {
	greeting, err := greet(link.Backend)
	if err != nil {
		return nil, err
	}
	capabilities, err := ask(link.Backend)
	if err != nil {
		return nil, err
	}
	if capabilities == nil {
		// A server from before RFC 3977: its greeting says whether one may
		// post.
		capabilities = upgraders.Capabilities{}
		if codeOf([]byte(greeting)) == 200 {
			capabilities = append(capabilities, "POST")
		}
	}
	leave(link.Backend)
	return capabilities, nil
}

// ask asks for the capability list; nil: there is none.
func ask(backend *wire.Conn) (upgraders.Capabilities, error) {
	if err := upgraders.Say(backend, "CAPABILITIES"); err != nil {
		return nil, err
	}
	_, code, err := readReply(backend)
	if err != nil || code != 101 {
		return nil, err
	}
	capabilities := upgraders.Capabilities{}
	for range maxLines {
		line, err := backend.ReadSlice(maxReply)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", upgraders.ErrBackend, cutShort(err))
		}
		switch words := string(trimEnd(line)); words {
		case ".":
			return capabilities, nil
		default:
			capabilities = append(capabilities, words)
		}
	}
	return nil, fmt.Errorf("%w: a capability list of more than %d lines", upgraders.ErrBackend, maxLines)
}

// leave ends a session of the gateway's own. What was asked is answered; how
// the server takes it is its affair.
func leave(backend *wire.Conn) {
	if upgraders.Say(backend, "QUIT") == nil {
		readReply(backend)
	}
}

// request asks a server for TLS: RFC 4642, 2.2.
func request(_ context.Context, backend *wire.Conn, _ string) error {
	greeting, code, err := readReply(backend)
	if err == nil && code != 200 && code != 201 {
		err = fmt.Errorf("%w: %s", upgraders.ErrNotOffered, clip(greeting))
	}
	if err != nil {
		return err
	}
	// Servers that have STARTTLS and no CAPABILITIES exist: the answer to
	// STARTTLS decides.
	if err := upgraders.Say(backend, "STARTTLS"); err != nil {
		return err
	}
	answer, code, err := readReply(backend)
	switch {
	case err != nil:
		return err
	case code != 382:
		return fmt.Errorf("%w: %s", upgraders.ErrNotOffered, clip(answer))
	case backend.Pipelined():
		// CVE-2021-38371, in the other direction.
		return fmt.Errorf("%w: bytes behind the go-ahead for TLS", upgraders.ErrBackend)
	}
	return nil
}
