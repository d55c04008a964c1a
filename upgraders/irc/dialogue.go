package irc

import (
	"context"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/upgraders"
)

// A dialogue is the cleartext part of a session.
type dialogue struct {
	upgraders.Dialogue
	*upgrader
	name  string
	asked string // the CAP LS that was answered here
}

// run answers until the client asks for TLS, goes on without it, or is turned
// away.
func (d *dialogue) run(ctx context.Context) (upgraders.Handover, error) {
	d.MaxLine, d.Partings = maxCommand, partings
	return d.Run("", func(line []byte) (upgraders.Handover, error) { return d.command(ctx, string(line)) })
}

// command answers one command. A zero Handover without an error means that the
// dialogue goes on.
func (d *dialogue) command(ctx context.Context, line string) (upgraders.Handover, error) {
	m := parse(line)
	switch m.verb {
	case "":
		return upgraders.Handover{}, nil // RFC 1459, 2.3.1: silently ignored
	case "STARTTLS":
		if !d.Session.CanTLS() {
			return d.Say(":" + d.name + " 691 * :STARTTLS failed (TLS is not available now)")
		}
		h := (&passage{name: d.name, duration: d.duration}).handover()
		h.Verdict = upgraders.StartTLS
		h.Reply = []byte(":" + d.name + " 670 * :STARTTLS successful, go ahead with TLS handshake\r\n")
		h.Injected = []byte("ERROR :Nothing may follow STARTTLS before TLS\r\n")
		return h, nil
	case "QUIT":
		return d.Leave("ERROR :Closing link", upgraders.ErrQuit)
	case "PING":
		return d.Say(":" + d.name + " PONG " + d.name)
	case "PONG":
		return upgraders.Handover{}, nil
	case "JOIN":
		// irssi sends "JOIN :" with its CAP LS, for the answer that every
		// server has to a JOIN before registration, and STARTTLS after it.
		return d.Say(":" + d.name + " 451 * :You have not registered")
	case "WEBIRC":
		return d.Wrong(noWebirc(d.name))
	case "CAP":
		if answer, ok := d.capability(ctx, m); ok {
			d.Told = !d.Session.Listener.Cleartext // there is STARTTLS
			if answer == "" {
				return upgraders.Handover{}, nil
			}
			if m.param(0) == "LS" {
				d.asked = "CAP LS"
				if m.version() >= 302 {
					d.asked += " 302"
				}
			}
			return d.Say(answer)
		}
	}
	if !d.Session.Listener.Cleartext {
		where := "use STARTTLS"
		if d.port != 0 {
			where = fmt.Sprintf("use STARTTLS, or port %d", d.port)
		}
		return d.Leave("ERROR :Closing link: TLS is required; "+where, upgraders.ErrNeedsTLS)
	}
	p := &passage{name: d.name, clear: true, refuseAuth: !d.Session.Listener.CleartextAuth, port: d.port, replay: d.asked, pending: line}
	h := p.handover()
	h.Verdict = upgraders.Cleartext
	return h, nil
}

// capability answers what of CAP can be answered without a backend.
func (d *dialogue) capability(ctx context.Context, m message) (answer string, ok bool) {
	required := !d.Session.Listener.Cleartext
	switch m.param(0) {
	case "LS":
		return d.offer(ctx, m.version() >= 302), true
	case "LIST":
		return d.cap("LIST", ""), d.asked == "" || required
	case "END":
		return "", required
	case "REQ":
		words := m.list()
		if m.last == "" && len(m.params) < 2 {
			words = nil
		}
		switch {
		case len(words) == 1 && words[0] == "tls":
			return d.cap("ACK", "tls"), true
		case len(words) == 1 && capName(words[0]) == "sts":
			return d.cap("NAK", "sts"), true
		case required:
			// None of the words is repeated: a browser may have sent them.
			return d.cap("NAK", ""), true
		}
	}
	return "", false
}

func (d *dialogue) cap(what, list string) string {
	return ":" + d.name + " CAP * " + what + " :" + list
}

// offer lists what the backend offers a session in TLS, less what is true only
// there, plus what the gateway has. Where TLS is required nothing else works.
func (d *dialogue) offer(ctx context.Context, values bool) string {
	l := d.Session.Listener
	o := offer{clear: true, auth: l.CleartextAuth, values: values, port: d.port}
	var words []string
	if l.Cleartext {
		for _, line := range d.Session.Capabilities(ctx) {
			if shown := o.show(line); shown != "" && printable(shown) {
				words = append(words, shown)
			}
		}
	}
	if d.Session.CanTLS() {
		words = append(words, "tls")
	}
	if sts := o.sts(); sts != "" {
		words = append(words, sts)
	}
	return strings.Join(fold(":"+d.name+" CAP * LS", words, values), "\r\n")
}

func noWebirc(name string) string { return ":" + name + " 421 * WEBIRC :Not permitted" }
