package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/sallyport/sallyport/upgraders"
)

// A client upgrades, its words reach the backend, and one log line and the
// metrics tell of it what it was.
func TestUpgrade(t *testing.T) {
	r := newRig(t, nil)
	v := r.startTLS(clientTLS())
	v.say("ping")
	v.hear("backend: ping")
	v.Close()
	line := r.logged("msg=session", "outcome=ok")
	for _, want := range []string{"listener=front", "protocol=toy", "security=encrypted", "tls_version=TLSv1.3", "group=X25519MLKEM768",
		"sni=gw.example.org", "resumed=false", "backend=127.0.0.1:", "client=127.0.0.1:", "cid="} {
		if !strings.Contains(line, want) {
			t.Errorf("log line lacks %q: %s", want, line)
		}
	}
	if n := r.metric("sallyport_sessions_total", "security", "encrypted", "outcome", "ok"); n != 1 {
		t.Errorf("sessions_total = %v", n)
	}
	if n := r.metric("sallyport_handshakes_total", "version", "TLSv1.3", "result", "ok"); n != 1 {
		t.Errorf("handshakes_total = %v", n)
	}
	if n := r.metric("sallyport_bytes_total", "direction", "in"); n < 100 {
		t.Errorf("bytes_total in = %v", n)
	}
}

// The backend is dialled only when the client is through TLS.
func TestDialLate(t *testing.T) {
	var dialled atomic.Int32
	r := newRig(t, func(l *Listener) {
		address := serve(t, func(c net.Conn) { dialled.Add(1); io.WriteString(c, "backend\r\n"); io.Copy(io.Discard, c) })
		l.Routes[0].Backend.Servers[0].Address = address
	})
	v := r.dial()
	v.hear("hello")
	v.say("TLS")
	v.hear("go")
	if dialled.Load() != 0 {
		t.Error("the backend was dialled before the handshake")
	}
	if err := v.upgrade(clientTLS()); err != nil {
		t.Fatal(err)
	}
	v.say("ping")
	r2 := time.Now().Add(10 * time.Second)
	for dialled.Load() == 0 && time.Now().Before(r2) {
		time.Sleep(time.Millisecond)
	}
	if dialled.Load() != 1 {
		t.Error("the backend was not dialled")
	}
}

// CVE-2011-0411: what is pipelined behind the request for TLS ends the
// connection, however the bytes were cut; the go-ahead is never written.
func TestInjection(t *testing.T) {
	r := newRig(t, nil)
	const attack = "TLS\r\nping\r\n"
	for cut := 0; cut <= len("TLS\r"); cut++ {
		v := r.dial()
		v.hear("hello")
		io.WriteString(v, attack[:cut])
		time.Sleep(2 * time.Millisecond)
		io.WriteString(v, attack[cut:])
		v.hear("no")
		v.end()
		v.Close()
	}
	r.logged("outcome=rejected", "reason=injection", "level=WARN")
	if n := r.metric("sallyport_dialogue_rejected_total", "reason", "injection"); n < 4 {
		t.Errorf("injections counted: %v", n)
	}
}

// What comes between go-ahead and ClientHello is no command: the handshake
// fails and nothing more is said in clear.
func TestInjectionAfterGoAhead(t *testing.T) {
	r := newRig(t, nil)
	v := r.dial()
	v.hear("hello")
	v.say("TLS")
	v.hear("go")
	v.say("ping")
	b, _ := io.ReadAll(v.in)
	if len(b) > 0 && b[0] != 21 {
		t.Errorf("after the go-ahead came %q", b)
	}
	r.logged("outcome=handshake_failed")
}

// A verdict without a go-ahead hands a ClientHello that is already there to
// the handshake, and refuses anything else.
func TestNoGoAhead(t *testing.T) {
	r := newRig(t, func(l *Listener) {
		u := &toyUpgrader{}
		u.hook = func(s *upgraders.Session, line string) (upgraders.Handover, error) {
			if line != "SSL" {
				return upgraders.Handover{}, nil
			}
			h := u.Implicit(s)
			h.Verdict = upgraders.StartTLS
			return h, nil
		}
		l.Upgrader = u
	})
	v := r.dial()
	v.hear("hello")
	v.say("SSL")
	if err := v.upgrade(clientTLS()); err != nil {
		t.Fatal(err)
	}
	v.say("ping")
	v.hear("backend: ping")

	// The hello in the same segment as the request.
	v = r.dial()
	v.hear("hello")
	glued := &glue{Conn: v.Conn, head: []byte("SSL\r\n")}
	if err := (&visit{t, glued, v.in}).upgrade(clientTLS()); err != nil {
		t.Fatal(err)
	}

	v = r.dial()
	v.hear("hello")
	v.say("SSL", "ping")
	v.end()
	r.logged("reason=injection")
}

