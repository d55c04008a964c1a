package ftp

import (
	"fmt"
	"io"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// piece is how much of a long reply is kept before it is written.
const piece = 16 << 10

// down passes replies to the client, corrected where they speak of features
// and addresses, and held back until the data are where they belong.
func (p *passage) down() error {
	defer p.owed.Close()
	for {
		final, err := p.reply()
		if ferr := p.flushClient(); err == nil {
			err = ferr
		}
		if err != nil {
			return err
		}
		if final {
			p.owed.Paid() // not before the client has its reply
		}
	}
}

// reply passes one reply, and reports whether it is the last to its command.
func (p *passage) reply() (final bool, err error) {
	line, err := p.line()
	if err != nil {
		return false, err
	}
	n, more := code(line)
	if n == 0 {
		return false, errCodeless
	}
	c, asked := p.owed.Next()
	if !asked {
		if n == 421 { // all that a server says of its own accord
			return false, p.pass(line, n, more)
		}
		// It would be taken for the answer to what the client says next.
		return false, fmt.Errorf("%w: it speaks without being asked", upgraders.ErrBackend)
	}
	own := ""
	switch {
	case c.kind == ofTransfer && n < 200:
		if !p.begin(c) {
			return false, p.swallow(n, more)
		}
	case c.kind == ofTransfer:
		own = p.conclude(c, n)
	case c.kind == ofFeatures && !p.clear:
		return true, p.features(line, n, more)
	case c.kind == ofFeatures && n == 211:
		return true, p.features(line, n, more)
	case (c.kind == ofPassive || c.kind == ofPort) && (n == 227 || n == 229):
		own = p.open(c, string(line), n)
	}
	if own != "" {
		p.toClient = append(append(p.toClient, own...), "\r\n"...)
		return true, p.swallow(n, more)
	}
	return n >= 200, p.pass(line, n, more)
}

// pass passes a reply on, given its first line.
func (p *passage) pass(line []byte, n int, more bool) error {
	p.toClient = append(p.toClient, line...)
	for more {
		p.halved = true
		if len(p.toClient) >= piece {
			if err := p.flushClient(); err != nil {
				return err
			}
		}
		line, err := p.line()
		if err != nil {
			return broken(err)
		}
		p.toClient = append(p.toClient, line...)
		more = !ends(line, n)
	}
	p.halved = false
	return nil
}

// swallow takes the rest of a reply of which the client gets nothing.
func (p *passage) swallow(n int, more bool) error {
	for more {
		line, err := p.line()
		if err != nil {
			return broken(err)
		}
		more = !ends(line, n)
	}
	return nil
}

// features passes the answer to FEAT: what is true of the session, and what the
// gateway does itself. A backend without an answer has no features.
func (p *passage) features(line []byte, n int, more bool) error {
	o := offer{data: !p.clear}
	list := "211-Features:\r\n"
	if n != 211 || !more {
		p.toClient = append(p.toClient, list+o.own()+"211 End\r\n"...)
		return p.swallow(n, more)
	}
	for range maxLines {
		line, err := p.line()
		if err != nil {
			return broken(err)
		}
		if ends(line, n) {
			p.toClient = append(p.toClient, list+o.own()...)
			p.toClient = append(p.toClient, line...)
			return nil
		}
		if feature := featureOf(string(trimEnd(line))); o.shows(feature) {
			list += " " + feature + "\r\n"
		}
	}
	return fmt.Errorf("%w: a list of more than %d features", upgraders.ErrBackend, maxLines)
}

// featureOf takes a line of the answer to FEAT apart. RFC 2389, 3.2 has a space
// before each feature; some servers repeat the code.
func featureOf(line string) string {
	return strings.TrimSpace(strings.TrimPrefix(line, "211-"))
}

// line takes a line from the backend.
func (p *passage) line() ([]byte, error) {
	line, err := p.backend.ReadSlice(maxReply)
	switch {
	case err == wire.ErrTooLong:
		return nil, errLong
	case err == io.EOF && p.backend.Buffered() > 0:
		return nil, broken(err)
	}
	return line, err
}

// broken says whose fault an end of stream inside a reply is.
func broken(err error) error {
	if err == io.EOF {
		return fmt.Errorf("%w: %w", upgraders.ErrBackend, io.ErrUnexpectedEOF)
	}
	return err
}

func (p *passage) flushClient() error {
	if len(p.toClient) == 0 {
		return nil
	}
	_, err := p.client.Write(p.toClient)
	p.toClient = p.toClient[:0]
	return err
}
