package upgraders

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/internal/wire"
)

// ReadCommand takes the next command line of a dialogue, without its CRLF; max
// counts the CRLF too. It returns ErrHTTP for a line that begins as HTTP does,
// too long or not. A line is counted against the budget once its first byte
// is there, so that a budget that is used up answers a command and not the
// silence after one.
func ReadCommand(c *wire.Conn, max int) ([]byte, error) {
	if _, err := c.Peek(1); err != nil {
		return nil, err
	}
	line, err := c.ReadLine(max)
	switch {
	case err == nil && IsHTTP(line):
		return nil, ErrHTTP
	case errors.Is(err, wire.ErrTooLong), errors.Is(err, wire.ErrBareNewline), errors.Is(err, wire.ErrNUL):
		if IsHTTP(c.Unread()) {
			return nil, ErrHTTP
		}
	}
	return line, err
}

// ReadInside takes a client's next line in a filtered phase, with its end.
// flush is called before anything is waited for, so that the backend has what
// it is to answer. NUL and bare CR are refused: a backend may take either for
// the end of the line, and what follows for a command that was not filtered.
func ReadInside(c *wire.Conn, max int, flush func() error) ([]byte, error) {
	if bytes.IndexByte(c.Unread(), '\n') < 0 {
		if err := flush(); err != nil {
			return nil, err
		}
	}
	line, err := c.ReadSlice(max)
	switch {
	case IsHTTP(line) || err != nil && IsHTTP(c.Unread()):
		return nil, ErrHTTP
	case err != nil:
		return nil, err
	case bytes.IndexByte(line, 0) >= 0:
		return nil, wire.ErrNUL
	case bytes.IndexByte(bytes.TrimSuffix(line, []byte("\r\n")), '\r') >= 0:
		return nil, wire.ErrBareNewline
	}
	return line, nil
}

// LeftWithoutTLS makes the end of a dialogue an outcome of its own when the
// client was told that TLS is required: it went without it, and an operator
// may want to know whom that policy turns away. err keeps its own reason where
// it has one.
func LeftWithoutTLS(told bool, err error) error {
	if told && Reason(err) == "" {
		return fmt.Errorf("%w: %w", ErrNeedsTLS, err)
	}
	return err
}
