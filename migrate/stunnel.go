package migrate

import (
	"cmp"
	"slices"
	"strings"
)

func (d *draft) stunnel(f File, opts Options) error {
	conf, err := readStunnel(f, opts.Include)
	if err != nil {
		return err
	}
	s := &stunnelDraft{draft: d, primaries: map[string]*listener{}}
	globals := s.globals(conf)
	var secondaries []*stunnelService
	for _, service := range conf.services {
		service.options = append(slices.Clone(s.defaults), service.options...)
		if get := service.last("sni"); get.value != "" && !isYes(service.last("client").value) && service.last("accept").value == "" {
			secondaries = append(secondaries, service)
			continue
		}
		s.service(service)
	}
	for _, service := range secondaries {
		s.secondary(service)
	}
	for _, l := range s.order {
		d.add(l)
	}
	d.notes = slices.Concat(globals, s.file.list, d.notes)
	return nil
}

type stunnelDraft struct {
	*draft
	file      notes // about what services inherit
	defaults  []stunnelOption
	order     []*listener
	primaries map[string]*listener // by the name of the service
}

// ofTheProcess are options about the process, not about what it does for
// clients, with what cares for that here.
var ofTheProcess = map[string]string{
	"chroot":        "the systemd unit confines the process",
	"compression":   "TLS compression is never done (CRIME)",
	"egd":           "the kernel's random numbers are used",
	"engine":        "keys come from PEM files",
	"enginectrl":    "keys come from PEM files",
	"enginedefault": "keys come from PEM files",
	"fips":          "set GODEBUG=fips140=on in the environment of the process instead",
	"foreground":    "sallyport always stays in the foreground, under systemd or a container",
	"iconactive":    "there is no window",
	"iconerror":     "there is no window",
	"iconidle":      "there is no window",
	"log":           "the log goes to standard error, and systemd keeps it",
	"output":        "the log goes to standard error, and systemd keeps it",
	"pid":           "systemd knows the process without a file",
	"rndbytes":      "the kernel's random numbers are used",
	"rndfile":       "the kernel's random numbers are used",
	"rndoverwrite":  "the kernel's random numbers are used",
	"service":       "the log names the listener",
	"setgid":        "the systemd unit runs sallyport as a user of its own",
	"setuid":        "the systemd unit runs sallyport as a user of its own",
	"syslog":        "the log goes to standard error, and systemd keeps it",
	"taskbar":       "there is no window",
}

// globals sorts out the options before the first section: the notes are about
// the whole file, what services inherit stays in defaults.
func (s *stunnelDraft) globals(conf *stunnelConf) []Note {
	var n notes
	for _, o := range conf.globals {
		switch why, ok := ofTheProcess[o.name]; {
		case ok:
			n.lost(o.place, o.written, "%s", why)
		case o.name == "debug":
			s.logLevel = stunnelLevel(o.value)
		case o.name == "include":
			n.lost(o.place, "include = "+o.value, "the directory was not read: import its files with the services in them")
		default:
			o.inherited = true
			s.defaults = append(s.defaults, o)
		}
	}
	if len(conf.services) == 0 {
		at := place{file: s.source, line: 1}
		if len(conf.globals) > 0 {
			at = conf.globals[0].place
		}
		n.lost(at, "inetd mode", "there is no [service] with accept: sallyport listens itself, or takes sockets from systemd")
	}
	return n.list
}

// stunnelLevel turns a syslog level into one of ours. Sessions, which stunnel
// logs as notice, are info.
func stunnelLevel(value string) string {
	_, level, ok := strings.Cut(value, ".")
	if !ok {
		level = value
	}
	switch strings.ToLower(strings.TrimSpace(level)) {
	case "0", "1", "2", "3", "emerg", "alert", "crit", "err":
		return "error"
	case "4", "warning":
		return "warn"
	case "7", "debug":
		return "debug"
	}
	return "info"
}

func isYes(value string) bool { return strings.EqualFold(value, "yes") }

// last returns the last value of an option, which counts.
func (s *stunnelService) last(name string) stunnelOption {
	for _, o := range slices.Backward(s.options) {
		if o.name == name {
			return o
		}
	}
	return stunnelOption{place: s.place}
}

