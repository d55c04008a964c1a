package imap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// maxReply bounds all that a backend may say to one command of ours.
const maxReply = 128 << 10

// ownTag is the tag of the gateway's own commands.
const ownTag = "gateway"

// join leads a fresh backend session to where the client stands: the greeting
// is swallowed, or passed on corrected where the client still waits for one.
func (f *filter) join(_ context.Context, link *upgraders.Link) error {
	f.link = link
	f.passBinding = link.PassBinding
	greeting, err := greet(link.Backend)
	if err == nil && link.Forward.ID {
		err = identify(link)
	}
	var bye finalBye
	switch {
	case err == nil:
	case errors.Is(err, errUnfit):
		link.Log(err.Error())
		write(link.Client, "* BYE [UNAVAILABLE] The mail server is not set up to be used here\r\n")
		return err
	case errors.As(err, &bye):
		write(link.Client, string(bye)+"\r\n")
		return err
	case errors.Is(err, wire.ErrShutdown):
		write(link.Client, partings.To(err))
		return err
	default:
		return tryNext(err)
	}
	if !f.greet {
		return nil
	}
	_, err = link.Client.Write(f.correct(greeting))
	return err
}

// correct is offer.correct, and says once what an operator should know.
func (f *filter) correct(line []byte) []byte {
	line, disabled := f.offer.correct(line)
	if disabled && !f.clear && !f.told {
		f.told = true
		f.link.Log("the backend forbids logins though the client is in TLS (LOGINDISABLED); " +
			"tell it so with send = \"proxy-v2\", or allow them from the gateway: " +
			"Dovecot's disable_plaintext_auth = no (2.4: auth_allow_cleartext = yes) or login_trusted_networks")
	}
	return line
}

// tryNext marks an error as one of this server alone.
func tryNext(err error) error {
	if errors.Is(err, upgraders.ErrTryNext) {
		return err
	}
	return fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
}

// errUnfit is a backend whose settings, not whose state, forbid its use.
var errUnfit = fmt.Errorf("%w: the backend greets with PREAUTH: it takes every client for one of its own because of the gateway's address; end that trust", upgraders.ErrBackend)

// A finalBye is a greeting that turns the client away, rather than the server
// down. It is passed on as it is.
type finalBye string

func (b finalBye) Error() string { return string(b) }
func (b finalBye) Unwrap() error { return upgraders.ErrBackend }

// greet reads the backend's greeting: RFC 9051, 7.1.
func greet(backend *wire.Conn) ([]byte, error) {
	budget := maxReply
	line, err := readResponse(backend, &budget)
	if err != nil {
		return nil, fmt.Errorf("greeting: %w", err)
	}
	switch r := parseResponse(line); {
	case r.tag == "*" && r.word == "OK":
		return line, nil
	case r.tag == "*" && r.word == "PREAUTH":
		return nil, errUnfit
	case r.tag == "*" && r.word == "BYE":
		return nil, farewell(r, line)
	}
	return nil, fmt.Errorf("%w: the greeting is not IMAP", upgraders.ErrBackend)
}

// farewell is the error for a BYE in place of an answer. One that says what is
// wrong with the client (RFC 5530; RFC 2221) would be said by the next server
// as well.
func farewell(r response, line []byte) error {
	text := printableText(line[r.text:])
	switch name, _, _, _ := r.code(line); name {
	case "PRIVACYREQUIRED", "NOPERM", "CONTACTADMIN", "REFERRAL":
		return finalBye("* BYE " + text)
	}
	return &upgraders.Refusal{Reply: text}
}

// printableText returns the text of a response for people, within bounds.
func printableText(text []byte) string {
	text = bytes.TrimSpace(text)
	text = text[:min(len(text), 500)]
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(string(text), "?"))
}

// identify tells the backend whose session this is: the ID fields by which
// Dovecot's proxies do so, believed from login_trusted_networks only.
func identify(link *upgraders.Link) error {
	a, err := ask(link.Backend, "ID ("+facts(link.Facts)+")")
	if err == nil && a.word != "OK" {
		err = errors.New("the backend refuses ID and would take the gateway for the client; " +
			"remove forward { id = true } or send a PROXY header")
	}
	return err
}

func facts(f upgraders.Facts) string {
	var fields []string
	add := func(name, value string) { fields = append(fields, `"`+name+`" "`+value+`"`) }
	address := func(name string, a netip.AddrPort) {
		if a.IsValid() {
			add(name+"-ip", a.Addr().Unmap().WithZone("").String())
			add(name+"-port", strconv.Itoa(int(a.Port())))
		}
	}
	address("x-originating", f.Client)
	address("x-connected", f.Local)
	add("x-proxy-ttl", strconv.Itoa(f.TTL))
	return strings.Join(fields, " ")
}

// An answer is what a backend says to one command of ours.
type answer struct {
	untagged [][]byte
	word     string // OK, NO or BAD
}

