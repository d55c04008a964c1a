// Package smtp leads SMTP and submission sessions from cleartext to TLS: RFC
// 3207 (STARTTLS), RFC 8314 (implicit TLS on 465), over RFC 5321 with RFC 2920
// (pipelining), RFC 3030 (BDAT) and RFC 4954 (AUTH). LMTP, RFC 2033, differs in
// a few words and is served by the same code.
//
// The gateway answers EHLO, HELO, NOOP, QUIT and STARTTLS itself. The backend's
// session begins after TLS, so nothing that was said in clear is known there
// (RFC 3207, 4.2). Inside, a filter takes out what the backend offers to the
// gateway and not to its clients, and goes as soon as nothing is left to take
// out.
//
// Left out: XEXCH50 and other verbs that carry data of their own, where a
// filter has to stay.
package smtp

import (
	"context"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes SMTP, for mail exchangers and submission alike.
func Protocol() *upgraders.Protocol {
	return smtpVariant.protocol(upgraders.Protocol{
		Name:     "smtp",
		Title:    "SMTP",
		Spec:     "RFC 3207, 8314, 5321",
		Ports:    []uint16{25, 587},
		Implicit: []uint16{465},
		// Not registered, but clients send them.
		ALPN: []string{"smtp", "esmtp"},
	})
}

// LMTP describes LMTP; package lmtp lists it.
func LMTP() *upgraders.Protocol {
	return lmtpVariant.protocol(upgraders.Protocol{
		Name:  "lmtp",
		Title: "LMTP",
		Spec:  "RFC 2033, 3207",
		Ports: []uint16{24},
	})
}

// A variant is where SMTP and LMTP differ.
type variant struct {
	greeting     string // what the 220 says of itself
	helloVerb    string // the greeting verb; EHLO has HELO beside it
	perRecipient bool   // RFC 2033, 4.2: one reply per recipient after the message
}

var (
	smtpVariant = variant{greeting: "ESMTP", helloVerb: "EHLO"}
	lmtpVariant = variant{greeting: "LMTP", helloVerb: "LHLO", perRecipient: true}
)

// protocol adds what both variants share.
func (v variant) protocol(p upgraders.Protocol) *upgraders.Protocol {
	p.Keyword = "STARTTLS"
	p.ServerFirst = true
	// RFC 5321, 4.5.3.2.7 asks for 5 minutes at least, and for 10 between the
	// end of a message and its reply (4.5.3.2.6).
	p.IdleTimeout = 10 * time.Minute
	p.Forwards = []string{"xclient"}
	p.Options = func() any { return &options{} }
	p.New = v.newUpgrader
	p.Probe = v.probe
	p.Audit = v.audit
	p.Request = v.request
	p.Greeting = []byte(standIn)
	return &p
}

// options are what a listener can be told.
type options struct {
	// GreetWait is how long a client has to keep silent before the greeting.
	GreetWait string `hcl:"greet_wait,optional" doc:"how long a client must keep silent before the greeting; who talks first gets 554"`
	// StrictNewlines refuses bare CR and LF in DATA, for backends that take
	// them for line ends (SMTP smuggling, CVE-2023-51764).
	StrictNewlines bool `hcl:"strict_newlines,optional" doc:"refuse bare CR and LF in DATA, for backends that take them for line ends (SMTP smuggling, CVE-2023-51764)"`
}

// maxGreetWait is below the time a dialogue has by default.
const maxGreetWait = 20 * time.Second

type upgrader struct {
	variant
	greetWait      time.Duration
	strictNewlines bool
}

var _ upgraders.Upgrader = (*upgrader)(nil)

func (v variant) newUpgrader(opts any) (upgraders.Upgrader, error) {
	u := &upgrader{variant: v}
	o, ok := opts.(*options)
	if !ok {
		return u, nil
	}
	u.strictNewlines = o.StrictNewlines
	if o.GreetWait != "" {
		wait, err := time.ParseDuration(o.GreetWait)
		if err != nil || wait < 0 || wait > maxGreetWait {
			return nil, fmt.Errorf("greet_wait is %q; write a duration from \"0s\" to %q, such as \"3s\"", o.GreetWait, maxGreetWait)
		}
		u.greetWait = wait
	}
	return u, nil
}

func (u *upgrader) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	d := &dialogue{upgrader: u, session: s}
	return d.run(ctx)
}

func (u *upgrader) Implicit(s *upgraders.Session) upgraders.Handover {
	p := &passage{upgrader: u, hostname: s.Listener.Hostname, greet: true, offer: inTLS}
	return upgraders.Handover{
		Join:     p.join,
		Converse: p.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			return p.unavailable(client, cause)
		},
	}
}

// starttls is the Handover for a client that asked for TLS.
func (u *upgrader) starttls(s *upgraders.Session) upgraders.Handover {
	p := &passage{upgrader: u, hostname: s.Listener.Hostname, offer: inTLS}
	return upgraders.Handover{
		Verdict:  upgraders.StartTLS,
		Reply:    []byte("220 2.0.0 Ready to start TLS\r\n"),
		Injected: []byte("554 5.5.1 Nothing may follow STARTTLS before TLS\r\n"),
		Join:     p.join,
		Converse: p.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			// No greeting is due: the bad news answers the first command.
			line, err := client.ReadSlice(maxLine)
			if upgraders.IsHTTP(line) {
				return upgraders.ErrHTTP
			}
			if err != nil && !timedOut(err) {
				return err
			}
			return p.unavailable(client, cause)
		},
	}
}

// cleartext is the Handover for a client that goes on without TLS. hello is
// its EHLO or HELO, pending the command that needs the backend.
func (u *upgrader) cleartext(s *upgraders.Session, hello, pending string) upgraders.Handover {
	p := &passage{
		upgrader: u,
		hostname: s.Listener.Hostname,
		offer:    inClear(s.Listener),
		hello:    hello,
		pending:  pending,
	}
	return upgraders.Handover{
		Verdict:  upgraders.Cleartext,
		Join:     p.join,
		Converse: p.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			return p.unavailable(client, cause)
		},
	}
}