// glue sends head in one segment with the first write.
type glue struct {
	net.Conn
	head []byte
}

func (g *glue) Write(p []byte) (int, error) {
	n := len(g.head)
	m, err := g.Conn.Write(append(g.head, p...))
	g.head = nil
	return max(0, m-n), err
}

// The dialogue has one deadline for all of it: a byte now and then does not
// move it.
func TestDialogueDeadline(t *testing.T) {
	r := newRig(t, func(l *Listener) { l.Policy.Dialogue.Timeout = 200 * time.Millisecond })
	v := r.dial()
	v.hear("hello")
	go func() {
		for range 200 {
			if _, err := io.WriteString(v.Conn, "x"); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	v.hear("bye")
	v.Close()
	r.logged("outcome=rejected", "reason=timeout")
	silent := r.dial()
	silent.hear("hello") // and says nothing
	silent.hear("bye")
	silent.Close()
	r.logged("outcome=silent")
}

// Bytes and commands before TLS are bounded.
func TestDialogueBudget(t *testing.T) {
	r := newRig(t, func(l *Listener) { l.Policy.Dialogue.Commands = 3; l.Policy.Dialogue.Bytes = 150 })
	v := r.dial()
	v.hear("hello")
	v.say("a", "b", "c", "d")
	for range 3 {
		v.hear("what?")
	}
	v.hear("bye")
	v.end()
	v = r.dial()
	v.hear("hello")
	v.say(strings.Repeat("x", 80), strings.Repeat("x", 80))
	v.hear("what?")
	v.hear("bye")
	if n := r.metric("sallyport_dialogue_rejected_total", "reason", "budget"); n != 2 {
		t.Errorf("budget rejections: %v", n)
	}
}

// The handshake has its own deadline, and no byte at a time moves it.
func TestHandshakeDeadline(t *testing.T) {
	r := newRig(t, func(l *Listener) { l.Policy.HandshakeTimeout = 200 * time.Millisecond })
	v := r.dial()
	v.hear("hello")
	v.say("TLS")
	v.hear("go")
	go func() {
		for _, b := range []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 300)) {
			if _, err := v.Conn.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	io.ReadAll(v.in)
	r.logged("outcome=handshake_failed")
	if n := r.metric("sallyport_handshakes_total", "result", "timeout"); n != 1 {
		t.Errorf("handshake timeouts: %v", n)
	}
}

// Sessions in cleartext are labelled as such.
func TestCleartextLabel(t *testing.T) {
	r := newRig(t, nil)
	v := r.dial()
	v.hear("hello")
	v.say("PLAIN", "ping")
	v.hear("backend: ping")
	v.Close()
	r.logged("outcome=ok", "security=cleartext")
}

// A health check that connects and leaves is no event.
func TestConnectOnly(t *testing.T) {
	r := newRig(t, nil)
	r.dial().Close()
	r.logged("level=DEBUG", "outcome=connect_only")
	r = newRig(t, func(l *Listener) { l.Mode = Implicit })
	r.dial().Close()
	r.logged("level=DEBUG", "outcome=connect_only")
	if n := r.metric("sallyport_handshakes_total"); n != 0 {
		t.Errorf("a health check counts as %v handshakes", n)
	}
}

// A server that refuses, or that is down, is passed over for the next; when
// none is left the client is told in the protocol's words.
func TestNextServer(t *testing.T) {
	refuses := serve(t, func(c net.Conn) { io.WriteString(c, "sorry\r\n") })
	closed := serve(t, func(c net.Conn) {})
	down, _ := silentAddress(t)
	r := newRig(t, func(l *Listener) {
		good := l.Routes[0].Backend.Servers[0]
		l.Routes[0].Backend.Servers = []Server{{Address: refuses}, {Address: down}, {Address: closed}, good}
	})
	for range 8 {
		v := r.startTLS(clientTLS())
		v.say("ping")
		v.hear("backend: ping")
	}
	r = newRig(t, func(l *Listener) { l.Routes[0].Backend.Servers = []Server{{Address: down}} })
	v := r.startTLS(clientTLS())
	v.hear("unavailable")
	v.end()
	r.logged("outcome=backend_down", "level=WARN")
	r = newRig(t, func(l *Listener) { l.Routes[0].Backend.Servers = []Server{{Address: refuses}} })
	v = r.startTLS(clientTLS())
	v.hear("unavailable")
	v.Close()
	r.logged("outcome=backend_refused")
}

// silentAddress is an address where nothing listens and, since it is held,
// nothing else will. Once listen is called, something does.
func silentAddress(t *testing.T) (address string, listen func() net.Listener) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "held")
	t.Cleanup(func() { f.Close() })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address = fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	return address, func() net.Listener {
		t.Helper()
		if err := syscall.Listen(fd, 8); err != nil {
			t.Fatal(err)
		}
		ln, err := net.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
}

// PROXY v2 tells the backend who the client is and that it came by TLS; of a
// client that showed no certificate, verify is not zero.
func TestProxyHeader(t *testing.T) {
	headers := make(chan *proxyproto.Header, 4)
	address := serve(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		h, err := proxyproto.Read(in)
		if err != nil {
			t.Error(err)
		}
		headers <- h
		io.WriteString(c, "backend\r\n")
		io.Copy(c, in)
	})
	r := newRig(t, func(l *Listener) {
		l.Routes[0].Backend.Servers[0].Address = address
		l.Routes[0].Backend.Send = SendProxyV2
	})
	cfg := clientTLS()
	cfg.NextProtos = []string{"toy"}
	v := r.startTLS(cfg)
	h := <-headers
	if got, want := h.SourceAddr.String(), v.LocalAddr().String(); got != want {
		t.Errorf("source %s, want %s", got, want)
	}
	if got, want := h.DestinationAddr.String(), v.RemoteAddr().String(); got != want {
		t.Errorf("destination %s, want %s", got, want)
	}
	tlvs, err := h.TLVs()
	if err != nil {
		t.Fatal(err)
	}
	got := map[proxyproto.PP2Type]string{}
	for _, tlv := range tlvs {
		got[tlv.Type] = string(tlv.Value)
	}
	if got[proxyproto.PP2_TYPE_ALPN] != "toy" || got[proxyproto.PP2_TYPE_AUTHORITY] != "gw.example.org" {
		t.Errorf("TLVs %q", got)
	}
	if ssl := got[proxyproto.PP2_TYPE_SSL]; !strings.HasPrefix(ssl, "\x01\x00\x00\x00\x01\x21\x00\x07TLSv1.3") {
		t.Errorf("SSL TLV %q", ssl)
	}

	v = r.dial()
	v.hear("hello")
	v.say("PLAIN")
	h = <-headers
	if tlvs, _ := h.TLVs(); len(tlvs) != 0 {
		t.Errorf("a cleartext session is told to have TLVs %v", tlvs)
	}
}

