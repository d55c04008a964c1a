package nntp

import (
	"context"
	"strings"

	"github.com/sallyport/sallyport/upgraders"
)

// audit asks a server what it offers a client it does not know.
func audit(_ context.Context, link *upgraders.Link, told upgraders.Told) (findings []upgraders.Finding, err error) {
	if _, err := greet(link.Backend); err != nil {
		return nil, err
	}
	offered, err := ask(link.Backend)
	if err != nil {
		return nil, err
	}
	if lists(offered, "IHAVE") && !lists(offered, "MODE-READER") {
		findings = append(findings, upgraders.Finding{Severity: upgraders.Wrong,
			What: "takes the gateway for a peer (IHAVE): whoever reaches the gateway may feed articles",
			Mend: "take the gateway's address out of INN's incoming.conf, or firewall the listener to the peers"})
	}
	if lists(offered, "POST") {
		findings = append(findings, upgraders.Finding{Severity: upgraders.Doubtful,
			What: "lets a client post without a password",
			Mend: "if it does so for the gateway's address: take that out of the hosts of INN's readers.conf, and ask for AUTHINFO there"})
	}
	var mechanisms []string
	for _, line := range offered {
		switch words := strings.Fields(strings.ToUpper(line)); {
		case len(words) == 1 && words[0] == "AUTHINFO":
			findings = append(findings, upgraders.Finding{Severity: upgraders.Wrong,
				What: "forbids logins though the client is in TLS (AUTHINFO without arguments: RFC 4643, 2.1)",
				Mend: "allow them: take require_ssl out of INN's readers.conf (2.7: require_encryption), and firewall the server to the gateway"})
		case len(words) > 1 && words[0] == "SASL":
			mechanisms = words[1:]
		}
	}
	if !link.PassBinding {
		findings = append(findings, upgraders.UnusableBinding(mechanisms)...)
	}
	leave(link.Backend)
	return findings, nil
}
