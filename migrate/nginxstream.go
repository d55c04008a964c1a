package migrate

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"
)

// stream goes through the servers of nginx's TCP proxy.
func (n *nginxDraft) stream(m *directive) {
	outer := &level{list: m.block}
	outer.where = "stream"
	for _, d := range m.block {
		if d.name == "server" {
			n.streamServer(outer, d)
		}
	}
	outer.unused(append([]string{"server", group, "map"}, streamCarried...), streamReasons)
	n.notes = append(n.notes, outer.notes.list...)
}

var streamCarried = []string{
	"allow", "deny", "listen", "preread_buffer_size", "preread_timeout", "proxy_bind", "proxy_connect_timeout", "proxy_pass", "proxy_protocol",
	"proxy_ssl", "proxy_ssl_name", "proxy_ssl_server_name", "proxy_ssl_trusted_certificate", "proxy_ssl_verify", "proxy_timeout",
	"return", "set_real_ip_from", "ssl_handshake_timeout", "ssl_preread", "tcp_nodelay",
}

var streamReasons = map[string]string{
	"access_log":                       "each session has a line in the log, with its own keys",
	"error_log":                        "the log goes to standard error; its level is log.level",
	"js_access":                        "there are no scripts",
	"js_filter":                        "there are no scripts",
	"js_import":                        "there are no scripts",
	"js_preread":                       "there are no scripts",
	"js_set":                           "there are no scripts",
	"limit_conn":                       "sessions of one address are bounded by policy.limits.per_ip",
	"limit_conn_dry_run":               "sessions of one address are bounded by policy.limits.per_ip",
	"limit_conn_log_level":             "sessions of one address are bounded by policy.limits.per_ip",
	"limit_conn_zone":                  "sessions of one address are bounded by policy.limits.per_ip",
	"log_format":                       "each session has a line in the log, with its own keys",
	"open_log_file_cache":              "the log goes to standard error",
	"proxy_buffer_size":                "buffers have bounds of their own",
	"proxy_download_rate":              "rates are not limited",
	"proxy_half_close":                 "a side that has ended is always passed on, and the other may finish",
	"proxy_next_" + group:              "when a server refuses, the next is always tried",
	"proxy_next_" + group + "_timeout": "the next server is tried within the client's patience",
	"proxy_next_" + group + "_tries":   "each server is tried once",
	"proxy_protocol_timeout":           "the header has policy.dialogue.timeout",
	"proxy_requests":                   "it is about UDP",
	"proxy_responses":                  "it is about UDP",
	"proxy_session_drop":               "sessions live on until the server ends them",
	"proxy_socket_keepalive":           "policy.keepalive is for both sides",
	"proxy_ssl_certificate":            "the gateway shows servers no certificate of its own",
	"proxy_ssl_certificate_key":        "the gateway shows servers no certificate of its own",
	"proxy_ssl_ciphers":                "ciphers are those of crypto/tls with forward secrecy, and cannot be chosen",
	"proxy_ssl_conf_command":           "it is a command for OpenSSL",
	"proxy_ssl_crl":                    "revoked certificates of servers are not told from good ones",
	"proxy_ssl_password_file":          "the gateway shows servers no certificate of its own",
	"proxy_ssl_protocols":              "TLS to servers is 1.2 and up",
	"proxy_ssl_session_reuse":          "it cannot be chosen",
	"proxy_ssl_verify_depth":           "chains have no highest length",
	"proxy_upload_rate":                "rates are not limited",
	"resolver":                         "the system's resolvers are asked; a block resolver names others",
	"resolver_timeout":                 "connect_timeout of a backend bounds looking it up as well",
	"server_name":                      "servers that share an address are routes of one listener: write route { sni = [...] }",
	"split_clients":                    "weights are the only way to split",
	"variables_hash_bucket_size":       "there are no variables of nginx",
	"variables_hash_max_size":          "there are no variables of nginx",
}

func (n *nginxDraft) streamServer(outer *level, d *directive) {
	s := &serverBlock{nginxDraft: n, at: d.place, outer: outer, inner: &level{list: d.block}}
	s.inner.where = "stream server"
	if first := s.get("listen").arg(0); first != "" {
		s.inner.where += " " + printable(first)
	}
	s.inner.unused(streamCarried, streamReasons)
	listens := s.listens()
	pass := s.get("proxy_pass")
	switch {
	case len(listens) == 0:
		s.lost(pass, "this server", "there is no address to listen on")
	case pass.name == "":
		s.lost(pass, "this server", "it has no proxy_pass")
	case !slices.ContainsFunc(listens, func(l listen) bool { return l.ssl }):
		s.passesThrough(pass)
	default:
		s.streamListeners(listens)
		return
	}
	n.drop(s.inner.notes)
}