// at returns the place of the first of some options that is written.
func (s *stunnelService) at(names ...string) place {
	for _, name := range names {
		if i := slices.IndexFunc(s.options, func(o stunnelOption) bool { return o.name == name }); i >= 0 {
			return s.options[i].place
		}
	}
	return s.place
}

func (s *stunnelService) all(name string) (options []stunnelOption) {
	for _, o := range s.options {
		if o.name == name {
			options = append(options, o)
		}
	}
	return options
}

// stunnelProtocols are stunnel's names of what it speaks as a server before
// TLS, and ours.
var stunnelProtocols = map[string]string{"smtp": "smtp", "imap": "imap", "pop3": "pop3", "pgsql": "postgres", "ldap": "ldap", "nntp": "nntp"}

// service makes a listener of a service that accepts by itself.
func (s *stunnelDraft) service(v *stunnelService) {
	l := &listener{at: v.place, name: v.name, implicit: true}
	l.where, l.outer = "["+printable(v.name)+"]", &s.file
	if why := v.impossible(); why != "" {
		l.lost(v.place, "this service", "%s", why)
		s.drop(l.notes)
		return
	}
	for _, o := range v.all("accept") {
		if address, ok := stunnelAccept(o.value); ok {
			l.addresses = append(l.addresses, address)
		} else {
			l.lost(o.place, "accept = "+o.value, "a listener takes host:port, and the port as a number")
		}
	}
	be := s.backend(v, l)
	protocol := v.last("protocol")
	switch name := strings.ToLower(protocol.value); {
	case name == "":
		l.protocol = s.implicitProtocol(l.addresses, be.servers)
	case name == "proxy":
		l.protocol = s.implicitProtocol(l.addresses, be.servers)
		be.send = "proxy-v1"
	case stunnelProtocols[name] == "":
		l.lost(protocol.place, "this service", "protocol = %s has no counterpart", printable(name))
		s.drop(l.notes)
		return
	case s.protocol(stunnelProtocols[name]) == nil:
		l.lost(protocol.place, "this service", "protocol = %s is not spoken yet: see sallyport protocols", name)
		s.drop(l.notes)
		return
	default:
		l.protocol, l.implicit = stunnelProtocols[name], false
		if name == "smtp" || name == "imap" {
			l.changed(protocol.place, "protocol = "+name, "stunnel also takes TLS from the first byte on this port, after 200 ms of silence; here clients ask for it. If some do not, write mode = \"auto\"")
		}
	}
	s.settings(v, l, be)
	if c, ok := v.certificate(l); ok {
		l.certificates = []certificate{c}
	}
	l.tls = v.tls(l)
	if len(be.servers) > 0 {
		l.routes = []*route{{backend: be}}
	}
	s.order = append(s.order, l)
	s.primaries[v.name] = l
}

// impossible says why nothing of a service can be carried over.
func (v *stunnelService) impossible() string {
	switch {
	case isYes(v.last("client").value):
		return "with client = yes stunnel takes cleartext and speaks TLS to the server, outwards; sallyport ends the TLS of clients that come in"
	case v.last("accept").value == "":
		return "it has no accept, as in inetd mode; sallyport listens itself, or takes sockets from systemd"
	case v.last("exec").value != "":
		return "exec runs a program for each connection; run it behind a port (systemd's Accept=yes does that) and connect to it"
	case v.last("connect").value == "" && slices.Contains([]string{"destination", "both"}, strings.ToLower(v.last("transparent").value)):
		return "transparent = destination finds the server by iptables; name it in a backend"
	case v.last("psksecrets").value != "" && v.last("cert").value == "":
		return "PSKsecrets lets clients in by shared keys, which TLS of Go does not have; give it a certificate, and clients theirs (client_auth)"
	}
	return ""
}

// stunnelAccept turns [HOST:]PORT into an address. Without a host it is all of
// IPv4, and :: is both families, as Linux has it.
func stunnelAccept(value string) (string, bool) {
	host, service, ok := cutLast(value)
	if !ok {
		host, service = "", value
	}
	p, ok := parsePort(service)
	switch {
	case !ok:
		return "", false
	case host == "":
		host = "0.0.0.0"
	case host == "::":
		host = ""
	case !validHost(host):
		return "", false
	}
	return join(host, p), true
}

