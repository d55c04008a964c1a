// Package tcp is raw TLS: TLS from the first byte (RFC 8446), and behind it an
// opaque stream, for whatever has no way to ask for TLS in words of its own.
//
// It leaves out all that needs to know what is inside: there is no dialogue, no
// refusal in words (a stream is ended by close_notify and FIN) and no filter,
// and a probe asks only whether somebody is there. Who the client is reaches the backend by a
// PROXY header, which the gateway writes.
package tcp

import (
	"context"

	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes raw TLS.
//
// It has no ALPN ids. A client that names a protocol must not be led to a
// backend of which nobody knows whether it speaks that one: this is how
// cross-protocol attacks work (ALPACA, 2021; RFC 7301, 3.2), so any offer ends
// with no_application_protocol. A client that offers none is accepted.
func Protocol() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name:  "tcp",
		Title: "Raw TLS",
		Spec:  "RFC 8446",
		New:   func(any) (upgraders.Upgrader, error) { return upgrader{}, nil },

		// A server that takes the connection, and shakes hands where the way to
		// it is by TLS, is up: more cannot be asked of a stream.
		Probe: func(context.Context, *upgraders.Link) (upgraders.Capabilities, error) { return nil, nil },
	}
}

type upgrader struct{}

var _ upgraders.Upgrader = upgrader{}

// Upgrade hangs up: there are no words in which TLS could be asked for.
func (upgrader) Upgrade(context.Context, *upgraders.Session) (upgraders.Handover, error) {
	return upgraders.Handover{}, upgraders.ErrSyntax
}

// Implicit makes the session opaque at once. Unavailable stays nil: a word of
// ours in a stream that we don't understand would be taken for the backend's.
func (upgrader) Implicit(*upgraders.Session) upgraders.Handover { return upgraders.Handover{} }
