package onehttp

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	// MaxHead bounds a request's head: line and fields, with what ends them.
	MaxHead = 32 << 10

	maxFields = 100
	maxMethod = 32
)

// A Head is what a request begins with, read as RFC 9112 has it and in no
// other way: whatever two parsers could take for two things is an error.
type Head struct {
	Method string
	Target string
	Minor  int // of HTTP/1
	Host   string
	Length int64 // of the body; Chunked: as its chunks say

	fields []field
	sized  bool
	size   int // of the head itself
}

// Chunked is the Length of a body in chunks.
const Chunked = -1

type field struct{ name, value string } // the name in lower case

// Values returns the values of all fields of a name, which is in lower case.
func (h *Head) Values(name string) (values []string) {
	for _, f := range h.fields {
		if f.name == name {
			values = append(values, f.value)
		}
	}
	return values
}

// Tokens returns the elements of all fields of a name, as lists (RFC 9110,
// 5.6.1).
func (h *Head) Tokens(name string) (tokens []string) {
	for _, v := range h.Values(name) {
		for token := range strings.SplitSeq(v, ",") {
			if token = strings.Trim(token, " \t"); token != "" {
				tokens = append(tokens, token)
			}
		}
	}
	return tokens
}

// Has reports whether a list has a token, without regard to case.
func (h *Head) Has(name, token string) bool {
	return slices.ContainsFunc(h.Tokens(name), func(t string) bool { return strings.EqualFold(t, token) })
}

// Size is how many bytes the head itself is long.
func (h *Head) Size() int { return h.size }

// ReadHead reads the head of a request, which stays in c's buffer. It is
// looked at as it comes: who does not speak HTTP is not listened to for long.
func ReadHead(c *wire.Conn) (*Head, error) {
	var s scan
	return s.head(c)
}

// malformed is an error of syntax. What it says is ours, and nothing of it is
// the client's.
func malformed(what string) error { return fmt.Errorf("%w: %s", upgraders.ErrSyntax, what) }

// A scan is a head as far as it came.
type scan struct {
	h    *Head
	line int // where the line that is not complete begins
	seen int // what was looked at
}

// head goes on where it was interrupted.
func (s *scan) head(c *wire.Conn) (*Head, error) {
	for {
		b := c.Unread()
		for ; s.seen < len(b); s.seen++ {
			switch {
			case s.seen >= MaxHead:
				return nil, wire.ErrTooLong
			case s.seen == 1 && b[0] == 0x16 && b[1] == 0x03:
				return nil, wire.ErrClientHello
			}
			ended, err := strict(b[:s.seen+1])
			if err != nil {
				return nil, err
			}
			if !ended {
				continue
			}
			line := b[s.line : s.seen-1]
			s.line = s.seen + 1
			if s.h == nil {
				if s.h, err = requestLine(line); err != nil {
					return nil, err
				}
				continue
			}
			if len(line) > 0 {
				if err := s.h.add(line); err != nil {
					return nil, err
				}
				continue
			}
			s.h.size = s.line
			return s.h, s.h.complete()
		}
		if _, err := c.Peek(s.seen + 1); err != nil {
			if err == io.EOF && s.seen > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// strict looks at the last byte of b and reports whether it ends a line, which
// CRLF does and nothing else. RFC 9112, 2.2 would let a recipient take a bare
// LF for it; that is how two parsers come to see two requests.
func strict(b []byte) (ended bool, err error) {
	last := b[len(b)-1]
	afterCR := len(b) > 1 && b[len(b)-2] == '\r'
	switch {
	case last == 0:
		return false, wire.ErrNUL
	case (last == '\n') != afterCR:
		return false, wire.ErrBareNewline
	}
	return last == '\n', nil
}

// requestLine reads RFC 9112, 3: method SP request-target SP HTTP-version.
func requestLine(line []byte) (*Head, error) {
	method, rest, ok1 := strings.Cut(string(line), " ")
	target, version, ok2 := strings.Cut(rest, " ")
	switch {
	case !ok1 || !ok2 || !isToken(method) || len(method) > maxMethod:
		return nil, malformed("not a request line")
	case version != "HTTP/1.1" && version != "HTTP/1.0":
		return nil, malformed("not HTTP/1.1 or HTTP/1.0")
	case target == "" || strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }):
		return nil, malformed("a request target with bytes that none has")
	}
	return &Head{Method: method, Target: target, Minor: int(version[7] - '0')}, nil
}

// add reads RFC 9112, 5: field-name ":" OWS field-value OWS.
func (h *Head) add(line []byte) error {
	if len(h.fields) >= maxFields {
		return wire.ErrTooLong
	}
	f, err := fieldLine(line)
	if err != nil {
		return err
	}
	h.fields = append(h.fields, f)
	return nil
}

func fieldLine(line []byte) (field, error) {
	// RFC 9112, 5.1: no white space before the colon; 5.2: no line that
	// continues the one before (obs-fold).
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || !isToken(string(name)) {
		return field{}, malformed("not a field line")
	}
	value = bytes.Trim(value, " \t")
	if bytes.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return field{}, malformed("a control character in a field")
	}
	return field{strings.ToLower(string(name)), string(value)}, nil
}