// SNI chooses the backend after STARTTLS; a name no route takes is told so.
func TestRoutes(t *testing.T) {
	r := newRig(t, nil)
	one, other := r.backend("backend1"), r.backend("backend2")
	r.cfg.Listeners[0].Routes = []*Route{
		{SNI: []string{"*.wild.example.org"}, Backend: &Backend{Name: "one", Servers: []Server{{Address: one}}}},
		{SNI: []string{"OTHER.example.org"}, Backend: &Backend{Name: "other", Servers: []Server{{Address: other}}}},
	}
	if err := r.g.Apply(r.cfg); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"a.wild.example.org": "backend1: ping",
		"other.example.org":  "backend2: ping",
		"gw.example.org":     "unavailable",
	} {
		cfg := clientTLS()
		cfg.ServerName = name
		v := r.startTLS(cfg)
		v.say("ping")
		v.hear(want)
		v.Close()
	}
	r.logged("outcome=no_route")
}

// One label matches a wildcard, and no other number does.
func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*.example.org", "a.example.org", true},
		{"*.example.org", "A.EXAMPLE.org", true},
		{"*.example.org", "a.b.example.org", false},
		{"*.example.org", "example.org", false},
		{"*.example.org", ".example.org", false},
		{"*.example.org", "", false},
		{"example.org", "example.org", true},
		{"example.org", "", false},
	} {
		if got := matches([]string{c.pattern}, c.name); got != c.want {
			t.Errorf("matches(%q, %q) = %v", c.pattern, c.name, got)
		}
	}
}

// What is offered before TLS was learned from the backend, once.
func TestCapabilities(t *testing.T) {
	var asked atomic.Int32
	r := newRig(t, func(l *Listener) {
		l.Routes[0].Backend.Servers[0].Address = serve(t, func(c net.Conn) {
			fmt.Fprintf(c, "backend %d\r\n", asked.Add(1))
			io.Copy(io.Discard, c)
		})
	})
	for range 3 {
		v := r.dial()
		v.hear("hello")
		v.say("CAPS")
		v.hear(`caps ["backend 1"]`)
	}
	if asked.Load() != 1 {
		t.Errorf("the backend was asked %d times", asked.Load())
	}
	// A backend that cannot be asked delays a dialogue only a little, and
	// clients hear the least.
	r = newRig(t, func(l *Listener) { l.Routes[0].Backend.Servers[0].Address, _ = silentAddress(t) })
	v := r.dial()
	v.hear("hello")
	v.say("CAPS")
	v.hear(`caps []`)
}

