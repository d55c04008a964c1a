package telnet

import (
	"context"
	"io"
	"sync"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	copyBuffer = 4 << 10
	maxOwed    = 32 * 3 // of refusals that wait for the end of a subnegotiation
	verbLength = 8      // of the longest that upgraders.IsHTTP knows
)

// converse passes everything but START_TLS, which is refused to whoever asks:
// the client has its TLS, or has gone on without, and the backend's leg is the
// gateway's. There is no end of it: Telnet may negotiate at any time.
func converse(_ context.Context, link *upgraders.Link) error {
	client, backend := &side{conn: link.Client}, &side{conn: link.Backend}
	var opening []byte // of the client's data, in which HTTP would show
	check := func(p []byte) error {
		if room := verbLength - len(opening); room > 0 {
			opening = append(opening, p[:min(len(p), room)]...)
			if upgraders.IsHTTP(opening) {
				return upgraders.ErrHTTP
			}
		}
		return nil
	}
	err := wire.Duplex(link.Client, link.Backend,
		func() error { return pass(client, backend, check) },
		func() error { return pass(backend, client, func([]byte) error { return nil }) })
	if words := partings.To(err); err != nil && words != "" {
		client.answer([]byte("\r\n" + words + "\r\n"))
	}
	return err
}

// pass passes what one side says to the other until it ends.
func pass(from, to *side, check func([]byte) error) error {
	var f filter
	buf, out := make([]byte, copyBuffer), make([]byte, 0, copyBuffer)
	for {
		n, err := from.conn.Read(buf)
		if n > 0 {
			if err := check(buf[:n]); err != nil {
				return err
			}
			var refusals []byte
			out, refusals = f.filter(out[:0], buf[:n])
			if err := to.pass(out, f.inside()); err != nil {
				return err
			}
			if err := from.answer(refusals); err != nil {
				return err
			}
		}
		if err != nil {
			if err == io.EOF && len(f.held) > 0 {
				// Half a command: it is passed as it came.
				if werr := to.pass(f.held, false); werr != nil {
					return werr
				}
			}
			return err
		}
	}
}

// A side is one end of the session. Both directions write to it: one what the
// other side says, the other the gateway's refusals, which must not land in
// the middle of a subnegotiation.
type side struct {
	conn   *wire.Conn
	mu     sync.Mutex
	inside bool
	owed   []byte
}

func (s *side) pass(p []byte, inside bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inside = inside; !inside {
		p = append(p, s.owed...)
		s.owed = nil
	}
	return s.write(p)
}

func (s *side) answer(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inside {
		if len(s.owed) < maxOwed {
			s.owed = append(s.owed, p...)
		}
		return nil
	}
	return s.write(p)
}

func (s *side) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := s.conn.Write(p)
	return err
}

// A filter takes START_TLS out of one direction.
type filter struct {
	state state
	held  []byte // the beginning of a command that may be about START_TLS
}

type state uint8

const (
	inData     state = iota
	afterIAC         // IAC is held
	afterVerb        // and WILL, WONT, DO, DONT or SB
	inSub            // a subnegotiation that passes
	inSubIAC         // and an IAC in it
	inStartTLS       // a subnegotiation that is dropped
	inStartIAC       // and an IAC in it
)

// inside reports whether what was passed last is in the middle of a
// subnegotiation.
func (f *filter) inside() bool { return f.state == inSub || f.state == inSubIAC }

// filter appends to out what passes of in, and returns the refusals that are
// due to who said it.
func (f *filter) filter(out, in []byte) (passed, refusals []byte) {
	for _, b := range in {
		switch f.state {
		case inData:
			if b == cmdIAC {
				f.held, f.state = append(f.held, b), afterIAC
				continue
			}
			out = append(out, b)
		case afterIAC:
			if b >= cmdSB && b <= cmdDONT {
				f.held, f.state = append(f.held, b), afterVerb
				continue
			}
			out, f.state = f.release(out, b), inData
		case afterVerb:
			verb := f.held[1]
			switch {
			case b != optStartTLS && verb == cmdSB && b == cmdIAC: // no option at all: IAC SB IAC SE
				out, f.state = f.release(out, b), inSubIAC
			case b != optStartTLS && verb == cmdSB:
				out, f.state = f.release(out, b), inSub
			case b != optStartTLS:
				out, f.state = f.release(out, b), inData
			default:
				f.held, f.state = f.held[:0], inData
				switch verb {
				case cmdSB:
					f.state = inStartTLS
				case cmdWILL:
					refusals = append(refusals, negotiate(cmdDONT, optStartTLS)...)
				case cmdDO:
					refusals = append(refusals, negotiate(cmdWONT, optStartTLS)...)
				}
			}
		case inSub, inSubIAC:
			out = append(out, b)
			f.state = inSubcommand(f.state, b, inSub, inSubIAC)
		case inStartTLS, inStartIAC:
			f.state = inSubcommand(f.state, b, inStartTLS, inStartIAC)
		}
	}
	return out, refusals
}

// inSubcommand is where a byte of a subnegotiation leads: IAC SE ends it.
func inSubcommand(now state, b byte, plain, iac state) state {
	switch {
	case now == plain && b == cmdIAC:
		return iac
	case now == iac && b == cmdSE:
		return inData
	}
	return plain
}

func (f *filter) release(out []byte, b byte) []byte {
	out = append(append(out, f.held...), b)
	f.held = f.held[:0]
	return out
}
