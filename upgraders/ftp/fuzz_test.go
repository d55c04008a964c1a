package ftp

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// What is said to a backend is what the gateway lets pass, and what a client is
// told of addresses is the gateway's, whatever either of them says.
func FuzzPassage(f *testing.F) {
	f.Add("PBSZ 0\r\nPROT P\r\nPASV\r\nRETR a\r\nQUIT\r\n", "227 (10,0,0,1,4,1)\r\n\x00150 go\r\n226 done\r\n\x00221 bye\r\n", byte(0))
	f.Add("FEAT\r\nAUTH TLS\r\n\xff\xf4\xff\xf2ABOR\r\n", "211-x\r\n AUTH TLS\r\n211 y\r\n\x00226 ok\r\n", byte(1))
	f.Add("PORT 192,0,2,10,4,1\r\nSTOR a\r\nABOR\r\nEPSV ALL\r\nPASV\r\n", "227 =10,0,0,1,4,1\r\n\x00150 x\r\n426 y\r\n\x00226 z\r\n", byte(2))
	f.Add("EPSV\r\nLIST\r\nNOOP\r\n", "229 (|||1025|)\r\n\x00226-a\r\n226 b\r\n\x00421-c\r\n421 d\r\n", byte(3))
	f.Fuzz(func(t *testing.T, says, replies string, setting byte) {
		client := &side{said: []byte(says)}
		backend := &side{pieces: strings.Split(replies, "\x00"), wake: make(chan string, 1<<16)}
		u := &upgrader{clearData: setting&2 != 0}
		s := &upgraders.Session{
			Client: netip.MustParseAddrPort("192.0.2.10:49152"), Local: netip.MustParseAddrPort("192.0.2.1:21"),
			Listener: &upgraders.Listener{Cleartext: true}, Data: idle{},
			Suits: func(string) bool { return true },
		}
		p := &passage{upgrader: u, session: s, clear: setting&1 != 0, refuseAuth: setting&4 != 0}
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.converse(context.Background(), &upgraders.Link{
				Client: wire.NewConn(client), Backend: wire.NewConn(backend), Log: func(string, ...any) {},
			})
		}()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("the session has no end")
		}
		for line := range strings.Lines(backend.got()) {
			verb, _ := split(strings.TrimSuffix(line, "\r\n"))
			if !isVerb(verb) || slices.Contains(refused, verb) || verb == "USER" && p.refuseAuth || strings.ContainsAny(strings.TrimSuffix(line, "\r\n"), "\r\n\x00") {
				t.Errorf("the backend is told %q", line)
			}
		}
		if reply, _, whole := strings.Cut(replies, "\n"); whole && strings.HasPrefix(says, "PASV\r\n") && strings.HasPrefix(reply, "227 ") && passivePort(reply) > 0 {
			if first, _, _ := strings.Cut(client.got(), "\r\n"); first != "" && first != "227 Entering Passive Mode (192,0,2,1,156,64)" {
				t.Errorf("the client is told %q", first)
			}
		}
	})
}

// refused is what no backend ever hears.
var refused = []string{
	"AUTH", "PBSZ", "PROT", "PORT", "EPRT", "CCC", "REIN", "ADAT", "CONF", "ENC", "MIC", "LPRT", "LPSV", "SPSV", "CPSV", "SSCN", "PROXY",
	"GET", "POST", "PUT", "HEAD", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
}

// A side says what it has to say: a client at once, a backend a piece for each
// line that it is told.
type side struct {
	said   []byte
	pieces []string
	wake   chan string

	mu    sync.Mutex
	heard bytes.Buffer
}

var _ net.Conn = (*side)(nil)

// Read implements net.Conn.
func (s *side) Read(p []byte) (int, error) {
	if len(s.said) == 0 && s.wake != nil {
		select {
		case next := <-s.wake:
			s.said = []byte(next)
		case <-time.After(2 * time.Millisecond): // a reply that is not whole, and no command
		}
	}
	if len(s.said) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.said)
	s.said = s.said[n:]
	return n, nil
}

// Write implements net.Conn.
func (s *side) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wake != nil {
		for range bytes.Count(p, []byte("\n")) {
			next := ""
			if len(s.pieces) > 0 {
				next, s.pieces = s.pieces[0], s.pieces[1:]
			}
			s.wake <- next
		}
	}
	return s.heard.Write(p)
}

func (s *side) got() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heard.String()
}

// CloseWrite is what wire.Conn passes an end on with.
func (s *side) CloseWrite() error {
	if s.wake != nil {
		s.wake <- ""
	}
	return nil
}

func (s *side) end()                             { s.CloseWrite() }
func (s *side) Close() error                     { return nil }
func (s *side) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *side) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *side) SetDeadline(time.Time) error      { return nil }
func (s *side) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn: it is how a read is interrupted.
func (s *side) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		s.end()
	}
	return nil
}

// idle has data connections on which nothing is ever sent.
type idle struct{}

var (
	_ upgraders.Data         = idle{}
	_ upgraders.DataListener = idle{}
	_ upgraders.DataConn     = idle{}
)

func (idle) Listen(uint16, uint16) (upgraders.DataListener, error)           { return idle{}, nil }
func (idle) Dial(context.Context, uint16) (upgraders.DataConn, error)        { return idle{}, nil }
func (idle) DialBackend(context.Context, uint16) (upgraders.DataConn, error) { return idle{}, nil }
func (idle) Carry(_, _ upgraders.DataConn, over func(error))                 { over(nil) }
func (idle) Close() error                                                    { return nil }
func (idle) Port() uint16                                                    { return 40000 }
func (idle) Accept(context.Context) (upgraders.DataConn, error)              { return idle{}, nil }
func (idle) Secure(context.Context) (bool, error)                            { return true, nil }
func (idle) Abort()                                                          {}
