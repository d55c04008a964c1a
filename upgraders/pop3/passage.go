package pop3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	maxReply = 512 + 512 // RFC 2449, 4 says 512; AUTH challenges are longer, and pass in pieces
	maxLines = 100       // of a capability list
)

// A passage leads one session from the join to authentication.
type passage struct {
	greet      bool   // the client waits for the greeting
	clear      bool   // the session is in cleartext, for good
	refuseAuth bool   // and may not authenticate
	pending    string // the command of a session in cleartext that waits

	client, backend *wire.Conn
	offer           offer
	owed            wire.Owed[expected]
	asked           atomic.Bool // the backend has been asked something
	toBackend       []byte      // written by up before it waits for anything
	toClient        []byte      // written by down before it waits
	halved          bool        // the client has got the beginning of an answer only

	// What the last reply said; up reads it once nothing is owed.
	authenticated bool
	more          bool // the backend asks for another line of the mechanism's
}

// An expected reply.
type expected struct {
	kind kind
	own  string // the gateway's words, instead of the backend's
}

type kind uint8

const (
	ofCommand    kind = iota // one line
	ofList                   // +OK and lines up to "."
	ofCAPA                   // the same, corrected
	ofMechanisms             // AUTH without an argument: the same, corrected
	ofAuth                   // +OK authenticates; "+ " asks for more
	ofOwnAnswer              // is replaced
)

// join swallows the backend's greeting, or passes it on, and tells the backend
// who the client is.
func (p *passage) join(_ context.Context, link *upgraders.Link) error {
	greeting, _, err := introduce(link)
	if err != nil {
		return err
	}
	p.offer = offer{clear: p.clear, auth: !p.refuseAuth, binding: link.PassBinding}
	if p.greet {
		return upgraders.Say(link.Client, greeting)
	}
	return nil
}

// introduce reads the greeting and sends the client facts that are configured.
// It returns the greeting for the client, and whether the backend offered to
// take facts.
func introduce(link *upgraders.Link) (greeting string, offered bool, err error) {
	greeting, err = readLine(link.Backend)
	if err != nil {
		return "", offered, fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
	}
	if !isOK(greeting) {
		return "", offered, &upgraders.Refusal{Reply: clip(greeting)}
	}
	// Dovecot says in the greeting whom it lets say XCLIENT.
	offered = strings.Contains(greeting, "[XCLIENT]")
	greeting = strings.Replace(greeting, " [XCLIENT]", "", 1)
	if !link.Forward.XCLIENT {
		return greeting, offered, nil
	}
	if !offered {
		// Without client facts the backend would take every client for the
		// gateway, and trust it as such.
		link.Log("the backend does not offer XCLIENT to the gateway: trust its address there (Dovecot: login_trusted_networks), or use PROXY (send = \"proxy-v2\")")
		return "", offered, fmt.Errorf("%w: XCLIENT is not offered", upgraders.ErrTryNext)
	}
	if err := upgraders.Say(link.Backend, xclient(link.Facts)); err != nil {
		return "", offered, fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
	}
	answer, err := readLine(link.Backend)
	if err != nil {
		return "", offered, fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
	}
	if !isOK(answer) {
		return "", offered, &upgraders.Refusal{Reply: clip(answer)}
	}
	return greeting, offered, nil
}

// xclient is Dovecot's command.
func xclient(f upgraders.Facts) string {
	words := []string{"XCLIENT"}
	add := func(addr, port string, a netip.AddrPort) {
		if a.IsValid() {
			words = append(words, addr+"="+a.Addr().Unmap().WithZone("").String(), fmt.Sprintf("%s=%d", port, a.Port()))
		}
	}
	add("ADDR", "PORT", f.Client)
	add("DESTADDR", "DESTPORT", f.Local)
	return strings.Join(append(words, fmt.Sprintf("TTL=%d", f.TTL)), " ")
}

// readLine takes one reply line, whole, from a backend.
func readLine(c *wire.Conn) (string, error) {
	line, err := c.ReadSlice(maxReply)
	if err == wire.ErrTooLong {
		err = fmt.Errorf("%w: a reply of more than %d bytes", upgraders.ErrBackend, maxReply)
	}
	return string(trimEnd(line)), err
}

