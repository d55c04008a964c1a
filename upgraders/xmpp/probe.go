package xmpp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// errUnknownHost is a server that serves, though not what it was asked for.
var errUnknownHost = errors.New("the server does not serve the host")

// ask opens a stream at a server and returns its features. The bytes of the
// answer are taken.
func (v variant) ask(c *wire.Conn, host string) (*answer, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "<?xml version='1.0'?><stream:stream xmlns='%s' xmlns:stream='%s'", v.content, nsStream)
	if v.servers {
		b.WriteString(" xmlns:db='jabber:server:dialback'")
	}
	fmt.Fprintf(&b, " to='%s' version='1.0'>", escape.Replace(host))
	if _, err := c.Write([]byte(b.String())); err != nil {
		return nil, err
	}
	a, err := readAnswer(c, true)
	switch {
	case err != nil:
		return nil, err
	case a.failed != nil && a.condition() == "host-unknown":
		return nil, fmt.Errorf("%w %q: ask for a domain that it serves (host-unknown)", errUnknownHost, host)
	case a.failed != nil && a.passing():
		return nil, &upgraders.Refusal{Reply: a.condition()}
	case a.failed != nil:
		return nil, broken("it answers a stream with the error " + a.condition())
	case a.features == nil:
		return nil, broken("a stream from before XMPP 1.0")
	}
	c.Discard(len(a.raw))
	return a, nil
}

var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", "'", "&apos;")

// probe asks for the features, each a line. A server that does not serve the
// host that was asked for serves all the same.
func (v variant) probe(_ context.Context, link *upgraders.Link) (upgraders.Capabilities, error) {
	a, err := v.ask(link.Backend, link.Facts.Name)
	if err != nil {
		if errors.Is(err, errUnknownHost) {
			return upgraders.Capabilities{}, nil
		}
		return nil, err
	}
	link.Backend.Write([]byte(quit))
	offered := upgraders.Capabilities{}
	for _, f := range a.features.children {
		line := f.local
		for _, m := range f.children {
			if m.local == "mechanism" {
				line += " " + strings.TrimSpace(m.text)
			}
		}
		offered = append(offered, line)
	}
	return offered, nil
}

// audit asks whether clients can log in.
func (v variant) audit(_ context.Context, link *upgraders.Link, _ upgraders.Told) (findings []upgraders.Finding, err error) {
	a, err := v.ask(link.Backend, link.Facts.Name)
	if errors.Is(err, errUnknownHost) {
		return []upgraders.Finding{{
			Severity: upgraders.Doubtful,
			What:     fmt.Sprintf("does not serve %s, so that it cannot be asked what it offers", link.Facts.Name),
			Mend:     "write the domain that it serves into route { host = [\"…\"] }, or as the listener's hostname",
		}}, nil
	}
	if err != nil {
		return nil, err
	}
	link.Backend.Write([]byte(quit))
	if v.servers {
		return nil, nil
	}
	if why := (offer{binding: link.PassBinding}).complaint(a.features); why != "" {
		findings = append(findings, upgraders.Finding{Severity: upgraders.Wrong, What: why, Mend: mendLogin})
	}
	if !link.PassBinding {
		var mechanisms []string
		for _, f := range a.features.children {
			for _, m := range f.children {
				if m.local == "mechanism" && !slices.Contains(mechanisms, m.text) {
					mechanisms = append(mechanisms, strings.TrimSpace(m.text))
				}
			}
		}
		findings = append(findings, upgraders.UnusableBinding(mechanisms)...)
	}
	return findings, nil
}

// request asks a server for TLS: RFC 6120, 5.4.
func (v variant) request(_ context.Context, backend *wire.Conn, host string) error {
	a, err := v.ask(backend, host)
	if err != nil {
		return err
	}
	if starttls := a.features.child("starttls"); starttls == nil {
		return fmt.Errorf("%w: no starttls among the features", upgraders.ErrNotOffered)
	}
	if _, err := backend.Write([]byte("<starttls xmlns='" + nsTLS + "'/>")); err != nil {
		return err
	}
	s := &scan{c: backend, max: maxElement}
	k, _, err := s.skip()
	if err != nil {
		return err
	}
	if k != starts && k != empty {
		return broken("no answer to starttls")
	}
	from := s.at
	raw, err := s.element()
	if err != nil {
		return err
	}
	e, err := parseElement(raw)
	switch {
	case err != nil:
		return broken(err.Error())
	case a.scope.in(e.tag) != nsTLS || e.local != "proceed" && e.local != "failure":
		return broken("no answer to starttls")
	case e.local == "failure":
		return fmt.Errorf("%w: the server answers with a failure", upgraders.ErrNotOffered)
	}
	backend.Discard(from + len(raw))
	return nil
}