// Probes mark servers down and up.
func TestProbe(t *testing.T) {
	down, listen := silentAddress(t)
	r := newRig(t, func(l *Listener) {
		b := l.Routes[0].Backend
		b.Servers = append(b.Servers, Server{Address: down})
		b.Probe = &Probe{Interval: 10 * time.Millisecond}
	})
	r.logged("backend server is down", "server="+down)
	if up := r.metric("sallyport_backend_up", "server", down); up != 0 {
		t.Errorf("backend_up = %v", up)
	}
	order := r.g.listeners["front"].routes[0].backend.order(netip.MustParseAddr("192.0.2.1"))
	if order[0].Address == down || order[len(order)-1].Address != down {
		t.Error("a server that is down is not tried last")
	}
	ln := listen()
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "backend\r\n")
			c.Close()
		}
	}()
	r.logged("backend server is up", "server="+down)
}

// The N+1st client of a network is told in the protocol's words.
func TestLimits(t *testing.T) {
	for name, change := range map[string]func(*Limits){
		"connections":    func(l *Limits) { l.Connections = 2 },
		"pending":        func(l *Limits) { l.Pending = 2 },
		"per_ip":         func(l *Limits) { l.PerIP = 2 },
		"pending_per_ip": func(l *Limits) { l.PendingPerIP = 2 },
		"rate_per_ip":    func(l *Limits) { l.RatePerIP = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(l *Listener) { change(&l.Policy.Limits) })
			first := r.dial()
			first.hear("hello")
			r.dial().hear("hello")
			v := r.dial()
			v.hear("unavailable")
			v.end()
			r.logged("level=WARN", "a limit turns clients away", "limit="+name)
			if n := r.metric("sallyport_dialogue_rejected_total", "reason", "limit"); n != 1 {
				t.Errorf("limit rejections: %v", n)
			}
			if name == "rate_per_ip" {
				return
			}
			first.Close()
			for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				v := r.dial()
				if line, _ := v.in.ReadString('\n'); line == "hello\r\n" {
					break
				}
				if time.Now().After(end) {
					t.Fatal("the place of a client that left is never free")
				}
			}
		})
	}
}

// A joined session no longer counts as pending.
func TestPendingEnds(t *testing.T) {
	r := newRig(t, func(l *Listener) { l.Policy.Limits.Pending = 1 })
	for range 3 {
		v := r.startTLS(clientTLS())
		v.say("ping")
		v.hear("backend: ping")
	}
}

// A reload keeps open sessions and sockets, and one that fails keeps all.
func TestReload(t *testing.T) {
	r := newRig(t, nil)
	before := r.g.Addrs("front")[0].String()
	v := r.startTLS(clientTLS())
	v.say("one")
	v.hear("backend: one")

	changed := *r.cfg.Listeners[0]
	changed.Routes = []*Route{{Backend: &Backend{Name: "back", Servers: []Server{{Address: r.backend("backend2")}}}}}
	if err := r.g.Apply(&Config{Listeners: []*Listener{&changed}}); err != nil {
		t.Fatal(err)
	}
	if after := r.g.Addrs("front")[0].String(); after != before {
		t.Errorf("the socket moved from %s to %s", before, after)
	}
	v.say("two")
	v.hear("backend: two")
	v2 := r.startTLS(clientTLS())
	v2.say("three")
	v2.hear("backend2: three")

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	bad := changed
	bad.Addresses = []string{"127.0.0.1:0", "127.0.0.1:0", taken.Addr().String()}
	bad.Policy = &Policy{}
	err = r.g.Apply(&Config{Listeners: []*Listener{&bad}})
	if err == nil || !strings.Contains(err.Error(), "another process listens there") {
		t.Errorf("Apply: %v", err)
	}
	v2 = r.startTLS(clientTLS())
	v2.say("four")
	v2.hear("backend2: four")

	// A listener that goes is closed; its sessions stay.
	other := changed
	other.Name = "other"
	if err := r.g.Apply(&Config{Listeners: []*Listener{&other}}); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", before); err == nil {
		c.Close()
		t.Error("the socket of a listener that is gone still accepts")
	}
	v.say("five")
	v.hear("backend: five")
}

