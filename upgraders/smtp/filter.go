package smtp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A filter stands between client and backend while the backend offers the
// gateway what it must not offer a client: it takes it out of EHLO replies and
// answers the commands itself.
//
// It reads commands as every server does. What servers do not agree on (line
// ends, chunk sizes, white space before a verb) is brought into the one form
// that they do agree on, or is refused: a command that only the backend sees
// is not filtered.
type filter struct {
	*passage
	client, backend *wire.Conn

	toBackend []byte // written by up before it waits for anything
	toClient  []byte // written by down before it waits
	midReply  bool   // the client has got the beginning of a reply only
	accepted  int    // recipients of the message, of LMTP
	due       int    // replies to come to one message, of LMTP

	mu      sync.Mutex
	changed sync.Cond
	queue   []expected // replies the backend owes
	asked   bool       // the backend has been asked something
	code    int        // of the last reply
	over    bool       // nothing is left to filter
	closed  bool       // one direction has ended
}

// maxQueue bounds the replies that may be outstanding; the client then waits,
// as it would for a server whose window is full (RFC 2920, 3.1).
const maxQueue = 128

// An expected reply.
type expected struct {
	kind kind
	own  string // the gateway's words, instead of the backend's
}

type kind uint8

const (
	ofCommand   kind = iota
	ofEHLO           // is corrected
	ofHELO           // forgets what EHLO told
	ofMAIL           // or RSET: forgets the recipients
	ofRCPT           // counts them, for LMTP
	ofMessage        // comes once a recipient, in LMTP
	ofTurn           // the roles are exchanged (RFC 2645)
	ofOwnAnswer      // is replaced
)

var (
	errOver  = errors.New("nothing is left to filter")
	errEarly = fmt.Errorf("%w: a reply before any command", upgraders.ErrBackend)
	errChunk = fmt.Errorf("%w: more than a chunk may hold", wire.ErrTooLong)
)

// converse is the filtered phase of a session.
func (p *passage) converse(_ context.Context, link *upgraders.Link) error {
	if p.refusal != nil {
		return p.refuse(link.Client)
	}
	if code, _, ok := parseReply(link.Backend.Unread()); ok && code != 421 {
		return errEarly
	}
	f := &filter{passage: p, client: link.Client, backend: link.Backend}
	f.changed.L = &f.mu
	if !f.needed() {
		_, err := io.WriteString(link.Backend, p.pending+"\r\n")
		return err
	}
	err := wire.Duplex(link.Client, link.Backend, f.up, f.down)
	switch {
	case err == nil || err == io.EOF:
	case errors.Is(err, errMessage):
		link.Backend.Close() // in the middle of the message, which is void then
		p.closing(link.Client, err)
		drain(link.Client)
	case !f.midReply:
		p.closing(link.Client, err)
	}
	return err
}

// needed reports whether something is still to be filtered.
func (f *filter) needed() bool {
	return f.extensions.hidden || f.strictNewlines || !f.offer.auth
}

// maxDrain is the most of a refused message that is still read.
const maxDrain = 64 << 20

// drain reads what a client still sends of a message that was refused: one that
// writes cannot read the refusal, and a reset would take it away.
func drain(client *wire.Conn) {
	client.CloseWrite()
	io.CopyN(io.Discard, client, maxDrain)
}

// up passes commands and data from the client to the backend.
func (f *filter) up() error {
	defer f.close()
	err := f.commands()
	if err == errOver {
		return nil
	}
	return err
}

func (f *filter) commands() error {
	if f.pending != "" {
		if err := f.command([]byte(f.pending)); err != nil {
			return err
		}
	}
	for {
		line, err := f.line()
		if err != nil {
			return err
		}
		if err := f.command(line); err != nil {
			return err
		}
	}
}

// line takes the client's next line, without its end.
func (f *filter) line() ([]byte, error) {
	if bytes.IndexByte(f.client.Unread(), '\n') < 0 || len(f.toBackend) >= bodyBuffer {
		if err := f.flush(); err != nil {
			return nil, err
		}
	}
	line, err := f.client.ReadSlice(maxLine)
	switch {
	case upgraders.IsHTTP(line) || err != nil && upgraders.IsHTTP(f.client.Unread()):
		return nil, upgraders.ErrHTTP
	case err != nil:
		return nil, err
	}
	line = trimEnd(line)
	if bytes.IndexByte(line, '\r') >= 0 {
		return nil, wire.ErrBareNewline
	}
	return line, nil
}

