package smtp

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A model is a backend that executes what it reads, in one of the ways in which
// servers read. It trusts the gateway's address: an XCLIENT that it executes is
// one that a client has smuggled in.
type model struct {
	dialect dialect
	offers  []string
	lmtp    bool
	noData  bool // DATA is refused

	buf      []byte
	state    modelState
	chunk    int
	last     bool
	message  []byte
	chunking bool // in force since the last EHLO
	rcpts    int

	log      []string // commands executed
	messages [][]byte
	replies  int
}

// A dialect is what a server takes for the end of a line.
type dialect byte

const (
	crlfOnly  dialect = iota // RFC 5321
	bareLF                   // CRLF or LF (Postfix, Exim, sendmail)
	bareCR                   // CRLF, LF or CR (readLine of several runtimes)
	skipsNUL                 // as bareLF, and NUL is nothing
	nDialects = 4
)

type modelState byte

const (
	inCommands modelState = iota
	inData
	inChunk
	inAuth
	gone
)

// greeting is what the model opens with.
func (m *model) greeting() string { return "220 model.example ESMTP\r\n" }

// feed takes bytes and returns the replies to them.
func (m *model) feed(p []byte) []byte {
	if m.dialect == skipsNUL && m.state != inChunk {
		p = bytes.ReplaceAll(p, []byte{0}, nil)
	}
	m.buf = append(m.buf, p...)
	var out []byte
	for m.state != gone {
		if m.state == inChunk {
			n := min(m.chunk, len(m.buf))
			m.message = append(m.message, m.buf[:n]...)
			m.buf, m.chunk = m.buf[n:], m.chunk-n
			if m.chunk > 0 {
				break
			}
			m.state = inCommands
			out = append(out, m.chunkTaken()...)
			continue
		}
		line, ok := m.line()
		if !ok {
			break
		}
		switch m.state {
		case inCommands:
			out = append(out, m.execute(line)...)
		case inAuth:
			m.state = inCommands
			out = append(out, m.say(535, "no")...)
		case inData:
			if line != "." {
				m.message = append(append(m.message, line...), "\r\n"...)
				continue
			}
			m.state = inCommands
			out = append(out, m.taken()...)
		}
	}
	return out
}

// line takes a line as the dialect has it.
func (m *model) line() (string, bool) {
	end, skip := -1, 0
	switch m.dialect {
	case crlfOnly:
		end, skip = bytes.Index(m.buf, []byte("\r\n")), 2
	case bareLF, skipsNUL:
		end, skip = bytes.IndexByte(m.buf, '\n'), 1
		if end > 0 && m.buf[end-1] == '\r' {
			end, skip = end-1, 2
		}
	case bareCR:
		if end, skip = bytes.IndexAny(m.buf, "\r\n"), 1; end >= 0 && m.buf[end] == '\r' {
			if end+1 == len(m.buf) {
				return "", false // LF may come
			}
			if m.buf[end+1] == '\n' {
				skip = 2
			}
		}
	}
	if end < 0 {
		return "", false
	}
	line := string(m.buf[:end])
	m.buf = m.buf[end+skip:]
	return line, true
}

func (m *model) execute(line string) string {
	fields := strings.Fields(line) // as leniently as any server
	verb := ""
	if len(fields) > 0 {
		verb = strings.ToUpper(fields[0])
	}
	m.log = append(m.log, verb)
	switch verb {
	case "EHLO", "LHLO":
		m.chunking = m.offer("CHUNKING")
		m.rcpts = 0
		var b strings.Builder
		m.replies++
		lines := slices.Concat([]string{"model.example"}, m.offers)
		for i, l := range lines {
			sep := "-"
			if i == len(lines)-1 {
				sep = " "
			}
			fmt.Fprintf(&b, "250%s%s\r\n", sep, l)
		}
		return b.String()
	case "HELO":
		m.chunking = false
		m.rcpts = 0
		return m.say(250, "hello")
	case "MAIL", "RSET":
		m.rcpts = 0
		return m.say(250, verb)
	case "RCPT":
		if strings.Contains(line, "nobody") {
			return m.say(550, "no such user")
		}
		m.rcpts++
		return m.say(250, verb)
	case "DATA":
		if m.noData || len(fields) > 1 || m.lmtp && m.rcpts == 0 {
			return m.say(503, "not now")
		}
		m.state = inData
		return m.say(354, "go")
	case "BDAT":
		if !m.chunking {
			return m.say(502, "no such command")
		}
		if len(fields) < 2 || len(fields) > 3 {
			return m.say(501, "size?")
		}
		size, err := strconv.ParseUint(fields[1], 10, 31)
		if err != nil || len(fields) == 3 && !strings.EqualFold(fields[2], "LAST") {
			return m.say(501, "size?")
		}
		m.state, m.chunk, m.last = inChunk, int(size), len(fields) == 3
		return ""
	case "AUTH":
		m.state = inAuth
		return m.say(334, "more")
	case "QUIT":
		m.state = gone
		return m.say(221, "bye")
	case "NOOP", "VRFY", "EXPN", "HELP":
		return m.say(250, verb)
	case "XCLIENT", "XFORWARD", "STARTTLS":
		if m.offer(verb) {
			return m.say(220, "executed "+verb)
		}
	}
	return m.say(500, "what")
}

// chunkTaken answers a BDAT.
func (m *model) chunkTaken() string {
	if m.last {
		return m.taken()
	}
	return m.say(250, "chunk")
}

// taken answers a message: RFC 2033 has one reply per recipient.
func (m *model) taken() string {
	m.messages = append(m.messages, m.message)
	m.message = nil
	n := 1
	if m.lmtp {
		n = max(1, m.rcpts)
	}
	m.rcpts = 0
	var b strings.Builder
	for i := range n {
		b.WriteString(m.say(250, fmt.Sprintf("taken %d", i)))
	}
	return b.String()
}

func (m *model) say(code int, words string) string {
	m.replies++
	return fmt.Sprintf("%d %s %d\r\n", code, words, m.replies)
}

func (m *model) offer(keyword string) bool {
	return slices.ContainsFunc(m.offers, func(o string) bool {
		return strings.EqualFold(strings.Fields(o)[0], keyword)
	})
}

// executed reports whether a command of that name was.
func (m *model) executed(verb string) bool { return slices.Contains(m.log, verb) && m.offer(verb) }
