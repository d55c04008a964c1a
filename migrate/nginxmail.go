package migrate

import (
	"slices"
	"strings"
	"time"
)

// mail goes through the servers of nginx's mail proxy.
func (n *nginxDraft) mail(m *directive) {
	outer := &level{list: m.block}
	outer.where = "mail"
	for _, d := range m.block {
		if d.name == "server" {
			n.mailServer(outer, d)
		}
	}
	outer.unused(append([]string{"server"}, mailCarried...), mailReasons)
	n.notes = append(n.notes, outer.notes.list...)
}

var mailCarried = []string{
	"auth_http", "listen", "protocol", "proxy_protocol", "proxy_timeout", "server_name", "set_real_ip_from", "smtp_auth",
	"smtp_greeting_delay", "starttls", "timeout", "xclient",
}

var mailReasons = map[string]string{
	"auth_http_header":           "nobody is asked over HTTP",
	"auth_http_pass_client_cert": "nobody is asked over HTTP",
	"auth_http_timeout":          "nobody is asked over HTTP",
	"error_log":                  "the log goes to standard error; its level is log.level",
	"imap_auth":                  "the server offers what it can, and its offers are passed on",
	"imap_capabilities":          "what the server offers is learned from it",
	"imap_client_buffer":         "buffers have bounds of their own",
	"max_errors":                 "before TLS it is policy.dialogue.commands that bounds what a client may try",
	"pop3_auth":                  "the server offers what it can, and its offers are passed on",
	"pop3_capabilities":          "what the server offers is learned from it",
	"proxy":                      "sessions always go to a server",
	"proxy_buffer":               "buffers have bounds of their own",
	"proxy_pass_error_message":   "what the server says reaches the client as it is",
	"proxy_smtp_auth":            "the client logs in to the server itself",
	"resolver":                   "the system's resolvers are asked; a block resolver names others",
	"resolver_timeout":           "connect_timeout of a backend bounds looking it up as well",
	"smtp_capabilities":          "what the server offers is learned from it",
	"smtp_client_buffer":         "buffers have bounds of their own",
}

// mailProtocols are those that nginx takes from the port, where none is said.
var mailProtocols = map[uint16]string{25: "smtp", 587: "smtp", 465: "smtp", 143: "imap", 993: "imap", 110: "pop3", 995: "pop3"}

var mailPorts = map[string]uint16{"smtp": 25, "imap": 143, "pop3": 110}

func (n *nginxDraft) mailServer(outer *level, d *directive) {
	s := &serverBlock{nginxDraft: n, at: d.place, outer: outer, inner: &level{list: d.block}}
	s.inner.where = "mail server"
	if first := s.get("listen").arg(0); first != "" {
		s.inner.where += " " + printable(first)
	}
	s.inner.unused(mailCarried, mailReasons)
	listens := s.listens()
	if s.is("ssl", "on") {
		for i := range listens {
			listens[i].ssl = true
		}
	}
	protocol := s.get("protocol").arg(0)
	if protocol == "" && len(listens) > 0 {
		protocol = mailProtocols[port(listens[0].address)]
	}
	if mailPorts[protocol] == 0 || s.protocol(protocol) == nil || len(listens) == 0 {
		why := "it has no protocol that is spoken"
		if len(listens) == 0 {
			why = "there is no address to listen on"
		}
		s.lost(s.get("protocol"), "this server", "%s", why)
		n.drop(s.inner.notes)
		return
	}
	r := route{backend: s.mailBackend(protocol)}
	hostname := s.mailHostname()
	greetWait := s.greetWait(protocol)
	certificates := s.certificates()
	s.listeners(listens, func(l *listener, ssl bool) bool {
		l.protocol, l.hostname, l.routes, l.certificates = protocol, hostname, []*route{&r}, slices.Clone(certificates)
		if !ssl {
			s.starttls(l)
			l.greetWait = greetWait
		}
		l.name = nameByPort(l)
		l.tls = s.tls(l.cleartext)
		l.policy = policy{idle: s.time("proxy_timeout"), dialogue: s.time("timeout")}
		return true
	})
}

// starttls says what sessions get on a port that begins in cleartext.
func (s *serverBlock) starttls(l *listener) {
	d := s.get("starttls")
	if d.arg(0) == "only" {
		return
	}
	l.cleartext = true
	// nginx takes passwords in the clear, and wants one of every client of
	// SMTP unless smtp_auth is none.
	l.cleartextAuth = l.protocol == "smtp" && !slices.Contains(s.get("smtp_auth").args, "none")
	if d.arg(0) != "on" && len(l.certificates) > 0 {
		s.changed(d, "starttls off", "clients are offered TLS now, and go on without as before")
	}
}

// mailBackend makes a backend of what auth_http would have said.
func (s *serverBlock) mailBackend(protocol string) *backend {
	be := &backend{name: protocol, variable: protocol + "_server"}
	// An address for documentation, which nobody has: a guess could be the gateway
	// itself, which listens on this very port, or a server that trusts it.
	address := join("192.0.2.1", mailPorts[protocol])
	be.servers = []server{{address: address}}
	s.variable(variable{
		name: be.variable, value: quote(address),
		description: "the server behind the " + protocol + " listeners: set it, " + address + " is nobody",
	})
	d := s.get("auth_http")
	why := "it told for each login which server it belongs to, and sallyport looks at no login: set var.%s to the server, or to a director (Dovecot's proxy) that knows where mailboxes are"
	if protocol == "smtp" && !slices.Contains(s.get("smtp_auth").args, "none") {
		why += "; it also checked the passwords of SMTP, so let the server offer AUTH itself, and relay for nobody because of the gateway's address"
	}
	s.lost(d, "auth_http for "+protocol, why, be.variable)
	switch {
	case s.is("proxy_protocol", "on"):
		be.send = "proxy-v1"
	case protocol == "smtp" && !s.is("xclient", "off"):
		be.xclient = true
	}
	return be
}

// mailHostname returns what the server calls itself.
func (s *serverBlock) mailHostname() string {
	d := s.get("server_name")
	name := strings.TrimSuffix(d.arg(0), ".")
	if d.name == "" || validHost(name) {
		return name
	}
	s.lost(d, d.String(), "it is no host name")
	return ""
}

func (s *serverBlock) greetWait(protocol string) string {
	d := s.get("smtp_greeting_delay")
	if d.name == "" || protocol != "smtp" {
		return ""
	}
	t, ok := nginxTime(d.arg(0))
	switch {
	case !ok:
		return ""
	case t > 20*time.Second:
		s.changed(d, d.String(), "20s is the longest greet_wait")
		t = 20 * time.Second
	}
	return duration(t)
}