// Shutdown waits for sessions that end by themselves.
func TestDrain(t *testing.T) {
	r := newRig(t, nil)
	v := r.startTLS(clientTLS())
	done := make(chan error)
	go func() { done <- r.g.Shutdown(context.Background()) }()
	for r.g.Ready() == nil {
		time.Sleep(time.Millisecond)
	}
	v.say("still here")
	v.hear("backend: still here")
	select {
	case err := <-done:
		t.Fatalf("Shutdown did not wait: %v", err)
	default:
	}
	v.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Sessions that do not end are told to: in the protocol's words before TLS,
// by close_notify once opaque.
func TestDrainForced(t *testing.T) {
	r := newRig(t, func(l *Listener) { l.Policy.DrainTimeout = 50 * time.Millisecond })
	talking := r.dial()
	talking.hear("hello")
	opaque := r.startTLS(clientTLS())
	opaque.say("ping")
	opaque.hear("backend: ping")
	if err := r.g.Shutdown(context.Background()); !errors.Is(err, ErrForced) {
		t.Errorf("Shutdown: %v", err)
	}
	talking.hear("bye")
	if b, err := io.ReadAll(opaque.in); err != nil || len(b) > 0 {
		t.Errorf("an opaque stream ended with %q, %v; want close_notify", b, err)
	}
	r.logged("outcome=shutdown")
}

// A panic in a protocol ends its session and no other.
func TestPanic(t *testing.T) {
	r := newRig(t, func(l *Listener) {
		u := &toyUpgrader{}
		u.hook = func(s *upgraders.Session, line string) (upgraders.Handover, error) {
			if line == "PANIC" {
				panic("a bug")
			}
			return upgraders.Handover{}, nil
		}
		l.Upgrader = u
	})
	v := r.dial()
	v.hear("hello")
	v.say("PANIC")
	v.end()
	r.logged("a session panicked", "a bug", "session_test.go")
	r.logged("outcome=panic")
	r.dial().hear("hello")
}

// Without a certificate there is no handshake, and readiness says why.
func TestNotReady(t *testing.T) {
	r := newRig(t, func(l *Listener) { l.Certificates = oneCert{err: errors.New("no certificate yet")} })
	if err := r.g.Ready(); err == nil || !strings.Contains(err.Error(), `listener "front": no certificate yet`) {
		t.Errorf("Ready: %v", err)
	}
}

// An idle session ends, and both its sides are told.
func TestIdle(t *testing.T) {
	r := newRig(t, func(l *Listener) { l.Policy.IdleTimeout = 100 * time.Millisecond })
	v := r.startTLS(clientTLS())
	if _, err := io.ReadAll(v.in); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("idle end: %v", err)
	}
	r.logged("outcome=idle")
}

// A client that goes without close_notify has not finished: the backend sees
// a broken stream, not an end.
func TestTruncation(t *testing.T) {
	ends := make(chan error, 1)
	r := newRig(t, func(l *Listener) {
		l.Routes[0].Backend.Servers[0].Address = serve(t, func(c net.Conn) {
			io.WriteString(c, "backend\r\n")
			_, err := io.Copy(io.Discard, c)
			ends <- err
		})
	})
	v := r.startTLS(clientTLS())
	v.say("half of something")
	v.Conn.(*tls.Conn).NetConn().(*net.TCPConn).Close()
	if err := <-ends; err == nil {
		t.Error("the backend saw a clean end")
	}
	r.logged("outcome=client_gone")
}

// Which side broke a filtered session is told right.
func TestWhoBroke(t *testing.T) {
	for _, breaks := range []string{"client", "backend"} {
		r := newRig(t, func(l *Listener) {
			l.Upgrader = filtering{&toyUpgrader{}}
			l.Routes[0].Backend.Servers[0].Address = serve(t, func(c net.Conn) {
				io.WriteString(c, "backend\r\n")
				in := bufio.NewReader(c)
				line, _ := in.ReadString('\n')
				io.WriteString(c, line)
				if breaks == "backend" {
					in.ReadString('\n')
					c.(*net.TCPConn).SetLinger(0)
					return
				}
				io.Copy(io.Discard, c)
			})
		})
		v := r.startTLS(clientTLS())
		v.say("ping")
		v.hear("ping")
		if breaks == "client" {
			tcp := v.Conn.(*tls.Conn).NetConn().(*net.TCPConn)
			tcp.SetLinger(0)
			tcp.Close()
		} else {
			v.say("break")
			io.ReadAll(v.in)
			v.Close()
		}
		r.logged("outcome=" + breaks + "_gone")
	}
}