// command passes one command on, or answers it.
func (f *filter) command(line []byte) error {
	verb, argument := split(string(line))
	e, pipelined := expected{}, false
	switch verb {
	case "":
		return f.answer("500 5.5.2 Syntax error, command unrecognized")
	case "STARTTLS", "X-ANONYMOUSTLS":
		if f.offer.tls {
			return f.answer("503 5.5.1 TLS is active already")
		}
		return f.answer(noTLS)
	case "XCLIENT", "XFORWARD":
		return f.answer(noClientFacts)
	case "AUTH", "X-EXPS":
		if !f.offer.auth {
			return f.answer(noClearAuth)
		}
	case "BDAT":
		return f.bdat(argument)
	case "EHLO", "LHLO":
		e.kind = ofEHLO
	case "HELO":
		e.kind = ofHELO
	case "TURN", "ATRN":
		e.kind = ofTurn
	case "MAIL", "RSET":
		e.kind, pipelined = ofMAIL, true
	case "RCPT":
		e.kind, pipelined = ofRCPT, true
	case "NOOP", "QUIT", "VRFY", "EXPN", "HELP", "SEND", "SOML", "SAML":
		pipelined = true
	}
	if err := f.send(string(line), e); err != nil || pipelined {
		return err
	}
	// What the next bytes are depends on the reply.
	for {
		code, err := f.settled()
		switch {
		case err != nil:
			return err
		case code == 354 && verb == "DATA":
			return f.data()
		case code == 334:
			// RFC 4954, 4: a line of the mechanism's, which is no command.
			line, err := f.line()
			if err != nil {
				return err
			}
			if err := f.send(string(line), expected{}); err != nil {
				return err
			}
		case code/100 == 3:
			return fmt.Errorf("%w: %d where no such reply is due", upgraders.ErrBackend, code)
		default:
			return nil
		}
	}
}

// bdat passes a chunk on: RFC 3030. To a server that does not take the command
// the chunk is a series of commands.
func (f *filter) bdat(argument string) error {
	size, last, err := chunkSize(argument)
	switch {
	case err == errChunkSize:
		return errChunk
	case err != nil:
		return f.answer("501 5.5.4 Syntax: BDAT size [LAST]")
	case !f.extensions.chunking:
		return f.answer("502 5.5.1 Command not implemented")
	}
	line, e := fmt.Sprintf("BDAT %d", size), expected{}
	if last {
		line, e.kind = line+" LAST", ofMessage
	}
	if err := f.send(line, e); err != nil {
		return err
	}
	return f.chunk(size)
}

// answer has the client get the gateway's own words in the place of a reply: a
// harmless command goes in the place of the client's.
func (f *filter) answer(words string) error {
	return f.send("NOOP", expected{kind: ofOwnAnswer, own: words})
}

// send adds one line to what goes to the backend.
func (f *filter) send(line string, e expected) error {
	if err := f.expect(e); err != nil {
		return err
	}
	f.toBackend = append(append(f.toBackend, line...), "\r\n"...)
	return nil
}

// flush writes what was gathered for the backend.
func (f *filter) flush() error {
	if len(f.toBackend) == 0 {
		return nil
	}
	_, err := f.backend.Write(f.toBackend)
	f.toBackend = f.toBackend[:0]
	return err
}

// expect puts a reply into the queue, before its command is written.
func (f *filter) expect(e expected) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.queue) >= maxQueue {
		f.mu.Unlock()
		err := f.flush()
		f.mu.Lock()
		if err != nil {
			return err
		}
		if f.closed {
			return io.EOF
		}
		if len(f.queue) >= maxQueue {
			f.changed.Wait()
		}
	}
	f.queue, f.asked = append(f.queue, e), true
	return nil
}

// settled waits until the backend has answered everything, and returns the code
// of its last reply.
func (f *filter) settled() (int, error) {
	if err := f.flush(); err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.queue) > 0 && !f.closed {
		f.changed.Wait()
	}
	switch {
	case f.over:
		return 0, errOver
	case len(f.queue) > 0:
		return 0, io.EOF
	}
	return f.code, nil
}

// close wakes the other direction from its waiting.
func (f *filter) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.changed.Broadcast()
}

// down passes replies from the backend to the client.
func (f *filter) down() error {
	defer f.close()
	for {
		over, err := f.reply()
		if err != nil || over {
			if werr := f.flushClient(); err == nil {
				err = werr
			}
			return err
		}
	}
}

// reply passes one reply, and reports whether it was the last to be filtered.
func (f *filter) reply() (over bool, err error) {
	line, err := f.replyLine()
	code, more, ok := parseReply(line)
	if !ok {
		// Nothing is known of it but that it is no reply, to the client neither.
		f.toClient = append(f.toClient, line...)
		return false, f.rest(err)
	}
	e, asked := f.next()
	switch {
	case !asked && code != 421 && f.unasked():
		return false, errEarly
	case e.kind == ofOwnAnswer && code != 421:
		if err = f.swallow(more, err); err == nil {
			f.toClient = append(append(f.toClient, e.own...), "\r\n"...)
		}
	case e.kind == ofEHLO && code/100 == 2:
		err = f.correct(line, more, err)
	default:
		err = f.pass(line, more, err)
	}
	if err != nil || !asked {
		return false, err
	}
	return f.answered(e, code), nil
}

