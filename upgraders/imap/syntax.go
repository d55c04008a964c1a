package imap

import (
	"bytes"
	"strconv"
	"strings"
)

// Bounds. RFC 7162, 4 has clients keep command lines below 8192 octets, and
// RFC 7888, 5 literals below 4096. Inside TLS there is room for the initial
// response of a Kerberos or OAuth login.
const (
	maxClearLine = 8 << 10  // a client's line before TLS
	maxLine      = 64 << 10 // a line of either side in the filtered phase
	maxLiteral   = 64 << 10 // a client's literal before authentication
	maxTag       = 128
)

// atomChar reports whether c may be in an atom: RFC 9051, 9, ATOM-CHAR.
func atomChar(c byte) bool {
	return c > ' ' && c < 0x7f && strings.IndexByte(`(){%*"\]`, c) < 0
}

func isAtom(s string) bool {
	for i := range len(s) {
		if !atomChar(s[i]) {
			return false
		}
	}
	return s != ""
}

// legalTag reports whether s is a tag: RFC 9051, 9, `1*<any ASTRING-CHAR
// except "+">`. Only such a tag is ever echoed.
func legalTag(s string) bool {
	for i := range len(s) {
		if !atomChar(s[i]) && s[i] != ']' || s[i] == '+' {
			return false
		}
	}
	return s != "" && len(s) <= maxTag
}

// A commandLine is the first line of a command, without its line end.
type commandLine struct {
	tag  string // "" where it is not legal
	name string // in upper case; "" where it is missing or no atom
	args []byte // what follows the name, with the space before it
}

// parseCommand takes a line apart. It is as strict as RFC 9051's grammar: what
// two parsers may read differently must not get past the first.
func parseCommand(line []byte) commandLine {
	tag, rest, _ := bytes.Cut(line, []byte(" "))
	if !legalTag(string(tag)) {
		return commandLine{}
	}
	name := rest
	if i := bytes.IndexByte(rest, ' '); i >= 0 {
		name = rest[:i]
	}
	c := commandLine{tag: string(tag), args: rest[len(name):]}
	if isAtom(string(name)) {
		c.name = strings.ToUpper(string(name))
	}
	return c
}

// isProxyHeader reports whether a line is a header of the PROXY protocol, which
// a backend would believe from the gateway. Its grammar is that of a command.
func isProxyHeader(line []byte) bool {
	return bytes.HasPrefix(line, []byte("PROXY TCP")) || bytes.HasPrefix(line, []byte("PROXY UNKNOWN"))
}

// echo returns what an answer to c begins with.
func (c commandLine) echo() string {
	if c.tag == "" {
		return "*"
	}
	return c.tag
}

type literalKind uint8

const (
	noLiteral      literalKind = iota
	synchronizing              // {n}: the client waits for `+`
	nonSynchronous             // {n+}: RFC 7888, the bytes follow at once
	badLiteral                 // meant as one, but no number that can be counted
)

// literal says whether a line, without its line end, announces a literal.
func literal(line []byte) (int64, literalKind) {
	open := bytes.LastIndexByte(line, '{')
	if open < 0 || line[len(line)-1] != '}' {
		return 0, noLiteral
	}
	spec := string(line[open+1 : len(line)-1])
	if spec == "" || strings.Trim(spec, "0123456789+-") != "" {
		return 0, noLiteral
	}
	digits, plus := strings.CutSuffix(spec, "+")
	size, err := strconv.ParseUint(digits, 10, 63)
	switch {
	case err != nil:
		return 0, badLiteral
	case plus:
		return int64(size), nonSynchronous
	}
	return int64(size), synchronizing
}

// trimEOL returns a line without its CRLF or LF.
func trimEOL(line []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
}

// A response is what the filter must know of a line of the backend. It is read
// leniently, as a client may read it.
type response struct {
	tag    string // "*", "+", or a command's
	word   string // the second word in upper case
	status bool   // word is OK, NO, BAD, BYE or PREAUTH: text follows, never a literal
	text   int    // where what follows word begins in the line
}

func parseResponse(line []byte) response {
	tag, at := nextWord(line, 0)
	if tag == "+" {
		return response{tag: tag, status: true, text: at}
	}
	word, at := nextWord(line, at)
	r := response{tag: tag, word: strings.ToUpper(word), text: at}
	switch r.word {
	case "OK", "NO", "BAD", "BYE", "PREAUTH":
		r.status = true
	}
	return r
}

// code returns the response code in a status response: its name in upper case
// and where it stands, brackets included, and where its arguments begin.
func (r response) code(line []byte) (name string, begin, args, end int) {
	begin = skipBlanks(line, r.text)
	if !r.status || begin == len(line) || line[begin] != '[' {
		return "", 0, 0, 0
	}
	end = len(trimEOL(line))
	if i := bytes.IndexByte(line[begin:end], ']'); i >= 0 {
		end = begin + i + 1
	}
	word, args := nextWord(line[:end], begin+1)
	if i := strings.IndexByte(word, ']'); i >= 0 {
		args -= len(word) - i
		word = word[:i]
	}
	return strings.ToUpper(word), begin, args, end
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

func skipBlanks(line []byte, at int) int {
	for at < len(line) && isBlank(line[at]) {
		at++
	}
	return at
}

// nextWord returns the word at or after at, and where it ends.
func nextWord(line []byte, at int) (string, int) {
	begin := skipBlanks(line, at)
	end := begin
	for end < len(line) && !isBlank(line[end]) && line[end] != '\r' && line[end] != '\n' {
		end++
	}
	return string(line[begin:end]), end
}