// passesThrough explains why a server without ssl is none for a gateway that
// ends TLS.
func (s *serverBlock) passesThrough(pass *directive) {
	if d := s.get("ssl_preread"); d.arg(0) == "on" {
		s.lost(d, "this server", "with ssl_preread it chooses by SNI and leaves the TLS to the servers behind; sallyport ends the TLS itself: with the certificates here it is a listener with a route for each name, without them it stays with nginx")
		return
	}
	s.lost(pass, "this server", "without ssl it passes bytes through as they are; where the clients speak a protocol that sallyport knows, write a listener for it, with a certificate")
}

func (s *serverBlock) streamListeners(listens []listen) {
	for _, d := range append(slices.Clone(s.all("allow")), s.all("deny")...) {
		if d.name == "deny" {
			s.forbid(d, "who may connect is not limited by address: put the rules into the firewall")
		}
	}
	certificates := s.certificates()
	routes := s.streamRoutes()
	s.listeners(listens, func(l *listener, ssl bool) bool {
		if !ssl {
			s.inner.lost(s.at, "listen "+strings.Join(l.addresses, ", "), "without ssl it passes bytes through as they are")
			return false
		}
		l.certificates = slices.Clone(certificates)
		var servers []server
		for _, r := range routes {
			servers = append(servers, r.backend.servers...)
			if len(r.sni) > 0 {
				l.addRoute(&l.notes, s.at, "map", &route{sni: r.sni, backend: r.backend})
			} else {
				l.routes = append(l.routes, &route{backend: r.backend})
			}
		}
		l.protocol = s.implicitProtocol(l.addresses, servers)
		l.name = nameByPort(l)
		for _, r := range l.routes {
			r.backend.name = cmp.Or(r.backend.name, l.name)
		}
		l.tls = s.tls(false)
		l.policy = policy{idle: s.time("proxy_timeout"), handshake: s.time("ssl_handshake_timeout")}
		return true
	})
}

// streamRoutes returns where sessions go: to one backend, or by a map of SNI to
// several, the most exact first.
func (s *serverBlock) streamRoutes() []*route {
	pass := s.get("proxy_pass")
	if !strings.HasPrefix(pass.arg(0), "$") {
		if be := s.streamBackend(pass, pass.arg(0)); be != nil {
			return []*route{{backend: be}}
		}
		return nil
	}
	for _, m := range s.outer.all("map") {
		if m.arg(1) == pass.arg(0) && m.arg(0) == "$ssl_server_name" {
			return s.mapRoutes(m)
		}
	}
	s.lost(pass, pass.String(), "the server is chosen by a variable; here SNI chooses, by routes (map $ssl_server_name is carried over)")
	return nil
}

func (s *serverBlock) mapRoutes(m *directive) (routes []*route) {
	hostnames := slices.ContainsFunc(m.block, func(d *directive) bool { return d.name == "hostnames" })
	var rest *route
	for _, d := range m.block {
		names := []string{strings.ToLower(d.name)}
		if name, ok := strings.CutPrefix(names[0], "."); ok {
			names = []string{name, "*." + name}
		}
		switch {
		case d.name == "hostnames" || d.name == "volatile":
			continue
		case d.name == "default":
			if be := s.streamBackend(d, d.arg(0)); be != nil {
				rest = &route{backend: be}
			}
			continue
		case slices.ContainsFunc(names, func(n string) bool { return !validPattern(n) || strings.HasPrefix(n, "*") && !hostnames }):
			s.lost(d, "the line "+d.String()+" of map", "a route takes a name, or *.domain")
			continue
		}
		if strings.HasPrefix(names[len(names)-1], "*") {
			s.changed(d, "the line "+d.String()+" of map", "* stands for one label: name deeper ones, too")
		}
		if be := s.streamBackend(d, d.arg(0)); be != nil {
			routes = append(routes, &route{sni: names, backend: be})
		}
	}
	// nginx prefers exact names, then the longest wildcard.
	slices.SortStableFunc(routes, func(a, b *route) int {
		return cmp.Or(cmp.Compare(wildcards(a), wildcards(b)), cmp.Compare(len(b.sni[0]), len(a.sni[0])))
	})
	if rest != nil {
		routes = append(routes, rest)
	}
	return routes
}

func wildcards(r *route) int {
	if strings.HasPrefix(r.sni[0], "*") {
		return 1
	}
	return 0
}

