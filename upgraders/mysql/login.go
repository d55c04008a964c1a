package mysql

import (
	"bytes"
	"encoding/binary"

	"github.com/sallyport/sallyport/upgraders"
)

// A login is the client's HandshakeResponse.
type login struct {
	flags uint32
	proof []byte // what stands for the password; a part of the packet
	from  int    // where the proof begins in the body, with its length
	to    int
	name  string // of the authentication plugin; "" of a client that knows none
}

// old reports whether the client is one from before 4.1, which knows no TLS
// that this package knows.
func (l *login) old() bool { return l.flags&clientProtocol41 == 0 }

// fixed is the length of what stands before the name of the user: flags,
// greatest packet, character set, filler.
const fixed = 32

// parseLogin takes a HandshakeResponse apart, as far as the plugin's name.
func parseLogin(body []byte) (*login, error) {
	l := &login{flags: flags(body)}
	if l.old() {
		return l, nil
	}
	rest := body[min(fixed, len(body)):]
	cut := func() (text []byte, ok bool) {
		text, rest, ok = bytes.Cut(rest, []byte{0})
		return text, ok
	}
	if _, ok := cut(); !ok { // the user
		return nil, upgraders.ErrSyntax
	}
	l.from = len(body) - len(rest)
	switch {
	case l.flags&clientLenencProof != 0, l.flags&clientSecure != 0:
		n, size := 0, 1
		if len(rest) > 0 {
			n = int(rest[0])
		}
		if l.flags&clientLenencProof != 0 && n == 0xfc && len(rest) >= 3 {
			n, size = int(binary.LittleEndian.Uint16(rest[1:])), 3
		} else if l.flags&clientLenencProof != 0 && n > 0xfa {
			return nil, upgraders.ErrSyntax // more than a packet may hold here
		}
		if len(rest) < size+n {
			return nil, upgraders.ErrSyntax
		}
		l.proof, rest = rest[size:size+n], rest[size+n:]
	default:
		// Clients leave the NUL out of what is last.
		l.proof, _ = cut()
	}
	l.to = len(body) - len(rest)
	if l.flags&clientConnectWithDB != 0 {
		cut()
	}
	if l.flags&clientPluginAuth != 0 {
		name, _ := cut()
		l.name = string(name)
	}
	return l, nil
}

// with returns the body with another proof, of less than 251 bytes.
func (l *login) with(body, proof []byte) []byte {
	framed := append([]byte{byte(len(proof))}, proof...)
	if l.flags&(clientLenencProof|clientSecure) == 0 {
		framed = append(bytes.Clone(proof), 0)
	}
	return bytes.Join([][]byte{body[:l.from], framed, body[l.to:]}, nil)
}
