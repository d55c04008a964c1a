package upgradertest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// toy is a small correct protocol, and on demand one that is vulnerable in a
// way that was seen in the field.
type toy struct{ flaw flaw }

type flaw string

const (
	replays  flaw = "replays what a private buffer swallowed" // CVE-2011-0411
	drops    flaw = "drops what was pipelined"                // silence hides the attack
	trails   flaw = "writes a byte after the go-ahead"
	twice    flaw = "answers in two writes"
	leaks    flaw = "tells the backend what was said before TLS" // against RFC 3207, 4.2
	mute     flaw = "has no words for the guard"
	deaf     flaw = "upgrades without a certificate"
	opens    flaw = "goes on in cleartext where it is refused"
	swallows flaw = "swallows the error that ended the dialogue"
	greedy   flaw = "allocates what the client announces"
	panics   flaw = "panics"
	talks    flaw = "tells the client where the backend is"
)

var _ upgraders.Upgrader = (*toy)(nil)

type toyOptions struct {
	Motto string        `hcl:"motto,optional"`
	Loud  *bool         `hcl:"loud,optional"`
	Wait  time.Duration `hcl:"wait,optional"`
}

func toyProtocol(f flaw) *upgraders.Protocol {
	return &upgraders.Protocol{
		Name: "toy", Title: "Toy", Keyword: "UPGRADE", ServerFirst: true, ALPN: []string{"toy"}, CleartextAuth: true,
		Options: func() any { return &toyOptions{Motto: "hello"} },
		New:     func(any) (upgraders.Upgrader, error) { return &toy{f}, nil },
	}
}

func say(c io.Writer, format string, args ...any) { fmt.Fprintf(c, format+"\r\n", args...) }

func (t *toy) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	c := s.Conn
	if t.flaw == replays || t.flaw == drops {
		return t.private(s)
	}
	say(c, "hello from %s", s.Listener.Hostname)
	name, nos := "", 0
	for {
		line, err := c.ReadLine(64)
		if err != nil {
			h := upgraders.Handover{Reply: []byte("bye\r\n")}
			if t.flaw == swallows {
				err = nil
			}
			return h, err
		}
		verb, arg, _ := strings.Cut(string(line), " ")
		switch {
		case upgraders.IsHTTP(line):
			return upgraders.Handover{}, upgraders.ErrHTTP
		case verb == "HELLO":
			name = arg
			if t.flaw == greedy && len(arg) > 1 {
				name = string(make([]byte, 4<<20))[:0]
			}
			if t.flaw == panics {
				_ = line[len(line)+len(arg)]
			}
			if t.flaw == twice {
				io.WriteString(c, "welcome")
				say(c, "")
			} else {
				say(c, "welcome")
			}
		case verb == "QUIT":
			return upgraders.Handover{Reply: []byte("bye\r\n")}, upgraders.ErrQuit
		case verb == "UPGRADE" && (s.CanTLS() || t.flaw == deaf):
			return t.upgraded(s, name), nil
		case verb == "LOGIN" && (s.Listener.Cleartext || t.flaw == opens):
			pending := string(line)
			h := t.Implicit(s)
			h.Verdict = upgraders.Cleartext
			h.Join = func(_ context.Context, link *upgraders.Link) error {
				if err := swallowGreeting(link); err != nil {
					return err
				}
				say(link.Backend, "%s", pending)
				return nil
			}
			return h, nil
		default:
			if nos++; nos == 3 {
				return upgraders.Handover{Reply: []byte("no, and bye\r\n")}, upgraders.ErrTooMany
			}
			say(c, "no")
		}
	}
}

func (t *toy) upgraded(s *upgraders.Session, name string) upgraders.Handover {
	h := t.Implicit(s)
	h.Verdict, h.Reply, h.Injected = upgraders.StartTLS, []byte("go\r\n"), []byte("no, bye\r\n")
	switch t.flaw {
	case mute:
		h.Injected = nil
	case trails:
		time.AfterFunc(time.Millisecond, func() { s.Conn.Write([]byte("!")) })
	}
	h.Join = func(_ context.Context, link *upgraders.Link) error {
		err := swallowGreeting(link)
		if t.flaw == leaks && err == nil {
			say(link.Backend, "NAME %s", name)
		}
		return err
	}
	return h
}

// private is how libraries read, and how injection is made.
func (t *toy) private(s *upgraders.Session) (upgraders.Handover, error) {
	say(s.Conn, "hello from %s", s.Listener.Hostname)
	r := bufio.NewReader(s.Conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return upgraders.Handover{Reply: []byte("bye\r\n")}, err
		}
		if !strings.HasPrefix(line, "UPGRADE") || !s.CanTLS() {
			say(s.Conn, "welcome")
			continue
		}
		h := t.upgraded(s, "")
		if t.flaw == replays {
			join := h.Join
			h.Join = func(ctx context.Context, link *upgraders.Link) error {
				err := join(ctx, link)
				swallowed, _ := r.Peek(r.Buffered())
				link.Backend.Write(swallowed)
				return err
			}
		}
		return h, nil
	}
}

func swallowGreeting(link *upgraders.Link) error {
	line, err := link.Backend.ReadLine(64)
	if err == nil && !bytes.HasPrefix(line, []byte("hello")) {
		return &upgraders.Refusal{Reply: string(line)}
	}
	return err
}

func (t *toy) Implicit(*upgraders.Session) upgraders.Handover {
	return upgraders.Handover{
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			if t.flaw == talks {
				say(client, "nobody is there: %v", cause)
			} else {
				say(client, "nobody is there")
			}
			return nil
		},
	}
}
