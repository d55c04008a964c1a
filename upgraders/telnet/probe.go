package telnet

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// probe waits for the first byte. There is nothing that a Telnet server must
// say, so that silence is no fault; to hang up is one.
func probe(_ context.Context, link *upgraders.Link) (upgraders.Capabilities, error) {
	if _, err := link.Backend.Peek(1); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, err
	}
	return upgraders.Capabilities{}, nil
}

// request waits for a server to ask for START_TLS, and agrees. Any other
// option is refused, which every server understands (RFC 854).
func request(_ context.Context, backend *wire.Conn, _ string) error {
	for agreed := false; ; {
		command, err := next(backend)
		switch {
		case err != nil:
			return err
		case command == nil:
			return fmt.Errorf("%w: the server begins without START_TLS", upgraders.ErrNotOffered)
		case agreed && command.isFollows():
			if backend.Pipelined() {
				return fmt.Errorf("%w: bytes behind the go-ahead for TLS", upgraders.ErrBackend)
			}
			return nil
		case command.about(optStartTLS) && (command[1] == cmdDONT || command[1] == cmdWONT):
			return fmt.Errorf("%w: the server refuses START_TLS", upgraders.ErrNotOffered)
		case command.about(optStartTLS) && command[1] == cmdDO && !agreed:
			agreed = true
			if _, err := backend.Write(append(negotiate(cmdWILL, optStartTLS), follows()...)); err != nil {
				return err
			}
		case command[1] == cmdDO:
			_, err = backend.Write(negotiate(cmdWONT, command[2]))
		case command[1] == cmdWILL:
			_, err = backend.Write(negotiate(cmdDONT, command[2]))
		}
		if err != nil {
			return err
		}
	}
}