// ask sends a command and reads until its tagged response.
func ask(backend *wire.Conn, command string) (answer, error) {
	var a answer
	if err := write(backend, ownTag+" "+command+"\r\n"); err != nil {
		return a, err
	}
	for budget := maxReply; ; {
		line, err := readResponse(backend, &budget)
		if err != nil {
			return a, err
		}
		switch r := parseResponse(line); {
		case r.tag == "*" && r.word == "BYE" && command != "LOGOUT":
			return a, farewell(r, line)
		case r.tag == "*":
			a.untagged = append(a.untagged, line)
		case r.tag == ownTag && r.status:
			a.word = r.word
			return a, nil
		default:
			return a, fmt.Errorf("%w: no answer to %q", upgraders.ErrBackend, strings.Fields(command)[0])
		}
	}
}

// readResponse reads one response, literals included, and takes its length
// from the budget.
func readResponse(backend *wire.Conn, budget *int) ([]byte, error) {
	var whole []byte
	for {
		line, err := backend.ReadSlice(maxLine)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // a backend that leaves has not answered
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", upgraders.ErrBackend, err)
		}
		whole = append(whole, line...)
		*budget -= len(line)
		size, kind := literal(trimEOL(line))
		if parseResponse(whole).status {
			kind = noLiteral
		}
		if kind == badLiteral || *budget < 0 || size > int64(*budget) && kind != noLiteral {
			return nil, fmt.Errorf("%w: its answer has no end", upgraders.ErrBackend)
		}
		if kind == noLiteral {
			return whole, nil
		}
		at := len(whole)
		whole = append(whole, make([]byte, size)...)
		if err := backend.ReadFull(whole[at:]); err != nil {
			return nil, fmt.Errorf("%w: %w", upgraders.ErrBackend, err)
		}
		*budget -= int(size)
	}
}

// refusal says, in answer to a command, that there is no backend.
func refusal(tag string, cause error) string {
	words := refusalText(cause)
	return tag + " NO " + words + "\r\n* BYE " + words + "\r\n"
}

// refusalText is RFC 5530's UNAVAILABLE, with the backend's own words where it
// spoke.
func refusalText(cause error) string {
	var r *upgraders.Refusal
	switch {
	case errors.As(cause, &r) && strings.HasPrefix(r.Reply, "["):
		return r.Reply
	case errors.As(cause, &r) && r.Reply != "":
		return "[UNAVAILABLE] " + r.Reply
	case errors.Is(cause, upgraders.ErrLimit):
		return "[UNAVAILABLE] Too many connections; try again later"
	}
	return "[UNAVAILABLE] The mail server cannot be reached; try again later"
}

// unavailableGreeting is for a client that waits for a greeting.
func unavailableGreeting(_ context.Context, client *wire.Conn, cause error) error {
	return write(client, "* BYE "+refusalText(cause)+"\r\n")
}

// unavailableCommand is for a client whose turn it is to speak, after
// STARTTLS.
func unavailableCommand(_ context.Context, client *wire.Conn, cause error) error {
	line, err := upgraders.ReadCommand(client, maxLine)
	switch {
	case errors.Is(err, upgraders.ErrHTTP):
		return err
	case err != nil:
		write(client, "* BYE "+refusalText(cause)+"\r\n")
		return err
	}
	switch c := parseCommand(line); {
	case c.tag == "":
		return write(client, "* BYE "+refusalText(cause)+"\r\n")
	case c.name == "LOGOUT":
		return write(client, "* BYE Logging out\r\n"+c.tag+" OK LOGOUT completed\r\n")
	default:
		return write(client, refusal(c.tag, cause))
	}
}

// probe asks a backend what it offers. It is done by hand: go-imap's client
// keeps capabilities as a set, without their order, and would send an ID of
// its own making.
func probe(_ context.Context, link *upgraders.Link) (upgraders.Capabilities, error) {
	if _, err := greet(link.Backend); err != nil {
		return nil, err
	}
	if link.Forward.ID {
		if err := identify(link); err != nil {
			return nil, err
		}
	}
	a, err := ask(link.Backend, "CAPABILITY")
	if err != nil {
		return nil, err
	}
	var caps upgraders.Capabilities
	for _, line := range a.untagged {
		if r := parseResponse(line); r.word == "CAPABILITY" {
			caps = capabilities(line[r.text:])
		}
	}
	if a.word != "OK" || caps == nil {
		return nil, fmt.Errorf("%w: no capabilities", upgraders.ErrBackend)
	}
	// What is known is known; how the backend takes its leave is its affair.
	ask(link.Backend, "LOGOUT")
	return caps, nil
}

// capabilities returns the atoms of a list.
func capabilities(list []byte) upgraders.Capabilities {
	var caps upgraders.Capabilities
	for _, c := range strings.Fields(string(list)) {
		if isAtom(c) {
			caps = append(caps, c)
		}
	}
	return caps
}

// request asks a backend for TLS: RFC 9051, 6.2.1.
func request(_ context.Context, backend *wire.Conn, _ string) error {
	// A PREAUTH greeting rules STARTTLS out, and going on without would be a
	// downgrade (RFC 9051, 11.1): greet refuses it.
	if _, err := greet(backend); err != nil {
		return err
	}
	a, err := ask(backend, "STARTTLS")
	switch {
	case err != nil:
		return err
	case a.word != "OK":
		return fmt.Errorf("%w: the answer to STARTTLS is %s", upgraders.ErrNotOffered, a.word)
	case backend.Pipelined():
		// CVE-2021-38371, in the other direction.
		return fmt.Errorf("%w: bytes behind its go-ahead", upgraders.ErrBackend)
	}
	return nil
}