func trimEnd(line []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
}

func isOK(line string) bool {
	return len(line) >= 3 && strings.EqualFold(line[:3], "+OK") && (len(line) == 3 || line[3] == ' ')
}

// clip keeps what a log should have of a backend's words.
func clip(words string) string { return words[:min(len(words), 200)] }

// converse filters until the client has authenticated.
func (p *passage) converse(_ context.Context, link *upgraders.Link) error {
	p.client, p.backend = link.Client, link.Backend
	if early := p.backend.Unread(); len(early) > 0 && early[0] == '+' {
		return errEarly
	}
	err := wire.Duplex(link.Client, link.Backend, p.up, p.down)
	if err != nil && err != io.EOF {
		if words := partings.To(err); words != "" && !p.halved {
			upgraders.Say(link.Client, words)
		}
	}
	return err
}

// up passes commands to the backend, or answers them.
func (p *passage) up() error {
	defer p.owed.Close()
	if p.pending != "" {
		if err := p.command(p.pending); err != nil {
			return end(err)
		}
	}
	for {
		line, err := p.line()
		if err != nil {
			return end(err)
		}
		if err := p.command(line); err != nil {
			return end(err)
		}
	}
}

// errEarly ends a session whose backend answers what nobody has asked: it would
// be taken for the answer to the first command.
var errEarly = fmt.Errorf("%w: an answer before any command", upgraders.ErrBackend)

// errOver ends the direction that finds nothing left to filter.
var errOver = errors.New("authenticated")

func end(err error) error {
	if err == errOver {
		return nil
	}
	return err
}

// line takes the client's next line. What the backend should have is written
// before anything is waited for.
func (p *passage) line() (string, error) {
	line, err := upgraders.ReadInside(p.client, maxLine, p.flush)
	return string(trimEnd(line)), err
}

func (p *passage) command(line string) error {
	// Backends differ in what white space they pass over; a verb that only
	// the backend sees is not filtered.
	verb, argument := strings.Trim(line, " \t"), ""
	if i := strings.IndexAny(verb, " \t"); i >= 0 {
		verb, argument = verb[:i], verb[i+1:]
	}
	e := expected{}
	switch verb = strings.ToUpper(verb); verb {
	case "STLS":
		e = expected{ofOwnAnswer, alreadyTLS}
		if p.clear {
			e.own = noTLS
		}
	case "XCLIENT":
		e = expected{ofOwnAnswer, noClientFacts}
	case "CAPA":
		e.kind = ofCAPA
	case "LANG":
		if argument == "" {
			e.kind = ofList // RFC 6856, 3.2
		}
	case "USER":
		if p.refuseAuth {
			e = expected{ofOwnAnswer, needsTLS}
		}
	case "PASS", "APOP", "AUTH":
		e.kind = ofAuth
		if verb == "AUTH" && argument == "" {
			e.kind = ofMechanisms
		}
		if p.refuseAuth {
			e = expected{ofOwnAnswer, needsTLS}
		}
	default:
		if !isVerb(verb) {
			e = expected{ofOwnAnswer, unknown}
		}
	}
	if e.kind == ofOwnAnswer {
		// An answer of ours keeps its place: POP3 has no NOOP before
		// authentication, but every backend answers a command that it does
		// not know, with one line.
		line = "XNOTHING"
	}
	if err := p.send(line, e); err != nil || e.kind != ofAuth {
		return err
	}
	return p.authenticate()
}

// authenticate passes the lines of a SASL exchange, which are no commands,
// until the backend has decided.
func (p *passage) authenticate() error {
	for {
		if err := p.flush(); err != nil {
			return err
		}
		if err := p.owed.Settle(); err != nil {
			return err
		}
		switch {
		case p.authenticated:
			return errOver
		case !p.more:
			return nil
		}
		line, err := p.line()
		if err != nil {
			return err
		}
		if err := p.send(line, expected{kind: ofAuth}); err != nil {
			return err
		}
	}
}

// send adds a line to what goes to the backend.
func (p *passage) send(line string, e expected) error {
	p.asked.Store(true)
	if err := p.owed.Add(e, p.flush); err != nil {
		return err
	}
	p.toBackend = append(append(p.toBackend, line...), "\r\n"...)
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
