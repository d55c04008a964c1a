package postgres

import (
	"encoding/binary"
	"io"
	"os"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// The codes that stand where a startup message has its version: message
// formats, SSLRequest and its kin.
const (
	codeCancel = 80877102
	codeSSL    = 80877103
	codeGSS    = 80877104

	requestLength = 8     // of SSLRequest and GSSENCRequest
	maxStartup    = 10000 // MAX_STARTUP_PACKET_LENGTH in the server
	minCancel     = 12 + 4
	maxCancel     = 12 + 256 // protocol 3.2: keys of 4 to 256 bytes
)

// A kind of first message.
type kind uint8

const (
	startup kind = iota
	directTLS
	sslRequest
	gssRequest
	cancelRequest
)

// next looks at the client's next message, which stays in the buffer, whole.
func next(c *wire.Conn) (kind, error) {
	first, err := c.Peek(1)
	if err != nil {
		return 0, err
	}
	if first[0] == 0x16 {
		return directTLS, nil
	}
	head, err := c.Peek(requestLength)
	if upgraders.IsHTTP(head) {
		return 0, upgraders.ErrHTTP
	}
	if err != nil {
		return 0, incomplete(err)
	}
	if err := c.Spend(); err != nil {
		return 0, err
	}
	length, code := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:])
	switch {
	case code == codeSSL && length == requestLength:
		return sslRequest, nil
	case code == codeGSS && length == requestLength:
		return gssRequest, nil
	case code == codeCancel && length >= minCancel && length <= maxCancel:
		_, err := c.Peek(int(length))
		return cancelRequest, incomplete(err)
	case code>>16 == 3 && length > requestLength && length <= maxStartup:
		_, err := c.Peek(int(length))
		return startup, incomplete(err)
	case code>>16 == 3 && length > maxStartup:
		return 0, wire.ErrTooLong
	}
	return 0, upgraders.ErrSyntax
}

// incomplete makes an end in the middle of a message one that says so.
func incomplete(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// take takes a message that next has seen.
func take(c *wire.Conn) ([]byte, error) {
	head, err := c.Peek(4)
	if err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint32(head))
	return message, c.ReadFull(message)
}

// fatal is an ErrorResponse of severity FATAL: error and notice message
// fields.
func fatal(code, words string) []byte {
	body := "SFATAL\x00VFATAL\x00C" + code + "\x00M" + words + "\x00\x00"
	return append(binary.BigEndian.AppendUint32([]byte{'E'}, uint32(4+len(body))), body...)
}

// refusals says why a session cannot begin, where that has words. The SQLSTATEs
// are those the server itself uses in these cases.
var refusals = upgraders.Answers[[]byte]{
	{upgraders.ErrHTTP, nil},
	{wire.ErrTooLong, fatal("08P01", "invalid length of startup packet")},
	{upgraders.ErrSyntax, fatal("08P01", "invalid startup packet")},
	{wire.ErrBudget, fatal("08P01", "too much talk before TLS")},
	{wire.ErrShutdown, fatal("57P01", "the server is shutting down")},
	{wire.ErrStalled, nil},
	{os.ErrDeadlineExceeded, fatal("08006", "timeout before the startup packet was complete")},
}