// complete judges the head as a whole.
func (h *Head) complete() error {
	if err := h.framing(); err != nil {
		return err
	}
	hosts := h.Values("host")
	switch {
	case len(hosts) > 1 || len(hosts) == 0 && h.Minor == 1:
		return malformed("not exactly one Host")
	case len(hosts) == 1 && !isAuthority(hosts[0]):
		return malformed("a Host that is none")
	case len(hosts) == 1:
		h.Host = hosts[0]
	}
	if slices.ContainsFunc(h.Tokens("trailer"), func(name string) bool { return !isToken(name) }) {
		return malformed("a Trailer that names no field")
	}
	return h.target()
}

// framing finds where the body ends (RFC 9112, 6.3).
func (h *Head) framing() error {
	lengths, codings := h.Values("content-length"), h.Values("transfer-encoding")
	switch {
	case len(codings) > 0 && len(lengths) > 0:
		return malformed("both Content-Length and Transfer-Encoding")
	case len(codings) > 0 && h.Minor == 0:
		return malformed("Transfer-Encoding in HTTP/1.0")
	case len(codings) > 1 || len(codings) == 1 && !strings.EqualFold(codings[0], "chunked"):
		return malformed("a Transfer-Encoding other than chunked")
	case len(codings) == 1:
		h.Length = Chunked
		return nil
	case len(lengths) == 0:
		return nil
	}
	n, err := strconv.ParseUint(lengths[0], 10, 63)
	if len(lengths) > 1 || err != nil {
		return malformed("a Content-Length that is not one number")
	}
	h.Length, h.sized = int64(n), true
	return nil
}

// target judges the form of the request target (RFC 9112, 3.2).
func (h *Head) target() error {
	if h.Method == "CONNECT" { // whatever it names, it asks for a tunnel
		return malformed("CONNECT")
	}
	if h.Target[0] == '/' || h.Target == "*" && h.Method == "OPTIONS" {
		return nil
	}
	// RFC 9112, 3.2.2: a server must accept the absolute form, in which the
	// authority counts, and Host does not. Where both are the same, to the
	// letter, it need not be asked which one the backend believes.
	for _, scheme := range []string{"http://", "https://"} {
		if len(h.Target) < len(scheme) || !strings.EqualFold(h.Target[:len(scheme)], scheme) {
			continue
		}
		authority, _, _ := strings.Cut(h.Target[len(scheme):], "/")
		authority, _, _ = strings.Cut(authority, "?")
		if h.Host != "" && authority == h.Host {
			return nil
		}
	}
	return malformed("a request target that is not a path of this host")
}

// isToken is RFC 9110, 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		if b := s[i]; !isAlphanumeric(b) && strings.IndexByte("!#$%&'*+-.^_`|~", b) < 0 {
			return false
		}
	}
	return s != ""
}

func isAlphanumeric(b byte) bool {
	return '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
}

// isAuthority reports whether a Host (RFC 9110, 7.2) is a name or an address,
// perhaps with a port, as they are used: no user, nothing encoded.
func isAuthority(s string) bool {
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		host, port = s[:i], s[i+1:]
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return false
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		address, err := netip.ParseAddr(inner)
		return ok && err == nil && address.Is6() && address.Zone() == ""
	}
	for i := range len(host) {
		if b := host[i]; !isAlphanumeric(b) && b != '.' && b != '-' && b != '_' {
			return false
		}
	}
	return host != ""
}
