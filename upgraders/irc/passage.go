package irc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A passage leads one session from the join to registration.
type passage struct {
	name       string
	clear      bool // the session is in cleartext, for good
	refuseAuth bool // and may not send a password
	port       int
	duration   string
	replay     string // the CAP LS that the gateway has answered
	pending    string // the command of a session in cleartext that waits

	client, backend *wire.Conn
	base            offer

	// Both directions write whole lines to the client.
	mu      sync.Mutex
	values  bool // the client knows values
	swallow bool // the answer to replay is still to come
	over    bool // the client is registered, from before it can know it
}

// join tells the backend who the client is, before anything else.
func (p *passage) join(_ context.Context, link *upgraders.Link) error {
	p.base = offer{clear: p.clear, auth: !p.refuseAuth, binding: link.PassBinding, port: p.port}
	// A policy is for a name, and kept for the one that the client asked for.
	if link.TLS != nil && link.TLS.ServerName != "" {
		p.base.duration = p.duration
	}
	if err := introduce(link); err != nil {
		return fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
	}
	if p.replay != "" {
		p.swallow, p.values = true, strings.HasSuffix(p.replay, "302")
		return say(link.Backend, p.replay)
	}
	return nil
}

// introduce sends WEBIRC where it is configured. There is no answer to it.
func introduce(link *upgraders.Link) error {
	if link.Forward.WEBIRC == "" {
		return nil
	}
	return say(link.Backend, webirc(link.Forward.WEBIRC, link.Facts.Client, link.Security != upgraders.Clear))
}

// webirc is the command. The address stands for the host name, which the
// backend looks up if it likes to.
func webirc(password string, client netip.AddrPort, secure bool) string {
	address := "255.255.255.255" // who came by a unix socket
	if client.IsValid() {
		address = client.Addr().Unmap().WithZone("").String()
	}
	if strings.HasPrefix(address, ":") {
		address = "0" + address // a colon would begin the last parameter
	}
	line := "WEBIRC " + password + " sallyport " + address + " " + address
	if secure {
		line += " :secure"
	}
	return line
}

// converse filters until the client is registered; where it may not send a
// password, for ever.
func (p *passage) converse(_ context.Context, link *upgraders.Link) error {
	p.client, p.backend = link.Client, link.Backend
	err := wire.Duplex(link.Client, link.Backend, p.up, p.down)
	if err != nil && err != io.EOF {
		if words := partings.To(err); words != "" {
			p.tell(words)
		}
	}
	return err
}

// tell sends lines of the gateway's own.
func (p *passage) tell(lines ...string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return say(p.client, lines...)
}

// up passes messages to the backend, or answers them.
func (p *passage) up() error {
	if p.pending != "" {
		if err := p.command(p.pending); err != nil {
			return err
		}
	}
	for {
		line, err := readLine(p.client)
		if upgraders.IsHTTP([]byte(line)) || err != nil && upgraders.IsHTTP(p.client.Unread()) {
			return upgraders.ErrHTTP
		}
		if err != nil {
			return err
		}
		if err := p.command(line); err != nil {
			return err
		}
	}
}

func (p *passage) command(line string) error {
	p.mu.Lock()
	over := p.over
	p.mu.Unlock()
	if over {
		return say(p.backend, line)
	}
	m := parse(line)
	switch m.verb {
	case "STARTTLS":
		if p.clear {
			return p.tell(":" + p.name + " 691 * :STARTTLS failed (no longer possible)")
		}
		return p.tell(":" + p.name + " 691 * :STARTTLS failed (already in TLS)")
	case "WEBIRC":
		return p.tell(noWebirc(p.name))
	case "PASS", "OPER":
		if p.refuseAuth {
			return p.tell(":" + p.name + " 464 * :TLS is required for passwords")
		}
	case "AUTHENTICATE":
		if p.refuseAuth {
			return p.tell(":" + p.name + " 904 * :TLS is required for passwords")
		}
	case "CAP":
		return p.capability(m, line)
	}
	return say(p.backend, line)
}

// capability passes CAP, without what is the gateway's.
func (p *passage) capability(m message, line string) error {
	switch m.param(0) {
	case "LS":
		p.mu.Lock()
		p.values = p.values || m.version() >= 302
		p.mu.Unlock()
	case "REQ":
		words := m.list()
		switch {
		case slices.ContainsFunc(words, func(w string) bool { return capName(w) == "sts" }):
			return p.tell(":" + p.name + " CAP * NAK :sts") // IRCv3 sts: it cannot be asked for
		case p.refuseAuth && slices.ContainsFunc(words, func(w string) bool { return capName(w) == "sasl" }):
			return p.tell(":" + p.name + " CAP * NAK :sasl")
		}
		kept := slices.DeleteFunc(slices.Clone(words), func(w string) bool { return capName(w) == "tls" })
		if len(kept) == len(words) {
			break
		}
		if len(kept) == 0 {
			return p.tell(":" + p.name + " CAP * ACK :tls") // without effect
		}
		line = "CAP REQ :" + strings.Join(kept, " ")
	}
	return say(p.backend, line)
}

// down passes messages to the client, corrected where they list capabilities.
func (p *passage) down() error {
	for {
		line, err := p.backend.ReadSlice(maxMessage)
		if err == wire.ErrTooLong {
			return fmt.Errorf("%w: a line of more than %d bytes", upgraders.ErrBackend, maxMessage)
		}
		if err != nil {
			if errors.Is(err, io.EOF) && p.backend.Buffered() > 0 {
				return io.ErrUnexpectedEOF
			}
			return err
		}
		text := string(bytes.TrimRight(line, "\r\n"))
		m := parse(text)
		registered := m.verb == "001" && !p.refuseAuth
		if registered {
			p.mu.Lock()
			p.over = true
			p.mu.Unlock()
		}
		lines := []string{text}
		if m.verb == "CAP" {
			lines = p.list(m, text)
		}
		if len(lines) > 0 {
			if err := p.tell(lines...); err != nil {
				return err
			}
		}
		if registered {
			return nil // opaque from here
		}
	}
}

// list corrects a list of capabilities.
func (p *passage) list(m message, line string) []string {
	what := m.param(1)
	if what != "LS" && what != "NEW" {
		return []string{line}
	}
	goesOn := m.param(2) == "*"
	p.mu.Lock()
	defer p.mu.Unlock()
	if what == "LS" && p.swallow {
		p.swallow = goesOn
		return nil
	}
	o := p.base
	o.values = p.values
	var words []string
	if !goesOn && m.last == "" && len(m.params) < 3 {
		m.params = nil // an empty list
	}
	for _, word := range m.list() {
		if shown := o.show(word); shown != "" && word != "*" {
			words = append(words, shown)
		}
	}
	head, _, _ := strings.Cut(line, " CAP ")
	if !strings.HasPrefix(head, ":") {
		head = ":" + p.name
	}
	head += " CAP " + m.params0() + " " + what
	if what == "NEW" {
		if len(words) == 0 {
			return nil
		}
		return []string{head + " :" + strings.Join(words, " ")}
	}
	if goesOn {
		return []string{head + " * :" + strings.Join(words, " ")}
	}
	if sts := o.sts(); sts != "" {
		words = append(words, sts)
	}
	return fold(head, words, p.values)
}

// params0 is whom a reply is for.
func (m message) params0() string {
	if len(m.params) == 0 {
		return "*"
	}
	return m.params[0]
}
