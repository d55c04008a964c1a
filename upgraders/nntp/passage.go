package nntp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	maxReply = 4 << 10 // RFC 3977, 3.1 says 512; challenges of SASL are longer
	maxLines = 100     // of a capability list
	piece    = 16 << 10
)

// A passage leads one session from the join to authentication.
type passage struct {
	greet      bool   // the client waits for the greeting
	clear      bool   // the session is in cleartext, for good
	refuseAuth bool   // and may not authenticate
	reader     bool   // its client was told that it is a reader
	pending    []byte // the command of a session in cleartext that waits

	client, backend *wire.Conn
	offer           offer
	owed            wire.Owed[expected]
	toBackend       []byte // written by up before it waits for anything
	toClient        []byte // written by down before it waits
	loose           bool   // the last response was to a command we do not know
	halved          bool   // a response was passed on in part

	// What the last response said; up reads it once nothing is owed.
	code int
}

// An expected response.
type expected struct {
	verb  string
	alien bool   // the verb is none that we know
	ends  bool   // success ends the filter
	own   string // the gateway's words, instead of the backend's
}

// join swallows the backend's greeting, or passes it on.
func (p *passage) join(_ context.Context, link *upgraders.Link) error {
	greeting, err := greet(link.Backend)
	if err != nil {
		return err
	}
	p.offer = offer{refuseAuth: p.refuseAuth, binding: link.PassBinding}
	switch {
	case p.greet:
		return upgraders.Say(link.Client, greeting)
	case p.reader:
		return modeReader(link.Backend)
	}
	return nil
}

// modeReader makes a reader's session of a mode-switching server's (RFC 3977,
// 5.3). Servers that know no other modes may answer what they like.
func modeReader(backend *wire.Conn) error {
	if err := upgraders.Say(backend, "MODE READER"); err != nil {
		return fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
	}
	answer, code, err := readReply(backend)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
	case code == 400 || code == 502:
		return &upgraders.Refusal{Reply: clip(answer)}
	}
	return nil
}

// greet reads the greeting: RFC 3977, 5.1.
func greet(backend *wire.Conn) (string, error) {
	greeting, code, err := readReply(backend)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
	case code != 200 && code != 201:
		return "", &upgraders.Refusal{Reply: clip(greeting)}
	case backend.Pipelined():
		// It would be taken for the answer to what the client says next.
		return "", fmt.Errorf("%w: %w: it speaks without being asked", upgraders.ErrTryNext, upgraders.ErrBackend)
	}
	return greeting, nil
}

// readReply takes the first line of a response, which must have a code.
func readReply(c *wire.Conn) (string, int, error) {
	line, err := c.ReadSlice(maxReply)
	switch {
	case err == wire.ErrTooLong:
		return "", 0, fmt.Errorf("%w: a response of more than %d bytes", upgraders.ErrBackend, maxReply)
	case err == io.EOF:
		return "", 0, io.ErrUnexpectedEOF
	case err != nil:
		return "", 0, err
	}
	code := codeOf(line)
	if code == 0 {
		return "", 0, fmt.Errorf("%w: a response without a code", upgraders.ErrBackend)
	}
	return string(trimEnd(line)), code, nil
}

// codeOf returns the code a line begins with, or 0: RFC 3977, 3.2.
func codeOf(line []byte) int {
	line = trimEnd(line)
	if len(line) < 3 || len(line) > 3 && line[3] != ' ' || line[0] < '1' || line[0] > '5' {
		return 0
	}
	code, err := strconv.ParseUint(string(line[:3]), 10, 16)
	if err != nil {
		return 0
	}
	return int(code)
}

// hasBlock reports whether lines up to a dot follow: RFC 3977, C, and the
// extensions before it that were taken up (RFC 2980: XGTITLE).
func (e expected) hasBlock(code int) bool {
	switch code {
	case 100, 101, 215, 220, 221, 222, 224, 225, 230, 231, 282:
		return true
	}
	return code == 211 && e.verb == "LISTGROUP"
}

func trimEnd(line []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
}

// clip keeps what a log should have of a backend's words.
func clip(words string) string { return words[:min(len(words), 200)] }

