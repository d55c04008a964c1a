package telnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
	"github.com/sallyport/sallyport/upgraders/upgradertest"
)

func TestDialogues(t *testing.T) { upgradertest.Run(t, Protocol()) }

func FuzzUpgrade(f *testing.F) { upgradertest.Fuzz(f, Protocol()) }

// filtered runs a filter over pieces.
func filtered(pieces ...[]byte) (passed, refusals []byte, f *filter) {
	f = &filter{}
	for _, p := range pieces {
		var r []byte
		passed, r = f.filter(passed, p)
		refusals = append(refusals, r...)
	}
	return passed, refusals, f
}

// D-04: START_TLS is taken out, in whatever pieces it comes, and nothing else is;
// who asks for it is refused, once.
func TestFilter(t *testing.T) {
	for name, c := range map[string]struct{ in, passed, refusals string }{
		"data":            {"login: \xff\xff\x00\r\n", "login: \xff\xff\x00\r\n", ""},
		"options":         {"a\xff\xfb\x01\xff\xfd\x18b\xff\xf1", "a\xff\xfb\x01\xff\xfd\x18b\xff\xf1", ""},
		"subnegotiation":  {"\xff\xfa\x18\x00.\xff\xfd.\xff\xff\x2e\xff\xf0z", "\xff\xfa\x18\x00.\xff\xfd.\xff\xff\x2e\xff\xf0z", ""},
		"DO":              {"a\xff\xfd\x2eb", "ab", "\xff\xfc\x2e"},
		"WILL":            {"a\xff\xfb\x2eb", "ab", "\xff\xfe\x2e"},
		"DONT, WONT":      {"a\xff\xfe\x2e\xff\xfc\x2eb", "ab", ""},
		"FOLLOWS":         {"a\xff\xfa\x2e\x01\xff\xf0b", "ab", ""},
		"escaped":         {"\xff\xff\xfd\x2e", "\xff\xff\xfd\x2e", ""},
		"IAC in FOLLOWS":  {"\xff\xfa\x2e\xff\xff\xf0\xff\xf0b", "b", ""},
		"no option in SB": {"\xff\xfa\xff\xf0\xff\xfd\x2eb", "\xff\xfa\xff\xf0b", "\xff\xfc\x2e"},
	} {
		t.Run(name, func(t *testing.T) {
			for at := range len(c.in) + 1 {
				passed, refusals, _ := filtered([]byte(c.in[:at]), []byte(c.in[at:]))
				if string(passed) != c.passed || string(refusals) != c.refusals {
					t.Errorf("cut at %d: passed %q, refusals %q", at, passed, refusals)
				}
			}
		})
	}
}

// However it is cut and whatever it is: what passes holds no negotiation of
// START_TLS, and passes a second time unchanged.
func FuzzFilter(f *testing.F) {
	f.Add([]byte("a\xff\xfd\x2e\xff\xff\xfd\x2e\xff\xfa\x18\xff\xf0"), 3)
	f.Fuzz(func(t *testing.T, in []byte, at int) {
		at = min(max(at, 0), len(in))
		passed, refusals, first := filtered(in[:at], in[at:])
		whole, _, _ := filtered(in)
		if !bytes.Equal(passed, whole) {
			t.Fatalf("cut at %d: %q, whole: %q", at, passed, whole)
		}
		again, more, _ := filtered(passed)
		if first.state != inStartTLS && first.state != inStartIAC && len(first.held) == 0 && (!bytes.Equal(again, passed) || more != nil) {
			t.Fatalf("%q passes as %q, with refusals %q", passed, again, more)
		}
		if len(refusals) > len(in) {
			t.Fatalf("%d bytes of refusals for %d", len(refusals), len(in))
		}
	})
}

// A refusal waits for the end of the subnegotiation that it would break.
func TestRefusalWaits(t *testing.T) {
	a, b := net.Pipe()
	got := make(chan []byte, 1)
	go func() {
		p, _ := io.ReadAll(b)
		got <- p
	}()
	s := &side{conn: wire.NewConn(a)}
	s.pass([]byte("\xff\xfa\x18"), true)
	for range 100 { // as many as anybody likes: what is kept is bounded
		s.answer(negotiate(cmdDONT, optStartTLS))
	}
	s.pass([]byte("x\xff\xf0"), false)
	s.answer(negotiate(cmdWONT, optStartTLS))
	a.Close()
	want := "\xff\xfa\x18x\xff\xf0" + strings.Repeat("\xff\xfe\x2e", maxOwed/3) + "\xff\xfc\x2e"
	if p := <-got; string(p) != want {
		t.Errorf("written: %q", p)
	}
}

// The client side: START_TLS is agreed to when the server asks, other options
// are refused, and what is no START_TLS is none.
func TestRequest(t *testing.T) {
	for name, c := range map[string]struct {
		server, said string
		err          error
	}{
		"offered":   {"\xff\xfd\x2e\xff\xfa\x2e\x01\xff\xf0", "\xff\xfb\x2e\xff\xfa\x2e\x01\xff\xf0", nil},
		"others":    {"\xff\xfd\x18\xff\xfb\x01\xff\xf1\xff\xfd\x2e\xff\xfa\x2e\x01\xff\xf0", "\xff\xfc\x18\xff\xfe\x01\xff\xfb\x2e\xff\xfa\x2e\x01\xff\xf0", nil},
		"a banner":  {"login: ", "", upgraders.ErrNotOffered},
		"refused":   {"\xff\xfe\x2e", "", upgraders.ErrNotOffered},
		"injection": {"\xff\xfd\x2e\xff\xfa\x2e\x01\xff\xf0login: ", "\xff\xfb\x2e\xff\xfa\x2e\x01\xff\xf0", upgraders.ErrBackend},
		"early end": {"\xff\xfd\x2e", "\xff\xfb\x2e\xff\xfa\x2e\x01\xff\xf0", io.EOF},
		"half":      {"\xff\xfa\x18", "", io.ErrUnexpectedEOF},
		"endless":   {"\xff\xfa" + strings.Repeat("x", 1000), "", wire.ErrTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			gateway, server := net.Pipe()
			gateway.SetDeadline(time.Now().Add(10 * time.Second))
			said := make(chan string, 1)
			go func() {
				p, _ := io.ReadAll(server)
				said <- string(p)
			}()
			go func() {
				io.WriteString(server, c.server)
				if c.err == io.EOF || c.err == io.ErrUnexpectedEOF {
					time.Sleep(50 * time.Millisecond) // what is said is taken first
					server.Close()
				}
			}()
			err := request(context.Background(), wire.NewConn(gateway), "")
			gateway.Close()
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if got := <-said; got != c.said {
				t.Errorf("said %q, want %q", got, c.said)
			}
		})
	}
}

// A server that is silent serves; one that hangs up does not.
func TestProbe(t *testing.T) {
	gateway, server := net.Pipe()
	defer server.Close()
	gateway.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := probe(context.Background(), &upgraders.Link{Backend: wire.NewConn(gateway)}); err != nil {
		t.Errorf("silent: %v", err)
	}
	gateway, server = net.Pipe()
	server.Close()
	if _, err := probe(context.Background(), &upgraders.Link{Backend: wire.NewConn(gateway)}); err == nil {
		t.Error("no error where the server hangs up")
	}
}