// stunnelConnect turns [HOST:]PORT or a path into the address of a server.
func stunnelConnect(value string) (string, bool) {
	if strings.HasPrefix(value, "/") {
		return "unix:" + value, !strings.ContainsRune(value, 0)
	}
	host, service, ok := cutLast(value)
	if !ok {
		host, service = "", value
	}
	p, ok := parsePort(service)
	if host == "" || strings.EqualFold(host, "localhost") {
		host = "127.0.0.1" // as stunnel has it
	}
	return join(host, p), ok && validHost(host)
}

// cutLast cuts at the last colon: IPv6 addresses stand without brackets.
func cutLast(s string) (host, service string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", s, false
	}
	return strings.TrimSuffix(strings.TrimPrefix(s[:i], "["), "]"), s[i+1:], true
}

// backend makes the backend of a service. Of several servers the first counts
// and the others stand in for it, unless failover says rr.
func (s *stunnelDraft) backend(v *stunnelService, l *listener) *backend {
	be := &backend{name: v.name}
	roundRobin := strings.EqualFold(v.last("failover").value, "rr") && !isYes(v.last("delay").value)
	for _, o := range v.all("connect") {
		address, ok := stunnelConnect(o.value)
		switch {
		case !ok:
			l.lost(o.place, "connect = "+o.value, "a server is host:port, with the port as a number, or the path of a socket")
		case !be.addServer(server{address: address, backup: !roundRobin && len(be.servers) > 0}):
			l.lost(o.place, "connect = "+o.value, "the server is there already")
		}
	}
	if !roundRobin && len(be.servers) > 2 {
		l.changed(v.last("connect").place, "failover = prio", "the servers behind the first have no order among themselves")
	}
	if o := v.last("timeoutconnect"); o.value != "" {
		be.connectTimeout = s.seconds(o, l)
	}
	switch o := v.last("transparent"); strings.ToLower(o.value) {
	case "source", "both", "yes":
		be.send = "proxy-v2"
		l.changed(o.place, "transparent = "+o.value, "the server no longer sees the client's address as that of the connection, but is told of it: let it accept PROXY v2 from the gateway, or nobody gets through")
	}
	return be
}

// seconds reads a timeout, or says why not.
func (s *stunnelDraft) seconds(o stunnelOption, l *listener) string {
	t, ok := seconds(o.value)
	if !ok {
		l.lost(o.place, o.written+" = "+o.value, "it is no time that can pass")
		return ""
	}
	return duration(t)
}

// certificate returns the files of a service.
func (v *stunnelService) certificate(l *listener) (certificate, bool) {
	cert, key := v.last("cert"), v.last("key")
	c := certificate{cert: cert.value, key: cmp.Or(key.value, cert.value)}
	for _, o := range []stunnelOption{cert, key} {
		lower := strings.ToLower(o.value)
		switch {
		case strings.HasPrefix(lower, "pkcs11:") || v.last("engineid").value != "" || v.last("enginenum").value != "":
			l.lost(o.place, "the key in an engine", "keys come from PEM files")
			return c, false
		case strings.HasSuffix(lower, ".p12") || strings.HasSuffix(lower, ".pfx"):
			l.lost(o.place, o.written+" = "+o.value, "write it as PEM: openssl pkcs12 -in %s -out server.pem -nodes", printable(o.value))
			return c, false
		case o.value != "" && !strings.HasPrefix(o.value, "/"):
			l.changed(o.place, o.written+" = "+o.value, "a relative path begins at the configuration: write the whole path if it is elsewhere")
		}
	}
	return c, c.cert != ""
}

// tls returns what differs from the default, or nil.
func (v *stunnelService) tls(l *listener) *tlsSettings {
	t := &tlsSettings{minVersion: v.minVersion(l)}
	v.clientAuth(l, t)
	if *t == (tlsSettings{}) {
		return nil
	}
	return t
}

