package smtp

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Bounds of a reply that is taken in whole. RFC 5321, 4.5.3.1.5 allows 512
// bytes a line; servers exceed it.
const (
	maxReplyLine  = 2048
	maxReplyLines = 128
)

// A reply is what a server said to one command.
type reply struct {
	code  int
	lines []string // without code and line end
	raw   []byte
}

// class is the first digit of the code.
func (r *reply) class() int { return r.code / 100 }

// refusal is the reply as an error: this server does not serve.
func (r *reply) refusal() error {
	words := strings.Join(r.lines, " ")
	return &upgraders.Refusal{Reply: fmt.Sprintf("%d %.500s", r.code, words)}
}

// readReply takes one reply.
func readReply(c *wire.Conn) (*reply, error) {
	r := &reply{}
	for range maxReplyLines {
		line, err := c.ReadSlice(maxReplyLine)
		if err == wire.ErrTooLong {
			return nil, fmt.Errorf("%w: a reply line of more than %d bytes", upgraders.ErrBackend, maxReplyLine)
		}
		if err != nil {
			return nil, err
		}
		code, more, ok := parseReply(line)
		if !ok {
			return nil, fmt.Errorf("%w: not an SMTP reply", upgraders.ErrBackend)
		}
		r.code = code
		r.raw = append(r.raw, line...)
		r.lines = append(r.lines, string(text(line)))
		if !more {
			return r, nil
		}
	}
	return nil, fmt.Errorf("%w: a reply of more than %d lines", upgraders.ErrBackend, maxReplyLines)
}

// parseReply reads the code of a reply line and whether more lines follow.
func parseReply(line []byte) (code int, more, ok bool) {
	if len(line) < 4 {
		return 0, false, false
	}
	for _, b := range line[:3] {
		if b < '0' || b > '9' {
			return 0, false, false
		}
		code = code*10 + int(b-'0')
	}
	switch line[3] {
	case '-':
		more = true
	case ' ', '\t', '\r', '\n':
	default:
		return 0, false, false
	}
	return code, more, true
}

// text is a reply line without code and line end.
func text(line []byte) []byte {
	line = trimEnd(line)
	return line[min(4, len(line)):]
}

// trimEnd takes off the line end: LF or CRLF.
func trimEnd(line []byte) []byte {
	line = bytes.TrimSuffix(line, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r"))
}

// command sends one command and takes its reply.
func command(c *wire.Conn, format string, args ...any) (*reply, error) {
	if _, err := fmt.Fprintf(c, format+"\r\n", args...); err != nil {
		return nil, err
	}
	return readReply(c)
}
