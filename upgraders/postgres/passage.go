package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	copyBuffer = 8 << 10
	maxOffer   = 8 << 10 // of an AuthenticationSASL message
	maxKey     = 4 + 4 + 256
)

// Authentication requests that carry no secret over the wire: AuthenticationOk,
// and the final message of a SASL exchange.
const (
	authOK   = 0
	authSASL = 10
)

// A passage leads one session from its startup message to ReadyForQuery.
type passage struct {
	keys       *keyTable
	clear      bool // the session is in cleartext, for good
	refuseAuth bool // and may not authenticate
}

func (p *passage) handover() upgraders.Handover {
	return upgraders.Handover{
		Join:     p.join,
		Converse: p.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			code, words := "57P03", "the database system is not available; try again later"
			if errors.Is(cause, upgraders.ErrLimit) {
				code, words = "53300", "too many connections; try again later"
			}
			_, err := client.Write(fatal(code, words))
			return err
		},
	}
}

// join gives the startup message to the backend. It stays in the client's
// buffer until a backend has it, so that the next server can be tried.
func (p *passage) join(_ context.Context, link *upgraders.Link) error {
	head, err := link.Client.Peek(4)
	if err != nil {
		return err
	}
	length := int(binary.BigEndian.Uint32(head))
	message, err := link.Client.Peek(length)
	if err != nil {
		return err
	}
	if _, err := link.Backend.Write(message); err != nil {
		return fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
	}
	// A server that is starting up, or full, says so at once: it counts as
	// down for this session.
	first, err := link.Backend.Peek(1)
	if err != nil {
		return fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
	}
	if first[0] == 'E' {
		if code, err := sqlstate(link.Backend); err != nil || code == "57P03" || code == "53300" {
			return &upgraders.Refusal{Reply: "SQLSTATE " + code}
		}
	}
	link.Client.Discard(length)
	return nil
}

// sqlstate looks at the code of an ErrorResponse, which stays in the buffer.
func sqlstate(c *wire.Conn) (string, error) {
	head, err := c.Peek(5)
	if err != nil {
		return "", err
	}
	length := int(binary.BigEndian.Uint32(head[1:]))
	if length < 4 || length > maxStartup {
		return "", wire.ErrTooLong
	}
	message, err := c.Peek(1 + length)
	if err != nil {
		return "", err
	}
	for field := range strings.SplitSeq(string(message[5:]), "\x00") {
		if code, ok := strings.CutPrefix(field, "C"); ok && len(code) == 5 {
			return code, nil
		}
	}
	return "", nil
}

// converse filters until the backend is ready for queries.
func (p *passage) converse(_ context.Context, link *upgraders.Link) error {
	f := &filter{passage: p, link: link}
	err := wire.Duplex(link.Client, link.Backend, f.up, f.down)
	if f.betweenMessages {
		if h, _ := turnedAway(err); len(h.Reply) > 0 {
			link.Client.Write(h.Reply)
		}
	}
	return err
}

type filter struct {
	*passage
	link            *upgraders.Link
	betweenMessages bool // the client may be told something
	inHand          []byte
}

// up passes what the client sends: passwords and the lines of a mechanism,
// none of which changes what the filter is for.
func (f *filter) up() error {
	buf := make([]byte, copyBuffer)
	for {
		n, err := f.link.Client.Read(buf)
		if n > 0 {
			if _, werr := f.link.Backend.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		if err != nil {
			return err
		}
	}
}

// down passes the backend's messages up to ReadyForQuery.
func (f *filter) down() error {
	backend := f.link.Backend
	for {
		f.betweenMessages = true
		if backend.Buffered() < 5 {
			if err := f.flush(); err != nil {
				return err
			}
		}
		head, err := backend.Peek(5)
		if err != nil {
			if err == io.EOF && backend.Buffered() > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		f.betweenMessages = false
		kind, length := head[0], int64(binary.BigEndian.Uint32(head[1:]))+1
		if length < 5 {
			return fmt.Errorf("%w: a message of %d bytes", upgraders.ErrBackend, length)
		}
		switch kind {
		case 'R':
			err = f.authentication(length)
		case 'K':
			err = f.key(length)
		case 'Z':
			// Opaque from here, this message included.
			return f.flush()
		default:
			err = f.pass(length)
		}
		if err != nil {
			return err
		}
	}
}

// authentication passes a request for authentication. Channel binding ends at
// the gateway, so the mechanisms that need it are taken out of the offer (RFC
// 5802, 6).
func (f *filter) authentication(length int64) error {
	if length < 9 {
		return fmt.Errorf("%w: an authentication request of %d bytes", upgraders.ErrBackend, length)
	}
	head, err := f.link.Backend.Peek(9)
	if err != nil {
		return err
	}
	request := binary.BigEndian.Uint32(head[5:])
	if f.refuseAuth && request != authOK {
		f.inHand = append(f.inHand, fatal("28000", "TLS is required to authenticate; set sslmode=require")...)
		if err := f.flush(); err != nil {
			return err
		}
		return upgraders.ErrNeedsTLS
	}
	if request != authSASL || f.link.PassBinding {
		return f.pass(length)
	}
	if length > maxOffer {
		return fmt.Errorf("%w: an offer of %d bytes", upgraders.ErrBackend, length)
	}
	message, err := f.link.Backend.Peek(int(length))
	if err != nil {
		return err
	}
	var kept []byte
	for name := range strings.SplitSeq(strings.TrimRight(string(message[9:]), "\x00"), "\x00") {
		if !strings.HasSuffix(strings.ToUpper(name), "-PLUS") && name != "" {
			kept = append(append(kept, name...), 0)
		}
	}
	kept = append(kept, 0)
	f.inHand = binary.BigEndian.AppendUint32(append(f.inHand, 'R'), uint32(8+len(kept)))
	f.inHand = append(binary.BigEndian.AppendUint32(f.inHand, authSASL), kept...)
	f.link.Backend.Discard(int(length))
	return nil
}

// key notes where a CancelRequest with this key belongs.
func (f *filter) key(length int64) error {
	if length > 1+maxKey {
		return f.pass(length)
	}
	message, err := f.link.Backend.Peek(int(length))
	if err != nil {
		return err
	}
	f.keys.note(string(message[5:]), f.link.Server)
	return f.pass(length)
}

// pass passes a message of any length.
func (f *filter) pass(length int64) error {
	for length > 0 {
		if f.link.Backend.Buffered() == 0 {
			if err := f.flush(); err != nil {
				return err
			}
		}
		piece, err := f.link.Backend.Peek(1)
		if err != nil {
			return incomplete(err)
		}
		piece = f.link.Backend.Unread()
		piece = piece[:min(int64(len(piece)), length)]
		f.inHand = append(f.inHand, piece...)
		f.link.Backend.Discard(len(piece))
		length -= int64(len(piece))
		if len(f.inHand) >= copyBuffer {
			if err := f.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes what the client should have before anything is waited for.
func (f *filter) flush() error {
	if len(f.inHand) == 0 {
		return nil
	}
	_, err := f.link.Client.Write(f.inHand)
	f.inHand = f.inHand[:0]
	return err
}