// minVersion finds the lowest version that is left by sslVersion,
// sslVersionMin, sslVersionMax and options = NO_….
func (v *stunnelService) minVersion(l *listener) string {
	versions := []string{"1.0", "1.1", "1.2", "1.3"}
	lowest, highest := "", "1.3"
	var at stunnelOption
	disabled := map[string]bool{}
	for _, o := range v.options {
		switch o.name {
		case "sslversion", "sslversionmin", "sslversionmax":
			value, ok := version(o.value)
			if !ok {
				value = map[string]string{"sslversionmax": "1.3"}[o.name] // all
				if !strings.EqualFold(o.value, "all") {
					l.lost(o.place, o.written+" = "+o.value, "the version is not known")
					continue
				}
				if o.name != "sslversionmax" {
					lowest, at = "1.0", o
					continue
				}
			}
			if o.name != "sslversionmax" {
				lowest, at = value, o
			}
			if o.name != "sslversionmin" {
				highest = value
				if value < "1.3" {
					at = o
				}
			}
		case "options":
			name, negated := strings.CutPrefix(o.value, "-")
			if value, ok := version(strings.TrimPrefix(strings.ToUpper(name), "NO_")); ok && strings.HasPrefix(strings.ToUpper(name), "NO_T") {
				disabled[value] = !negated
				if negated && value < "1.2" && lowest == "" {
					lowest = value
				}
				at = o
			}
		}
	}
	var left []string
	for _, value := range versions {
		if value >= cmp.Or(lowest, "1.0") && value <= highest && !disabled[value] {
			left = append(left, value)
		}
	}
	what := "the choice of TLS versions"
	switch {
	case len(left) == 0:
		l.lost(at.place, what, "no version is left; here it is TLS 1.2 and up")
		return ""
	case left[len(left)-1] < "1.2":
		l.lost(at.place, what, "clients were to use TLS %s, which is broken (RFC 8996); here it is TLS 1.2 and up, and clients that know no more are turned away", left[len(left)-1])
		return ""
	case left[len(left)-1] < "1.3":
		l.changed(at.place, what, "there is no highest version: TLS 1.3 is spoken with clients that know it")
	}
	if lowest != "" && left[0] < "1.2" {
		l.changed(at.place, what, "TLS %s is broken (RFC 8996) and spoken only where cleartext is allowed; here it is TLS 1.2 and up", left[0])
	}
	if left[0] == "1.3" {
		return "1.3"
	}
	return ""
}

// clientAuth carries over who must show a certificate. Whatever narrows the
// circle and has no counterpart makes the listener a comment.
func (v *stunnelService) clientAuth(l *listener, t *tlsSettings) {
	level := v.last("verify")
	chain, peer := isYes(v.last("verifychain").value), isYes(v.last("verifypeer").value)
	mode := ""
	if chain || peer || isYes(v.last("requirecert").value) {
		mode = "require"
	}
	switch level.value {
	case "1":
		mode = cmp.Or(mode, "request")
	case "2":
		mode, chain = "require", true
	case "3":
		mode, chain, peer = "require", true, true
	case "4":
		mode, peer = "require", true
	}
	if mode == "" {
		return
	}
	at := v.at("verifypeer", "verify", "verifychain")
	ca := v.last("cafile")
	t.clientAuth, t.caFile = mode, ca.value
	if ca.value == "" {
		t.caFile = "clients.pem"
		what, why := "CApath", "authorities come from one file: write all certificates of the directory into it, and its name as ca_file"
		if v.last("capath").value == "" {
			what, why = "verify", "neither CAfile nor CApath says who signs the certificates of clients: write those of the authorities into one file, and its name as ca_file"
		}
		l.forbid(v.at("capath", "verify", "verifychain", "verifypeer", "requirecert"), what, why)
	}
	switch {
	case peer && chain:
		l.forbid(at, "the list of client certificates", "stunnel wants each client's own certificate in CAfile, besides a chain that is good; here every certificate is taken that an authority in ca_file has issued")
	case peer:
		l.changed(at, "verifyPeer", "every certificate in ca_file is taken, and if one is an authority's, those it has issued as well: have only the clients' own in it")
	}
	for _, name := range []string{"checkhost", "checkemail", "checkip"} {
		if o := v.last(name); o.value != "" {
			l.forbid(o.place, o.written, "who the certificate of a client names is not looked at")
		}
	}
	for _, name := range []string{"crlfile", "crlpath", "ocsp", "ocspaia"} {
		if o := v.last(name); o.value != "" && !strings.EqualFold(o.value, "no") {
			l.forbid(o.place, o.written, "revoked certificates of clients are not told from good ones")
		}
	}
}

