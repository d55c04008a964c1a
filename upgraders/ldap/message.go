package ldap

import (
	"errors"
	"fmt"
	"os"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// The operations of RFC 4511, 4.2 to 4.14, by their tags.
const (
	opBind         = 0x60
	opBindResponse = 0x61
	opUnbind       = 0x42
	opSearch       = 0x63
	opSearchEntry  = 0x64
	opSearchDone   = 0x65
	opAbandon      = 0x50
	opExtended     = 0x77
	opExtendedResp = 0x78
)

// responses tells which operation answers which: RFC 4511, 4.1.9.
var responses = map[byte]byte{
	opBind: opBindResponse, opSearch: opSearchDone, 0x66: 0x67, 0x68: 0x69, 0x4a: 0x6b, 0x6c: 0x6d, 0x6e: 0x6f, opExtended: opExtendedResp,
}

// Result codes of RFC 4511, 4.1.9.
const (
	success                      = 0
	operationsError              = 1
	protocolError                = 2
	unavailableCriticalExtension = 12
	confidentialityRequired      = 13
	busy                         = 51
	unavailable                  = 52
)

const (
	oidStartTLS      = "1.3.6.1.4.1.1466.20037" // RFC 4511, 4.14.1
	oidDisconnection = "1.3.6.1.4.1.1466.20036" // RFC 4511, 4.4.1
)

// A message is one LDAPMessage, taken apart as far as every message can be.
type message struct {
	id       []byte // the messageID element, as it came
	op       byte
	contents []byte // of the operation
	critical bool   // a control is critical
	length   int    // of all of it, on the wire
}

// next looks at the next message, which stays in the buffer, whole.
func next(c *wire.Conn) (message, error) {
	length, err := measure(c)
	if err != nil {
		return message{}, err
	}
	if length > maxMessage {
		return message{}, wire.ErrTooLong
	}
	raw, err := c.Peek(length)
	if err != nil {
		return message{}, err
	}
	if err := c.Spend(); err != nil {
		return message{}, err
	}
	return parse(raw)
}

// measure returns how long the next message is.
func measure(c *wire.Conn) (int, error) {
	for n := 1; ; {
		b, err := c.Peek(n)
		if err != nil {
			return 0, err
		}
		b = c.Unread()
		if b[0] != tagSequence {
			return 0, stranger(c)
		}
		_, head, length, short, err := header(b)
		if err != nil {
			return 0, err
		}
		if !short {
			return head + length, nil
		}
		n = len(b) + 1
	}
}

// stranger names what a first byte that begins no message begins.
func stranger(c *wire.Conn) error {
	first := c.Unread()[0]
	if first == 0x16 {
		return wire.ErrClientHello
	}
	if 'A' <= first && first <= 'Z' || 'a' <= first && first <= 'z' {
		if b, _ := c.Peek(8); upgraders.IsHTTP(b) {
			return upgraders.ErrHTTP
		}
	}
	return upgraders.ErrSyntax
}

// parse takes a message apart.
func parse(raw []byte) (message, error) {
	m := message{length: len(raw)}
	body, _, err := want(tagSequence, raw)
	if err != nil {
		return m, err
	}
	id, rest, err := want(tagInteger, body)
	if err != nil {
		return m, err
	}
	// RFC 4511, 4.1.1.1: 1 to 2^31-1; zero is the server's own.
	if len(id) == 0 || len(id) > 4 || id[0]&0x80 != 0 || isZero(id) {
		return m, errBER
	}
	m.id = tlv(tagInteger, id)
	if m.op, m.contents, rest, err = element(rest); err != nil {
		return m, err
	}
	if len(rest) > 0 {
		m.critical, err = critical(rest)
	}
	return m, err
}

func isZero(b []byte) bool {
	for _, o := range b {
		if o != 0 {
			return false
		}
	}
	return true
}

// critical reports whether one of the controls is: RFC 4511, 4.1.11.
func critical(b []byte) (bool, error) {
	controls, _, err := want(0xa0, b)
	for err == nil && len(controls) > 0 {
		var control, value []byte
		if control, controls, err = want(tagSequence, controls); err != nil {
			break
		}
		if _, control, err = want(tagOctets, control); err != nil {
			break
		}
		for err == nil && len(control) > 0 {
			var tag byte
			if tag, value, control, err = element(control); err == nil && tag == tagBoolean && !isZero(value) {
				return true, nil
			}
		}
	}
	return false, err
}

// result answers an operation: RFC 4511, 4.1.9. An operation that has no
// answer gets none.
func (m message) result(code int, words string) []byte {
	tag, ok := responses[m.op]
	if !ok {
		return nil
	}
	parts := [][]byte{enumerated(code), octets(""), octets(words)}
	if m.op == opExtended && m.isStartTLS() {
		parts = append(parts, tlv(0x8a, []byte(oidStartTLS)))
	}
	return tlv(tagSequence, m.id, tlv(tag, parts...))
}

// isStartTLS reports whether an ExtendedRequest asks for TLS.
func (m message) isStartTLS() bool {
	name, _, err := want(0x80, m.contents)
	return m.op == opExtended && err == nil && string(name) == oidStartTLS
}

// hasValue reports whether an ExtendedRequest has a requestValue.
func (m message) hasValue() bool {
	_, rest, err := want(0x80, m.contents)
	return err == nil && len(rest) > 0
}

// A bind is what matters of a BindRequest.
type bind struct {
	version   int
	anonymous bool // simple, without name and password
	sasl      bool
}

func (m message) bind() (b bind, err error) {
	version, rest, err := want(tagInteger, m.contents)
	if err != nil {
		return b, err
	}
	name, rest, err := want(tagOctets, rest)
	if err != nil {
		return b, err
	}
	tag, secret, _, err := element(rest)
	if err != nil || len(version) != 1 {
		return b, errors.Join(err, errBER)
	}
	b.version = int(version[0])
	b.sasl = tag == 0xa3
	// RFC 4513, 5.1.1.
	b.anonymous = tag == 0x80 && len(name) == 0 && len(secret) == 0
	return b, nil
}

// disconnection is the notice before the end: RFC 4511, 4.4.1.
func disconnection(code int, words string) []byte {
	return tlv(tagSequence, []byte{tagInteger, 1, 0},
		tlv(opExtendedResp, enumerated(code), octets(""), octets(words), tlv(0x8a, []byte(oidDisconnection))))
}

// partings has the notice for an error of reading, or nothing for one that
// leaves nobody to speak to.
var partings = upgraders.Answers[[]byte]{
	{upgraders.ErrHTTP, nil},
	{wire.ErrClientHello, nil},
	{upgraders.ErrBackend, disconnection(unavailable, "the directory broke off")},
	{wire.ErrTooLong, disconnection(protocolError, "message too long")},
	{upgraders.ErrSyntax, disconnection(protocolError, "not an LDAP message")},
	{wire.ErrBudget, disconnection(confidentialityRequired, "too much talk before TLS")},
	{wire.ErrShutdown, disconnection(unavailable, "shutting down")},
	{wire.ErrStalled, nil},
	{os.ErrDeadlineExceeded, disconnection(unavailable, "idle for too long")},
}

// ended says so to the client, and returns the error.
func ended(c *wire.Conn, err error) error {
	if words := partings.To(err); words != nil {
		c.Write(words)
	}
	return err
}

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", upgraders.ErrBackend, fmt.Sprintf(format, args...))
}
