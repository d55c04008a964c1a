package sieve

import (
	"bytes"
	"strconv"
	"strings"
)

// Bounds. RFC 5804, 4 ends quoted strings at 1024 octets and names no others;
// inside TLS there is room for the initial response of a Kerberos or OAuth
// login.
const (
	maxQuoted    = 1024     // a string that we quote
	maxClearLine = 8 << 10  // a client's line before TLS
	maxLine      = 64 << 10 // a line of either side in the filtered phase
	maxLiteral   = 64 << 10 // a literal of either side before authentication
)

// A command is the first line of one, read strictly by the grammar of RFC
// 5804, 4: what two parsers may read differently must not get past the first.
type command struct {
	verb string   // in upper case; "" where the line is no command
	args []string // without quotes; a literal is not among them
	size int64    // of the literal that follows the line; noLiteral: none
}

const (
	noLiteral  = -1
	badLiteral = -2 // meant as one, and none that the grammar has
)

// parseCommand takes a line without its line end apart.
func parseCommand(line []byte) command {
	verb, rest, more := bytes.Cut(line, []byte(" "))
	if !isVerb(verb) {
		if literal(line) != noLiteral {
			return command{size: badLiteral}
		}
		return command{size: noLiteral}
	}
	c := command{verb: strings.ToUpper(string(verb)), size: noLiteral}
	if !more {
		return c
	}
	if c.args, c.size = parseArguments(rest); c.args == nil && c.size < 0 {
		c.verb = ""
	}
	return c
}

func isVerb(b []byte) bool {
	for _, c := range b {
		if (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '_' && (c < '0' || c > '9') {
			return false
		}
	}
	return len(b) > 0
}

// parseArguments takes strings, numbers and words apart that stand one blank
// apart. args is nil where there are none or the line is none of the grammar's.
func parseArguments(line []byte) (args []string, size int64) {
	rest := line
	for {
		arg, n := parseString(rest)
		switch {
		case n > 0 && n == len(rest):
			return append(args, arg), noLiteral
		case n > 0 && rest[n] == ' ':
			args, rest = append(args, arg), rest[n+1:]
		default:
			// Literals come last. Whatever looks like one and is none of the
			// grammar's is not guessed at.
			switch size = literal(line); {
			case size >= 0 && bytes.LastIndexByte(rest, '{') == 0:
				return args, size
			case size >= 0:
				size = badLiteral
			}
			return nil, size
		}
	}
}

// parseString reads a quoted string or a word at the beginning of b, and
// returns how long it is; 0: there is none.
func parseString(b []byte) (string, int) {
	if len(b) > 0 && b[0] == '"' {
		return unquote(b)
	}
	n := 0
	for n < len(b) && isWord(b[n]) {
		n++
	}
	return string(b[:n]), n
}

// unquote reads the quoted string that b begins with; 0: it has no end.
func unquote(b []byte) (string, int) {
	var text []byte
	for i := 1; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return string(text), i + 1
		case c == '\r' || c == '\n':
			return "", 0
		case c == '\\':
			// RFC 5804, 4: QUOTED-SPECIALS alone are escaped.
			if i++; i >= len(b) || b[i] != '"' && b[i] != '\\' {
				return "", 0
			}
		}
		text = append(text, b[i])
	}
	return "", 0
}

// isWord reports whether c may be in an argument that is no string: numbers,
// and the atoms that servers take for strings.
func isWord(c byte) bool {
	return c > ' ' && c < 0x7f && strings.IndexByte(`"\(){}`, c) < 0
}

// literal returns the size that the end of a line announces. A client's
// literals are sent unasked, as {n+}: ManageSieve has no other (RFC 5804, 4).
func literal(line []byte) int64 {
	open := bytes.LastIndexByte(line, '{')
	if open < 0 || line[len(line)-1] != '}' {
		return noLiteral
	}
	spec := string(line[open+1 : len(line)-1])
	if strings.Trim(spec, "0123456789+-") != "" {
		return noLiteral
	}
	digits, unasked := strings.CutSuffix(spec, "+")
	size, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || !unasked || digits[0] == '+' {
		return badLiteral
	}
	return int64(size)
}

// quote makes a string of the protocol's.
func quote(s string) string {
	if len(s) > maxQuoted || strings.ContainsAny(s, "\r\n\x00") {
		return "{" + strconv.Itoa(len(s)) + "}\r\n" + s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// trimEnd returns a line without its CRLF or LF.
func trimEnd(line []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
}

// A token is a word, a bracket or a string in a response.
type token struct {
	text       string
	str        bool // a string, quoted or literal
	begin, end int  // where it stands
}

// A response is one line of a backend's, with the literals in it.
type response struct {
	line   []byte
	tokens []token
}

// status is OK, NO or BYE, or "" for a line that holds strings.
func (r response) status() string {
	if len(r.tokens) > 0 && !r.tokens[0].str {
		return strings.ToUpper(r.tokens[0].text)
	}
	return ""
}

// code is the response code of a status (RFC 5804, 1.3), in upper case.
func (r response) code() string {
	if t := r.tokens; len(t) > 2 && t[1].text == "(" && !t[1].str && !t[2].str {
		return strings.ToUpper(t[2].text)
	}
	return ""
}

// words is what a status says to people, for a log.
func (r response) words() string {
	text := r.code()
	if last := len(r.tokens) - 1; last > 0 && r.tokens[last].str {
		text = strings.TrimSpace(text + " " + r.tokens[last].text)
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '?'
		}
		return c
	}, strings.ToValidUTF8(text[:min(len(text), 200)], "?"))
}

// capability returns the name and value of a line that holds strings.
func (r response) capability() (name, value string, hasValue bool) {
	if len(r.tokens) > 1 {
		return r.tokens[0].text, r.tokens[1].text, true
	}
	return r.tokens[0].text, "", false
}

// scan takes the tokens of a response. missing is how many bytes of a literal
// are to come before its next line; -1: it is whole; -2: it never ends.
func scan(b []byte) (tokens []token, missing int64) {
	for at := 0; at < len(b); {
		begin := at
		switch c := b[at]; {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			at++
			continue
		case c == '"':
			text, n := unquote(b[at:])
			if n == 0 {
				text, n = string(trimEnd(b[at:])), len(b)-at // read leniently, as a client may
			}
			at += n
			tokens = append(tokens, token{text, true, begin, at})
		case c == '{':
			eol := bytes.IndexByte(b[at:], '\n')
			if eol < 0 {
				return nil, badLiteral
			}
			spec := bytes.TrimSuffix(bytes.TrimSuffix(trimEnd(b[at:at+eol+1]), []byte("}")), []byte("+"))
			size, err := strconv.ParseUint(string(spec[1:]), 10, 63)
			if err != nil {
				return nil, badLiteral
			}
			at += eol + 1
			if have := int64(len(b) - at); int64(size) > have || len(b) == at {
				return nil, int64(size) - have
			}
			at += int(size)
			tokens = append(tokens, token{string(b[at-int(size) : at]), true, begin, at})
			if at == len(b) {
				return nil, 0 // its next line is to come
			}
		case c == '(' || c == ')':
			at++
			tokens = append(tokens, token{string(c), false, begin, at})
		default:
			for at < len(b) && bytes.IndexByte([]byte(" \t\r\n\"()"), b[at]) < 0 {
				at++
			}
			tokens = append(tokens, token{string(b[begin:at]), false, begin, at})
		}
	}
	return tokens, noLiteral
}