// streamBackend makes a backend of what proxy_pass names: a group, a server or
// a socket.
func (s *serverBlock) streamBackend(at *directive, target string) *backend {
	be := &backend{connectTimeout: s.time("proxy_connect_timeout")}
	for _, g := range s.outer.all(group) {
		if g.arg(0) == target {
			be.name = target
			s.fill(be, g)
		}
	}
	if be.name == "" {
		address, ok := nginxServer(target)
		if !ok {
			s.lost(at, at.String(), "%s is neither a group of servers nor host:port", printable(target))
			return nil
		}
		be.servers = []server{{address: address}}
	}
	if len(be.servers) == 0 {
		s.lost(at, at.String(), "no server is left in %s", printable(target))
		return nil
	}
	if s.is("proxy_protocol", "on") {
		be.send = "proxy-v1"
	}
	switch d := s.get("proxy_bind"); {
	case d.arg(1) == "transparent":
		be.send = "proxy-v2"
		s.changed(d, d.String(), "the server no longer sees the client's address as that of the connection, but is told of it: let it accept PROXY v2 from the gateway, or nobody gets through")
	case d.name != "" && d.arg(0) != "off":
		s.lost(d, d.String(), "the source address of connections to servers is chosen by the system: set src on the route (ip route)")
	}
	be.tls = s.proxySSL(target)
	return be
}

// nginxServer turns HOST:PORT and unix:PATH into the address of a server.
func nginxServer(value string) (string, bool) {
	if path, ok := strings.CutPrefix(value, "unix:"); ok {
		return value, strings.HasPrefix(path, "/") && !strings.ContainsRune(path, 0)
	}
	host, service, err := net.SplitHostPort(value)
	p, perr := strconv.ParseUint(service, 10, 16)
	if err != nil || perr != nil || p == 0 || !validHost(host) {
		return "", false
	}
	return join(host, uint16(p)), true
}

// fill puts the servers of a group into a backend.
func (s *serverBlock) fill(be *backend, g *directive) {
	n := &s.outer.notes
	for _, d := range g.block {
		switch d.name {
		case "server":
			s.fillServer(be, d)
		case "least_conn":
			be.balance = "least_conn"
		case "least_time":
			be.balance = "least_conn"
			n.changed(d.place, d.String(), "the fewest sessions count, not the time")
		case "hash":
			if key := d.arg(0); key == "$remote_addr" || key == "$binary_remote_addr" || key == "$realip_remote_addr" || key == "$proxy_protocol_addr" {
				be.balance = "source"
			} else {
				n.lost(d.place, d.String(), "only the client's address can choose the server, with balance = \"source\"")
			}
		case "random":
			n.changed(d.place, d.String(), "servers take turns instead")
		case "zone":
		default:
			n.lost(d.place, d.String(), "it is not about which server gets a session")
		}
	}
}

func (s *serverBlock) fillServer(be *backend, d *directive) {
	n := &s.outer.notes
	address, ok := nginxServer(d.arg(0))
	if !ok {
		n.lost(d.place, d.String(), "a server is host:port or unix:/path")
		return
	}
	sv := server{address: address}
	for _, a := range d.args[1:] {
		name, value, _ := strings.Cut(a, "=")
		number, err := strconv.ParseUint(value, 10, 31)
		switch {
		case name == "down":
			n.changed(d.place, d.String(), "a server that is down is left out")
			return
		case name == "backup":
			sv.backup = true
		case name == "weight" && err == nil && number > 0:
			sv.weight = int(number)
		case name == "max_conns" && err == nil:
			sv.maxConnections = int(number)
		case name == "resolve":
		case name == "max_fails" || name == "fail_timeout":
			n.lost(d.place, name+" of "+d.arg(0), "a server that refuses is passed over by itself; a block probe in the backend asks before clients do")
		default:
			n.lost(d.place, printable(a)+" of "+d.arg(0), "there is no such thing for a server")
		}
	}
	if !be.addServer(sv) {
		n.lost(d.place, d.String(), "the server is there already")
	}
}

// proxySSL carries over TLS to the servers. nginx verifies only when it is told
// to, and then it wants the name that proxy_pass has.
func (s *serverBlock) proxySSL(target string) *backendTLS {
	if !s.is("proxy_ssl", "on") {
		return nil
	}
	if !s.is("proxy_ssl_verify", "on") {
		return &backendTLS{verify: "none"}
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		host = target // a group
	}
	d := s.get("proxy_ssl_name")
	t := &backendTLS{verify: "ca", caFile: s.file(s.get("proxy_ssl_trusted_certificate").arg(0)), serverName: cmp.Or(d.arg(0), host)}
	if !validHost(t.serverName) || d.name == "" && strings.HasPrefix(target, "unix:") {
		s.changed(d, "proxy_ssl_name", "%s is no host name; here the certificate must be for localhost", printable(cmp.Or(d.arg(0), target)))
		t.serverName = "localhost"
	}
	return t
}