// replyLine takes a line of a reply, or a piece of one: the error is then
// wire.ErrTooLong.
func (f *filter) replyLine() ([]byte, error) {
	if bytes.IndexByte(f.backend.Unread(), '\n') < 0 || len(f.toClient) >= bodyBuffer {
		if err := f.flushClient(); err != nil {
			return nil, err
		}
	}
	line, err := f.backend.ReadSlice(maxReplyLine)
	if err != nil && err != wire.ErrTooLong {
		// The backend is gone in the middle of a line.
		line = f.backend.Unread()
		f.backend.Discard(len(line))
	}
	return line, err
}

// rest passes what is left of a line, given the error of its first piece.
func (f *filter) rest(err error) error {
	for err == wire.ErrTooLong {
		var line []byte
		line, err = f.replyLine()
		f.toClient = append(f.toClient, line...)
	}
	return err
}

// pass passes a reply as it is, from its first line on.
func (f *filter) pass(line []byte, more bool, err error) error {
	for {
		f.midReply = true
		f.toClient = append(f.toClient, line...)
		if err = f.rest(err); err != nil {
			return err
		}
		if !more {
			f.midReply = false
			return nil
		}
		line, err = f.replyLine()
		if _, again, ok := parseReply(line); ok {
			more = again
		}
	}
}

// swallow takes a reply of which the client gets nothing.
func (f *filter) swallow(more bool, err error) error {
	for {
		for err == wire.ErrTooLong {
			_, err = f.replyLine()
		}
		if err != nil || !more {
			return err
		}
		var line []byte
		line, err = f.replyLine()
		if _, again, ok := parseReply(line); ok {
			more = again
		}
	}
}

// correct takes out of an EHLO reply what the client must not see. Each line is
// held back until it is known whether it is the last.
func (f *filter) correct(line []byte, more bool, err error) error {
	var learned extensions
	var held []byte
	for first := true; ; first = false {
		if err != nil {
			f.toClient = append(f.toClient, held...)
			if err == wire.ErrTooLong {
				err = fmt.Errorf("%w: an EHLO line of more than %d bytes", upgraders.ErrBackend, maxReplyLine)
			}
			return err
		}
		shown := line
		if !first {
			whole := string(text(line))
			switch s := learned.read(f.offer, whole); s {
			case whole:
			case "":
				shown = nil
			default:
				shown = slices.Concat(line[:4], []byte(s), []byte("\r\n"))
			}
		}
		if shown != nil {
			f.midReply = f.midReply || held != nil
			f.toClient = append(f.toClient, held...)
			held = slices.Clone(shown)
		}
		if !more {
			break
		}
		line, err = f.replyLine()
		if _, again, ok := parseReply(line); ok {
			more = again
		} else if err == nil {
			err = fmt.Errorf("%w: not a line of an EHLO reply", upgraders.ErrBackend)
		}
	}
	if held[3] == '-' {
		held[3] = ' '
	}
	f.toClient = append(f.toClient, held...)
	f.midReply = false
	f.extensions = learned
	return nil
}

// next returns the reply that the backend owes next, and false when it owes
// none and speaks nevertheless (421).
func (f *filter) next() (expected, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.queue) == 0 {
		return expected{}, false
	}
	return f.queue[0], true
}

// unasked reports whether nothing was ever asked of the backend. What it says
// then would be taken for the reply to the first command; but for 421, which
// may come at any time (RFC 5321, 3.8).
func (f *filter) unasked() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.asked
}

// answered draws what follows from a reply, and reports whether there is
// nothing left to filter. Up then waits in settled: the commands of the kinds
// in question are never followed by others before their reply.
func (f *filter) answered(e expected, code int) (over bool) {
	ok := code/100 == 2
	switch e.kind {
	case ofEHLO:
		over = ok && !f.needed()
		f.accepted = 0
	case ofHELO:
		if ok {
			f.extensions = unknown
		}
		f.accepted = 0
	case ofTurn:
		over = ok
	case ofMAIL:
		f.accepted = 0
	case ofRCPT:
		if ok {
			f.accepted++
		}
	case ofMessage:
		if f.perRecipient && f.due == 0 {
			f.due = f.accepted
		}
		// 503: the command came at a wrong time and has but one reply.
		if f.due--; f.due > 0 && code != 503 {
			return false
		}
		f.due, f.accepted = 0, 0
	}
	f.mu.Lock()
	f.queue = slices.Delete(f.queue, 0, 1)
	f.code = code
	f.over = over
	f.mu.Unlock()
	f.changed.Broadcast()
	return over
}

// flushClient writes what was gathered for the client.
func (f *filter) flushClient() error {
	if len(f.toClient) == 0 {
		return nil
	}
	_, err := f.client.Write(f.toClient)
	f.toClient = f.toClient[:0]
	return err
}
