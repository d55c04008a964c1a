// Package irc upgrades IRC (RFC 1459, modern.ircdocs.horse) by STARTTLS: the
// IRCv3 extension "tls", which is deprecated and still what clients have. Port
// 6697 is TLS from the first byte (RFC 7194). With the options, STS is announced,
// the IRCv3 extension that makes clients come there by themselves.
//
// Before TLS the gateway answers CAP, PING, QUIT and STARTTLS. Inside it takes
// tls, sts and mechanisms that end at the gateway out of what the backend
// offers, and WEBIRC out of what clients say, until the client is registered.
package irc

import (
	"context"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes IRC.
func Protocol() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name:     "irc",
		Title:    "IRC",
		Spec:     "IRCv3 tls, sts, capability-negotiation; RFC 1459, 7194",
		Keyword:  "STARTTLS",
		Ports:    []uint16{6667},
		Implicit: []uint16{6697},
		ALPN:     []string{"irc"},
		Forwards: []string{"webirc"},
		Options:  func() any { return &options{} },
		New:      newUpgrader,
		Probe:    probe,
		Request:  request,
	}
}

type options struct {
	// STSPort is the port of implicit TLS that clients in cleartext are sent to.
	STSPort int `hcl:"sts_port,optional" doc:"announce STS to clients in cleartext: the port of implicit TLS, which they then use for good"`
	// STSDuration is how long a client in TLS shall not come back without.
	STSDuration string `hcl:"sts_duration,optional" doc:"announce STS to clients in TLS: how long they must not come without; \"0s\" ends a policy"`
}

type upgrader struct {
	port     int
	duration string // in seconds; "" announces nothing
}

var _ upgraders.Upgrader = (*upgrader)(nil)

func newUpgrader(o any) (upgraders.Upgrader, error) {
	opts := o.(*options)
	if opts.STSPort < 0 || opts.STSPort > 65535 {
		return nil, fmt.Errorf("sts_port is no port: write that of the implicit listener, 6697 say")
	}
	u := &upgrader{port: opts.STSPort}
	if opts.STSDuration != "" {
		d, err := time.ParseDuration(opts.STSDuration)
		if err != nil || d < 0 {
			return nil, fmt.Errorf("sts_duration is no duration: write 720h for 30 days")
		}
		u.duration = fmt.Sprint(int64(d / time.Second))
	}
	return u, nil
}

// Upgrade implements upgraders.Upgrader.
func (u *upgrader) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	d := &dialogue{Dialogue: upgraders.Dialogue{Session: s}, upgrader: u, name: s.Listener.Hostname}
	return d.run(ctx)
}

// Implicit implements upgraders.Upgrader.
func (u *upgrader) Implicit(s *upgraders.Session) upgraders.Handover {
	return (&passage{name: s.Listener.Hostname, duration: u.duration}).handover()
}

// handover is what follows TLS, or the decision to go on without.
func (p *passage) handover() upgraders.Handover {
	return upgraders.Handover{
		Join:     p.join,
		Converse: p.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			return say(client, unavailable(cause))
		},
	}
}
