package smtp

import (
	"bytes"
	"errors"

	"github.com/sallyport/sallyport/internal/wire"
)

// A message follows the bytes of a DATA command to their end, however they are
// cut. Its zero value stands where the message begins.
//
// Only CRLF "." CRLF ends a message (RFC 5321, 4.1.1.4). Servers exist that
// also take a bare LF or CR for the end of a line, and then read as commands
// what was data to everyone before them (CVE-2023-51764 to 51766,
// CVE-2024-27305).
type message struct {
	state messageState
}

type messageState uint8

const (
	lineStart    messageState = iota // behind CRLF, or at the very beginning
	oddStart                         // behind what only some take for a line end
	inLine                           // within a line
	afterCR                          // CR, and LF may follow
	afterDot                         // CRLF "."
	afterOddDot                      // "." where only some see a line begin
	afterDotCR                       // CRLF "." CR
	endOfMessage                     // CRLF "." CRLF
)

// A newlineRule says which ambiguous bytes end the session.
type newlineRule uint8

const (
	anyNewline newlineRule = iota // none: bytes pass as they are
	noOddEnd                      // a lone dot between line ends of which one is odd
	noBareCRLF                    // each bare CR and LF
)

// scan takes the next bytes and returns how many belong to the message and
// whether that is its end. clean is false when the rule is broken; what p holds
// must then go nowhere.
func (m *message) scan(p []byte, rule newlineRule) (n int, end, clean bool) {
	for i := 0; i < len(p); i++ {
		if m.state == inLine {
			// Most bytes are here, and only line ends matter.
			i += untilLineEnd(p[i:])
			if i == len(p) {
				break
			}
		}
		next, bare, oddEnd := m.state.next(p[i])
		if bare && rule == noBareCRLF || oddEnd && rule != anyNewline {
			return 0, false, false
		}
		m.state = next
		if next == endOfMessage {
			return i + 1, true, true
		}
	}
	return len(p), false, true
}

// untilLineEnd returns how many bytes come before the first CR or LF.
func untilLineEnd(p []byte) int {
	if i := bytes.IndexByte(p, '\n'); i >= 0 {
		p = p[:i]
	}
	if i := bytes.IndexByte(p, '\r'); i >= 0 {
		return i
	}
	return len(p)
}

// next returns the state behind b, whether b shows that a CR or LF is bare, and
// whether it may be taken for the end of the message though it is not. A NUL is
// skipped by some servers where it stands beside the dot.
func (s messageState) next(b byte) (next messageState, bare, oddEnd bool) {
	switch b {
	case '\r':
		switch s {
		case afterDot:
			return afterDotCR, false, false
		case afterDotCR:
			return afterCR, true, true
		case afterOddDot:
			return afterCR, false, true
		}
		return afterCR, s == afterCR, false
	case '\n':
		switch s {
		case afterCR:
			return lineStart, false, false
		case afterDotCR:
			return endOfMessage, false, false
		}
		return oddStart, true, s == afterDot || s == afterOddDot
	case '.':
		switch s {
		case lineStart:
			return afterDot, false, false
		case oddStart:
			return afterOddDot, false, false
		case afterCR:
			return afterOddDot, true, false
		case afterDotCR:
			return afterOddDot, true, true
		}
	case 0:
		switch s {
		case lineStart, oddStart:
			return oddStart, false, false
		case afterCR:
			return oddStart, true, false
		case afterDot, afterOddDot:
			return afterOddDot, false, false
		case afterDotCR:
			return oddStart, true, true
		}
	}
	return inLine, s == afterCR || s == afterDotCR, s == afterDotCR
}

// errMessage is wire.ErrBareNewline within a message.
var errMessage error = messageError{}

type messageError struct{}

func (messageError) Error() string { return "bare CR or LF in a message" }
func (messageError) Unwrap() error { return wire.ErrBareNewline }

// bodyBuffer is what a body is copied with: as much as a TLS record holds.
const bodyBuffer = 16 << 10

// data passes a message on until its end.
func (f *filter) data() error {
	rule := anyNewline
	switch {
	case f.strictNewlines:
		rule = noBareCRLF
	case f.extensions.privileged:
		// What the backend would read as a command behind an end of its own
		// could be XCLIENT.
		rule = noOddEnd
	}
	var m message
	buf := make([]byte, bodyBuffer)
	for {
		n, err := f.client.Read(buf)
		size, end, clean := m.scan(buf[:n], rule)
		if !clean {
			return errMessage
		}
		if end {
			if err := f.expect(expected{kind: ofMessage}); err != nil {
				return err
			}
		}
		if _, err := f.backend.Write(buf[:size]); err != nil {
			return err
		}
		if end {
			f.client.Putback(buf[size:n])
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// chunk passes the bytes of a BDAT command on.
func (f *filter) chunk(size int64) error {
	if err := f.flush(); err != nil {
		return err
	}
	buf := make([]byte, min(size, bodyBuffer))
	for size > 0 {
		n, err := f.client.Read(buf[:min(size, bodyBuffer)])
		if _, werr := f.backend.Write(buf[:n]); werr != nil {
			return werr
		}
		size -= int64(n)
		if err != nil && size > 0 {
			return err
		}
	}
	return nil
}

// maxChunk is what every server can read as a number. A chunk that is larger
// cannot be refused and skipped either.
const maxChunk = 1<<31 - 1

var (
	errChunkSyntax = errors.New("no chunk size")
	errChunkSize   = errors.New("chunk too large")
)

// chunkSize reads the argument of BDAT: RFC 3030, 2.
func chunkSize(argument string) (size int64, last bool, err error) {
	digits, rest, _ := bytes.Cut([]byte(argument), []byte(" "))
	if len(digits) == 0 {
		return 0, false, errChunkSyntax
	}
	for _, d := range digits {
		if d < '0' || d > '9' {
			return 0, false, errChunkSyntax
		}
		size = min(size*10+int64(d-'0'), maxChunk+1)
	}
	last = bytes.EqualFold(rest, []byte("LAST"))
	switch {
	case len(rest) > 0 && !last:
		return 0, false, errChunkSyntax
	case size > maxChunk:
		return 0, false, errChunkSize
	}
	return size, last, nil
}