// converse filters until the client has authenticated, or compresses.
func (p *passage) converse(_ context.Context, link *upgraders.Link) error {
	p.client, p.backend = link.Client, link.Backend
	err := wire.Duplex(link.Client, link.Backend, p.up, p.down)
	if err != nil && err != io.EOF && !p.halved {
		if words := partings.To(err); words != "" {
			upgraders.Say(link.Client, words)
		}
	}
	return err
}

// errOver ends the direction that finds nothing left to filter.
var errOver = errors.New("nothing left to filter")

// up passes commands to the backend, or answers them.
func (p *passage) up() error {
	defer p.owed.Close()
	line := p.pending
	for {
		if line == nil {
			var err error
			if line, err = p.line(); err != nil {
				return err
			}
		}
		switch err := p.command(line); err {
		case nil:
		case errOver:
			return nil
		default:
			return err
		}
		line = nil
	}
}

// line takes the client's next line.
func (p *passage) line() ([]byte, error) {
	return upgraders.ReadInside(p.client, maxArguments, p.flush)
}

// command sees to one command of the client.
func (p *passage) command(line []byte) error {
	verb, arguments := split(trimEnd(line))
	e := expected{verb: verb}
	step := false // the next line is read when this one is answered
	switch verb {
	case "":
		// RFC 3977 has no such command; servers pass over it, or answer.
		e.own = unknown
	case "STARTTLS":
		e.own = alreadyTLS
		if p.clear {
			e.own = noTLS
		}
	case "AUTHINFO", "COMPRESS", "XFEATURE":
		step, e.ends = true, true
		if p.refuseAuth {
			e.own = needsTLS
		}
		if verb == "AUTHINFO" && len(arguments) > 0 && strings.EqualFold(arguments[0], "GENERIC") {
			// RFC 2980, 3.1.3.1: the exchange is a program's own.
			e.own = unknown
		}
	case "PROXY":
		e.own = unknown // a backend would believe it from the gateway
	case "ARTICLE", "BODY", "CAPABILITIES", "CHECK", "DATE", "GROUP", "HDR", "HEAD", "HELP", "LAST", "LIST", "LISTGROUP",
		"MODE", "NEWGROUPS", "NEWNEWS", "NEXT", "OVER", "QUIT", "STAT", "TAKETHIS", "XGTITLE", "XHDR", "XOVER", "XPAT":
		// RFC 3977, 3.5: these may be pipelined, and are.
	case "IHAVE", "POST":
		step = true
	default:
		step, e.alien = true, true
	}
	if e.own != "" {
		// An answer of ours keeps its place: NNTP has no NOOP, but every
		// backend answers a command that it does not know, with one line (RFC
		// 3977, 3.2.1).
		return p.send([]byte("XNOTHING\r\n"), e)
	}
	if err := p.send(line, e); err != nil {
		return err
	}
	switch {
	case verb == "TAKETHIS":
		return p.article() // RFC 4644, 2.5.1: it comes without being asked for
	case step:
		return p.step(e)
	}
	return nil
}

// step waits for what the backend says to a command, and passes on what it has
// asked for: an article, or a line of a SASL exchange.
func (p *passage) step(e expected) error {
	for {
		if err := p.flush(); err != nil {
			return err
		}
		if err := p.owed.Settle(); err != nil {
			return err
		}
		switch code := p.code; {
		case e.ends && code/100 == 2:
			return errOver
		case code == 335, code == 340:
			if err := p.send(nil, expected{verb: e.verb, alien: e.alien}); err != nil {
				return err
			}
			return p.article()
		case e.verb == "AUTHINFO" && code == 383: // RFC 4643, 2.4.1
			line, err := p.line()
			if err != nil {
				return err
			}
			if err := p.send(line, e); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// article passes on what the client sends up to its dot.
func (p *passage) article() error {
	if err := p.flush(); err != nil {
		return err
	}
	return copyBlock(p.backend, p.client)
}

// send adds a line to what goes to the backend.
func (p *passage) send(line []byte, e expected) error {
	if err := p.owed.Add(e, p.flush); err != nil {
		return err
	}
	p.toBackend = append(p.toBackend, line...)
	return nil
}

func (p *passage) flush() error {
	if len(p.toBackend) == 0 {
		return nil
	}
	_, err := p.backend.Write(p.toBackend)
	p.toBackend = p.toBackend[:0]
	return err
}
