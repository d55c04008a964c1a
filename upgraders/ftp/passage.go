package ftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	maxLine  = 8 << 10 // a verb, and a path
	maxReply = 8 << 10 // of one line
	maxLines = 200     // of a greeting or a list of features
)

// A passage leads one session from the join to its end.
//
// The backend has one command at a time: the next goes to it when the last is
// answered for good, so that an answer of our own is in its place wherever it is
// given, and a transfer's answers are told from those of what a client says
// meanwhile, which some servers answer before it is over and others after. That
// costs clients that pipeline their commands a round trip to the backend for
// each; RFC 959, 5.4 has them take turns anyway.
type passage struct {
	*upgrader
	session    *upgraders.Session
	greet      bool   // the client waits for the greeting
	clear      bool   // the session is in cleartext, for good
	refuseAuth bool   // and may not log in
	pending    string // the command of a session in cleartext that waits

	ctx             context.Context
	link            *upgraders.Link
	client, backend *wire.Conn

	// What the client has chosen; for up alone.
	sized    bool // PBSZ was said
	private  bool // PROT P was
	extended bool // EPSV ALL was: nothing else opens data connections
	left     bool // QUIT was

	owed     wire.Owed[*command] // one, or none
	toClient []byte              // written by down before it waits
	halved   bool                // the client has got the beginning of an answer only

	transfers sync.WaitGroup
	mu        sync.Mutex
	channel   *channel // what PASV, EPSV, PORT or EPRT has prepared
	moaned    bool     // the log has heard of a data connection that failed
	panicked  error    // while it carried data
}

// A command that the backend has to answer.
type command struct {
	kind kind
	up   bool   // ofTransfer: from the client to the backend
	port uint16 // ofPort: where the client waits
	long bool   // ofPassive: it was EPSV
}

type kind uint8

const (
	ofCommand kind = iota
	ofFeatures
	ofPassive  // the client is to connect
	ofPort     // the client waits to be connected to
	ofTransfer // the data connection is used
)

// join swallows the backend's greeting, or passes it on.
func (p *passage) join(_ context.Context, link *upgraders.Link) error {
	greeting, err := greet(link.Backend)
	if err != nil {
		return err
	}
	if link.BackendTLS {
		if err := private(link.Backend); err != nil {
			link.Log("the backend does not protect data connections (PBSZ 0, PROT P): allow it there, or reach it without TLS")
			return fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
		}
	}
	if p.greet {
		return upgraders.Say(link.Client, strings.Join(greeting, "\r\n"))
	}
	return nil
}

// converse filters until the session ends.
func (p *passage) converse(ctx context.Context, link *upgraders.Link) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.ctx, p.link, p.client, p.backend = ctx, link, link.Client, link.Backend
	err := p.early()
	if err == nil {
		err = wire.Duplex(link.Client, link.Backend, p.up, p.down)
	}
	p.prepare(nil)
	p.transfers.Wait()
	if p.panicked != nil {
		panic(p.panicked)
	}
	if err != nil && err != io.EOF && !p.halved {
		if words := partings.To(err); words != "" {
			upgraders.Say(link.Client, words)
		}
	}
	return err
}

// early sees to what the backend says behind its greeting, before the client's
// first command could be taken for what it answers.
func (p *passage) early() error {
	for p.backend.Pipelined() {
		if _, err := p.reply(); err != nil {
			return err
		}
		if err := p.flushClient(); err != nil {
			return err
		}
	}
	return nil
}

// up answers commands, or passes them to the backend.
func (p *passage) up() error {
	defer p.owed.Close()
	defer p.prepare(nil) // down may be waiting for it
	if p.pending != "" {
		if err := p.command(p.pending); err != nil {
			return err
		}
	}
	for {
		line, err := upgraders.ReadInside(p.client, maxLine, func() error { return nil })
		switch {
		case err == nil:
		case err == io.EOF:
			// All is said, but what was asked may not be answered yet: a
			// backend ends a transfer whose control connection ends.
			p.owed.Settle()
			return err
		case p.left && upgraders.Reason(err) == "":
			return io.EOF // who has said QUIT may leave as it likes
		default:
			return err
		}
		if err := p.command(string(plain(trimEnd(line)))); err != nil {
			return err
		}
	}
}

