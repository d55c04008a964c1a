// Package http stands before HTTP/1.1 servers (RFC 9110, 9112). A client begins
// with TLS, or asks for it by `OPTIONS *` with `Upgrade: TLS/1.2` (RFC 2817),
// which printers' clients do and browsers do not.
//
// HTTP is served, not relayed: each request is read strictly and written anew
// for the backend, which learns who the client is and whether it came in TLS
// (RFC 7239). WebSockets pass. What is left out: HTTP/2, caching, CONNECT.
package http

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/onehttp"
	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes HTTP.
func Protocol() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name:          "http",
		Title:         "HTTP",
		Spec:          "RFC 2817, 9110, 9112",
		Keyword:       "Upgrade: TLS",
		Ports:         []uint16{80},
		Implicit:      []uint16{443, 631},
		ALPN:          []string{"http/1.1", "http/1.0"},
		IdleTimeout:   5 * time.Minute,
		CleartextAuth: true,
		TellsClient:   true,
		Options:       func() any { return &options{} },
		New:           newUpgrader,
		Probe:         probe,
		Audit:         audit,
		Request:       request,
		Greeting:      []byte(switching),
	}
}

type options struct {
	// Upgrade is off unless spelled out: who sits between can lead a client of
	// HTTPS to a port that upgrades (Opossum, CVE-2025-49812).
	Upgrade bool `hcl:"upgrade,optional" doc:"give TLS to clients in cleartext that ask for it by OPTIONS * (RFC 2817): printers' clients, not browsers"`
	// Redirect sends browsers to where TLS comes first.
	Redirect bool `hcl:"redirect,optional" doc:"answer GET and HEAD in cleartext with the same address in https"`
	// HSTS is the field's value.
	HSTS string `hcl:"hsts,optional" doc:"the Strict-Transport-Security of every answer where TLS comes first, such as \"max-age=31536000\""`
}

type upgrader struct{ opts options }

var (
	_ upgraders.Upgrader   = (*upgrader)(nil)
	_ upgraders.Particular = (*upgrader)(nil)
)

func newUpgrader(o any) (upgraders.Upgrader, error) {
	u := &upgrader{opts: *o.(*options)}
	if u.opts.HSTS != "" && !isHSTS(u.opts.HSTS) {
		return nil, fmt.Errorf("hsts is no Strict-Transport-Security: write \"max-age=31536000\" for a year, with \"; includeSubDomains\" if all subdomains have TLS")
	}
	return u, nil
}

// isHSTS is RFC 6797, 6.1, with the directives that are in use.
func isHSTS(value string) bool {
	ages := 0
	for directive := range strings.SplitSeq(value, ";") {
		name, argument, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "max-age":
			ages++
			if argument == "" || len(argument) > 10 || strings.Trim(argument, "0123456789") != "" {
				return false
			}
		case "includesubdomains", "preload":
			if argument != "" {
				return false
			}
		default:
			return false
		}
	}
	return ages == 1
}

// Offers implements upgraders.Particular.
func (u *upgrader) Offers() bool { return u.opts.Upgrade }

// Check implements upgraders.Particular.
func (u *upgrader) Check(l *upgraders.Listener, asks, begins bool) error {
	switch {
	case !asks && (u.opts.Upgrade || u.opts.Redirect):
		return fmt.Errorf("upgrade and redirect are for clients in cleartext, and this listener begins with TLS: leave them out")
	case u.opts.HSTS != "" && !begins:
		return fmt.Errorf("hsts must not be sent in cleartext (RFC 6797, 7.2): write it in the listener on port 443")
	case u.opts.Redirect && l.Cleartext:
		return fmt.Errorf("redirect sends away whom cleartext = \"allow\" serves: leave one of them out")
	case asks && !begins && !l.Cleartext && !u.opts.Upgrade && !u.opts.Redirect:
		return fmt.Errorf("nobody would be served here: write options { redirect = true } to send browsers to https, options { upgrade = true } for clients that ask for TLS (RFC 2817), or cleartext = \"allow\"")
	}
	return nil
}

// Upgrade implements upgraders.Upgrader.
func (u *upgrader) Upgrade(_ context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	head, err := firstRequest(s.Conn)
	switch {
	case err != nil:
		return turnedAway(s.Conn, err)
	case u.opts.Upgrade && asksForTLS(head) != "" && s.CanTLS():
		if len(head.Values("expect")) > 0 {
			// RFC 9110, 10.1.1: there is nothing to wait for without content,
			// and 7.8 would have 100 before 101.
			return turnedAway(s.Conn, upgraders.ErrSyntax)
		}
		s.Conn.Discard(head.Size())
		token := asksForTLS(head)
		h := u.serving(s, overTLS)
		h.Verdict, h.ALPN = upgraders.StartTLS, upgraders.ALPNForbidden
		h.Reply = fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: %s, HTTP/1.1\r\nConnection: Upgrade\r\n\r\n", token)
		h.Injected = badRequest
		return h, nil
	case s.Listener.Cleartext:
		// The head stays in the buffer, and is the first that is served.
		h := u.serving(s, inClear)
		h.Verdict = upgraders.Cleartext
		return h, nil
	case u.opts.Upgrade && !s.CanTLS():
		return upgraders.Handover{Reply: unavailable}, upgraders.ErrNeedsTLS
	case u.opts.Redirect:
		if to := elsewhere(head); to != "" {
			return upgraders.Handover{Reply: answer("308 Permanent Redirect", "", "Location: "+to)}, nil
		}
	}
	return upgraders.Handover{Reply: u.needsTLS(head)}, upgraders.ErrNeedsTLS
}

// Implicit implements upgraders.Upgrader.
func (u *upgrader) Implicit(s *upgraders.Session) upgraders.Handover {
	return u.serving(s, fromStart)
}

// firstRequest looks at the head of the first request, which stays in the
// buffer. In cleartext there is no second one for the dialogue: whatever comes
// after it is served, or the end.
func firstRequest(c *wire.Conn) (*onehttp.Head, error) {
	if _, err := c.Peek(1); err != nil {
		return nil, err
	}
	if err := c.Spend(); err != nil {
		return nil, err
	}
	return onehttp.ReadHead(c)
}

// tokens are the names that TLS goes by in Upgrade (RFC 2817, 3.1). Which
// version it will be is the handshake's to say.
var tokens = [...]string{"TLS/1.0", "TLS/1.1", "TLS/1.2", "TLS/1.3"}

// asksForTLS returns the first name of TLS in a request for it, and "" for
// other requests. RFC 2817, 3.2 lets any request ask, and have its answer in
// TLS; but only `OPTIONS *` has nothing in it that was said too early.
func asksForTLS(h *onehttp.Head) string {
	if h.Method != "OPTIONS" || h.Target != "*" || h.Minor == 0 || h.Length != 0 || !h.Has("connection", "upgrade") {
		return ""
	}
	for _, asked := range h.Tokens("upgrade") {
		for _, token := range tokens {
			if strings.EqualFold(asked, token) {
				return token
			}
		}
	}
	return ""
}
