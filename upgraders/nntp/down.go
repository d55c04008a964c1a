package nntp

import (
	"bytes"
	"fmt"
	"io"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// down passes responses to the client, corrected where they list capabilities.
func (p *passage) down() error {
	defer p.owed.Close()
	for {
		over, err := p.response()
		if err != nil || over {
			if ferr := p.flushClient(); err == nil {
				err = ferr
			}
			if over {
				p.owed.Paid() // not before the client has its response
			}
			return err
		}
	}
}

// response passes one response, and reports whether it ended the filter.
func (p *passage) response() (over bool, err error) {
	line, err := p.responseLine()
	if err != nil {
		return false, err
	}
	code := codeOf(line)
	e, asked := p.owed.Next()
	switch {
	case code == 0 || !asked:
		return false, p.unasked(code, line)
	case e.own != "" && code != 400:
		p.toClient = append(append(p.toClient, e.own...), "\r\n"...)
	case code == 101 && e.verb == "CAPABILITIES":
		p.toClient = append(p.toClient, line...)
		p.halved = true
		err = p.list()
	case e.hasBlock(code):
		p.toClient = append(p.toClient, line...)
		err = p.block()
	default:
		p.toClient = append(p.toClient, line...)
	}
	if err != nil {
		return false, err
	}
	p.halved = false
	p.code, p.loose = code, e.alien && code < 300
	if e.ends && code/100 == 2 {
		return true, nil
	}
	p.owed.Paid()
	return false, nil
}

// unasked passes what nobody has asked for: the rest of a response to a command
// that we do not know, or 400, which is all that a server says of its own
// accord (RFC 3977, 3.2.1).
func (p *passage) unasked(code int, line []byte) error {
	switch {
	case p.loose && code == 0:
		p.backend.Putback(line)
		p.loose = false
		err := p.block()
		p.halved = err != nil
		return err
	case p.loose, code == 400:
		p.toClient = append(p.toClient, line...)
		return nil
	}
	if code == 0 {
		return fmt.Errorf("%w: a response without a code", upgraders.ErrBackend)
	}
	// It would be taken for the answer to what the client says next.
	return fmt.Errorf("%w: it speaks without being asked", upgraders.ErrBackend)
}

// list passes the lines of a capability list up to the dot that ends it.
func (p *passage) list() error {
	for range maxLines {
		line, err := p.responseLine()
		if err != nil {
			return broken(err)
		}
		words := string(trimEnd(line))
		if words == "." {
			p.toClient = append(p.toClient, line...)
			return nil
		}
		if shown := p.offer.show(words); shown != "" {
			p.toClient = append(append(p.toClient, shown...), "\r\n"...)
		}
	}
	return fmt.Errorf("%w: a capability list of more than %d lines", upgraders.ErrBackend, maxLines)
}

// block passes lines up to the dot that ends them.
func (p *passage) block() error {
	p.halved = true
	if err := p.flushClient(); err != nil {
		return err
	}
	return broken(copyBlock(p.client, p.backend))
}

// broken says whose fault an end of stream inside a response is.
func broken(err error) error {
	if err = cutShort(err); err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: %w", upgraders.ErrBackend, err)
	}
	return err
}

// responseLine takes a line from the backend. What the client should have is
// written before anything is waited for.
func (p *passage) responseLine() ([]byte, error) {
	if bytes.IndexByte(p.backend.Unread(), '\n') < 0 {
		if err := p.flushClient(); err != nil {
			return nil, err
		}
	}
	line, err := p.backend.ReadSlice(maxReply)
	switch {
	case err == io.EOF && p.backend.Buffered() > 0:
		return nil, broken(err)
	case err == wire.ErrTooLong:
		return nil, fmt.Errorf("%w: a response of more than %d bytes", upgraders.ErrBackend, maxReply)
	}
	return line, err
}

func (p *passage) flushClient() error {
	if len(p.toClient) == 0 {
		return nil
	}
	_, err := p.client.Write(p.toClient)
	p.toClient = p.toClient[:0]
	return err
}

// cutShort makes an end of stream inside a block or a response what it is.
func cutShort(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// copyBlock passes lines up to and with the dot that ends them, in large
// pieces. What comes behind goes back.
func copyBlock(to io.Writer, from *wire.Conn) error {
	buf := make([]byte, piece)
	var b block
	for {
		n, err := from.Read(buf)
		end := b.scan(buf[:n])
		if _, werr := to.Write(buf[:end]); werr != nil {
			return werr
		}
		if b == dotCRLF {
			from.Putback(buf[end:n])
			return nil
		}
		if err != nil {
			return cutShort(err)
		}
	}
}

// A block is how far the end of a multi-line block has come: RFC 3977, 3.1.1
// has it end with CRLF . CRLF and nothing else. Its zero value is where it
// begins, which may be its end.
type block uint8

const (
	lineStart block = iota
	dot
	dotCR
	dotCRLF // the end
	inLine
	inLineCR
)

// scan reads on and returns how many bytes belong to the block.
func (b *block) scan(p []byte) int {
	for i := 0; i < len(p); i++ {
		if *b == inLine {
			next := bytes.IndexByte(p[i:], '\r')
			if next < 0 {
				return len(p)
			}
			i += next
		}
		switch c := p[i]; {
		case *b == lineStart && c == '.':
			*b = dot
		case *b == dot && c == '\r':
			*b = dotCR
		case *b == dotCR && c == '\n':
			*b = dotCRLF
			return i + 1
		case *b == inLineCR && c == '\n':
			*b = lineStart
		case c == '\r':
			*b = inLineCR
		default:
			*b = inLine
		}
	}
	return len(p)
}
