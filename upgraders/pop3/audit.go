package pop3

import (
	"context"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/upgraders"
)

// audit asks a server what it offers a client it does not know, and looks for
// what would keep clients from logging in.
func audit(_ context.Context, link *upgraders.Link, told upgraders.Told) (findings []upgraders.Finding, err error) {
	_, trusted, err := introduce(link)
	if err != nil {
		return nil, err
	}
	offered, err := capa(link.Backend)
	if err != nil {
		return nil, err
	}
	if trusted && !link.Forward.XCLIENT {
		findings = append(findings, upgraders.Believing("XCLIENT", told.Proxied, "Dovecot's login_trusted_networks"))
	}
	user, mechanisms := logins(offered)
	plain := slices.ContainsFunc(mechanisms, func(m string) bool { return m == "PLAIN" || m == "LOGIN" })
	// RFC 2449, 6.3: without USER in the list, the command need not be there.
	// A server that lists nothing at all is one from before that.
	if len(offered) > 0 && !user && !plain {
		f := upgraders.Finding{Severity: upgraders.Wrong, What: "forbids plain logins though the client is in TLS (neither USER nor SASL PLAIN)",
			Mend: "allow them: Dovecot's disable_plaintext_auth = no (2.4: auth_allow_cleartext = yes); Cyrus' allowplaintext: yes, or pop3d -p 128"}
		if !told.TLS {
			f.Mend = "tell it of the client's TLS with send = \"proxy-v2\" (Dovecot: haproxy = yes on the listener, haproxy_trusted_networks), or " + f.Mend
		}
		findings = append(findings, f)
	}
	if !link.PassBinding {
		findings = append(findings, upgraders.UnusableBinding(mechanisms)...)
	}
	if upgraders.Say(link.Backend, "QUIT") == nil {
		readLine(link.Backend)
	}
	return findings, nil
}

// logins returns the ways to log in that a capability list names.
func logins(offered upgraders.Capabilities) (user bool, mechanisms []string) {
	for _, line := range offered {
		switch words := strings.Fields(strings.ToUpper(line)); {
		case len(words) == 0:
		case words[0] == "USER":
			user = true
		case words[0] == "SASL":
			mechanisms = append(mechanisms, words[1:]...)
		}
	}
	return user, mechanisms
}
