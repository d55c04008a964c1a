package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
)

// A demoServer is one legacy server of the demo, with the listeners before it
// and the visits it is paid.
type demoServer struct {
	backend   string             // what the configuration calls it
	serve     func(net.Listener) // until that is closed
	listeners []demoListener
	visits    []visit
	ln        net.Listener
}

// A demoListener is what the gateway has before a demoServer.
type demoListener struct {
	protocol string
	name     string
	mode     string
	port     string // where it is free
	more     string // attributes besides
	route    string // "": all that comes goes to the server
	comment  string
}

// A visit is a session made by client code that knows nothing of sallyport.
type visit struct {
	listener string
	how      string // as the client asks for TLS; cleartext: not at all
	name     string // what it verifies the certificate for
	play     func(conn net.Conn, config *tls.Config) error
	early    bool   // the server speaks first, and so is told nothing of TLS
	protocol string // of the listener
	backend  string // where it must arrive
}

// demoServers lists them in the order of the visits. A protocol is shown by
// what its own file serves and visits, and by a place here.
func demoServers(b *demoBackends) []demoServer {
	const starttls, implicit = "starttls", "implicit"
	return []demoServer{
		{backend: "mail", serve: b.serveSMTP,
			listeners: []demoListener{
				{protocol: "smtp", name: "mx", mode: starttls, port: "2525", more: `cleartext = "allow"`,
					comment: "A public mail exchanger must take mail without TLS as well (RFC 3207, 4)."},
				{protocol: "smtp", name: "submission", mode: starttls, port: "2587",
					route: "route {\nsni = [\"" + demoTenant + "\"]\nbackend = backend.tenant\n}\nroute { backend = backend.mail }"},
				{protocol: "smtp", name: "submissions", mode: implicit, port: "2465"},
			},
			visits: []visit{
				{listener: "mx", how: "STARTTLS", name: demoName, play: visitSMTP("first", startTLS)},
				{listener: "submission", how: "STARTTLS", name: demoName, play: visitSMTP("second", startTLS|login)},
				{listener: "submissions", how: implicit, name: demoName, play: visitSMTP("third", implicitTLS|login)},
				{listener: "mx", how: "cleartext", play: visitSMTP("fourth", 0)},
			}},
		{backend: "tenant", serve: b.serveSMTP, // of another customer, chosen by SNI
			visits: []visit{{listener: "submission", how: "STARTTLS", name: demoTenant, play: visitSMTP("fifth", startTLS|login)}}},
		{backend: "mailbox", serve: b.serveIMAP,
			listeners: []demoListener{
				{protocol: "imap", name: "imap", mode: starttls, port: "2143"},
				{protocol: "imap", name: "imaps", mode: implicit, port: "2993"},
			},
			visits: []visit{
				{listener: "imap", how: "STARTTLS", name: demoName, play: visitIMAP},
				{listener: "imaps", how: implicit, name: demoName, play: visitIMAPS},
			}},
		{backend: "delivery", serve: b.serveLMTP,
			listeners: []demoListener{{protocol: "lmtp", name: "lmtp", mode: starttls, port: "2024"}},
			visits:    []visit{{listener: "lmtp", how: "STARTTLS", name: demoName, play: visitLMTP}}},
		{backend: "maildrop", serve: each(b.drop.serve),
			listeners: []demoListener{
				{protocol: "pop3", name: "pop3", mode: starttls, port: "2110"},
				{protocol: "pop3", name: "pop3s", mode: implicit, port: "2995"},
			},
			visits: []visit{
				{listener: "pop3", how: "STLS", name: demoName, play: visitPOP3},
				{listener: "pop3s", how: implicit, name: demoName, play: visitPOP3S},
			}},
		{backend: "scripts", serve: each(b.scripts.serve),
			listeners: []demoListener{{protocol: "sieve", name: "sieve", mode: starttls, port: "2419"}},
			visits:    []visit{{listener: "sieve", how: "STARTTLS", name: demoName, play: visitSieve}}},
		{backend: "news", serve: each(b.group.serve),
			listeners: []demoListener{
				{protocol: "nntp", name: "nntp", mode: starttls, port: "2119"},
				{protocol: "nntp", name: "nntps", mode: implicit, port: "2563"},
			},
			visits: []visit{
				{listener: "nntp", how: "STARTTLS", name: demoName, play: visitNNTP},
				{listener: "nntps", how: implicit, name: demoName, play: visitNNTPS},
			}},
		{backend: "files", serve: each(b.files.serve),
			listeners: []demoListener{
				{protocol: "ftp", name: "ftp", mode: starttls, port: "2121", more: `options { passive_ports = "0" }`},
				{protocol: "ftp", name: "ftps", mode: implicit, port: "2990", more: `options { passive_ports = "0" }`},
			},
			visits: []visit{
				{listener: "ftp", how: "AUTH TLS", name: demoName, play: visitFTP},
				{listener: "ftps", how: implicit, name: demoName, play: visitFTPS},
			}},
		{backend: "directory", serve: each(serveLDAP),
			listeners: []demoListener{
				{protocol: "ldap", name: "ldap", mode: starttls, port: "2389"},
				{protocol: "ldap", name: "ldaps", mode: implicit, port: "2636"},
			},
			visits: []visit{
				{listener: "ldap", how: "StartTLS", name: demoName, play: visitLDAP},
				{listener: "ldaps", how: implicit, name: demoName, play: visitLDAPS},
			}},
		{backend: "database", serve: each(servePostgres),
			listeners: []demoListener{{protocol: "postgres", name: "postgres", mode: starttls, port: "2432"}},
			visits:    []visit{{listener: "postgres", how: "SSLRequest", name: demoName, play: visitPostgres}}},
		{backend: "tables", serve: each(serveMySQL),
			listeners: []demoListener{{protocol: "mysql", name: "mysql", mode: starttls, port: "2306"}},
			visits:    []visit{{listener: "mysql", how: "SSLRequest", name: demoName, play: visitMySQL, early: true}}},
		{backend: "chat", serve: each(serveIRC),
			listeners: []demoListener{
				{protocol: "irc", name: "irc", mode: starttls, port: "2667"},
				{protocol: "irc", name: "ircs", mode: implicit, port: "2697"},
			},
			visits: []visit{
				{listener: "irc", how: "STARTTLS", name: demoName, play: visitIRC},
				{listener: "ircs", how: implicit, name: demoName, play: visitIRCS},
			}},
		{backend: "talk", serve: each(serveXMPP),
			listeners: []demoListener{
				{protocol: "xmpp", name: "xmpp", mode: starttls, port: "2522"},
				{protocol: "xmpp", name: "xmpps", mode: implicit, port: "2523"},
				{protocol: "xmpp-server", name: "xmpp-server", mode: starttls, port: "2569"},
				{protocol: "xmpp-server", name: "xmpps-server", mode: implicit, port: "2570"},
			},
			visits: []visit{
				{listener: "xmpp", how: "STARTTLS", name: demoName, play: visitXMPP("client", talkXMPP)},
				{listener: "xmpps", how: implicit, name: demoName, play: visitXMPPS("client", talkXMPP)},
				{listener: "xmpp-server", how: "STARTTLS", name: demoName, play: visitXMPP("server", talkDialback)},
				{listener: "xmpps-server", how: implicit, name: demoName, play: visitXMPPS("server", talkDialback)},
			}},
		{backend: "web", serve: each(serveWeb),
			listeners: []demoListener{
				{protocol: "http", name: "http", mode: starttls, port: "2080", more: "opossum = \"accepted\"\noptions {\nupgrade = true\n}",
					comment: "For clients that ask for TLS, as printers' do (RFC 2817); browsers want redirect = true."},
				{protocol: "http", name: "https", mode: implicit, port: "2443"},
			},
			visits: []visit{
				{listener: "http", how: "Upgrade", name: demoName, play: visitHTTP},
				{listener: "https", how: implicit, name: demoName, play: visitHTTPS},
			}},
		{backend: "terminal", serve: each(serveEcho),
			listeners: []demoListener{
				{protocol: "telnet", name: "telnet", mode: starttls, port: "2023"},
				{protocol: "telnet", name: "telnets", mode: implicit, port: "2992"},
			},
			visits: []visit{
				{listener: "telnet", how: "START_TLS", name: demoName, play: visitTelnet},
				{listener: "telnets", how: implicit, name: demoName, play: visitEcho},
			}},
		{backend: "echo", serve: each(serveEcho), // says each line back
			listeners: []demoListener{{protocol: "tcp", name: "echo", mode: implicit, port: "2007"}},
			visits:    []visit{{listener: "echo", how: implicit, name: demoName, play: visitEcho}}},
	}
}

// visits are all visits, knowing where they go.
func (b *demoBackends) visits() (all []visit) {
	protocols := map[string]string{}
	for _, s := range b.servers {
		for _, l := range s.listeners {
			protocols[l.name] = l.protocol
		}
		for _, v := range s.visits {
			v.protocol, v.backend = protocols[v.listener], s.backend
			all = append(all, v)
		}
	}
	return all
}

// demoPorts names the ports of all listeners, in lines that fit a terminal.
func demoPorts() string {
	var ports []string
	for _, s := range demoServers(new(demoBackends)) {
		for _, l := range s.listeners {
			ports = append(ports, l.port)
		}
	}
	var text strings.Builder
	for i, port := range ports {
		switch {
		case i > 0 && i%12 == 0:
			text.WriteString(",\n")
		case i > 0:
			text.WriteString(", ")
		}
		fmt.Fprint(&text, port)
	}
	return text.String()
}
