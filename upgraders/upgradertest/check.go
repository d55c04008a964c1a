package upgradertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Check holds a protocol against what package upgraders asks of every
// Upgrader, with the dialogues of the calling package's testdata. Run does so,
// too.
func Check(t testing.TB, p *upgraders.Protocol) {
	t.Helper()
	scripts, err := scriptsOf(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range violations(scripts, p) {
		t.Error(err)
	}
}

// violations lists where a protocol breaks the contract.
func violations(scripts []*script, p *upgraders.Protocol) []error {
	var errs []error
	for _, s := range scripts {
		c, err := newChecker(s, scripts, p)
		if err != nil {
			return []error{err}
		}
		for _, check := range []func() error{c.answers, c.ends, c.cuts, c.oblivion, c.unavailable} {
			if err := check(); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", s.path, err))
			}
		}
		if err := c.late(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.path, err))
		}
	}
	return errs
}

// A checker judges the dialogues of one script's setting.
type checker struct {
	*rig
	segments  [][]byte // what the script's client says in cleartext
	noGoAhead bool     // declared by any script of the protocol
	conns     []*feed  // of every dialogue, to be looked at in the end
}

func newChecker(s *script, scripts []*script, p *upgraders.Protocol) (*checker, error) {
	r, err := newRig(s, p)
	if err != nil {
		return nil, err
	}
	return &checker{
		rig:       r,
		segments:  s.said(),
		noGoAhead: slices.ContainsFunc(scripts, func(s *script) bool { return s.noGoAhead }),
	}, nil
}

// play runs a dialogue and holds its outcome against the contract.
func (c *checker) play(client *feed) (*outcome, error) {
	o, err := c.run(client)
	if err != nil {
		return nil, err
	}
	c.conns = append(c.conns, client)
	return o, c.lawful(o)
}

// lawful says what of an outcome the gateway could not work with.
func (c *checker) lawful(o *outcome) error {
	h := o.h
	switch {
	case h.Verdict > upgraders.Cleartext:
		return fmt.Errorf("no such verdict: %d", h.Verdict)
	case o.err != nil && h.Verdict != upgraders.HangUp:
		return fmt.Errorf("an error (%v) comes with HangUp and no other verdict", o.err)
	case o.ended && h.Verdict != upgraders.HangUp:
		return errors.New("a dialogue whose stream has ended comes to HangUp")
	case o.ended && o.err == nil:
		return errors.New("the error that ended the dialogue is returned")
	case h.Verdict == upgraders.Cleartext && !c.listener.Cleartext && h.Accept == nil:
		return errors.New("Cleartext on a listener that refuses it")
	case h.Verdict != upgraders.StartTLS:
		return nil
	case !c.canTLS:
		return errors.New("StartTLS without a certificate")
	case len(h.Reply) == 0 && !c.noGoAhead:
		return errors.New("StartTLS without a go-ahead; a script may declare `go-ahead none` where the protocol has none")
	case len(h.Reply) > 0 && len(h.Injected) == 0:
		return errors.New("StartTLS with a go-ahead and without Injected: the guard has no words to refuse with")
	}
	return nil
}

// answers: each command is answered in one Write, the last one's by Reply.
func (c *checker) answers() error {
	o, err := c.play(&feed{pieces: slices.Clone(c.segments), end: io.EOF})
	if err == nil && o.most > 1 && !c.s.glued() {
		err = fmt.Errorf("each answer goes out in one Write; here %d follow one Read: %q, then Reply %q", o.most, o.said, o.h.Reply)
	}
	return err
}

// ends: wherever the stream ends, and however, Upgrade hangs up and says why.
func (c *checker) ends() error {
	for _, end := range []error{io.EOF, os.ErrDeadlineExceeded, wire.ErrShutdown} {
		for n := range len(c.segments) + 1 {
			pieces := slices.Clone(c.segments[:n])
			for _, half := range []bool{false, true} {
				if half {
					if n == len(c.segments) || len(c.segments[n]) < 2 {
						continue
					}
					pieces = append(pieces, c.segments[n][:len(c.segments[n])/2])
				}
				o, err := c.play(&feed{pieces: slices.Clone(pieces), end: end})
				if err == nil && o.ended && end != io.EOF && upgraders.Reason(o.err) != upgraders.Reason(end) {
					err = fmt.Errorf("the error is returned as it came: %v", o.err)
				}
				if err == nil && o.most > 1 && !c.s.glued() {
					err = fmt.Errorf("the last words are one Write: said %q, then Reply %q", o.said, o.h.Reply)
				}
				if err != nil {
					return fmt.Errorf("after %q, then %v: %w", slices.Concat(pieces...), end, err)
				}
			}
		}
	}
	return nil
}

// cuts: the verdict does not depend on how the bytes were cut.
func (c *checker) cuts() error {
	return c.judge(slices.Concat(c.segments...), 1)
}

