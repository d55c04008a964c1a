package ftp

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
)

// split takes a command apart: the verb in upper case, and the rest.
func split(line string) (verb, argument string) {
	verb, argument, _ = strings.Cut(line, " ")
	return strings.ToUpper(verb), argument
}

// isVerb reports whether a verb is one to every server: some end it at other
// characters, or pass over some before it.
func isVerb(verb string) bool {
	for _, b := range []byte(verb) {
		if (b < '0' || b > '9') && (b < 'A' || b > 'Z') {
			return false
		}
	}
	return verb != ""
}

// printable reports whether a command is one that every parser reads alike: no
// control characters. RFC 2640 lets names hold UTF-8.
func printable(line []byte) bool {
	for _, b := range line {
		if b < ' ' || b == 0x7f {
			return false
		}
	}
	return true
}

func trimEnd(line []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
}

// Telnet's codes (RFC 854).
const (
	iac      = 255
	will     = 251 // … WONT, DO, DONT: an option follows
	commands = 240 // the lowest
)

// plain takes out of a line what is Telnet's, which a control connection may
// hold (RFC 959, 4): the signals before an ABOR, above all. Some servers pass
// over them, so a verb behind them would be one that only the backend sees. The
// Synch's mark may be without its IAC, or the IAC without its mark: that is
// urgent data, which is read apart. IAC IAC is data and stays doubled.
func plain(line []byte) []byte {
	for len(line) > 0 && line[0] >= commands {
		n := 1
		if len(line) > 2 && line[0] == iac && line[1] >= will && line[1] < iac {
			n = 3
		}
		line = line[n:]
	}
	if bytes.IndexByte(line, iac) < 0 {
		return line
	}
	var kept []byte
	for i := 0; i < len(line); i++ {
		if line[i] != iac || i+1 == len(line) || line[i+1] < commands {
			kept = append(kept, line[i])
			continue
		}
		switch i++; {
		case line[i] == iac:
			kept = append(kept, iac, iac)
		case line[i] >= will:
			i++
		}
	}
	return kept
}

// code returns the code that a reply's line begins with, and whether more lines
// follow; 0 for a line that begins no reply (RFC 959, 4.2).
func code(line []byte) (n int, more bool) {
	line = trimEnd(line)
	if len(line) < 3 || len(line) > 3 && line[3] != ' ' && line[3] != '-' || line[0] < '1' || line[0] > '5' {
		return 0, false
	}
	u, err := strconv.ParseUint(string(line[:3]), 10, 16)
	if err != nil {
		return 0, false
	}
	return int(u), len(line) > 3 && line[3] == '-'
}

// ends reports whether a line is the last of a reply that began with a code:
// the same code again, and no hyphen.
func ends(line []byte, with int) bool {
	n, more := code(line)
	return n == with && !more
}

// hostPort reads the argument of PORT, or what a 227 holds: six numbers.
func hostPort(text string) (netip.AddrPort, bool) {
	parts := strings.Split(text, ",")
	if len(parts) != 6 {
		return netip.AddrPort{}, false
	}
	var b [6]byte
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil {
			return netip.AddrPort{}, false
		}
		b[i] = byte(n)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), uint16(b[4])<<8|uint16(b[5])), true
}

// passivePort finds the port in a backend's 227, of which the address is of no
// interest: it is the backend's, or a lie (CVE-2020-8284). RFC 1123, 4.1.2.6:
// the numbers may stand anywhere, in parentheses or not.
func passivePort(words string) uint16 {
	for _, run := range strings.FieldsFunc(words, func(r rune) bool { return (r < '0' || r > '9') && r != ',' }) {
		if at, ok := hostPort(strings.Trim(run, ",")); ok {
			return at.Port()
		}
	}
	return 0
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

// extendedPort finds the port in a backend's 229: (<d><d><d>port<d>), RFC 2428,
// 3.
func extendedPort(words string) uint16 {
	_, inner, _ := strings.Cut(words, "(")
	inner, _, ok := strings.Cut(inner, ")")
	if !ok || len(inner) < 5 || strings.Count(inner, inner[:1]) != 4 || inner[:3] != strings.Repeat(inner[:1], 3) || inner[len(inner)-1] != inner[0] {
		return 0
	}
	port, err := strconv.ParseUint(inner[3:len(inner)-1], 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}

// extendedHostPort reads the argument of EPRT: <d>family<d>address<d>port<d>,
// RFC 2428, 2.
func extendedHostPort(text string) (family string, at netip.AddrPort, ok bool) {
	if text == "" || text[0] < 33 || text[0] > 126 {
		return "", at, false
	}
	parts := strings.Split(text, text[:1])
	if len(parts) != 5 || parts[4] != "" {
		return "", at, false
	}
	addr, err := netip.ParseAddr(parts[2])
	port, perr := strconv.ParseUint(parts[3], 10, 16)
	return parts[1], netip.AddrPortFrom(addr, uint16(port)), err == nil && perr == nil
}

// familyOf is an address's number in EPRT and EPSV.
func familyOf(a netip.Addr) string {
	if a.Is4() {
		return "1"
	}
	return "2"
}
