// Package xmpp upgrades XMPP by STARTTLS (RFC 6120, 5), between a client and a
// server and between two servers. XEP-0368 is TLS from the first byte.
//
// Before TLS the gateway answers the stream itself, where TLS is required. The
// host that the stream is for chooses the backend, and must be the same inside.
// There the client's new stream is the backend's first; what TLS made false is
// taken out of its features until those that follow authentication have passed.
//
// A session in cleartext needs the stream id of its own backend (dialback is
// computed from it), so where cleartext is allowed the backend answers the
// stream, and is forgotten when the client asks for TLS.
package xmpp

import (
	"cmp"
	"context"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes XMPP between client and server.
func Protocol() *upgraders.Protocol {
	return variant{content: "jabber:client"}.describe(&upgraders.Protocol{
		Name:     "xmpp",
		Title:    "XMPP",
		Ports:    []uint16{5222},
		Implicit: []uint16{5223},
		ALPN:     []string{"xmpp-client"},
	})
}

// ServerProtocol describes XMPP between servers.
func ServerProtocol() *upgraders.Protocol {
	return variant{content: "jabber:server", servers: true}.describe(&upgraders.Protocol{
		Name:     "xmpp-server",
		Title:    "XMPP between servers",
		Ports:    []uint16{5269},
		Implicit: []uint16{5270},
		ALPN:     []string{"xmpp-server"},
	})
}

// A variant is what the two differ in.
type variant struct {
	content string // the content namespace of a stream
	servers bool
}

var _ upgraders.Upgrader = variant{}

// describe adds what both have.
func (v variant) describe(p *upgraders.Protocol) *upgraders.Protocol {
	p.Spec = "RFC 6120, 7590, XEP-0368"
	p.Keyword = "starttls"
	p.Hosts = true
	p.New = func(any) (upgraders.Upgrader, error) { return v, nil }
	p.Probe = v.probe
	p.Audit = v.audit
	p.Request = v.request
	return p
}

// Upgrade implements upgraders.Upgrader.
func (v variant) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	d := &dialogue{variant: v, session: s}
	return d.run(ctx)
}

// Implicit implements upgraders.Upgrader.
func (v variant) Implicit(s *upgraders.Session) upgraders.Handover {
	p := &passage{variant: v, name: s.Listener.Hostname}
	h := p.handover()
	h.Accept = p.accept("")
	return h
}

// handover is what follows TLS, or the decision to go on without.
func (p *passage) handover() upgraders.Handover {
	return upgraders.Handover{
		Join:     p.join,
		Converse: p.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			_, err := client.Write([]byte(p.unavailable(cause)))
			return err
		},
	}
}

// unavailable says that there is no backend.
func (p *passage) unavailable(cause error) string {
	words := streamError(cmp.Or(unavailable.To(cause), "remote-connection-failed"), "")
	if !p.answered {
		words = p.header(p.name, "") + words
	}
	return words
}
