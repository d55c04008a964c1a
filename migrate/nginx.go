package migrate

import (
	"cmp"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// nginx's word for a group of servers, which elsewhere in this house means the
// other direction.
const group = "up" + "stream"

func (d *draft) nginx(f File, opts Options) error {
	f, opts = undump(f, opts)
	conf, err := readNginx(f, opts.Include)
	if err != nil {
		return err
	}
	n := &nginxDraft{draft: d, dir: opts.Dir}
	for _, top := range conf {
		switch why, process := nginxProcess[top.name]; {
		case top.name == "mail":
			n.mail(top)
		case top.name == "stream":
			n.stream(top)
		case top.name == "http":
			n.main.lost(top.place, "http", "web servers stay with nginx")
		case top.name == "include":
			n.main.lost(top.place, top.String(), "the files were not read")
		case top.name == "server" || top.name == group:
			n.main.lost(top.place, top.name, "it stands outside of mail and stream: import the file that includes this one")
		case process:
			n.main.lost(top.place, top.name, "%s", why)
		default:
			n.main.lost(top.place, top.name, "the directive is not known")
		}
	}
	d.notes = append(n.main.list, d.notes...)
	return nil
}

// nginxProcess are directives about the process.
var nginxProcess = map[string]string{
	"daemon":               "sallyport always stays in the foreground, under systemd or a container",
	"debug_points":         "it is about nginx's own code",
	"env":                  "the environment is that of the systemd unit",
	"error_log":            "the log goes to standard error; its level is log.level",
	"events":               "connections are bounded by policy.limits, and the limit of open files is raised by itself",
	"load_module":          "all protocols are in the binary",
	"lock_file":            "there is one process",
	"master_process":       "there is one process",
	"pcre_jit":             "there are no regular expressions",
	"pid":                  "systemd knows the process without a file",
	"ssl_engine":           "keys come from PEM files",
	"thread_pool":          "there are no pools of threads",
	"timer_resolution":     "it is about nginx's own code",
	"user":                 "the systemd unit runs sallyport as a user of its own",
	"worker_cpu_affinity":  "there is one process, on all CPUs: CPUAffinity= in the systemd unit",
	"worker_priority":      "Nice= in the systemd unit",
	"worker_processes":     "there is one process, on all CPUs",
	"worker_rlimit_core":   "LimitCORE= in the systemd unit",
	"worker_rlimit_nofile": "the limit of open files is raised by itself, up to LimitNOFILE= of the systemd unit",
	"working_directory":    "WorkingDirectory= in the systemd unit",
}

type nginxDraft struct {
	*draft
	main notes
	dir  string
}

// A level is a block of nginx whose settings those inside it inherit.
type level struct {
	notes
	list []*directive
}

func (v *level) all(name string) (found []*directive) {
	for _, d := range v.list {
		if d.name == name {
			found = append(found, d)
		}
	}
	return found
}

// A serverBlock is a server of mail or stream, with what it inherits.
type serverBlock struct {
	*nginxDraft
	at    place
	outer *level // mail or stream
	inner *level // the server
	off   []string
}

// all returns what is said of something on the innermost level that says
// anything, as nginx inherits.
func (s *serverBlock) all(name string) []*directive {
	if found := s.inner.all(name); found != nil {
		return found
	}
	return s.outer.all(name)
}

// get returns the last of all, or an empty directive that stands at the server.
func (s *serverBlock) get(name string) *directive {
	if found := s.all(name); found != nil {
		return found[len(found)-1]
	}
	return &directive{place: s.at}
}

func (s *serverBlock) is(name, value string) bool { return s.get(name).arg(0) == value }

// notesOf returns where a directive is spoken of: at its server, or once for
// all at the block that servers inherit it from.
func (s *serverBlock) notesOf(d *directive) *notes {
	if slices.Contains(s.outer.list, d) {
		return &s.outer.notes
	}
	return &s.inner.notes
}

func (s *serverBlock) lost(d *directive, what, why string, args ...any) {
	s.notesOf(d).lost(d.place, what, why, args...)
}

func (s *serverBlock) changed(d *directive, what, why string, args ...any) {
	s.notesOf(d).changed(d.place, what, why, args...)
}

// forbid makes the listeners of the server comments.
func (s *serverBlock) forbid(d *directive, why string, args ...any) {
	s.lost(d, d.name, why, args...)
	if !slices.Contains(s.off, d.name) {
		s.off = append(s.off, d.name)
	}
}

// A listen is one address of a server.
type listen struct {
	address    string
	ssl, proxy bool
}

// listens reads where a server listens.
func (s *serverBlock) listens() (list []listen) {
	for _, d := range s.inner.all("listen") {
		var l listen
		both, ok := false, true
		for _, a := range d.args[min(1, len(d.args)):] {
			switch {
			case a == "ssl":
				l.ssl = true
			case a == "proxy_protocol":
				l.proxy = true
			case a == "ipv6only=off":
				both = true
			case a == "udp":
				s.lost(d, d.String(), "only TCP is spoken")
				ok = false
			case !slices.Contains([]string{"bind", "default_server", "ipv6only=on", "so_keepalive=on"}, a):
				s.lost(d, a+" of listen "+d.arg(0), "options of sockets cannot be chosen, save policy.keepalive")
			}
		}
		address, valid := nginxListen(d.arg(0), both)
		switch {
		case !valid:
			s.lost(d, d.String(), "a listener takes host:port, one port a time")
		case ok:
			l.address = address
			list = append(list, l)
		}
	}
	return list
}

// nginxListen turns PORT, *:PORT, HOST:PORT and [V6]:PORT into an address.
func nginxListen(value string, both bool) (string, bool) {
	host, service := "*", value
	if h, p, err := net.SplitHostPort(value); err == nil {
		host, service = h, p
	}
	p, err := strconv.ParseUint(service, 10, 16)
	switch {
	case err != nil || p == 0:
		return "", false
	case host == "*" || host == "":
		host = "0.0.0.0"
	case host == "::" && both:
		host = ""
	case !validHost(host):
		return "", false
	}
	return join(host, uint16(p)), true
}

// nginxTime reads a time as nginx does: 90, 90s, 1m30s, 500ms, 1d.
func nginxTime(value string) (total time.Duration, ok bool) {
	units := []struct {
		name string
		unit time.Duration
	}{{"ms", time.Millisecond}, {"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", 24 * time.Hour}, {"w", 7 * 24 * time.Hour}}
	const most = 10 * 365 * 24 * time.Hour
	rest := value
	for rest != "" {
		end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if end < 0 {
			end = len(rest)
		}
		n, err := strconv.ParseUint(rest[:end], 10, 32)
		if err != nil {
			return 0, false
		}
		rest = rest[end:]
		unit := time.Second
		if rest != "" {
			at := slices.IndexFunc(units, func(u struct {
				name string
				unit time.Duration
			}) bool {
				return strings.HasPrefix(rest, u.name)
			})
			if at < 0 {
				return 0, false
			}
			unit, rest = units[at].unit, rest[len(units[at].name):]
		}
		if n > uint64(most/unit) {
			return 0, false
		}
		if total += time.Duration(n) * unit; total > most {
			return 0, false
		}
	}
	return total, total > 0
}

// time reads the time that a directive sets, or says why not.
func (s *serverBlock) time(name string) string {
	d := s.get(name)
	if d.name == "" {
		return ""
	}
	t, ok := nginxTime(d.arg(0))
	if !ok {
		s.lost(d, d.String(), "it is no time that can pass")
		return ""
	}
	return duration(t)
}

// file makes a path absolute, as nginx does.
func (s *serverBlock) file(name string) string {
	if name == "" || path.IsAbs(name) || s.dir == "" {
		return name
	}
	return path.Join(s.dir, name)
}

// certificates returns the pairs of files of a server.
func (s *serverBlock) certificates() (list []certificate) {
	certs, keys := s.all("ssl_certificate"), s.all("ssl_certificate_key")
	if d := s.get("ssl_password_file"); d.name != "" && len(certs) > 0 {
		s.lost(d, d.name, "keys with a passphrase are not read: openssl pkey -in KEY -out KEY.pem takes it away")
		return nil
	}
	for i, d := range certs {
		cert, key := d.arg(0), ""
		if i < len(keys) {
			key = keys[i].arg(0)
		}
		for _, name := range []string{cert, key} {
			if strings.HasPrefix(name, "data:") || strings.HasPrefix(name, "engine:") || strings.HasPrefix(name, "store:") || strings.ContainsRune(name, '$') {
				s.lost(d, "the certificate in a variable, an engine or the configuration", "it comes from PEM files; of several the names in them choose")
				name = ""
			}
			if name == "" {
				cert = ""
			}
		}
		c := certificate{s.file(cert), s.file(key)}
		switch {
		case cert == "" && key == "":
			s.lost(d, d.name, "there is no ssl_certificate_key")
		case cert == "":
		case !slices.Contains(list, c):
			list = append(list, c)
		}
	}
	return list
}

// tls returns what differs from the default, or nil. Broken versions may be
// spoken where sessions in cleartext are allowed.
func (s *serverBlock) tls(cleartext bool) *tlsSettings {
	t := &tlsSettings{minVersion: s.minVersion(cleartext)}
	s.clientAuth(t)
	if *t == (tlsSettings{}) {
		return nil
	}
	return t
}

func (s *serverBlock) minVersion(cleartext bool) string {
	d := s.get("ssl_protocols")
	var versions []string
	for _, a := range d.args {
		if v, ok := version(a); ok {
			versions = append(versions, v)
		}
	}
	if len(versions) == 0 {
		return ""
	}
	lowest, highest := slices.Min(versions), slices.Max(versions)
	if highest < "1.3" {
		s.changed(d, d.name, "there is no highest version: TLS 1.3 is spoken with clients that know it")
	}
	switch {
	case lowest == "1.3" || lowest < "1.2" && cleartext:
		return lowest
	case lowest < "1.2":
		s.changed(d, d.name, "TLS %s is broken (RFC 8996) and spoken only where cleartext is allowed; here it is TLS 1.2 and up", lowest)
	}
	return ""
}

// clientAuth carries over who must show a certificate.
func (s *serverBlock) clientAuth(t *tlsSettings) {
	d := s.get("ssl_verify_client")
	switch d.arg(0) {
	case "on":
		t.clientAuth = "require"
	case "optional":
		t.clientAuth = "request"
	case "optional_no_ca":
		s.lost(d, d.String(), "a certificate that is not verified is worth nothing, and is not asked for")
		return
	default:
		return
	}
	ca := s.get("ssl_client_certificate")
	if ca.name == "" {
		ca = s.get("ssl_trusted_certificate")
	} else if more := s.get("ssl_trusted_certificate"); more.name != "" && more.arg(0) != ca.arg(0) {
		s.lost(more, more.name, "the authorities for clients come from one file: add these to %s if they issue for clients, too", ca.arg(0))
	}
	t.caFile = cmp.Or(s.file(ca.arg(0)), "clients.pem")
	if ca.arg(0) == "" {
		s.forbid(d, "there is no ssl_client_certificate: write the authorities' file as ca_file")
	}
	for _, name := range []string{"ssl_crl", "ssl_ocsp"} {
		if o := s.get(name); o.name != "" && o.arg(0) != "off" {
			s.forbid(o, "revoked certificates of clients are not told from good ones")
		}
	}
	if o := s.get("ssl_verify_depth"); o.name != "" {
		s.lost(o, o.name, "chains have no highest length")
	}
}

// proxyFrom returns from whom a PROXY header is taken.
func (s *serverBlock) proxyFrom(p *policy) {
	for _, d := range s.all("set_real_ip_from") {
		prefix, ok := network(d.arg(0))
		switch {
		case !ok:
			s.lost(d, d.String(), "a network is wanted: names and sockets cannot send a PROXY header here")
		case !slices.Contains(p.from, prefix):
			p.from = append(p.from, prefix)
		}
	}
	if len(p.from) > 0 {
		return
	}
	p.fromVariable = "load_balancers"
	s.variable(variable{
		name: p.fromVariable, value: list([]string{"192.0.2.0/24"}),
		description: "who may send a PROXY header: set it to the addresses of your load balancers",
	})
	s.inner.changed(s.at, "proxy_protocol of listen", "nginx takes the header from everybody; here it is taken from var.%s alone, and nobody else gets in: set it, or nobody does", p.fromVariable)
}

func network(value string) (string, bool) {
	if addr, err := netip.ParseAddr(value); err == nil && addr.Zone() == "" {
		return addr.String(), true
	}
	prefix, err := netip.ParsePrefix(value)
	return prefix.Masked().String(), err == nil
}

func (d *draft) variable(v variable) {
	if !slices.ContainsFunc(d.variables, func(w variable) bool { return w.name == v.name }) {
		d.variables = append(d.variables, v)
	}
}

// sslReasons are directives about TLS without a counterpart.
var sslReasons = map[string]string{
	"ssl_alpn":               "protocols that a client may offer are those of the listener's",
	"ssl_ciphers":            "ciphers are those of crypto/tls with forward secrecy, and cannot be chosen",
	"ssl_conf_command":       "it is a command for OpenSSL",
	"ssl_dhparam":            "key exchange is X25519MLKEM768 first, then what crypto/tls has",
	"ssl_ecdh_curve":         "key exchange is X25519MLKEM768 first, then what crypto/tls has",
	"ssl_session_cache":      "sessions are resumed by tickets, which need no cache",
	"ssl_session_ticket_key": "keys of tickets are made in memory and renewed",
	"ssl_session_tickets":    "sessions are always resumed by tickets",
	"ssl_session_timeout":    "sessions are resumed by tickets, which need no cache",
	"ssl_stapling":           "answers of OCSP are not stapled",
}

// sslCarried are those that are carried over, or whose wish is always granted.
var sslCarried = []string{
	"ssl", "ssl_certificate", "ssl_certificate_key", "ssl_client_certificate", "ssl_crl", "ssl_ocsp", "ssl_password_file",
	"ssl_prefer_server_ciphers", "ssl_protocols", "ssl_trusted_certificate", "ssl_verify_client", "ssl_verify_depth",
}

// unused names the directives of a level that are not carried over.
func (v *level) unused(carried []string, reasons map[string]string) {
	for _, d := range v.list {
		switch {
		case slices.Contains(carried, d.name) || slices.Contains(sslCarried, d.name):
		case d.name == "ssl_session_tickets" && d.arg(0) == "on":
		case reasons[d.name] != "":
			v.lost(d.place, d.name, "%s", reasons[d.name])
		case sslReasons[d.name] != "":
			v.lost(d.place, d.name, "%s", sslReasons[d.name])
		case d.name == "include":
			v.lost(d.place, d.String(), "the files were not read")
		default:
			v.lost(d.place, d.name, "the directive is not known")
		}
	}
}

// listeners makes a listener for each way in which a server listens, of one
// that has all else in it.
func (s *serverBlock) listeners(listens []listen, each func(l *listener, ssl bool) bool) {
	for _, kind := range []listen{{ssl: true}, {ssl: true, proxy: true}, {}, {proxy: true}} {
		l := &listener{at: s.at, implicit: kind.ssl}
		l.where = s.inner.where
		for _, a := range listens {
			if a.ssl == kind.ssl && a.proxy == kind.proxy && !slices.Contains(l.addresses, a.address) {
				l.addresses = append(l.addresses, a.address)
			}
		}
		if len(l.addresses) == 0 {
			continue
		}
		if !each(l, kind.ssl) {
			continue
		}
		if kind.proxy {
			s.proxyFrom(&l.policy)
		}
		l.list = append(slices.Clone(s.inner.notes.list), l.list...)
		l.off = s.off
		s.add(l)
	}
}

// portNames are what people call the ports.
var portNames = map[uint16]string{
	25: "smtp", 587: "submission", 465: "submissions", 143: "imap", 993: "imaps", 110: "pop3", 995: "pop3s",
	389: "ldap", 636: "ldaps", 443: "https", 5432: "postgres", 3306: "mysql",
}

// nameByPort names what has no name in nginx.
func nameByPort(l *listener) string {
	p := port(l.addresses[0])
	return cmp.Or(portNames[p], l.protocol+"_"+strconv.Itoa(int(p)))
}
