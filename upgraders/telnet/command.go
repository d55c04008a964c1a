package telnet

import (
	"bytes"
	"io"

	"github.com/sallyport/sallyport/internal/wire"
)

// RFC 854, 855.
const (
	cmdSE   = 240
	cmdSB   = 250
	cmdWILL = 251
	cmdWONT = 252
	cmdDO   = 253
	cmdDONT = 254
	cmdIAC  = 255
)

// draft-altman-telnet-starttls-02.
const (
	optStartTLS = 46
	subFollows  = 1
)

// maxCommand bounds a subnegotiation before TLS; the longest of a client are
// terminal types and environments, and those are asked for.
const maxCommand = 512

// A command is one Telnet command, from IAC to its end.
type command []byte

func negotiate(verb, option byte) []byte { return []byte{cmdIAC, verb, option} }

func follows() []byte { return []byte{cmdIAC, cmdSB, optStartTLS, subFollows, cmdIAC, cmdSE} }

func (c command) about(option byte) bool {
	return len(c) > 2 && c[1] >= cmdSB && c[1] <= cmdDONT && c[2] == option
}

func (c command) isFollows() bool { return bytes.Equal(c, follows()) }

// next takes the peer's next command; nil says that data is next, which stays
// in the buffer.
func next(c *wire.Conn) (command, error) {
	head, err := c.Peek(1)
	if err != nil {
		return nil, err
	}
	if head[0] != cmdIAC {
		return nil, nil
	}
	if head, err = c.Peek(2); err != nil {
		return nil, incomplete(err)
	}
	length := 2
	switch verb := head[1]; {
	case verb == cmdIAC: // an escaped byte of data
		return nil, nil
	case verb >= cmdWILL:
		length = 3
	case verb == cmdSB:
		if length, err = subnegotiation(c); err != nil {
			return nil, incomplete(err)
		}
	}
	if err := c.Spend(); err != nil {
		return nil, err
	}
	whole, err := c.Peek(length)
	if err != nil {
		return nil, incomplete(err)
	}
	taken := bytes.Clone(whole)
	c.Discard(length)
	return taken, nil
}

// subnegotiation returns how long the one at the head of the buffer is, with
// its IAC SE.
func subnegotiation(c *wire.Conn) (int, error) {
	for i := 2; i < maxCommand; i++ {
		b, err := c.Peek(i + 1)
		if err != nil {
			return 0, err
		}
		if b[i] != cmdIAC {
			continue
		}
		i++
		if b, err = c.Peek(i + 1); err != nil {
			return 0, err
		}
		if b[i] == cmdSE {
			return i + 1, nil
		}
	}
	return 0, wire.ErrTooLong
}

// incomplete makes an end in the middle of a command one that says so.
func incomplete(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
