package imap

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A filter is one joined session until authentication succeeds.
//
// It goes in step with the backend: the next command is read when the one
// before has its tagged response. What bytes of the client are data, and what
// bytes are commands, is then never guessed: they are data when the backend
// has said `+`, and commands otherwise. For that a non-synchronizing literal
// {n+} goes to the backend as {n}, which every server understands. What a
// client pipelines waits in its connection, and behind a login it goes through
// unread.
type filter struct {
	offer
	greet bool   // the client waits for a greeting
	first []byte // the command with which a session in cleartext was joined
	link  *upgraders.Link
	told  bool // the operator has been told of LOGINDISABLED

	mu      sync.Mutex
	current *command      // what the backend has not answered yet
	news    chan struct{} // current has changed
	over    chan struct{} // closed when down has ended, with downErr
	downErr error
	halved  bool // a response was passed on in part
}

// A command is one that the backend has, or NOOP in place of one that the
// gateway answers.
type command struct {
	tag     string
	answer  []byte // the gateway's own: takes the place of the tagged response
	auth    bool   // success ends the filter
	sasl    bool   // challenges may come before the tagged response
	expects bool   // the backend may ask for more with `+`
	silent  bool   // the client doesn't wait for that `+`
	asked   bool   // the backend did
	status  string // the word of the tagged response, once it is here
}

// converse filters until authentication succeeds.
func (f *filter) converse(_ context.Context, link *upgraders.Link) error {
	f.link = link
	f.news = make(chan struct{}, 1)
	f.over = make(chan struct{})
	err := wire.Duplex(link.Client, link.Backend, f.up, f.down)
	if err == nil || errors.Is(err, errEnded) {
		if err != nil {
			err = io.EOF
		}
		return err
	}
	words := partings.To(err)
	if c := new(cutOff); errors.As(err, &c) {
		words = c.words
	}
	if !f.halved {
		write(link.Client, words)
	}
	return err
}

// errEnded is the end of a session whose backend has closed it.
var errEnded = errors.New("the backend has ended the session")

// A cutOff ends a session for what the client did, with its last words.
type cutOff struct {
	words string
	err   error
}

func (c *cutOff) Error() string { return c.err.Error() }
func (c *cutOff) Unwrap() error { return c.err }

// up reads the client's commands, one at a time.
func (f *filter) up() error {
	line := f.first
	for {
		if line == nil {
			var err error
			if line, err = f.readLine(); err != nil {
				return err
			}
		}
		c, err := f.command(line)
		if err != nil {
			return err
		}
		if c != nil && c.auth && c.status == "OK" {
			return nil
		}
		line = nil
	}
}

// readLine reads a line of a command. NUL and bare CR are refused, as servers
// differ in what they make of them.
func (f *filter) readLine() ([]byte, error) {
	line, err := f.link.Client.ReadSlice(maxLine)
	if err != nil {
		return nil, err
	}
	switch {
	case bytes.IndexByte(line, 0) >= 0:
		return nil, wire.ErrNUL
	case bytes.IndexByte(trimEOL(line), '\r') >= 0:
		return nil, wire.ErrBareNewline
	}
	return line, nil
}

// command sees to one command of the client, from its first line to its
// tagged response.
func (f *filter) command(line []byte) (*command, error) {
	text := trimEOL(line)
	if upgraders.IsHTTP(text) {
		return nil, upgraders.ErrHTTP
	}
	if len(text) == 0 {
		// Stray line ends have no answer. Servers ignore them.
		_, err := f.link.Backend.Write(line)
		return nil, err
	}
	if isProxyHeader(text) {
		return nil, cut(commandLine{}, "Tag and command expected", upgraders.ErrSyntax)
	}
	c := parseCommand(text)
	size, kind := literal(text)
	reply := ""
	switch {
	case kind == badLiteral, kind == nonSynchronous && size > maxLiteral:
		return nil, cut(c, "Invalid literal", upgraders.ErrSyntax)
	case c.name == "":
		reply = c.echo() + " BAD Tag and command expected\r\n"
	case size > maxLiteral:
		reply = c.tag + " BAD Literal is too large\r\n"
	case c.name == "STARTTLS" && f.clear:
		reply = c.tag + " BAD TLS is not available any more in this session\r\n"
	case c.name == "STARTTLS":
		reply = c.tag + " BAD TLS is active already\r\n"
	case c.name == "COMPRESS":
		// RFC 4978 has it after authentication only; some servers take it
		// before, and the rest could not be filtered.
		reply = c.tag + " BAD COMPRESS is for authenticated sessions\r\n"
	case isAuth(c.name) && f.refuseAuth:
		reply = c.tag + privacyRefused
	case c.name == "ID":
		return f.identification(c, line)
	default:
		return f.forward(&command{tag: c.tag, auth: isAuth(c.name), sasl: c.name == "AUTHENTICATE"}, line)
	}
	if kind == nonSynchronous {
		// Its bytes follow, and must not be read as commands.
		return nil, cut(c, "No literal is accepted here", upgraders.ErrLiteral)
	}
	return f.answer(reply)
}

