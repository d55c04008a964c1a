package mysql

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Capability flags.
const (
	clientConnectWithDB = 1 << 3
	clientProtocol41    = 1 << 9
	clientSSL           = 1 << 11
	clientSecure        = 1 << 15 // the proof has one byte of length
	clientPluginAuth    = 1 << 19
	clientLenencProof   = 1 << 21 // the proof has a length-encoded length
	clientMultiFactor   = 1 << 28
)

// What the first byte of a packet of the server's says until the login ends.
const (
	isOK         = 0x00
	isMore       = 0x01 // AuthMoreData
	isNextFactor = 0x02
	isSwitch     = 0xfe // AuthSwitchRequest
	isError      = 0xff
)

const (
	header    = 4        // length in three bytes, and the number
	maxPacket = 64 << 10 // with its header; a proof may hold a Kerberos ticket

	requestLength = 32 // of SSLRequest: flags, greatest packet, character set, filler
)

// A packet is one, with its header.
type packet []byte

func newPacket(seq byte, body ...[]byte) packet {
	p := append(make(packet, header), bytes.Join(body, nil)...)
	p[0], p[1], p[2], p[3] = byte(len(p)-header), byte((len(p)-header)>>8), byte((len(p)-header)>>16), seq
	return p
}

// length is what a header says of the body.
func (p packet) length() int { return int(p[0]) | int(p[1])<<8 | int(p[2])<<16 }

func (p packet) seq() byte    { return p[3] }
func (p packet) body() []byte { return p[header:] }

// kind is the first byte of the body. An empty packet is of no kind that means
// anything here.
func (p packet) kind() byte {
	if len(p) == header {
		return 0x80
	}
	return p[header]
}

// flags are those of a packet of the client's that begins with them; those of
// a client from before 4.1 are the lower half.
func flags(body []byte) uint32 {
	low := uint32(binary.LittleEndian.Uint16(body))
	if low&clientProtocol41 == 0 || len(body) < 4 {
		return low
	}
	return binary.LittleEndian.Uint32(body)
}

// peek looks at the next packet, which stays in the buffer, whole.
func peek(c *wire.Conn, most int) (packet, error) {
	p, err := c.Peek(header)
	if err != nil {
		return nil, incomplete(err, len(p))
	}
	length := header + packet(p).length()
	if length > most {
		return nil, wire.ErrTooLong
	}
	if p, err = c.Peek(length); err != nil {
		return nil, incomplete(err, len(p))
	}
	return p, nil
}

// incomplete makes an end in the middle of a packet one that says so.
func incomplete(err error, got int) error {
	if err == io.EOF && got > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// first looks at the beginning of the client's next packet, which stays in the
// buffer: its header, and as much of the body as says what it is. seq is the
// number that it must have.
func first(c *wire.Conn, seq byte) (packet, error) {
	p, err := c.Peek(header)
	if err != nil {
		return nil, incomplete(err, len(p))
	}
	if err := c.Spend(); err != nil {
		return nil, err
	}
	length := packet(p).length()
	switch {
	case p[3] == seq && length >= 2:
		p, err = c.Peek(header + min(length, requestLength))
		return p, incomplete(err, len(p))
	case p[0] == 0x16 && p[1] == 0x03:
		return nil, wire.ErrClientHello
	case letters(p):
		if p, _ := c.Peek(8); upgraders.IsHTTP(p) {
			return nil, upgraders.ErrHTTP
		}
	}
	return nil, upgraders.ErrSyntax
}

func letters(b []byte) bool {
	return !bytes.ContainsFunc(b, func(r rune) bool { return (r|0x20 < 'a' || r|0x20 > 'z') && r != ' ' })
}

// A failure is what an ERR packet says. Its number is the server's for the
// case. None may be of the client library (2000 and up): clients take those for
// a forgery.
type failure struct {
	code  uint16
	state string
	words string
}

// packet is the ERR packet. Before the greeting nobody knows of SQLSTATEs.
func (f failure) packet(seq byte) []byte {
	if f.code == 0 {
		return nil
	}
	body := binary.LittleEndian.AppendUint16([]byte{isError}, f.code)
	if seq > 0 {
		body = append(append(body, '#'), f.state...)
	}
	return newPacket(seq, body, []byte(f.words))
}

// code is the number in an ERR packet of the server's.
func (p packet) code() uint16 {
	if len(p) < header+3 {
		return 0
	}
	return binary.LittleEndian.Uint16(p[header+1:])
}

// refused is the error for a server that does not serve this client, or any.
func (p packet) refused() error {
	return &upgraders.Refusal{Reply: fmt.Sprintf("ERR %d", p.code())}
}

var noServer = failure{1105, "08S01", "The database server is not available; try again later"}

// refusals says why a session cannot go on, where that has words.
var refusals = upgraders.Answers[failure]{
	{upgraders.ErrNeedsTLS, failure{3159, "HY000", "TLS is required: connect with ssl-mode=REQUIRED (MySQL) or --ssl (MariaDB)"}},
	{upgraders.ErrHTTP, failure{}},
	{wire.ErrClientHello, failure{}},
	{upgraders.ErrBackend, noServer},
	{upgraders.ErrInjection, failure{1043, "08S01", "Nothing may follow SSLRequest before TLS"}},
	{wire.ErrTooLong, failure{1153, "08S01", "The packet is too long for a login"}},
	{wire.ErrBudget, failure{1153, "08S01", "Too much talk before the login"}},
	{upgraders.ErrSyntax, failure{1043, "08S01", "Bad handshake"}},
	{wire.ErrShutdown, failure{1053, "08S01", "The server is shutting down; try again later"}},
	{wire.ErrStalled, failure{}},
	{os.ErrDeadlineExceeded, failure{1159, "08S01", "The login takes too long"}},
}
