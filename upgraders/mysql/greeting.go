package mysql

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/sallyport/sallyport/upgraders"
)

// maxGreeting bounds the server's first packet. What it has to say of itself
// is a tenth of that.
const maxGreeting = 4 << 10

// A greeting is the server's first packet: HandshakeV10.
type greeting struct {
	packet packet
	flags  int    // where the lower half of them is
	nonce  []byte // of the login: 20 bytes, or fewer of a server that knows no plugins
}

// parseGreeting takes the server's first packet apart. One that refuses the
// client is an error that wraps ErrTryNext.
func parseGreeting(p packet) (g greeting, err error) {
	body := p.body()
	version := bytes.IndexByte(body, 0)
	flags := version + 1 + 4 + 8 + 1 // behind thread, first part of the nonce, filler
	switch {
	case p.kind() == isError:
		return g, p.refused()
	case p.kind() != 10 || version < 0 || len(body) < flags+2:
		return g, fmt.Errorf("%w: no greeting of protocol 10", upgraders.ErrBackend)
	case binary.LittleEndian.Uint16(body[flags:])&clientProtocol41 == 0:
		return g, fmt.Errorf("%w: a server from before 4.1", upgraders.ErrBackend)
	}
	g = greeting{packet: bytes.Clone(p), flags: header + flags}
	g.nonce = append(g.nonce, body[flags-9:flags-1]...)
	// Then come: character set, status, the flags' upper half, the length of
	// the nonce, ten bytes of filler, and the nonce's second part with a NUL.
	if rest := flags + 2 + 1 + 2 + 2 + 1 + 10; len(body) >= rest+12 {
		g.nonce = append(g.nonce, body[rest:rest+12]...)
	}
	return g, nil
}

// offers reports whether the server offers TLS.
func (g greeting) offers() bool {
	return binary.LittleEndian.Uint16(g.packet[g.flags:])&clientSSL != 0
}

// offering is the greeting with TLS offered or not, and nothing else changed.
func (g greeting) offering(ssl bool) packet {
	p := bytes.Clone(g.packet)
	low := binary.LittleEndian.Uint16(p[g.flags:]) &^ clientSSL
	if ssl {
		low |= clientSSL
	}
	binary.LittleEndian.PutUint16(p[g.flags:], low)
	return p
}

// standIn is what a probe finds in the place of a greeting that it has read in
// cleartext, before it asked for TLS: its number is that of the request.
func standIn() []byte {
	low := binary.LittleEndian.AppendUint16(nil, clientProtocol41|clientSSL)
	return newPacket(1, []byte("\x0astand-in\x00"), make([]byte, 4+8+1), low)
}
