package imap

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/sallyport/sallyport/upgraders"
)

// maxID bounds an ID command: RFC 2971, 3.3 has 30 fields of 30 octets, each
// with a value of 1024.
const maxID = 64 << 10

// identification passes the client's ID on, without the fields by which
// proxies tell a backend whose session it is. The backend would believe them:
// they come from the gateway's address.
func (f *filter) identification(c commandLine, line []byte) (*command, error) {
	flat := bytes.Clone(line)
	text := true
	for {
		size, kind := literal(trimEOL(flat))
		if kind == noLiteral {
			break
		}
		flat = trimEOL(flat)
		if kind == badLiteral || int64(len(flat))+2*size > maxID {
			return nil, cut(c, "ID is too long", upgraders.ErrSyntax)
		}
		// The gateway wants the literal itself, so the `+` is its own. It
		// must keep its place too.
		if kind == synchronizing {
			if _, err := f.answer("+ Ready for literal\r\n"); err != nil {
				return nil, err
			}
		}
		value := make([]byte, size)
		if err := f.link.Client.ReadFull(value); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		text = text && bytes.IndexAny(value, "\x00\r\n") < 0
		flat = append(flat[:bytes.LastIndexByte(flat, '{')], quote(value)...)
		rest, err := f.readLine()
		if err != nil {
			return nil, err
		}
		if flat = append(flat, rest...); len(flat) > maxID {
			return nil, cut(c, "ID is too long", upgraders.ErrSyntax)
		}
	}
	name := len(c.tag) + len(" ID")
	args, ok := stripFacts(string(trimEOL(flat)[name:]))
	if !ok || !text {
		return f.answer(c.tag + " BAD ID takes a list of strings or NIL\r\n")
	}
	return f.forward(&command{tag: c.tag}, fmt.Appendf(flat[:name:name], " %s\r\n", args))
}

// quote makes a quoted string of text.
func quote(text []byte) []byte {
	quoted := []byte{'"'}
	for _, b := range text {
		if b == '"' || b == '\\' {
			quoted = append(quoted, '\\')
		}
		quoted = append(quoted, b)
	}
	return append(quoted, '"')
}

// stripFacts returns the arguments of an ID command without the fields whose
// names begin with x-, in RFC 2971's own spelling, which leaves a backend
// nothing to read in another way. It is not ok where the arguments are neither
// NIL nor a flat list of names and values.
func stripFacts(args string) (stripped string, ok bool) {
	args = strings.Trim(args, " ")
	if strings.EqualFold(args, "NIL") {
		return args, true
	}
	list, opened := strings.CutPrefix(args, "(")
	list, closed := strings.CutSuffix(list, ")")
	if !opened || !closed {
		return "", false
	}
	var kept []string
	dropped := false
	for list = strings.TrimLeft(list, " "); list != ""; {
		rawName, name, rest, ok := nextString(list)
		if !ok {
			return "", false
		}
		rawValue, _, rest, ok := nextString(rest)
		if !ok {
			return "", false
		}
		list = rest
		if len(name) >= 2 && strings.EqualFold(name[:2], "x-") {
			dropped = true
			continue
		}
		kept = append(kept, rawName, rawValue)
	}
	if kept == nil && dropped {
		return "NIL", true
	}
	return "(" + strings.Join(kept, " ") + ")", true
}

// nextString takes a quoted string or an atom from the front of list: as it
// stands, and what it means.
func nextString(list string) (raw, value, rest string, ok bool) {
	end := 0
	var meant strings.Builder
	if strings.HasPrefix(list, `"`) {
		for end = 1; end < len(list) && list[end] != '"'; end++ {
			if list[end] == '\\' {
				end++
			}
			if end < len(list) {
				meant.WriteByte(list[end])
			}
		}
		if end >= len(list) {
			return "", "", "", false
		}
		end++
	} else {
		for end < len(list) && (atomChar(list[end]) || list[end] == ']') {
			meant.WriteByte(list[end])
			end++
		}
		if end == 0 {
			return "", "", "", false
		}
	}
	return list[:end], meant.String(), strings.TrimLeft(list[end:], " "), true
}