const privacyRefused = " NO [PRIVACYREQUIRED] This needs TLS, from the beginning of a session\r\n"

// cut ends the session.
func cut(c commandLine, why string, err error) error {
	return &cutOff{words: c.echo() + " BAD " + why + "\r\n* BYE Closing\r\n", err: err}
}

// answer gives the gateway's own reply its place among the backend's: the
// backend gets NOOP, and reply replaces what it says to that.
func (f *filter) answer(reply string) (*command, error) {
	c := &command{tag: ownTag, answer: []byte(reply)}
	if err := f.send(c, []byte(ownTag+" NOOP\r\n")); err != nil {
		return nil, err
	}
	_, err := f.await(c)
	return c, err
}

// forward passes a command on, line by line and literal by literal, and waits
// for its tagged response.
func (f *filter) forward(c *command, line []byte) (*command, error) {
	for {
		text := trimEOL(line)
		size, kind := literal(text)
		if kind == badLiteral || kind != noLiteral && size > maxLiteral {
			return nil, cut(commandLine{tag: c.tag}, "Invalid literal", upgraders.ErrSyntax)
		}
		if kind == noLiteral {
			break
		}
		// The backend decides whether bytes follow.
		f.expect(c, kind == nonSynchronous)
		if kind == nonSynchronous {
			line = fmt.Appendf(nil, "%s{%d}\r\n", text[:bytes.LastIndexByte(text, '{')], size)
		}
		if err := f.send(c, line); err != nil {
			return nil, err
		}
		answered, err := f.await(c)
		if err != nil {
			return nil, err
		}
		if answered {
			if kind == nonSynchronous {
				err = f.skip(size)
			}
			return c, err
		}
		if err := copyN(f.link.Backend, f.link.Client, size); err != nil {
			return nil, err
		}
		if line, err = f.readLine(); err != nil {
			return nil, err
		}
	}
	if c.sasl {
		f.expect(c, false)
	}
	if err := f.send(c, line); err != nil {
		return nil, err
	}
	for {
		answered, err := f.await(c)
		if err != nil || answered {
			return c, err
		}
		f.expect(c, false)
		if err := f.passLine(); err != nil {
			return nil, err
		}
	}
}

// skip drops the rest of a command that the backend refused before it had the
// literal that the client sent unasked.
func (f *filter) skip(size int64) error {
	for {
		if err := copyN(io.Discard, f.link.Client, size); err != nil {
			return err
		}
		line, err := f.readLine()
		if err != nil {
			return err
		}
		var kind literalKind
		size, kind = literal(trimEOL(line))
		if kind != nonSynchronous {
			return nil
		}
		if size > maxLiteral {
			return wire.ErrTooLong
		}
	}
}

// passLine passes a line on in which nothing is read: an answer to a challenge
// of AUTHENTICATE, which may be of any length (RFC 9051, 6.2.2).
func (f *filter) passLine() error {
	for {
		piece, err := f.link.Client.ReadSlice(maxLine)
		if err != nil && !errors.Is(err, wire.ErrTooLong) {
			return err
		}
		if _, werr := f.link.Backend.Write(piece); werr != nil {
			return werr
		}
		if err == nil {
			return nil
		}
	}
}

