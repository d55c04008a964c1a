// Package imap leads IMAP sessions from cleartext to TLS: RFC 2595 and RFC
// 9051, 6.2.1 (STARTTLS), RFC 8314 (implicit TLS on 993), over RFC 3501 and
// RFC 9051 (IMAP4rev1 and rev2), RFC 7888 (literals), RFC 2971 (ID).
//
// The gateway answers CAPABILITY, NOOP, LOGOUT, ID and STARTTLS itself. Inside
// TLS a filter corrects capability lists and takes the client facts out of the
// client's ID until authentication succeeds; from then on nothing is parsed.
//
// Left out: sessions that return to the not authenticated state (RFC 8437) are
// not filtered a second time.
package imap

import (
	"context"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes IMAP to the gateway.
func Protocol() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name:        "imap",
		Title:       "IMAP",
		Spec:        "RFC 2595, 3501, 9051, 8314",
		Keyword:     "STARTTLS",
		Ports:       []uint16{143},
		Implicit:    []uint16{993},
		ALPN:        []string{"imap"},
		ServerFirst: true,
		// RFC 9051, 5.4: an autologout timer is at least 30 minutes.
		IdleTimeout:   35 * time.Minute,
		CleartextAuth: true,
		Forwards:      []string{"id"},
		Options:       func() any { return &options{} },
		New:           newUpgrader,
		Probe:         probe,
		Audit:         audit,
		Request:       request,
		// Without capabilities: the backend is asked for those inside TLS.
		Greeting: []byte("* OK IMAP ready\r\n"),
	}
}

// options are what a listener can be told.
type options struct {
	// StripReferrals takes RFC 2221 referrals out of the backend's answers:
	// they name servers that the clients of a gateway cannot reach.
	StripReferrals bool `hcl:"strip_referrals,optional" doc:"take referrals (RFC 2221) out of the backend's answers: they name servers that the clients of a gateway cannot reach"`
}

type upgrader struct{ options }

var _ upgraders.Upgrader = (*upgrader)(nil)

func newUpgrader(opts any) (upgraders.Upgrader, error) {
	u := &upgrader{}
	if o, ok := opts.(*options); ok {
		u.options = *o
	}
	return u, nil
}

func (u *upgrader) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	d := &dialogue{upgrader: u, session: s}
	return d.run(ctx)
}

func (u *upgrader) Implicit(s *upgraders.Session) upgraders.Handover {
	f := &filter{offer: u.offer(s, false), greet: true}
	return upgraders.Handover{Join: f.join, Converse: f.converse, Unavailable: unavailableGreeting}
}

// starttls is the Handover for a client that asked for TLS.
func (u *upgrader) starttls(s *upgraders.Session, tag string) upgraders.Handover {
	f := &filter{offer: u.offer(s, false)}
	return upgraders.Handover{
		Verdict:     upgraders.StartTLS,
		Reply:       []byte(tag + " OK Begin TLS negotiation now\r\n"),
		Injected:    []byte(tag + " BAD Nothing may follow STARTTLS before TLS\r\n* BYE Closing\r\n"),
		Join:        f.join,
		Converse:    f.converse,
		Unavailable: unavailableCommand,
	}
}

// cleartext is the Handover for a client that goes on without TLS. first is
// the command that needs the backend.
func (u *upgrader) cleartext(s *upgraders.Session, tag string, first []byte) upgraders.Handover {
	f := &filter{offer: u.offer(s, true), first: first}
	return upgraders.Handover{
		Verdict:  upgraders.Cleartext,
		Join:     f.join,
		Converse: f.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			return write(client, refusal(tag, cause))
		},
	}
}

// offer says what of the backend's offers a session of this kind may see.
func (u *upgrader) offer(s *upgraders.Session, clear bool) offer {
	return offer{
		clear:          clear,
		refuseAuth:     clear && !s.Listener.CleartextAuth,
		stripReferrals: u.StripReferrals,
	}
}
