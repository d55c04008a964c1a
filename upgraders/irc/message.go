package irc

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	maxCommand = 512        // RFC 1459, 2.3, with the CRLF
	maxMessage = 8191 + 512 // IRCv3 message-tags
)

// A message is one line, taken apart as servers do.
type message struct {
	verb   string // or numeric, in upper case
	params []string
	last   string // the text of the last parameter, if it had a colon
}

// parse takes a line apart; tags and source are passed over.
func parse(line string) message {
	line = strings.TrimLeft(line, " ")
	for _, mark := range "@:" {
		if strings.HasPrefix(line, string(mark)) {
			_, line, _ = strings.Cut(line, " ")
			line = strings.TrimLeft(line, " ")
		}
	}
	var m message
	line, m.last, _ = strings.Cut(" "+line, " :")
	words := strings.Fields(line)
	if len(words) > 0 {
		m.verb, m.params = strings.ToUpper(words[0]), words[1:]
	}
	return m
}

// param is the nth parameter, in upper case; "" if there is none.
func (m message) param(n int) string {
	if n < len(m.params) {
		return strings.ToUpper(m.params[n])
	}
	return ""
}

// list is the last parameter, as words.
func (m message) list() []string {
	if m.last != "" || len(m.params) == 0 {
		return strings.Fields(m.last)
	}
	return m.params[len(m.params)-1:]
}

// readLine takes a line of a joined session, which ends in LF as servers take
// it, without its end.
func readLine(c *wire.Conn) (string, error) {
	line, err := c.ReadSlice(maxMessage)
	if err != nil {
		return "", err
	}
	line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
	switch {
	// A server may take either for the end of the line, and what follows for
	// a message that was not looked at.
	case bytes.IndexByte(line, '\r') >= 0:
		return "", wire.ErrBareNewline
	case bytes.IndexByte(line, 0) >= 0:
		return "", wire.ErrNUL
	}
	return string(line), nil
}

// say sends lines in one write.
func say(w io.Writer, lines ...string) error {
	_, err := io.WriteString(w, strings.Join(lines, "\r\n")+"\r\n")
	return err
}

// partings has the last words for an error of reading, or "" for one that
// leaves nobody to speak to.
var partings = upgraders.Answers[string]{
	{upgraders.ErrBackend, ""},
	{upgraders.ErrTooMany, "ERROR :Too many errors"},
	{wire.ErrTooLong, "ERROR :Line too long"},
	{wire.ErrBareNewline, "ERROR :Lines end in CRLF"},
	{wire.ErrNUL, "ERROR :NUL in a line"},
	{wire.ErrBudget, "ERROR :Too much talk before TLS"},
	{wire.ErrShutdown, "ERROR :Shutting down, try again later"},
	{wire.ErrStalled, ""},
	{os.ErrDeadlineExceeded, "ERROR :Idle for too long"},
}

// unavailable says that there is no backend.
func unavailable(cause error) string {
	if errors.Is(cause, upgraders.ErrLimit) {
		return "ERROR :Too many connections, try again later"
	}
	return "ERROR :Service not available, try again later"
}