// command sees to one command of the client.
func (p *passage) command(line string) error {
	verb, argument := split(line)
	if verb == "ABOR" {
		p.cut()
	}
	if err := p.owed.Settle(); err != nil {
		return err
	}
	if answer := p.answer(verb, argument); answer != "" {
		return upgraders.Say(p.client, answer)
	}
	c := &command{}
	switch verb {
	case "QUIT":
		p.left = true
	case "FEAT":
		c.kind = ofFeatures
	case "PASV", "EPSV":
		c.kind, c.long = ofPassive, verb == "EPSV"
		line = p.passive()
	case "PORT":
		at, _ := hostPort(argument)
		c.kind, c.port = ofPort, at.Port()
		line = p.passive()
	case "EPRT":
		_, at, _ := extendedHostPort(argument)
		c.kind, c.port = ofPort, at.Port()
		line = p.passive()
	case "RETR", "LIST", "NLST", "MLSD":
		c.kind = ofTransfer
	case "STOR", "STOU", "APPE":
		c.kind, c.up = ofTransfer, true
	}
	if c.kind == ofPassive || c.kind == ofPort {
		p.prepare(nil) // a new one replaces the old one, also if it fails
	}
	if err := p.owed.Add(c, func() error { return nil }); err != nil {
		return err
	}
	return upgraders.Say(p.backend, line)
}

// passive asks the backend for a port: PASV, which every server knows, or EPSV
// where it is reached by IPv6, of which PASV knows nothing.
func (p *passage) passive() string {
	if at, err := netip.ParseAddrPort(p.backend.RemoteAddr().String()); err == nil && at.Addr().Unmap().Is6() {
		return "EPSV"
	}
	return "PASV"
}

// answer returns what the gateway itself says to a command, or "" for what the
// backend answers.
func (p *passage) answer(verb, argument string) string {
	switch verb {
	case "AUTH":
		if p.clear {
			return noTLS // once joined in cleartext, always in cleartext
		}
		return "503 TLS is active"
	case "PBSZ", "PROT":
		if p.clear {
			return authFirst
		}
		if verb == "PBSZ" {
			return p.size(argument)
		}
		return p.protect(argument)
	case "CCC":
		return "534 The control connection stays in TLS"
	case "REIN":
		// RFC 4217: TLS would have to end with it.
		return "502 REIN is not available; connect again"
	case "ADAT", "CONF", "ENC", "MIC", // RFC 2228: commands in a wrapping
		"LPRT", "LPSV", "SPSV", // RFC 1639, and others that would pass the gateway by
		"CPSV", "SSCN":
		return "502 " + verb + " is not available"
	case "PROXY":
		return unknown // a backend might believe it from the gateway
	case "HOST":
		// RFC 7151, 3.2: a host is one of the backend's. Its route's tls may
		// ask for a client certificate, and the backend may be the same.
		if !p.session.Suits(strings.TrimSuffix(strings.TrimSpace(argument), ".")) {
			return "504 This session is not for that host"
		}
	case "USER", "PASS", "ACCT":
		if p.refuseAuth {
			return needsTLS
		}
	case "MODE":
		if mode := strings.TrimSpace(argument); mode != "" && mode[0]|0x20 == 'b' {
			return "504 Block mode is not available" // the connection outlives the file
		}
	case "PASV", "EPSV":
		return p.refusePassive(verb, argument)
	case "PORT", "EPRT":
		return p.refusePort(verb, argument)
	case "RETR", "LIST", "NLST", "MLSD", "STOR", "STOU", "APPE":
		switch {
		case !p.clear && !p.private && !p.clearData:
			return "521 Data connections must be protected; use PBSZ 0 and PROT P"
		case !p.prepared():
			return words(errOpen)
		}
	default:
		if !isVerb(verb) {
			return unknown
		}
	}
	return ""
}

// size answers PBSZ: RFC 2228, 3; RFC 4217. TLS needs no size.
func (p *passage) size(argument string) string {
	for _, b := range []byte(argument) {
		if !isDigit(b) {
			return "501 PBSZ needs a number"
		}
	}
	if argument == "" {
		return "501 PBSZ needs a number"
	}
	p.sized = true
	if strings.Trim(argument, "0") == "" {
		return "200 PBSZ 0"
	}
	return "200 PBSZ=0"
}