// judge compares a dialogue that came at once with the same in pieces.
func (c *checker) judge(said []byte, seed uint64) error {
	at := func(pieces [][]byte) (*outcome, error) {
		return c.play(&feed{pieces: pieces, end: io.EOF, eager: true})
	}
	whole, err := at([][]byte{said})
	if err != nil {
		return err
	}
	for _, pieces := range [][][]byte{slices.Collect(slices.Chunk(said, 1)), cut(said, seed), cut(said, seed+1)} {
		o, err := at(pieces)
		if err != nil {
			return err
		}
		if o.verdict() != whole.verdict() {
			return fmt.Errorf("the verdict depends on how the bytes are cut\n\tat once    %s\n\tin %d pieces %s", whole.verdict(), len(pieces), o.verdict())
		}
	}
	return nil
}

// cut divides b in pieces, by chance but the same ones for a seed.
func cut(b []byte, seed uint64) [][]byte {
	r := rand.New(rand.NewPCG(seed, uint64(len(b))))
	var pieces [][]byte
	for len(b) > 0 {
		n := 1 + r.IntN(min(len(b), 1+r.IntN(24)))
		pieces = append(pieces, b[:n])
		b = b[n:]
	}
	return pieces
}

// oblivion: what the backend is told does not depend on what the client said
// before TLS. So every word of the dialogue is changed in turn.
func (c *checker) oblivion() error {
	said := slices.Concat(c.segments...)
	want, err := c.reference()
	if err != nil || want == nil {
		return err
	}
	for _, other := range otherWords(said) {
		if err := c.sameAs(want, other, said); err != nil {
			return err
		}
	}
	return nil
}

// A told is what a backend was told by a session in TLS.
type told struct {
	bytes []byte
	whole bool
}

// reference is what the backend is told after the script's own dialogue; nil
// if that leads to no session in TLS.
func (c *checker) reference() (*told, error) {
	return c.tells(slices.Concat(c.segments...))
}

func (c *checker) tells(said []byte) (*told, error) {
	o, err := c.play(&feed{pieces: [][]byte{said}, end: io.EOF, eager: true})
	if err != nil || o.h.Verdict != upgraders.StartTLS || o.injected() {
		return nil, err
	}
	b, whole, err := c.tell(o)
	if err != nil {
		return nil, err
	}
	return &told{b, whole}, nil
}

// sameAs compares what the backend is told after another dialogue.
func (c *checker) sameAs(want *told, other, said []byte) error {
	got, err := c.tells(other)
	if err != nil || got == nil {
		return err
	}
	n := min(len(got.bytes), len(want.bytes))
	same := bytes.Equal(got.bytes[:n], want.bytes[:n])
	if got.whole {
		same = same && len(got.bytes) >= len(want.bytes)
	}
	if want.whole {
		same = same && len(got.bytes) <= len(want.bytes)
	}
	if !same {
		return fmt.Errorf("what was said before TLS reaches the backend after it\n\tafter %q the backend is told %q\n\tafter %q the backend is told %q", said, want.bytes, other, got.bytes)
	}
	return nil
}

// otherWords returns the dialogue with the letters of one word changed, for
// each word but the first of a line.
func otherWords(said []byte) [][]byte {
	var others [][]byte
	line := 0 // where it begins
	for i := 0; i < len(said); i++ {
		switch said[i] {
		case '\n':
			line = i + 1
		case ' ', '=', '\'', '"', ':':
			end := i + 1
			for end < len(said) && isWord(said[end]) {
				end++
			}
			if end == i+1 || line == i {
				continue
			}
			other := bytes.Clone(said)
			for j := i + 1; j < end; j++ {
				if other[j] != 'x' {
					other[j] = 'x'
				} else {
					other[j] = 'y'
				}
			}
			others = append(others, other)
		}
	}
	return others
}

func isWord(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z' || strings.IndexByte("-_.", b) >= 0
}

// unavailable: who tells a client that there is no backend does it in one
// Write, and doesn't tell where the backend would be.
func (c *checker) unavailable() error {
	implicit := c.u.Implicit(&upgraders.Session{
		Conn: wire.NewConn(&feed{end: io.EOF}), Client: clientAddr, Local: localAddr, Listener: &c.listener,
		CanTLS: func() bool { return c.canTLS }, Data: noData{},
	})
	o, err := c.play(&feed{pieces: slices.Clone(c.segments), end: io.EOF})
	if err != nil {
		return err
	}
	for _, h := range []upgraders.Handover{implicit, o.h} {
		if h.Unavailable == nil {
			continue
		}
		for _, cause := range []error{errDial, upgraders.ErrLimit, &upgraders.Refusal{Reply: "421 busy"}} {
			client := &feed{pieces: [][]byte{c.first, bytes.Join(c.segments, nil)}, end: io.EOF}
			h.Unavailable(context.Background(), wire.NewConn(client), cause)
			said := slices.Concat(client.written()...)
			switch {
			case client.most(false) > 1:
				return fmt.Errorf("Unavailable answers in %d Writes: %q", client.most(false), client.written())
			case bytes.Contains(said, []byte("192.0.2.25")):
				return fmt.Errorf("Unavailable tells the backend's address: %q", said)
			}
		}
	}
	return nil
}

// late: nobody writes to the client after Upgrade has returned.
func (c *checker) late() error {
	time.Sleep(glance)
	for _, conn := range c.conns {
		if conn.broken() {
			return errLeak
		}
	}
	return nil
}
