package upgraders

import (
	"fmt"
	"strings"
)

// A Finding is what an audit has to say against a server.
type Finding struct {
	Severity Severity
	What     string // what the server does
	Mend     string // what to change, by the names of settings; may be empty
}

// Severity says how bad a Finding is.
type Severity uint8

const (
	Doubtful Severity = iota // worth a look
	Wrong                    // sessions fail, or strangers may do what they must not
)

func (s Severity) String() string { return [...]string{"warning", "error"}[s] }

// Told is what a server knows of an audit's client before the first word.
type Told struct {
	Proxied bool     // a PROXY header says where the client is
	TLS     bool     // and that it came in TLS
	Ports   []uint16 // where clients of this backend connect
}

// Believing is the Finding for a server that offers a command by which a client
// says who it is. told says that the server knows the audit's client for a
// stranger; setting names what decides whom it believes.
func Believing(command string, told bool, setting string) Finding {
	if told {
		return Finding{Wrong,
			"offers " + command + " to a client from nowhere: whoever reaches the server may name any address as his own",
			"list the gateway's address alone in " + setting,
		}
	}
	return Finding{Doubtful,
		"offers " + command + " to the gateway, which does not use it: the server takes every client for the gateway",
		"write forward { xclient = true }, or take the gateway's address out of " + setting,
	}
}

// UnusableBinding is the Finding for a list of SASL mechanisms whose channel
// binding ends at the gateway, if there are such in it. They are not shown to
// clients, but the server has offered them: it must then refuse a client that
// says that it could bind and was offered nothing (RFC 5802, 6: the flag y).
func UnusableBinding(mechanisms []string) []Finding {
	for _, m := range mechanisms {
		if m = strings.ToUpper(m); strings.HasSuffix(m, "-PLUS") {
			return []Finding{{Doubtful,
				fmt.Sprintf("offers %s to the gateway, which cannot pass it on; a client that knows channel binding is then refused in %s (RFC 5802, 6)", m, strings.TrimSuffix(m, "-PLUS")),
				"do not offer it there (Postfix: smtpd_sasl_mechanism_filter; Dovecot: auth_mechanisms; Exim: server_channelbinding; Cyrus: sasl_mech_list), " +
					"or reach the server without TLS on a network of yours, or share key and certificate with it and write channel_binding = \"pass\"",
			}}
		}
	}
	return nil
}
