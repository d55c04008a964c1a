package ldap

import (
	"errors"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// The little of BER that RFC 4511, 5.1 leaves: definite lengths, one-byte tags.
// Lengths may be longer than they need be; Windows writes them so. A BER
// library is not used because the ones there are allocate what a length inside
// the message says before they look whether it is there.

// maxMessage is the most a message may have that is looked into: what comes
// before TLS, and root DSEs.
const maxMessage = 64 << 10

// maxHeader is the most that tag and length take.
const maxHeader = 6

// header reads the tag and length at the start of b. It needs six bytes at
// most, and reports short when there are too few to tell.
func header(b []byte) (tag byte, head, length int, short bool, err error) {
	if len(b) < 2 {
		return 0, 0, 0, true, nil
	}
	tag = b[0]
	if b[1] < 0x80 {
		return tag, 2, int(b[1]), false, nil
	}
	octets := int(b[1] & 0x7f)
	if octets == 0 || octets > 4 { // 0x80 is the indefinite form
		return 0, 0, 0, false, errBER
	}
	if len(b) < 2+octets {
		return 0, 0, 0, true, nil
	}
	var n uint64
	for _, o := range b[2 : 2+octets] {
		n = n<<8 | uint64(o)
	}
	if n > 1<<31-1-6 {
		return 0, 0, 0, false, wire.ErrTooLong
	}
	return tag, 2 + octets, int(n), false, nil
}

var errBER = errors.Join(upgraders.ErrSyntax, errors.New("not BER as LDAP has it"))

// element takes the first element from b: its tag, its contents, what follows.
func element(b []byte) (tag byte, contents, rest []byte, err error) {
	tag, head, length, short, err := header(b)
	if err != nil {
		return 0, nil, nil, err
	}
	if short || length > len(b)-head {
		return 0, nil, nil, errBER
	}
	return tag, b[head : head+length], b[head+length:], nil
}

// want is element for a tag that must be there.
func want(tag byte, b []byte) (contents, rest []byte, err error) {
	got, contents, rest, err := element(b)
	if err == nil && got != tag {
		err = errBER
	}
	return contents, rest, err
}

// tlv makes an element of parts.
func tlv(tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b := []byte{tag}
	switch {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 1<<8:
		b = append(b, 0x81, byte(n))
	case n < 1<<16:
		b = append(b, 0x82, byte(n>>8), byte(n))
	default:
		b = append(b, 0x84, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// Universal tags.
const (
	tagBoolean    = 0x01
	tagInteger    = 0x02
	tagOctets     = 0x04
	tagEnumerated = 0x0a
	tagSequence   = 0x30
	tagSet        = 0x31
)

func octets(s string) []byte  { return tlv(tagOctets, []byte(s)) }
func enumerated(n int) []byte { return tlv(tagEnumerated, []byte{byte(n)}) }
