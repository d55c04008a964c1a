package sieve

import (
	"context"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/upgraders"
)

// audit asks a server what it offers a client it does not know, and looks for
// what would keep clients from logging in.
func audit(_ context.Context, link *upgraders.Link, told upgraders.Told) (findings []upgraders.Finding, err error) {
	list, err := introduce(link)
	if err != nil {
		return nil, err
	}
	if has(list, "XCLIENT") && !link.Forward.XCLIENT {
		findings = append(findings, upgraders.Believing("XCLIENT", told.Proxied, "Dovecot's login_trusted_networks"))
	}
	mechanisms := mechanisms(list)
	if !slices.Contains(mechanisms, "PLAIN") && !slices.Contains(mechanisms, "LOGIN") {
		f := upgraders.Finding{Severity: upgraders.Wrong, What: "forbids plain logins though the client is in TLS (SASL lists neither PLAIN nor LOGIN)",
			Mend: "allow them: Dovecot's disable_plaintext_auth = no (2.4: auth_allow_cleartext = yes); Cyrus' sieve_allowplaintext: yes"}
		if !told.TLS {
			f.Mend = "tell it of the client's TLS with send = \"proxy-v2\" (Dovecot: haproxy = yes on the listener, haproxy_trusted_networks), or " + f.Mend
		}
		findings = append(findings, f)
	}
	if !link.PassBinding {
		findings = append(findings, upgraders.UnusableBinding(mechanisms)...)
	}
	ask(link.Backend, "LOGOUT")
	return findings, nil
}

// mechanisms returns what the capability SASL lists.
func mechanisms(list []response) (names []string) {
	for _, r := range list {
		if r.status() != "" {
			continue
		}
		if name, value, _ := r.capability(); strings.EqualFold(name, "SASL") {
			names = strings.Fields(strings.ToUpper(value))
		}
	}
	return names
}