// settings goes through all that is not carried over by name elsewhere.
func (s *stunnelDraft) settings(v *stunnelService, l *listener, be *backend) {
	for _, o := range v.options {
		s.setting(o, v, l)
	}
	if o := v.last("timeoutidle"); o.value != "" {
		l.policy.idle = s.seconds(o, l)
	}
	if o := v.last("libwrap"); isYes(o.value) {
		l.forbid(o.place, "libwrap", "/etc/hosts.allow and hosts.deny are not read: put the rules into the firewall")
	}
	if o := v.last("ident"); o.value != "" {
		l.forbid(o.place, "ident", "users are not asked for by IDENT")
	}
}

// stunnelReasons are options without a counterpart.
var stunnelReasons = map[string]string{
	"ciphers":                "ciphers are those of crypto/tls with forward secrecy, and cannot be chosen",
	"ciphersuites":           "those of TLS 1.3 are all offered",
	"curves":                 "key exchange is X25519MLKEM768 first, then what crypto/tls has",
	"config":                 "it is a command for OpenSSL",
	"engineid":               "keys come from PEM files",
	"enginenum":              "keys come from PEM files",
	"execargs":               "no program is run",
	"include":                "the directory was not read: import its files with the services in them",
	"local":                  "the source address of connections to servers is chosen by the system: set src on the route (ip route)",
	"logid":                  "each session has a cid in the log",
	"protocolauthentication": "it is about clients",
	"protocoldomain":         "it is about clients",
	"protocolheader":         "it is about clients",
	"protocolhost":           "it is about clients",
	"protocolpassword":       "it is about clients",
	"protocolusername":       "it is about clients",
	"pskidentity":            "TLS of Go has no shared keys: clients need certificates (client_auth)",
	"psksecrets":             "TLS of Go has no shared keys: clients need certificates (client_auth)",
	"pty":                    "no program is run",
	"redirect":               "a client whose certificate is no good is turned away",
	"securitylevel":          "it is a setting of OpenSSL; TLS is 1.2 and up with forward secrecy",
	"sessioncachesize":       "sessions are resumed by tickets, which need no cache",
	"sessioncachetimeout":    "sessions are resumed by tickets, which need no cache",
	"sessiond":               "tickets are good on the gateway that issued them",
	"setgid":                 "there are no sockets of its own to give away",
	"setuid":                 "there are no sockets of its own to give away",
	"stack":                  "stacks grow as they must",
	"ticketkeysecret":        "keys of tickets are made in memory and renewed",
	"ticketmacsecret":        "keys of tickets are made in memory and renewed",
	"timeoutbusy":            "each phase has a bound of its own: handshake_timeout, dialogue, stall_timeout in a policy",
	"timeoutclose":           "a side that has ended is passed on, and the other may finish",
}

// stunnelCarried are options that are carried over elsewhere, or whose wish is
// always granted.
var stunnelCarried = []string{
	"accept", "cafile", "capath", "cert", "checkemail", "checkhost", "checkip", "client", "connect", "crlfile", "crlpath", "debug",
	"delay", "exec", "failover", "ident", "key", "libwrap", "ocsp", "ocspaia", "ocspflag", "ocspnonce", "protocol", "requirecert",
	"sni", "sslversion", "sslversionmax", "sslversionmin", "timeoutconnect", "timeoutidle", "transparent", "verify", "verifychain", "verifypeer",
}

func (s *stunnelDraft) setting(o stunnelOption, v *stunnelService, l *listener) {
	granted := map[string]string{"renegotiation": "no", "reset": "yes", "retry": "no", "sessionresume": "yes"}
	wanted, wish := granted[o.name]
	switch {
	case slices.Contains(stunnelCarried, o.name):
	case wish && strings.EqualFold(o.value, wanted):
	case o.name == "renegotiation":
		l.lost(o.place, o.written, "a TLS session is not negotiated again: clients connect again")
	case wish:
		l.lost(o.place, o.written+" = "+o.value, "it cannot be chosen")
	case o.name == "options":
		s.opensslOption(o, l)
	case o.name == "socket":
		if !slices.Contains([]string{"l:TCP_NODELAY=1", "r:TCP_NODELAY=1", "a:SO_REUSEADDR=1", "l:SO_KEEPALIVE=1", "r:SO_KEEPALIVE=1"}, strings.ReplaceAll(o.value, "=yes", "=1")) {
			l.lost(o.place, "socket = "+o.value, "options of sockets cannot be chosen, save policy.keepalive")
		}
	case stunnelReasons[o.name] != "":
		l.lost(o.place, o.written, "%s", stunnelReasons[o.name])
	default:
		l.lost(o.place, o.written, "the option is not known")
	}
}

