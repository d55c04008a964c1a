package xmpp

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// What XML can be besides XMPP.
var (
	errMalformed  = fmt.Errorf("%w: XML that is not well-formed", upgraders.ErrSyntax)
	errRestricted = fmt.Errorf("%w: a comment, a processing instruction, a document type or an entity", upgraders.ErrSyntax)
	errEncoding   = fmt.Errorf("%w: not UTF-8", upgraders.ErrSyntax)
	errTooDeep    = fmt.Errorf("%w: elements in elements", wire.ErrTooLong)
)

// A kind is what a token of a stream is.
type kind uint8

const (
	incomplete kind = iota
	text            // up to the next markup, or to the end of what is there
	prolog          // <?xml version='1.0'?>
	starts          // <a>
	empty           // <a/>
	ends            // </a>
	cdata           // <![CDATA[ … ]]>
)

// A lexer finds the end of the token that a buffer begins with. While that is
// incomplete it is asked again with more bytes, and looks at none twice.
type lexer struct {
	seen  int
	quote byte
}

var (
	markProlog = []byte("<?xml")
	markCDATA  = []byte("<![CDATA[")
)

func (l *lexer) token(b []byte) (kind, int, error) {
	switch {
	case len(b) == 0:
		return incomplete, 0, nil
	case b[0] != '<':
		if n := bytes.IndexByte(b, '<'); n >= 0 {
			return text, n, nil
		}
		return text, len(b), nil
	case len(b) == 1:
		return incomplete, 0, nil
	}
	switch b[1] {
	case 0:
		return 0, 0, errEncoding // UTF-16
	case '?':
		// RFC 6120, 11.1: no processing instructions. The XML declaration only
		// looks like one.
		if len(b) > len(markProlog) && isName(b[len(markProlog)]) {
			return 0, 0, errRestricted
		}
		return l.until(b, markProlog, "?>", prolog)
	case '!':
		// RFC 6120, 11.1: no comments and no document types.
		return l.until(b, markCDATA, "]]>", cdata)
	}
	return l.tag(b)
}

// until finds the end of what begins with a mark, and nothing else may.
func (l *lexer) until(b, mark []byte, end string, k kind) (kind, int, error) {
	if n := min(len(b), len(mark)); !bytes.Equal(b[:n], mark[:n]) {
		return 0, 0, errRestricted
	}
	from := max(len(mark), l.seen-len(end))
	if from < len(b) {
		if i := bytes.Index(b[from:], []byte(end)); i >= 0 {
			return k, from + i + len(end), nil
		}
	}
	l.seen = len(b)
	return incomplete, 0, nil
}

func (l *lexer) tag(b []byte) (kind, int, error) {
	for i := max(l.seen, 1); i < len(b); i++ {
		switch c := b[i]; {
		case c == '<':
			return 0, 0, errMalformed
		case l.quote != 0:
			if c == l.quote {
				l.quote = 0
			}
		case c == '\'' || c == '"':
			l.quote = c
		case c == '>' && b[1] == '/':
			return ends, i + 1, nil
		case c == '>' && b[i-1] == '/':
			return empty, i + 1, nil
		case c == '>':
			return starts, i + 1, nil
		}
	}
	l.seen = len(b)
	return incomplete, 0, nil
}

// A scan looks ahead at what a peer sends, and takes none of it.
type scan struct {
	c     *wire.Conn
	at    int          // where the next token begins
	max   int          // in all
	flush func() error // called before anything is waited for; may be nil
}

