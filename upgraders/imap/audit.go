package imap

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/upgraders"
)

// audit asks a server what it offers a client it does not know, and looks for
// what would keep clients from logging in, or let them in without.
func audit(ctx context.Context, link *upgraders.Link, told upgraders.Told) (findings []upgraders.Finding, err error) {
	offered, err := probe(ctx, link)
	if errors.Is(err, errUnfit) {
		return []upgraders.Finding{{
			Severity: upgraders.Wrong,
			What:     "greets with PREAUTH: every client of the gateway is logged in as somebody",
			Mend:     "have it ask for a login: no IMAP process that inetd or ssh begins already logged in",
		}}, nil
	}
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(offered, equals("LOGINDISABLED")) {
		mend := "Dovecot: disable_plaintext_auth = no (2.4: auth_allow_cleartext = yes) or login_trusted_networks; Cyrus: allowplaintext: yes, or imapd -p 128"
		if told.TLS {
			mend = "let it believe the TLS of the PROXY header, or allow logins without; " + mend
		} else {
			mend = "tell it of the client's TLS with send = \"proxy-v2\" (Dovecot: haproxy = yes on the listener, haproxy_trusted_networks), or allow logins without; " + mend
		}
		findings = append(findings, upgraders.Finding{Severity: upgraders.Wrong, What: "forbids plain logins though the client is in TLS (LOGINDISABLED)", Mend: mend})
	}
	if !link.PassBinding {
		var mechanisms []string
		for _, c := range offered {
			if auth, ok := strings.CutPrefix(strings.ToUpper(c), "AUTH="); ok {
				mechanisms = append(mechanisms, auth)
			}
		}
		findings = append(findings, upgraders.UnusableBinding(mechanisms)...)
	}
	return findings, nil
}
