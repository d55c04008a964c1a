package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// newEarlyRig is a rig whose protocol needs its backend before it can greet.
func newEarlyRig(t *testing.T, change func(l *Listener, b *Backend)) *rig {
	t.Helper()
	return newRig(t, func(l *Listener) {
		l.Upgrader = &toyUpgrader{early: true}
		if change != nil {
			change(l, l.Routes[0].Backend)
		}
	})
}

// A backend may be asked for early, and is the one that is joined.
func TestEarlyBackend(t *testing.T) {
	var dialled atomic.Int32
	r := newEarlyRig(t, func(l *Listener, b *Backend) {
		l.Policy.Dialogue.Timeout = 300 * time.Millisecond
		b.MaxConnections = 1 // itself included
		b.Servers[0].Address = serve(t, func(c net.Conn) {
			dialled.Add(1)
			io.WriteString(c, "backend\r\n")
			io.Copy(c, c)
		})
	})
	v := r.startTLS(clientTLS())
	time.Sleep(400 * time.Millisecond) // the dialogue's deadline is not the session's
	v.say("echo")
	v.hear("echo")
	if dialled.Load() != 1 {
		t.Errorf("dialled %d times", dialled.Load())
	}
}

// A backend that was dialled before TLS is joined to a session of its own
// route only.
func TestEarlyBackendAndSNI(t *testing.T) {
	r := newEarlyRig(t, nil)
	l := *r.cfg.Listeners[0]
	l.Routes = []*Route{
		{SNI: []string{"other.example.org"}, Backend: &Backend{Name: "other", Servers: []Server{{Address: r.backend("backend2")}}}},
		l.Routes[0],
	}
	if err := r.g.Apply(&Config{Listeners: []*Listener{&l}}); err != nil {
		t.Fatal(err)
	}
	cfg := clientTLS()
	cfg.ServerName = "other.example.org"
	v := r.startTLS(cfg)
	v.say("ping")
	v.hear("unavailable")
	v.Close()
	r.logged("outcome=no_route")
}

// A client that is beyond its limits costs the backend nothing, though the
// dial is early.
func TestEarlyBackendLimits(t *testing.T) {
	var dialled atomic.Int32
	r := newEarlyRig(t, func(l *Listener, b *Backend) {
		l.Policy.Limits.PendingPerIP = 1
		b.Servers[0].Address = serve(t, func(c net.Conn) {
			dialled.Add(1)
			io.WriteString(c, "backend\r\n")
			io.Copy(io.Discard, c)
		})
	})
	r.dial().hear("hello")
	for range 5 {
		v := r.dial()
		v.hear("unavailable")
		v.end()
	}
	r.logged("outcome=limit")
	if n := dialled.Load(); n != 1 {
		t.Errorf("dialled %d times", n)
	}
}

// The PROXY header of an early dial names the client, and claims nothing of a
// TLS that is still to come; that of a dial after TLS tells of it.
func TestEarlyBackendProxyHeader(t *testing.T) {
	for _, mode := range []Mode{StartTLS, Implicit} {
		headers := make(chan *proxyproto.Header, 1)
		r := newEarlyRig(t, func(l *Listener, b *Backend) {
			l.Mode = mode
			b.Send = SendProxyV2
			b.Servers[0].Address = serve(t, func(c net.Conn) {
				h, err := proxyproto.Read(bufio.NewReader(c))
				if err != nil {
					t.Error(err)
				}
				headers <- h
				io.WriteString(c, "backend\r\n")
				io.Copy(io.Discard, c)
			})
		})
		v := r.dial()
		if mode == StartTLS {
			v.hear("hello")
		} else if err := v.upgrade(clientTLS()); err != nil {
			t.Fatal(err)
		}
		h := <-headers
		if h == nil || h.SourceAddr.String() != v.LocalAddr().String() {
			t.Fatalf("%s: the header is %+v", mode, h)
		}
		if tlvs, err := h.TLVs(); err != nil || (len(tlvs) > 0) != (mode == Implicit) {
			t.Errorf("%s: TLVs %v, %v", mode, tlvs, err)
		}
		v.Close()
	}
}

