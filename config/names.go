package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// parseBind checks an address to listen on. Port 0 is any free port.
func parseBind(s string) (bind, error) {
	h, p, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf(`%q is no address to listen on: write ":25", "192.0.2.1:25" or "[2001:db8::1]:25"`, s)
	}
	if err := checkPort(s, p, 0); err != nil {
		return "", err
	}
	if h != "" {
		if _, err := parseHost(h); err != nil {
			return "", err
		}
	}
	return bind(s), nil
}

// parseServer checks the address of a backend server.
func parseServer(s string) (server, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
			return "", fmt.Errorf(`%q needs an absolute path: write "unix:/path/to/socket"`, s)
		}
		return server(s), nil
	}
	h, p, err := net.SplitHostPort(s)
	if err != nil || h == "" {
		return "", fmt.Errorf(`%q is no address of a server: write "host:25", "192.0.2.1:25", "[2001:db8::1]:25" or "unix:/path/to/socket"`, s)
	}
	if err := checkPort(s, p, 1); err != nil {
		return "", err
	}
	if _, err := parseHost(h); err != nil {
		return "", err
	}
	return server(s), nil
}

func checkPort(address, port string, lowest uint64) error {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n < lowest {
		return fmt.Errorf("%q has no valid port: write a number from 1 to 65535 behind the last colon", address)
	}
	return nil
}

// port returns the port of an address that was checked.
func (b bind) port() uint16 {
	_, p, _ := net.SplitHostPort(string(b))
	n, _ := strconv.ParseUint(p, 10, 16)
	return uint16(n)
}

// collides reports whether two sockets cannot both listen: on the same port,
// and on the same address or one on all of them. An empty host is both
// families, 0.0.0.0 and :: are all of one.
func (b bind) collides(c bind) bool {
	if b.port() != c.port() || b.port() == 0 {
		return false
	}
	bh, _, _ := net.SplitHostPort(string(b))
	ch, _, _ := net.SplitHostPort(string(c))
	if bh == "" || ch == "" || strings.EqualFold(bh, ch) {
		return true
	}
	ba, berr := netip.ParseAddr(bh)
	ca, cerr := netip.ParseAddr(ch)
	if berr != nil || cerr != nil {
		return false // a name may stand for anything: bind will tell
	}
	ba, ca = ba.Unmap(), ca.Unmap()
	return ba == ca || ba.Is4() == ca.Is4() && (ba.IsUnspecified() || ca.IsUnspecified())
}

// parseHost checks a DNS name or IP address. What is checked here stands in
// greetings and headers, so it can hold nothing that would end a line.
func parseHost(s string) (host, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		if strings.ContainsFunc(addr.Zone(), func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "", fmt.Errorf("%q has a zone that no interface has", s)
		}
		return host(s), nil
	}
	if err := checkName(s); err != nil {
		return "", fmt.Errorf("%q is no host name: %w", s, err)
	}
	return host(s), nil
}

// parseSNI checks a pattern for the server name in a ClientHello: a DNS name,
// or a wildcard for one whole label on the left.
func parseSNI(s string) (sni, error) {
	name := strings.TrimPrefix(s, "*.")
	if strings.Contains(name, "*") {
		return "", fmt.Errorf(`%q: a * stands for one whole label on the left: write "*.example.org", or list the names`, s)
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return "", fmt.Errorf("%q is an address, and clients send only names (RFC 6066, 3): write a name, or a route without sni for the rest", s)
	}
	if err := checkName(name); err != nil {
		return "", fmt.Errorf("%q cannot be a server name: %w", s, err)
	}
	return sni(strings.ToLower(s)), nil
}

// covers reports whether every name that q matches is matched by p.
func (p sni) covers(q sni) bool {
	if p == q {
		return true
	}
	suffix, wildcard := strings.CutPrefix(string(p), "*")
	_, rest, _ := strings.Cut(string(q), ".")
	return wildcard && !strings.HasPrefix(string(q), "*") && suffix == "."+rest
}

func checkName(s string) error {
	switch {
	case s == "":
		return errors.New("it is empty")
	case strings.HasSuffix(s, "."):
		return errors.New("leave out the dot at its end")
	case len(s) > 253:
		return errors.New("names have at most 253 characters")
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return errors.New("between dots there are 1 to 63 characters")
		}
		for i, c := range []byte(label) {
			switch {
			case c >= 0x80:
				return errors.New("write an international name in its xn-- form")
			case c == '-' && (i == 0 || i == len(label)-1):
				return errors.New("no part of it begins or ends with a hyphen")
			case c != '-' && c != '_' && !('a' <= c|0x20 && c|0x20 <= 'z') && !('0' <= c && c <= '9'):
				return errors.New("use letters, digits, hyphens and dots")
			}
		}
	}
	return nil
}

// parsePrefix takes a network, or a single address as one.
func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf(`%q is no network: write "10.0.0.0/8", "2001:db8::/32" or a single address`, s)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%q has bits set behind its prefix: write %q", s, p.Masked())
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 { // addresses are compared as what they are
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, nil
}