// next returns the token at s.at.
func (s *scan) next() (kind, []byte, error) {
	var l lexer
	for {
		b := s.c.Unread()[s.at:]
		b = b[:min(len(b), s.max-s.at)]
		k, n, err := l.token(b)
		switch {
		case err != nil:
			return 0, nil, err
		case k != incomplete:
			return k, b[:n], nil
		case s.at+len(b) == s.max:
			return 0, nil, wire.ErrTooLong
		}
		if s.flush != nil {
			if err := s.flush(); err != nil {
				return 0, nil, err
			}
		}
		if _, err := s.c.Peek(s.at + len(b) + 1); err != nil {
			if err == io.EOF && s.c.Buffered() > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
	}
}

// element goes on to the end of the element that begins at s.at.
func (s *scan) element() ([]byte, error) {
	from, depth := s.at, 0
	for {
		k, raw, err := s.next()
		if err != nil {
			return nil, err
		}
		s.at += len(raw)
		switch k {
		case starts:
			depth++
		case ends:
			depth--
		case prolog:
			return nil, errMalformed
		}
		if depth <= 0 {
			return s.c.Unread()[from:s.at], nil
		}
	}
}

// skip goes over white space and returns what follows it.
func (s *scan) skip() (kind, []byte, error) {
	for {
		k, raw, err := s.next()
		if err != nil || k != text || !isSpace(raw...) {
			return k, raw, err
		}
		s.at += len(raw)
	}
}

func isSpace(b ...byte) bool {
	return len(bytes.Trim(b, " \t\r\n")) == 0
}

// A tag is one, taken apart.
type tag struct {
	prefix, local string
	attrs         []attr
}

type attr struct{ prefix, local, value string }

// get returns the value of an attribute that has no prefix.
func (t tag) get(local string) string {
	for _, a := range t.attrs {
		if a.prefix == "" && a.local == local {
			return a.value
		}
	}
	return ""
}

// parseTag takes apart what a lexer has found to be a tag.
func parseTag(raw []byte) (t tag, err error) {
	b, end := bytes.CutPrefix(raw[1:len(raw)-1], []byte("/"))
	if !end {
		b = bytes.TrimSuffix(b, []byte("/"))
	}
	if t.prefix, t.local, b, err = parseName(b); err != nil {
		return t, err
	}
	if end && !isSpace(b...) {
		return t, errMalformed
	}
	t.attrs, err = parseAttrs(b)
	return t, err
}

// parseAttrs takes apart what stands behind a tag's name.
func parseAttrs(b []byte) (attrs []attr, err error) {
	for {
		rest := bytes.TrimLeft(b, " \t\r\n")
		if len(rest) == 0 {
			return attrs, nil
		}
		if len(rest) == len(b) {
			return nil, errMalformed // no space between
		}
		var a attr
		if a.prefix, a.local, b, err = parseName(rest); err != nil {
			return nil, err
		}
		b = bytes.TrimLeft(b, " \t\r\n")
		if len(b) == 0 || b[0] != '=' {
			return nil, errMalformed
		}
		b = bytes.TrimLeft(b[1:], " \t\r\n")
		if len(b) == 0 || b[0] != '\'' && b[0] != '"' {
			return nil, errMalformed
		}
		end := bytes.IndexByte(b[1:], b[0])
		if end < 0 {
			return nil, errMalformed
		}
		if a.value, err = unescape(b[1 : 1+end]); err != nil {
			return nil, err
		}
		b = b[end+2:]
		if slices.ContainsFunc(attrs, func(o attr) bool { return o.prefix == a.prefix && o.local == a.local }) {
			return nil, errMalformed
		}
		attrs = append(attrs, a)
	}
}

// parseName takes a name with or without a prefix.
func parseName(b []byte) (prefix, local string, rest []byte, err error) {
	n := 0
	for n < len(b) && (isName(b[n]) || b[n] == ':') {
		n++
	}
	name := string(b[:n])
	if first, second, ok := strings.Cut(name, ":"); ok {
		prefix, local = first, second
		if !begins(prefix) {
			return "", "", nil, errMalformed
		}
	} else {
		local = name
	}
	if !begins(local) || strings.Contains(local, ":") || !utf8.ValidString(name) {
		return "", "", nil, errMalformed
	}
	return prefix, local, b[n:], nil
}

func isName(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '_' || b == '.' || b >= utf8.RuneSelf
}

func begins(name string) bool {
	return name != "" && isName(name[0]) && strings.IndexByte("-.0123456789", name[0]) < 0
}

var entities = map[string]rune{"amp": '&', "lt": '<', "gt": '>', "quot": '"', "apos": '\''}

// unescape resolves the references that XMPP has (RFC 6120, 11.1): those that
// XML itself defines, and no others.
func unescape(b []byte) (string, error) {
	if !isText(b) {
		return "", errMalformed
	}
	var out strings.Builder
	for s := string(b); s != ""; {
		i := strings.IndexByte(s, '&')
		if i < 0 {
			i = len(s)
		}
		out.WriteString(s[:i])
		if s = s[i:]; s == "" {
			break
		}
		name, rest, ok := strings.Cut(s[1:], ";")
		if !ok {
			return "", errMalformed
		}
		r, known := entities[name]
		if digits, numeric := strings.CutPrefix(name, "#"); numeric {
			base := 10
			if hex, ok := strings.CutPrefix(digits, "x"); ok {
				digits, base = hex, 16
			}
			n, err := strconv.ParseUint(digits, base, 21)
			if r = rune(n); err != nil || !isChar(r) {
				return "", errMalformed
			}
		} else if !known {
			return "", errRestricted
		}
		out.WriteRune(r)
		s = rest
	}
	return out.String(), nil
}

func isText(b []byte) bool {
	return utf8.Valid(b) && !bytes.ContainsFunc(b, func(r rune) bool { return !isChar(r) })
}

// isChar is the production Char of XML 1.0.
func isChar(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' || r >= 0x20 && r <= 0xd7ff || r >= 0xe000 && r <= 0xfffd || r >= 0x10000 && r <= utf8.MaxRune
}

// A node is an element that is there whole.
type node struct {
	tag
	from, to int // where it stands
	text     string
	children []*node
}

func (n *node) child(local string) *node {
	for _, c := range n.children {
		if c.local == local {
			return c
		}
	}
	return nil
}

const maxDepth = 64

// parseElement takes an element apart that is there whole.
func parseElement(raw []byte) (*node, error) {
	root := &node{}
	open := []*node{root}
	for at := 0; at < len(raw); {
		var l lexer
		k, n, err := l.token(raw[at:])
		if err != nil {
			return nil, err
		}
		in, piece := open[len(open)-1], raw[at:at+n]
		if in == root && k != starts && k != empty {
			return nil, errMalformed
		}
		switch k {
		case starts, empty:
			t, err := parseTag(piece)
			if err != nil {
				return nil, err
			}
			e := &node{tag: t, from: at, to: at + n}
			in.children = append(in.children, e)
			if k == starts {
				open = append(open, e)
			}
		case ends:
			t, err := parseTag(piece)
			if err != nil || t.prefix != in.prefix || t.local != in.local {
				return nil, cmp.Or(err, errMalformed)
			}
			in.to = at + n
			open = open[:len(open)-1]
		case text:
			t, err := unescape(piece)
			if err != nil {
				return nil, err
			}
			if bytes.Contains(piece, []byte("]]>")) {
				return nil, errMalformed
			}
			in.text += t
		case cdata:
			if !isText(piece) {
				return nil, errMalformed
			}
			in.text += string(piece[len(markCDATA) : n-len("]]>")])
		default:
			return nil, errMalformed
		}
		if len(open) > maxDepth {
			return nil, errTooDeep
		}
		at += n
	}
	if len(open) != 1 || len(root.children) != 1 {
		return nil, errMalformed
	}
	return root.children[0], nil
}

// A scope says what prefixes stand for; "" is the default.
type scope map[string]string

// in returns the namespace of a tag in a scope.
func (s scope) in(t tag) string {
	for _, a := range t.attrs {
		if a.prefix == "" && a.local == "xmlns" && t.prefix == "" || a.prefix == "xmlns" && a.local == t.prefix {
			return a.value
		}
	}
	return s[t.prefix]
}

// scopeOf returns what a tag declares.
func scopeOf(t tag) scope {
	s := scope{}
	for _, a := range t.attrs {
		switch {
		case a.prefix == "" && a.local == "xmlns":
			s[""] = a.value
		case a.prefix == "xmlns":
			s[a.local] = a.value
		}
	}
	return s
}
