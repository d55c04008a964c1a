package mysql

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	// stranger is the user whom a probe knocks as. Nobody should have that name.
	stranger = "sallyport"

	maxRounds = 8 // of a login

	characterSet = 33 // utf8mb3, which every server knows
)

// What the gateway itself is capable of. It never gets as far as to use it.
const ownFlags = 1 | clientProtocol41 | clientSecure | clientPluginAuth

// probe knocks as somebody whom the server does not know. To hang up on its
// greeting would be less, but servers count that against the address, and lock
// out one that does it too often (max_connect_errors); to be refused does not
// count. There is nothing to learn that a client is told before TLS.
func probe(_ context.Context, link *upgraders.Link) (upgraders.Capabilities, error) {
	answer, err := knock(link.Backend, stranger)
	if err != nil {
		return nil, err
	}
	switch answer.code() {
	case 1040, 1053, 1129, 1130, 1203, 3159: // full, shutting down, blocked, not allowed, full, wants TLS
		if answer.kind() == isError {
			return nil, answer.refused()
		}
	}
	return upgraders.Capabilities{"PROTOCOL 10"}, nil
}

// audit knocks as root, without a password. Who comes from somewhere that root
// may not come from is whoever may come from there: anybody, where there are
// anonymous accounts.
func audit(_ context.Context, link *upgraders.Link, told upgraders.Told) ([]upgraders.Finding, error) {
	answer, err := knock(link.Backend, "root")
	from, who := "the gateway's address", "'root'@'GATEWAY' and ''@'GATEWAY'"
	if told.Proxied {
		from, who = "anywhere", "'root'@'%' and ''@'%'"
	}
	switch {
	case err != nil:
		return nil, err
	case answer.kind() == isOK:
		return []upgraders.Finding{{
			Severity: upgraders.Wrong,
			What:     "lets a client from " + from + " in as root, without a password",
			Mend:     "give the accounts that " + who + " stand for a password, or drop them",
		}}, nil
	case answer.code() == 3159:
		return []upgraders.Finding{{
			Severity: upgraders.Wrong,
			What:     "wants TLS of the gateway",
			Mend:     "write tls { mode = \"starttls\" } in the backend, or require_secure_transport = OFF in the server",
		}}, nil
	}
	return nil, nil
}

// knock hears a server's greeting and logs in with an empty password. It
// takes its leave where that is enough, and returns the OK or ERR packet.
func knock(backend *wire.Conn, user string) (packet, error) {
	p, err := peek(backend, maxGreeting)
	if err != nil {
		return nil, err
	}
	seq := p.seq() + 1
	if _, err := parseGreeting(p); err != nil {
		return nil, err
	}
	backend.Discard(len(p))
	return logIn(backend, seq, user)
}

// leave is what a probe would say, to a server whose greeting was heard, and
// for the same reason: the client has left, or was turned away.
func leave(_ context.Context, backend *wire.Conn) { logIn(backend, 1, stranger) }

// logIn logs in with an empty password. seq is the number of its first packet.
func logIn(backend *wire.Conn, seq byte, user string) (p packet, err error) {
	own := uint32(ownFlags)
	if seq > 1 { // the stand-in: TLS was asked for
		own |= clientSSL
	}
	answer := newPacket(seq, about(own), []byte(user), []byte("\x00\x00mysql_native_password\x00"))
	for range maxRounds {
		if _, err := backend.Write(answer); err != nil {
			return nil, err
		}
		if p, err = peek(backend, maxPacket); err != nil {
			return nil, err
		}
		switch p.kind() {
		case isError:
			return p, nil
		case isOK:
			_, err := backend.Write(newPacket(0, []byte{1})) // COM_QUIT
			return p, err
		}
		answer = newPacket(p.seq()+1, nobodys(p))
		backend.Discard(len(p))
	}
	return nil, fmt.Errorf("%w: a login of more than %d rounds", upgraders.ErrBackend, maxRounds)
}

// nobodys is the proof of who has no password. Servers count a proof of the
// wrong length as a broken connection.
func nobodys(p packet) []byte {
	if p.kind() == isSwitch && bytes.HasPrefix(p.body()[1:], []byte("client_ed25519\x00")) {
		return make([]byte, 64)
	}
	return nil
}

// about is what a client says of itself before the name of its user.
func about(own uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, own)
	b = binary.LittleEndian.AppendUint32(b, maxPacket)
	return append(append(b, characterSet), make([]byte, fixed-len(b)-1)...)
}

// request asks a server for TLS.
func request(_ context.Context, backend *wire.Conn, _ string) error {
	p, err := peek(backend, maxGreeting)
	if err != nil {
		return err
	}
	g, err := parseGreeting(p)
	if err != nil {
		return err
	}
	if !g.offers() {
		return fmt.Errorf("%w in the server's greeting (CLIENT_SSL)", upgraders.ErrNotOffered)
	}
	backend.Discard(len(p))
	_, err = backend.Write(newPacket(g.packet.seq()+1, about(ownFlags|clientSSL)))
	return err
}
