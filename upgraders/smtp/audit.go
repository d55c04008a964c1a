package smtp

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// stranger is a mailbox that nobody has: the domain is kept for examples.
const stranger = "sallyport-check@example.net"

// audit asks a server what it gives to a client it does not know. It never
// comes to DATA.
func (v variant) audit(_ context.Context, link *upgraders.Link, told upgraders.Told) ([]upgraders.Finding, error) {
	offered, err := v.hello(link)
	if err != nil {
		return nil, err
	}
	a := &audit{variant: v, backend: link.Backend, told: told.Proxied || link.Forward.XCLIENT}
	a.trust(offered, told.Proxied)
	mechanisms, listed := saslMechanisms(offered)
	if listed && !link.PassBinding {
		a.findings = append(a.findings, upgraders.UnusableBinding(mechanisms)...)
	}
	// A server that hangs up on a question has answered those before.
	wantsTLS, err := a.transaction()
	if err == nil && !wantsTLS && !listed {
		submission := slices.ContainsFunc(told.Ports, func(p uint16) bool { return p == 587 || p == 465 })
		err = a.logins(submission)
	}
	if err != nil {
		return a.findings, err
	}
	command(link.Backend, "QUIT")
	return a.findings, nil
}

type audit struct {
	variant
	backend  *wire.Conn
	told     bool // the server was told who the client is
	findings []upgraders.Finding
}

func (a *audit) find(severity upgraders.Severity, what, mend string) {
	a.findings = append(a.findings, upgraders.Finding{Severity: severity, What: what, Mend: mend})
}

// trust looks for commands by which a client may call itself another. Behind a
// PROXY header or XCLIENT the server speaks to a client from nowhere; but
// Postfix goes on to offer XFORWARD to who has said XCLIENT.
func (a *audit) trust(offered upgraders.Capabilities, proxied bool) {
	for _, line := range offered {
		if name := keyword(line); name == "XCLIENT" || name == "XFORWARD" && proxied {
			a.findings = append(a.findings, upgraders.Believing(name, a.told, fmt.Sprintf("Postfix' smtpd_authorized_%s_hosts", strings.ToLower(name))))
		}
	}
}

// transaction asks for the delivery of a message far away, and takes it back.
func (a *audit) transaction() (wantsTLS bool, err error) {
	r, err := command(a.backend, "MAIL FROM:<>")
	if err != nil {
		return false, err
	}
	switch words := strings.ToUpper(strings.Join(r.lines, " ")); {
	case r.class() == 5 && strings.Contains(words, "TLS"):
		// RFC 3207, 4: 530 Must issue a STARTTLS command first.
		a.find(upgraders.Wrong, fmt.Sprintf("wants TLS of the gateway before it takes mail: %d %.200s", r.code, strings.Join(r.lines, " ")),
			"write tls { mode = \"starttls\" } in the backend, or Postfix: smtpd_tls_security_level = may; Exim: the condition on $tls_in_cipher in acl_smtp_mail")
		return true, nil
	case r.class() != 2 || a.perRecipient:
		// RFC 2033: what LMTP takes it delivers, and relays nowhere.
		return false, a.reset()
	}
	if r, err = command(a.backend, "RCPT TO:<%s>", stranger); err != nil {
		return false, err
	}
	switch {
	case r.class() == 2 && a.told:
		a.find(upgraders.Wrong, "is an open relay: it takes mail for <"+stranger+"> from 192.0.2.1",
			"Postfix: smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination, and mynetworks without strangers; Exim: relay_from_hosts, acl_smtp_rcpt")
	case r.class() == 2:
		a.find(upgraders.Wrong, "is an open relay through the gateway: it takes mail for <"+stranger+"> from the gateway's address, which stands for every client",
			"tell it who the client is: send = \"proxy-v2\" (Postfix: smtpd_upstream_proxy_protocol = haproxy; Exim: hosts_proxy) or forward { xclient = true } (Postfix: smtpd_authorized_xclient_hosts); "+
				"or take the gateway's address out of Postfix' mynetworks, Exim's relay_from_hosts")
	case r.class() == 4 && !strings.HasPrefix(r.lines[0], "4.7.") && !strings.Contains(strings.ToLower(r.lines[0]), "relay"):
		// 4.7.1 is how defer_unauth_destination says no.
		a.find(upgraders.Doubtful, fmt.Sprintf("does not say whether it relays: %d %.200s", r.code, strings.Join(r.lines, " ")), "ask again later")
	}
	return false, a.reset()
}

func (a *audit) reset() error {
	_, err := command(a.backend, "RSET")
	return err
}

// logins asks for the one that is not offered: a server that hides AUTH from
// sessions in cleartext takes this one for such.
func (a *audit) logins(submission bool) error {
	r, err := command(a.backend, "AUTH PLAIN")
	if err == nil && r.class() == 3 {
		r, err = command(a.backend, "*") // RFC 4954, 4 cancels
	}
	if err != nil {
		return err
	}
	const mend = "Postfix: smtpd_tls_auth_only = no, smtpd_sasl_auth_enable = yes; Exim: auth_advertise_hosts, and server_advertise_condition without $tls_in_cipher; " +
		"or write tls { mode = \"starttls\" } in the backend"
	switch {
	// RFC 4954, 6: 538 encryption required; 530 and 5.7.11 in its place.
	case r.code == 538, r.code == 530, strings.HasPrefix(r.lines[0], "5.7.11"):
		a.find(upgraders.Wrong, fmt.Sprintf("forbids logins though the client is in TLS, and hides AUTH: %d %.200s", r.code, strings.Join(r.lines, " ")), mend)
	case submission:
		a.find(upgraders.Wrong, "offers no AUTH, and clients come to it by a submission port to log in", mend)
	}
	return nil
}

// saslMechanisms returns what AUTH lists, and whether there is such a line.
func saslMechanisms(offered upgraders.Capabilities) (mechanisms []string, ok bool) {
	for _, line := range offered {
		if i := strings.IndexAny(line, " \t="); i >= 0 && keyword(line) == "AUTH" {
			mechanisms, ok = append(mechanisms, strings.Fields(line[i+1:])...), true
		}
	}
	return mechanisms, ok
}
