package irc

import (
	"context"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const maxLines = 100 // of notices and capabilities, before an answer is one

// probe asks for the capabilities, as a session in TLS would. A server from
// before them says that it does not know the command.
func probe(_ context.Context, link *upgraders.Link) (upgraders.Capabilities, error) {
	if err := introduce(link); err != nil {
		return nil, err
	}
	if err := say(link.Backend, "CAP LS 302"); err != nil {
		return nil, err
	}
	capabilities := upgraders.Capabilities{}
	for range maxLines {
		line, err := readLine(link.Backend)
		if err != nil {
			return nil, err
		}
		switch m := parse(line); m.verb {
		case "ERROR":
			return nil, &upgraders.Refusal{Reply: clip(line)}
		case "421", "451":
			say(link.Backend, "QUIT")
			return capabilities, nil
		case "CAP":
			if m.param(1) != "LS" {
				continue
			}
			capabilities = append(capabilities, strings.Fields(m.last)...)
			if m.param(2) != "*" {
				say(link.Backend, "QUIT")
				return capabilities, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: more than %d lines and no list of capabilities", upgraders.ErrBackend, maxLines)
}

// request asks a server for TLS: IRCv3 tls.
func request(_ context.Context, backend *wire.Conn, _ string) error {
	if err := say(backend, "STARTTLS"); err != nil {
		return err
	}
	for range maxLines {
		line, err := readLine(backend)
		if err != nil {
			return err
		}
		switch m := parse(line); m.verb {
		case "670":
			if backend.Pipelined() {
				return fmt.Errorf("%w: bytes behind the go-ahead for TLS", upgraders.ErrBackend)
			}
			return nil
		case "691", "421", "451", "ERROR":
			return fmt.Errorf("%w: %s", upgraders.ErrNotOffered, clip(line))
		}
	}
	return fmt.Errorf("%w: more than %d lines and no answer to STARTTLS", upgraders.ErrBackend, maxLines)
}

// clip keeps what a log should have of a backend's words.
func clip(words string) string { return words[:min(len(words), 200)] }