// opensslOption looks at options = …: most are what TLS of Go does anyway.
func (s *stunnelDraft) opensslOption(o stunnelOption, l *listener) {
	name := strings.ToUpper(o.value)
	always := []string{
		"NO_SSLV2", "NO_SSLV3", "SINGLE_DH_USE", "SINGLE_ECDH_USE", "CIPHER_SERVER_PREFERENCE", "NO_COMPRESSION", "NO_RENEGOTIATION",
		"NO_SESSION_RESUMPTION_ON_RENEGOTIATION", "DONT_INSERT_EMPTY_FRAGMENTS", "ALL",
	}
	if slices.Contains(always, name) || strings.HasPrefix(strings.TrimPrefix(name, "-"), "NO_TLSV1") {
		return
	}
	l.lost(o.place, "options = "+o.value, "it is an option of OpenSSL")
}

// secondary makes a route of a service that another one hands sessions to, by
// SNI.
func (s *stunnelDraft) secondary(v *stunnelService) {
	n := listener{at: v.place}
	n.where, n.outer = "["+printable(v.name)+"]", &s.file
	var patterns []string
	var primary *listener
	for _, o := range v.all("sni") {
		name, pattern, ok := strings.Cut(o.value, ":")
		l := s.primaries[name]
		switch {
		case !ok || l == nil:
			n.lost(o.place, "sni = "+o.value, "there is no listener [%s] to add a route to", printable(name))
			continue
		case primary != nil && l != primary:
			n.lost(o.place, "sni = "+o.value, "the route is already in the listener of another service: write it there as well")
			continue
		case !validPattern(pattern):
			n.lost(o.place, "sni = "+o.value, "a route takes a name, or *.domain for one label more")
			continue
		}
		if strings.HasPrefix(pattern, "*") {
			n.changed(o.place, "sni = "+o.value, "* stands for one label: name deeper ones, too")
		}
		primary = l
		patterns = append(patterns, strings.ToLower(pattern))
	}
	if primary == nil {
		n.lost(v.place, "this service", "it is a part of no listener")
		s.drop(n.notes)
		return
	}
	be := s.backend(v, &n)
	switch protocol := strings.ToLower(v.last("protocol").value); {
	case protocol == "proxy":
		be.send = "proxy-v1"
	case !primary.implicit && len(primary.routes) > 0:
		be = primary.routes[len(primary.routes)-1].backend
		n.changed(v.last("connect").place, "connect", "stunnel dials before TLS where protocol is set, so that the server is that of %s; to have it chosen by SNI write another backend into the route", primary.where)
	case protocol != "":
		n.lost(v.last("protocol").place, "protocol", "it is that of the listener: %s", primary.where)
	}
	s.settings(v, &n, be)
	cert, ok := v.certificate(&n)
	settings := v.tls(&n)
	if settings == nil && primary.tls != nil {
		settings = &tlsSettings{minVersion: "1.2"} // not that of the listener
	}
	if n.policy.idle != primary.policy.idle {
		n.lost(v.last("timeoutidle").place, "TIMEOUTidle", "timeouts are those of the listener")
	}
	if len(be.servers) == 0 {
		n.lost(v.place, "this service", "there is no server to send its sessions to")
	} else if len(n.off) > 0 {
		n.lost(v.place, "this service", "its sessions are not told apart, because %s would no longer guard it", and(n.off))
	} else {
		if ok && !slices.Contains(primary.certificates, cert) {
			primary.certificates = append(primary.certificates, cert)
		}
		primary.addRoute(&n.notes, v.at("sni"), "sni", &route{sni: patterns, tls: settings, backend: be})
	}
	primary.list = append(primary.list, n.list...)
}
