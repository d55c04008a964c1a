package web

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// What a request may be: an authority's is a tenth of it, and a browser's with
// all its fields fits.
const (
	maxTarget = 2 << 10 // the request line
	maxField  = 4 << 10
	maxHead   = 8 << 10
	maxFields = 64 // the request line and the empty one included
)

// Requests that are well made, and not served here.
var (
	errMethod  = errors.New("a method that pages do not have")
	errUnknown = errors.New("an unknown method")
	errVersion = errors.New("a version of HTTP that is not spoken")
	errBody    = errors.New("a request with a body")
)

// errTarget is the request line beyond its bound.
var errTarget = fmt.Errorf("request line: %w", wire.ErrTooLong)

// refusals has the status that answers what was wrong with a request (RFC 9110,
// 15). Who left gets none.
var refusals = upgraders.Answers[int]{
	{errMethod, http.StatusMethodNotAllowed},
	{errUnknown, http.StatusNotImplemented},
	{errVersion, http.StatusHTTPVersionNotSupported},
	{errBody, http.StatusRequestEntityTooLarge},
	{errTarget, http.StatusRequestURITooLong},
	{wire.ErrTooLong, http.StatusRequestHeaderFieldsTooLarge},
	{wire.ErrBudget, http.StatusRequestHeaderFieldsTooLarge},
	{wire.ErrBareNewline, http.StatusBadRequest},
	{wire.ErrNUL, http.StatusBadRequest},
	{wire.ErrClientHello, http.StatusBadRequest},
	{upgraders.ErrSyntax, http.StatusBadRequest},
	{wire.ErrShutdown, http.StatusServiceUnavailable},
	{os.ErrDeadlineExceeded, http.StatusRequestTimeout},
}

// readRequest takes the head of a request, and so all of it. The request is
// never nil, and holds the method where there was one.
func readRequest(c *wire.Conn) (*http.Request, error) {
	r := &http.Request{Header: http.Header{}, Body: http.NoBody}
	line, err := c.ReadLine(maxTarget)
	if errors.Is(err, wire.ErrTooLong) {
		err = errTarget
	}
	if err != nil {
		return r, err
	}
	if err := requestLine(r, line); err != nil {
		return r, err
	}
	hosts, body := 0, false
	for {
		line, err := c.ReadLine(maxField)
		if err != nil {
			return r, err
		}
		if len(line) == 0 {
			break
		}
		// RFC 9112, 5.1: no blank before the colon; 5.2: nor in front of the
		// name, which would be a line folded into the one before.
		name, value, ok := bytes.Cut(line, []byte(":"))
		value = bytes.Trim(value, " \t")
		if !ok || !isToken(name) || !isValue(value) {
			return r, upgraders.ErrSyntax
		}
		switch strings.ToLower(string(name)) {
		case "host":
			hosts++
			if r.Host == "" { // an absolute target goes before it (RFC 9112, 3.2.2)
				r.Host = strings.ToLower(string(value))
			}
			if !isHost(string(value)) {
				return r, upgraders.ErrSyntax
			}
		case "content-length":
			n, err := strconv.ParseUint(string(value), 10, 63)
			if err != nil {
				return r, upgraders.ErrSyntax
			}
			body = body || n > 0
		case "transfer-encoding":
			body = true
		case "connection":
			r.Close = r.Close || hasToken(value, "close")
		}
	}
	switch {
	case hosts > 1 || hosts == 0 && r.ProtoMinor > 0: // RFC 9112, 3.2
		return r, upgraders.ErrSyntax
	case body:
		return r, errBody
	}
	return r, nil
}

// requestLine takes METHOD SP TARGET SP VERSION (RFC 9112, 3).
func requestLine(r *http.Request, line []byte) error {
	words := strings.Split(string(line), " ")
	if len(words) != 3 || !isToken([]byte(words[0])) {
		return upgraders.ErrSyntax
	}
	method, target, version := words[0], words[1], words[2]
	v, ok := strings.CutPrefix(version, "HTTP/")
	if !ok || len(v) != 3 || !isDigit(v[0]) || v[1] != '.' || !isDigit(v[2]) {
		return upgraders.ErrSyntax
	}
	if v[0] != '1' {
		return errVersion
	}
	r.Proto, r.ProtoMajor, r.ProtoMinor = version, 1, int(v[2]-'0')
	r.Close = r.ProtoMinor == 0
	switch r.Method = method; method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace, http.MethodPatch:
		return errMethod
	default:
		return errUnknown
	}
	for _, b := range []byte(target) {
		if b <= ' ' || b >= 0x7f || b == '#' {
			return upgraders.ErrSyntax
		}
	}
	u, err := url.ParseRequestURI(target)
	switch {
	case err != nil:
		return upgraders.ErrSyntax
	case target[0] == '/':
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && isHost(u.Host):
		r.Host = strings.ToLower(u.Host)
		if u.Path == "" {
			u.Path = "/"
		}
	default:
		return upgraders.ErrSyntax
	}
	r.RequestURI, r.URL = target, &url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}
	return nil
}

// isToken is RFC 9110, 5.6.2.
func isToken(b []byte) bool {
	for _, c := range b {
		if !isAlnum(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return len(b) > 0
}

// isValue is RFC 9110, 5.5: what is neither text nor a blank has no meaning
// that two readers would agree on.
func isValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isHost reports whether a Host is a name or an address, with or without a
// port. It may be empty (RFC 9110, 7.2).
func isHost(s string) bool {
	name := s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		if _, err := strconv.ParseUint(s[i+1:], 10, 16); err != nil {
			return false
		}
		name = s[:i]
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		address, ok := strings.CutSuffix(inner, "]")
		_, err := netip.ParseAddr(address)
		return ok && err == nil && strings.Contains(address, ":") && !strings.Contains(address, "%")
	}
	for i := range len(name) {
		if c := name[i]; !isAlnum(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return len(name) <= 254 && (name != "" || s == "")
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isAlnum(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'z' }

// hasToken looks for a word in a list (RFC 9110, 5.6.1).
func hasToken(list []byte, word string) bool {
	for item := range strings.SplitSeq(string(list), ",") {
		if strings.EqualFold(strings.Trim(item, " \t"), word) {
			return true
		}
	}
	return false
}
