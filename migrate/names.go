package migrate

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// services are the names of ports that configurations use, as /etc/services
// of Debian has them. The file of this machine need not be that of the other.
var services = map[string]uint16{
	"ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "mail": 25, "http": 80, "www": 80,
	"pop3": 110, "pop-3": 110, "nntp": 119, "readnews": 119, "imap": 143, "imap2": 143,
	"ldap": 389, "https": 443, "submissions": 465, "smtps": 465, "ssmtp": 465, "urd": 465,
	"nntps": 563, "snntp": 563, "submission": 587, "ldaps": 636, "ftps": 990, "telnets": 992,
	"imaps": 993, "pop3s": 995, "mysql": 3306, "postgresql": 5432, "postgres": 5432, "sieve": 4190,
	"xmpp-client": 5222, "ircs-u": 6697,
}

// parsePort takes a number or a name of services.
func parsePort(s string) (uint16, bool) {
	if p, ok := services[strings.ToLower(s)]; ok {
		return p, true
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0
}

// join makes an address that config takes.
func join(host string, port uint16) string { return net.JoinHostPort(host, strconv.Itoa(int(port))) }

// port returns the port of what join made.
func port(address string) uint16 {
	_, p, _ := net.SplitHostPort(address)
	n, _ := strconv.ParseUint(p, 10, 16)
	return uint16(n)
}

// validHost reports whether config takes a string as a host: an address or a
// DNS name.
func validHost(s string) bool {
	if addr, err := netip.ParseAddr(s); err == nil {
		return !strings.ContainsFunc(addr.Zone(), func(r rune) bool { return r <= ' ' || r > '~' })
	}
	return validName(s)
}

// validName reports whether a string is a DNS name, without a dot at its end.
func validName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && c != '_' && !isLetter(c) && !isDigit(c) {
				return false
			}
		}
	}
	return true
}

// validPattern reports whether a string can be the sni of a route.
func validPattern(s string) bool {
	_, err := netip.ParseAddr(s)
	return err != nil && validName(strings.TrimPrefix(s, "*."))
}

// covers reports whether all that q matches is matched by p, where * stands for
// one label.
func covers(p, q string) bool {
	suffix, wildcard := strings.CutPrefix(p, "*")
	_, rest, _ := strings.Cut(q, ".")
	return p == q || wildcard && !strings.HasPrefix(q, "*") && suffix == "."+rest
}

// collide reports whether two addresses cannot both be listened on: as config
// sees it, an empty host is both families.
func collide(a, b string) bool {
	if port(a) != port(b) {
		return false
	}
	ah, _, _ := net.SplitHostPort(a)
	bh, _, _ := net.SplitHostPort(b)
	if ah == "" || bh == "" || strings.EqualFold(ah, bh) {
		return true
	}
	aa, aerr := netip.ParseAddr(ah)
	ba, berr := netip.ParseAddr(bh)
	if aerr != nil || berr != nil {
		return false
	}
	aa, ba = aa.Unmap(), ba.Unmap()
	return aa == ba || aa.Is4() == ba.Is4() && (aa.IsUnspecified() || ba.IsUnspecified())
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }

// identifier makes a name that others can refer to.
func identifier(wish string) string {
	name := strings.Trim(strings.Map(func(r rune) rune {
		if r < 0x80 && (isLetter(byte(r)) || isDigit(byte(r)) || r == '-' || r == '_') {
			return r
		}
		return '_'
	}, wish), "_-")
	if len(name) > 60 {
		name = strings.TrimRight(name[:60], "_-")
	}
	if name == "" || !isLetter(name[0]) {
		name = strings.TrimRight("x_"+name, "_")
	}
	return name
}

// certificateName is taken from the file, or from its directory where files
// are all called the same.
func certificateName(file string) string {
	parts := strings.Split(strings.ReplaceAll(file, `\`, "/"), "/")
	name := ""
	for _, part := range slices.Backward(parts) {
		name = part
		for _, ext := range []string{".pem", ".crt", ".cer", ".cert", ".chain"} {
			name = strings.TrimSuffix(name, ext)
		}
		switch strings.ToLower(name) {
		case "", ".", "..", "fullchain", "chain", "cert", "certificate", "tls", "server", "certs", "ssl":
			continue
		}
		break
	}
	return cmp.Or(name, "certificate")
}

// duration writes a time as people do: 90s is "1m30s", 12h is "12h".
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// version turns the names of stunnel and nginx into those of min_version.
// Anything before TLS 1.0 counts as that.
func version(name string) (v string, ok bool) {
	switch strings.ToLower(strings.ReplaceAll(name, "_", ".")) {
	case "sslv2", "sslv3", "tlsv1", "tlsv1.0":
		return "1.0", true
	case "tlsv1.1":
		return "1.1", true
	case "tlsv1.2":
		return "1.2", true
	case "tlsv1.3":
		return "1.3", true
	}
	return "", false
}