// A server that cannot be reached or refuses is passed over before the client
// hears a word; where all do, the session has the outcome of any other without
// a backend, and is no rejection of the client's.
func TestEarlyBackendNext(t *testing.T) {
	busy := serve(t, func(c net.Conn) { io.WriteString(c, "busy\r\n") })
	mute := serve(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	for name, c := range map[string]struct {
		servers []string
		outcome string // "": it serves
	}{
		"the second":  {[]string{busy, "127.0.0.1:1", ""}, ""},
		"all refuse":  {[]string{busy}, "backend_refused"},
		"all are off": {[]string{"127.0.0.1:1"}, "backend_down"},
		"mute":        {[]string{mute}, "backend_refused"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newEarlyRig(t, func(l *Listener, b *Backend) {
				l.Policy.Dialogue.Timeout = 500 * time.Millisecond
				works := b.Servers[0]
				b.Servers = nil
				for _, address := range c.servers {
					if address == "" {
						address = works.Address
					}
					b.Servers = append(b.Servers, Server{Address: address})
				}
			})
			v := r.dial()
			if c.outcome == "" {
				v.hear("hello")
				return
			}
			v.hear("no backend")
			v.end()
			r.logged("msg=session", "outcome="+c.outcome)
			if n := r.metric("sallyport_dialogue_rejected_total"); n != 0 {
				t.Errorf("%v rejections are counted", n)
			}
		})
	}
}

// A client that leaves before it is joined does not leave the backend's
// connection behind.
func TestEarlyBackendEnds(t *testing.T) {
	ended := make(chan error, 1)
	r := newEarlyRig(t, func(_ *Listener, b *Backend) {
		b.Servers[0].Address = serve(t, func(c net.Conn) {
			io.WriteString(c, "backend\r\n")
			_, err := io.Copy(io.Discard, c)
			ended <- err
		})
	})
	v := r.dial()
	v.hear("hello")
	v.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	r.logged("outcome=connect_only")
}

// Leave is said to a server that would take a client's leaving for the
// gateway's: not to one that knows who the client is, and not behind what the
// client has said.
func TestLeave(t *testing.T) {
	for name, c := range map[string]struct {
		send Send
		tls  bool // the client goes on
		want string
	}{
		"gateway's address": {SendNone, false, "farewell\r\n"},
		"client's address":  {SendProxyV1, false, ""},
		"given to Join":     {SendNone, true, "client's\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			heard := make(chan string, 1)
			r := newEarlyRig(t, func(l *Listener, b *Backend) {
				l.Upgrader.(*toyUpgrader).join = func(_ context.Context, link *upgraders.Link) error {
					io.WriteString(link.Backend, "client's\r\n")
					return io.ErrUnexpectedEOF
				}
				l.Protocol.Leave = func(_ context.Context, backend *wire.Conn) { io.WriteString(backend, "farewell\r\n") }
				b.Send = c.send
				b.Servers[0].Address = serve(t, func(conn net.Conn) {
					in := bufio.NewReader(conn)
					if c.send != SendNone {
						in.ReadString('\n') // the header
					}
					io.WriteString(conn, "backend\r\n")
					said, _ := io.ReadAll(in)
					heard <- string(said)
				})
			})
			if c.tls {
				r.startTLS(clientTLS()).Close()
			} else {
				v := r.dial()
				v.hear("hello")
				v.Close()
			}
			if got := <-heard; got != c.want {
				t.Errorf("the server hears %q, want %q", got, c.want)
			}
		})
	}
}

// A protocol whose own words ask the backend for TLS has it shaken hands when
// it has said them; one that forgets to has no session, and never cleartext
// (B-01, B-02).
func TestSecureInJoin(t *testing.T) {
	good := pki().issue("backend.example.org")
	for name, c := range map[string]struct {
		goAhead    string
		forgets    bool
		serverName string
		works      bool
	}{
		"asked":      {goAhead: "go\r\n", serverName: "backend.example.org", works: true},
		"injected":   {goAhead: "go\r\nbackend: evil\r\n", serverName: "backend.example.org"},
		"wrong name": {goAhead: "go\r\n", serverName: "other.example.org"},
		"forgotten":  {goAhead: "go\r\n", serverName: "backend.example.org", forgets: true},
	} {
		t.Run(name, func(t *testing.T) {
			var seen atomic.Int32
			r := newEarlyRig(t, func(l *Listener, b *Backend) {
				b.Servers = []Server{{Address: tlsBackend(t, "backend\r\n", c.goAhead, good, &seen)}}
				b.TLS = &BackendTLS{Mode: StartTLS, CAs: pki().pool, ServerName: c.serverName}
				l.Protocol.SecureInJoin = true
				l.Upgrader.(*toyUpgrader).join = func(ctx context.Context, link *upgraders.Link) error {
					if link.Secure == nil {
						return fmt.Errorf("there is nothing to secure")
					}
					if c.forgets {
						return nil
					}
					io.WriteString(link.Backend, "TLS\r\n")
					if _, err := link.Backend.ReadLine(100); err != nil {
						return err
					}
					return link.Secure(ctx)
				}
			})
			v := r.startTLS(clientTLS())
			v.say("ping")
			if c.works {
				v.hear("backend: ping")
				return
			}
			v.hear("unavailable")
			v.end()
			r.logged("outcome=backend_down")
			if seen.Load() != 0 {
				t.Error("the backend was sent something all the same")
			}
		})
	}
}
