package pop3

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// down passes replies to the client, corrected where they list capabilities.
func (p *passage) down() error {
	defer p.owed.Close()
	for {
		over, err := p.reply()
		if err != nil || over {
			if ferr := p.flushClient(); err == nil {
				err = ferr
			}
			if over {
				p.owed.Paid() // not before the client has its +OK
			}
			return err
		}
	}
}

// reply passes one reply, and reports whether it authenticated the client.
func (p *passage) reply() (over bool, err error) {
	line, err := p.replyLine()
	if err != nil && err != wire.ErrTooLong {
		return false, err
	}
	e, asked := p.owed.Next()
	ok := isOK(string(trimEnd(line)))
	switch {
	case !asked && ok && !p.asked.Load():
		return false, errEarly
	case !asked:
		// The backend speaks of itself: it is about to close.
		return false, p.pass(line, err)
	}
	switch e.kind {
	case ofOwnAnswer:
		err = p.swallow(err)
		p.toClient = append(append(p.toClient, e.own...), "\r\n"...)
	case ofCAPA, ofMechanisms, ofList:
		if err = p.pass(line, err); err == nil && ok {
			err = p.list(e.kind)
		}
	case ofAuth:
		p.more = len(line) > 1 && line[0] == '+' && (line[1] == ' ' || line[1] == '\r' || line[1] == '\n')
		p.authenticated = ok
		if err = p.pass(line, err); ok {
			return err == nil, err
		}
	default:
		err = p.pass(line, err)
	}
	p.owed.Paid()
	return false, err
}

// list passes the lines up to the dot that ends them.
func (p *passage) list(k kind) error {
	p.halved = true
	for range maxLines {
		line, err := p.replyLine()
		if err == wire.ErrTooLong {
			return fmt.Errorf("%w: a line of more than %d bytes in a list", upgraders.ErrBackend, maxReply)
		}
		if err != nil {
			return err
		}
		words := string(trimEnd(line))
		shown := words
		switch {
		case words == ".":
			p.toClient = append(p.toClient, ".\r\n"...)
			p.halved = false
			return nil
		case k == ofCAPA:
			shown = p.offer.show(words)
		case k == ofMechanisms && !p.offer.mechanism(strings.TrimSpace(words)):
			shown = ""
		}
		if shown != "" {
			p.toClient = append(append(p.toClient, shown...), "\r\n"...)
		}
	}
	return fmt.Errorf("%w: a list of more than %d lines", upgraders.ErrBackend, maxLines)
}

// replyLine takes a line from the backend, or a piece of one with
// wire.ErrTooLong. What the client should have is written before anything is
// waited for.
func (p *passage) replyLine() ([]byte, error) {
	if bytes.IndexByte(p.backend.Unread(), '\n') < 0 {
		if err := p.flushClient(); err != nil {
			return nil, err
		}
	}
	line, err := p.backend.ReadSlice(maxReply)
	if err == io.EOF && p.backend.Buffered() > 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return line, err
}

// pass passes a line on, given the error that its first piece came with.
func (p *passage) pass(line []byte, err error) error {
	p.toClient = append(p.toClient, line...)
	for err == wire.ErrTooLong {
		p.halved = true
		line, err = p.replyLine()
		p.toClient = append(p.toClient, line...)
	}
	p.halved = err != nil
	return err
}

// swallow takes the rest of a line of which the client gets nothing.
func (p *passage) swallow(err error) error {
	for err == wire.ErrTooLong {
		_, err = p.replyLine()
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