// protect answers PROT: RFC 2228, 3; RFC 4217.
func (p *passage) protect(level string) string {
	switch level = strings.ToUpper(level); {
	case !p.sized:
		return "503 PBSZ comes first"
	case level == "P":
		p.private = true
		return "200 Data connections will be in TLS"
	case level == "C" && p.clearData:
		p.private = false
		return "200 Data connections will be in cleartext"
	case level == "C":
		return "534 Data connections must be protected"
	case level == "S", level == "E":
		return "536 TLS knows PROT P and PROT C"
	}
	return "504 Write PROT P or PROT C"
}

// address is where the client has connected to, as it knows it.
func (p *passage) address() netip.Addr { return p.session.Local.Addr() }

// refusePassive returns "" for a PASV or EPSV that can be done.
func (p *passage) refusePassive(verb, argument string) string {
	family := familyOf(p.address())
	switch argument = strings.ToUpper(argument); {
	case p.extended && verb == "PASV": // RFC 2428, 4
		return "501 EPSV ALL was said"
	case verb == "PASV" && argument != "":
		return "501 PASV takes no arguments"
	case verb == "PASV" && !p.public.IsValid() && !p.address().Is4():
		return "425 PASV is of IPv4; use EPSV"
	case verb == "EPSV" && argument == "ALL":
		p.extended = true
		return "200 EPSV ALL ok"
	case verb == "EPSV" && argument != "" && argument != family:
		return "522 Protocol not supported, use (" + family + ")"
	}
	return ""
}

// refusePort returns "" for a PORT or EPRT that can be done: to the client's own
// address and no well-known port, or the gateway would connect where an attacker
// points (RFC 2577, 3).
func (p *passage) refusePort(verb, argument string) string {
	family := familyOf(p.session.Client.Addr())
	var at netip.AddrPort
	var ok bool
	if verb == "PORT" {
		at, ok = hostPort(argument)
	} else {
		var asked string
		if asked, at, ok = extendedHostPort(argument); ok && asked != family {
			return "522 Protocol not supported, use (" + family + ")"
		}
	}
	switch {
	case p.extended:
		return "501 EPSV ALL was said"
	case !ok:
		return "501 Not an address and a port"
	case at.Addr().Unmap().WithZone("") != p.session.Client.Addr().WithZone(""):
		return "504 Data connections go to the client's own address only"
	case at.Port() < 1024:
		return "504 Data connections go to ports from 1024 up only"
	}
	return ""
}

// greet reads the greeting: RFC 959, 5.4.
func greet(backend *wire.Conn) ([]string, error) {
	greeting, n, err := readReply(backend)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
	case n != 220:
		return nil, &upgraders.Refusal{Reply: clip(greeting[0])}
	}
	return greeting, nil
}

var errUnprotected = errors.New("PROT P is refused")

// private has a backend that is spoken to in TLS protect data connections, too.
func private(backend *wire.Conn) error {
	for _, line := range []string{"PBSZ 0", "PROT P"} {
		answer, n, err := ask(backend, line)
		if err != nil {
			return err
		}
		if n/100 != 2 {
			return fmt.Errorf("%w: %s", errUnprotected, clip(answer[0]))
		}
	}
	return nil
}

// ask says a command and takes the reply.
func ask(backend *wire.Conn, line string) ([]string, int, error) {
	if err := upgraders.Say(backend, line); err != nil {
		return nil, 0, err
	}
	return readReply(backend)
}

// readReply takes one reply whole, as lines without their ends.
func readReply(c *wire.Conn) (lines []string, n int, err error) {
	for range maxLines {
		line, err := c.ReadSlice(maxReply)
		switch {
		case err == wire.ErrTooLong:
			return nil, 0, errLong
		case err == io.EOF:
			return nil, 0, io.ErrUnexpectedEOF
		case err != nil:
			return nil, 0, err
		}
		lines = append(lines, string(trimEnd(line)))
		more := true
		if len(lines) > 1 {
			more = !ends(line, n)
		} else if n, more = code(line); n == 0 {
			return nil, 0, errCodeless
		}
		if !more {
			return lines, n, nil
		}
	}
	return nil, 0, fmt.Errorf("%w: a reply of more than %d lines", upgraders.ErrBackend, maxLines)
}

var (
	errLong     = fmt.Errorf("%w: a line of more than %d bytes", upgraders.ErrBackend, maxReply)
	errCodeless = fmt.Errorf("%w: a reply without a code", upgraders.ErrBackend)
)

// clip keeps what a log should have of a backend's words.
func clip(words string) string { return words[:min(len(words), 200)] }
