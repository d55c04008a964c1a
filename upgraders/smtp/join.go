package smtp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A passage is what the steps of one client's Handover share.
type passage struct {
	*upgrader
	hostname string
	offer    offer
	greet    bool   // the client waits for the greeting
	hello    string // of a session in cleartext, which the backend has not heard
	pending  string // the command of a session in cleartext that waits

	extensions extensions
	refusal    []byte // the backend's permanent refusal, which is for the client
}

// join takes the backend's greeting, tells it who the client is and repeats
// what a client in cleartext has said. Nothing is written to the client before
// all that has gone well, so that another server can be tried.
func (p *passage) join(_ context.Context, link *upgraders.Link) error {
	p.extensions, p.refusal = unknown, nil
	p.offer.binding = link.PassBinding
	r, err := p.introduce(link)
	if err == nil && r.class() == 2 && p.hello != "" {
		r, err = p.replay(link.Backend)
	}
	switch {
	case err != nil:
		return tryNext(err)
	case r.class() == 5:
		// RFC 5321, 3.1: no service for this client, whichever server it asks.
		p.refusal = r.raw
	case r.class() != 2:
		return r.refusal()
	case p.greet && string(r.raw) == standIn:
		_, err = io.WriteString(link.Client, "220 "+p.hostname+" "+p.greeting+"\r\n")
	case p.greet:
		_, err = link.Client.Write(r.raw)
	}
	return err
}

// standIn is what join finds for the greeting of a backend that was asked for
// TLS: it greets but once, and in clear.
const standIn = "220 backend.invalid\r\n"

// tryNext makes whatever went wrong with a server a reason to ask another. The
// error itself is not wrapped: a backend that times out is no client that does.
func tryNext(err error) error {
	if errors.Is(err, upgraders.ErrTryNext) {
		return err
	}
	return fmt.Errorf("%w: %v", upgraders.ErrTryNext, err)
}

// introduce returns the backend's greeting for the client: the first one, or
// the one that answers the client facts.
func (v variant) introduce(link *upgraders.Link) (*reply, error) {
	r, err := readReply(link.Backend)
	if err != nil || r.class() != 2 || !link.Forward.XCLIENT {
		return r, err
	}
	// XCLIENT is for authorised clients, and the EHLO reply says who is. The
	// client's own EHLO, if there was one, is void.
	if r, err = command(link.Backend, "%s %s", v.helloVerb, link.Facts.Name); err != nil {
		return nil, err
	}
	if r.class() != 2 {
		return nil, r.refusal()
	}
	for _, line := range r.lines[1:] {
		if keyword(line) == "XCLIENT" {
			return command(link.Backend, "XCLIENT %s", xclient(line, link.Facts))
		}
	}
	// Without client facts the backend would take every client for the
	// gateway, and trust it as such.
	link.Log("the backend does not offer XCLIENT to the gateway: authorise its address there (Postfix: smtpd_authorized_xclient_hosts), or use PROXY (send = \"proxy-v2\")")
	return nil, errors.New("XCLIENT is not offered")
}

// xclient returns the attributes of an XCLIENT command: those that the backend
// lists of the ones we know. HELO and PROTO are not among them, since what the
// client said in clear is void. NAME is always given: without it Postfix keeps
// the gateway's.
//
// Addresses, numbers and the bracketed word are their own xtext (RFC 3461, 4),
// and nothing a client can choose is sent.
func xclient(line string, f upgraders.Facts) string {
	const unavailable = "[UNAVAILABLE]"
	addr := func(a netip.AddrPort) string {
		switch ip := a.Addr().Unmap().WithZone(""); {
		case !a.IsValid():
			return unavailable
		case ip.Is6():
			return "IPV6:" + ip.String()
		default:
			return ip.String()
		}
	}
	port := func(a netip.AddrPort) string {
		if a.Port() == 0 {
			return unavailable
		}
		return strconv.Itoa(int(a.Port()))
	}
	listed := strings.Fields(strings.ToUpper(line))[1:]
	attributes := []string{"NAME=" + unavailable}
	for _, attribute := range []struct{ name, value string }{
		{"ADDR", addr(f.Client)},
		{"PORT", port(f.Client)},
		{"DESTADDR", addr(f.Local)},
		{"DESTPORT", port(f.Local)},
	} {
		if slices.Contains(listed, attribute.name) {
			attributes = append(attributes, attribute.name+"="+attribute.value)
		}
	}
	return strings.Join(attributes, " ")
}

// replay repeats the client's EHLO or HELO. What a server answers that knows
// no EHLO is no refusal yet: the client was then shown no extension that it
// could have used (RFC 5321, 3.2).
func (p *passage) replay(backend *wire.Conn) (*reply, error) {
	r, err := command(backend, "%s", p.hello)
	if err != nil {
		return nil, err
	}
	verb, name, _ := strings.Cut(p.hello, " ")
	extended := strings.EqualFold(verb, p.helloVerb)
	if r.class() == 2 && extended {
		p.extensions = extensions{}
		for _, line := range r.lines[1:] {
			p.extensions.read(p.offer, line)
		}
	}
	if r.class() == 5 && extended && p.helo() {
		return command(backend, "HELO %s", name)
	}
	return r, nil
}

// maxRefusals is how often a client that is not served may ask again.
const maxRefusals = 10

// refuse repeats the backend's refusal until the client leaves. The connection
// is not closed at once, which a client would take for a temporary failure
// (RFC 5321, 3.1 has the server wait for QUIT).
func (p *passage) refuse(client *wire.Conn) error {
	if p.greet || p.pending != "" {
		if _, err := client.Write(p.refusal); err != nil {
			return err
		}
	}
	for range maxRefusals {
		line, err := client.ReadSlice(maxLine)
		if upgraders.IsHTTP(line) {
			err = upgraders.ErrHTTP
		}
		if err != nil {
			return p.closing(client, err)
		}
		if verb, _ := split(string(trimEnd(line))); verb == "QUIT" {
			_, err = io.WriteString(client, "221 2.0.0 Bye\r\n")
			return errors.Join(err, upgraders.ErrQuit)
		}
		if _, err := client.Write(p.refusal); err != nil {
			return err
		}
	}
	return upgraders.ErrTooMany
}

// closing gives the client the last words that fit err, and returns err.
func (p *passage) closing(client *wire.Conn, err error) error {
	if words := lastWords(err, p.hostname); words != "" {
		io.WriteString(client, words+"\r\n")
	}
	return err
}

// unavailable says that no backend can be had, and nothing of why.
func (p *passage) unavailable(client *wire.Conn, cause error) error {
	words := "421 4.3.0 " + p.hostname + " Service not available, try again later\r\n"
	if errors.Is(cause, upgraders.ErrLimit) {
		words = "421 4.3.2 " + p.hostname + " Too many connections, try again later\r\n"
	}
	_, err := io.WriteString(client, words)
	return err
}