// copyN copies exactly n bytes.
func copyN(to io.Writer, from io.Reader, n int64) error {
	_, err := io.CopyN(to, from, n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// send makes c what the backend is to answer next, and writes a line of it.
func (f *filter) send(c *command, line []byte) error {
	f.mu.Lock()
	f.current = c
	f.mu.Unlock()
	_, err := f.link.Backend.Write(line)
	return err
}

// expect allows the backend one `+`.
func (f *filter) expect(c *command, silent bool) {
	f.mu.Lock()
	c.expects, c.silent = true, silent
	f.mu.Unlock()
}

// await returns when the backend has answered c, or has asked for more of it.
func (f *filter) await(c *command) (answered bool, err error) {
	for {
		over := false
		select {
		case <-f.news:
		case <-f.over:
			over = true
		}
		f.mu.Lock()
		answered, asked := c.status != "", c.asked
		c.asked = false
		f.mu.Unlock()
		switch {
		case answered:
			return true, nil
		case over:
			return false, f.downErr // not nil: without an error, down ends by answering c
		case asked:
			return false, nil
		}
	}
}

// down passes on what the backend says, in writes that end with a line.
func (f *filter) down() (err error) {
	w := bufio.NewWriter(f.link.Client)
	defer func() {
		if flushed := w.Flush(); err == nil {
			err = flushed
		}
		f.downErr = err
		close(f.over)
	}()
	for {
		line, err := f.link.Backend.ReadSlice(maxLine)
		switch {
		case err == io.EOF:
			rest := f.link.Backend.Unread()
			w.Write(f.correct(rest))
			f.link.Backend.Discard(len(rest))
			return errEnded
		case errors.Is(err, wire.ErrTooLong):
			return fmt.Errorf("%w: %w", upgraders.ErrBackend, err)
		case err != nil:
			return err
		}
		authenticated, err := f.response(w, line)
		if err != nil || authenticated {
			return err
		}
		if bytes.IndexByte(f.link.Backend.Unread(), '\n') < 0 {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
}

// response passes one response on.
func (f *filter) response(w *bufio.Writer, line []byte) (authenticated bool, err error) {
	switch r := parseResponse(line); {
	case r.tag == "+":
		return false, f.goAhead(w, line)
	case r.tag == "*" && !r.status:
		w.Write(f.correct(line))
		return false, f.literals(w, line)
	case r.tag == "*" || !r.status:
		w.Write(f.correct(line))
		return false, nil
	default:
		return f.tagged(w, r, line), nil
	}
}

// goAhead passes a `+` on to a client that waits for it.
func (f *filter) goAhead(w io.Writer, line []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.current
	if c == nil || !c.expects {
		// The backend reads as data what the client means as a command.
		return fmt.Errorf("%w: a continuation that nobody asked for", upgraders.ErrBackend)
	}
	if !c.silent {
		w.Write(f.correct(line))
	}
	c.expects, c.asked = false, true
	f.tell()
	return nil
}

// tagged passes a tagged response on, or the gateway's own in its place.
func (f *filter) tagged(w io.Writer, r response, line []byte) (authenticated bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.current
	if c == nil || c.tag != r.tag {
		w.Write(f.correct(line))
		return false
	}
	if c.answer != nil {
		w.Write(c.answer)
	} else {
		w.Write(f.correct(line))
	}
	f.current, c.status = nil, r.word
	f.tell()
	return c.auth && c.status == "OK"
}

func (f *filter) tell() {
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// literals passes on what belongs to a response beyond its first line.
func (f *filter) literals(w *bufio.Writer, line []byte) error {
	for {
		size, kind := literal(trimEOL(line))
		switch kind {
		case noLiteral:
			f.halved = false
			return nil
		case badLiteral:
			f.halved = true
			return fmt.Errorf("%w: a literal of no length", upgraders.ErrBackend)
		}
		f.halved = true
		if err := w.Flush(); err != nil {
			return err
		}
		if err := copyN(f.link.Client, f.link.Backend, size); err != nil {
			return err
		}
		var err error
		if line, err = f.link.Backend.ReadSlice(maxLine); err != nil {
			return truncated(err)
		}
		w.Write(line)
	}
}

// truncated makes an end of stream inside a response what it is.
func truncated(err error) error {
	switch {
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	case errors.Is(err, wire.ErrTooLong):
		return fmt.Errorf("%w: %w", upgraders.ErrBackend, err)
	}
	return err
}
