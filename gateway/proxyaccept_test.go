package gateway

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pires/go-proxyproto"

	"github.com/sallyport/sallyport/internal/wire"
)

func behindBalancer(from string) func(*Listener) {
	return func(l *Listener) { l.Policy.ProxyFrom = []netip.Prefix{netip.MustParsePrefix(from)} }
}

func header(version byte, command proxyproto.ProtocolVersionAndCommand, source string) string {
	h := &proxyproto.Header{Version: version, Command: command, TransportProtocol: proxyproto.TCPv4,
		SourceAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(source)), DestinationAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:25"))}
	b, err := h.Format()
	if err != nil {
		panic(err)
	}
	return string(b)
}

// A trusted balancer's header says who the client is, in both versions, for
// logs, limits and the backend; LOCAL and connect-and-close are no rejections.
func TestProxyAccepted(t *testing.T) {
	for _, h := range []string{
		header(1, proxyproto.PROXY, "198.51.100.7:4711"),
		header(2, proxyproto.PROXY, "198.51.100.7:4711"),
	} {
		r := newRig(t, behindBalancer("127.0.0.0/8"))
		v := r.dial()
		io.WriteString(v, h)
		v.hear("hello")
		v.say("PLAIN", "ping")
		v.hear("backend: ping")
		v.Close()
		r.logged("msg=session", "client=198.51.100.7:4711", "outcome=ok")

		v = r.dial()
		for i := range h { // and a byte at a time
			io.WriteString(v, h[i:i+1])
		}
		v.hear("hello")
	}
	r := newRig(t, behindBalancer("127.0.0.0/8"))
	r.dial().Close()
	r.logged("outcome=connect_only")
	for _, h := range []string{header(2, proxyproto.LOCAL, "198.51.100.7:4711"), "PROXY UNKNOWN\r\n"} {
		v := r.dial()
		io.WriteString(v, h)
		v.hear("hello")
		v.say("LEAVE")
		v.hear("farewell")
		v.Close()
		r.logged("client=127.0.0.1:", "outcome=left")
	}
	v := r.dial()
	io.WriteString(v, header(2, proxyproto.LOCAL, "198.51.100.7:4711"))
	v.hear("hello")
	v.Close()
	r.logged("outcome=connect_only", "bytes_in=28")
	if n := r.metric("sallyport_dialogue_rejected_total"); n != 0 {
		t.Errorf("%v rejections", n)
	}
}

// Limits count the client behind the balancer, not the balancer.
func TestProxyLimits(t *testing.T) {
	r := newRig(t, func(l *Listener) { behindBalancer("127.0.0.1/32")(l); l.Policy.Limits.PerIP = 1 })
	for _, client := range []string{"198.51.100.1:1", "198.51.100.2:1"} {
		v := r.dial()
		io.WriteString(v, header(2, proxyproto.PROXY, client))
		v.hear("hello")
	}
	v := r.dial()
	io.WriteString(v, header(2, proxyproto.PROXY, "198.51.100.2:2"))
	v.hear("unavailable")
}

// Who is trusted must send a header, and who is not must not connect: neither
// can choose the address that the backend is told.
func TestProxyRefused(t *testing.T) {
	good := header(2, proxyproto.PROXY, "198.51.100.7:4711")
	for name, c := range map[string]struct{ from, send string }{
		"no header":  {"127.0.0.0/8", "TLS\r\n"},
		"no end":     {"127.0.0.0/8", "PROXY TCP4 " + strings.Repeat("1", 200)},
		"broken v1":  {"127.0.0.0/8", "PROXY TCP4 a b c d\r\n"},
		"broken v2":  {"127.0.0.0/8", good[:12] + "\x21\xff\x00\x0c" + good[16:]},
		"huge v2":    {"127.0.0.0/8", good[:14] + "\xff\xff" + good[16:]},
		"not v2":     {"127.0.0.0/8", "\r\n\r\nTLS\r\nTLS\r\nTLS\r\n"},
		"a stranger": {"10.0.0.0/8", good},
	} {
		r := newRig(t, behindBalancer(c.from))
		v := r.dial()
		io.WriteString(v, c.send)
		v.end()
		if line := r.logged("outcome=rejected", "reason=proxy"); strings.Contains(line, "198.51.100.7") {
			t.Errorf("%s: the log has the forged address: %s", name, line)
		}
	}
	// G-27: without trust a header is bad input.
	r := newRig(t, nil)
	v := r.dial()
	v.hear("hello")
	io.WriteString(v, header(1, proxyproto.PROXY, "198.51.100.7:4711"))
	v.hear("what?")
	io.WriteString(v, header(2, proxyproto.PROXY, "198.51.100.7:4711"))
	v.hear("what?")
	v.hear("what?")
	v.hear("bye")
	v.Close()
	if line := r.logged("msg=session", "reason=nul"); strings.Contains(line, "198.51.100.7") {
		t.Errorf("the log has the forged address: %s", line)
	}
}

// What a header of ours says, a header that is read says again; and no input
// makes more than an error.
func FuzzProxyHeader(f *testing.F) {
	f.Add(header(1, proxyproto.PROXY, "198.51.100.7:4711"))
	f.Add(header(2, proxyproto.PROXY, "198.51.100.7:4711"))
	f.Add(header(2, proxyproto.LOCAL, "198.51.100.7:4711"))
	f.Add("PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := readProxyHeader(wire.NewConn(&scripted{Reader: strings.NewReader(s)}))
		if err != nil {
			return
		}
		b, err := h.Format()
		if err != nil {
			return
		}
		again, err := readProxyHeader(wire.NewConn(&scripted{Reader: strings.NewReader(string(b))}))
		if err != nil {
			t.Fatalf("%q reads, %q does not: %v", s, b, err)
		}
		if !h.EqualTo(again) {
			t.Error(cmp.Diff(h, again))
		}
	})
}

// scripted is a connection that only reads.
type scripted struct {
	net.Conn
	io.Reader
}

func (s *scripted) Read(p []byte) (int, error) { return s.Reader.Read(p) }

// auto: the first byte decides; who waits for the greeting gets it, in clear.
func TestAuto(t *testing.T) {
	r := newRig(t, func(l *Listener) { l.Mode = Auto; l.AutoWait = 50 * time.Millisecond })
	v, err := r.shake(clientTLS())
	if err != nil {
		t.Fatal(err)
	}
	v.say("ping")
	v.hear("backend: ping")

	v = r.startTLS(clientTLS())
	v.say("ping")
	v.hear("backend: ping")

	// A ClientHello that comes after the greeting ends with the cause.
	v = r.dial()
	v.hear("hello")
	io.WriteString(v, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
	v.hear("bye")
	v.Close()
	r.logged("outcome=rejected", "reason=client_hello")

	// A client that talks first is heard, and nobody is guessed to be gone.
	v = r.dial()
	v.say("what now")
	v.hear("hello")
	v.hear("what?")

	r.dial().Close()
	r.logged("outcome=connect_only")
}

// auto, where clients speak first: there is nothing to wait for.
func TestAutoClientFirst(t *testing.T) {
	r := newRig(t, func(l *Listener) { l.Mode = Auto; l.Protocol.ServerFirst = false })
	if _, err := r.shake(clientTLS()); err != nil {
		t.Fatal(err)
	}
	v := r.dial()
	v.say("PLAIN")
	v.hear("hello")
}

// The servers of a backend share sessions as the balance says.
func TestBalance(t *testing.T) {
	client := netip.MustParseAddr("192.0.2.7")
	pool := func(balance Balance, servers ...Server) *backend {
		return newBackend(&Backend{Balance: balance, Servers: servers}, toy(), "gw", New(Options{}), nil)
	}
	first := func(b *backend, n int) map[string]int {
		got := map[string]int{}
		for i := range n {
			got[b.order(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))[0].Address]++
		}
		return got
	}
	b := pool(RoundRobin, Server{Address: "a"}, Server{Address: "b", Weight: 3}, Server{Address: "c", Backup: true})
	if got := first(b, 40); got["a"] != 10 || got["b"] != 30 {
		t.Errorf("round_robin: %v", got)
	}
	if order := b.order(client); order[2].Address != "c" {
		t.Error("a backup is not tried last")
	}
	b.servers()[0].down.Store(true)
	b.servers()[1].down.Store(true)
	if order := b.order(client); order[0].Address != "c" || len(order) != 3 {
		t.Error("a backup does not stand in for servers that are down")
	}

	b = pool(LeastConn, Server{Address: "a"}, Server{Address: "b"}, Server{Address: "c", Weight: 4})
	b.servers()[0].active.Store(3)
	b.servers()[1].active.Store(2)
	b.servers()[2].active.Store(4)
	var order []string
	for _, sv := range b.order(client) {
		order = append(order, sv.Address)
	}
	if !slices.Equal(order, []string{"c", "b", "a"}) {
		t.Errorf("least_conn: %v", order)
	}

	b = pool(Source, Server{Address: "a"}, Server{Address: "b"}, Server{Address: "c"})
	due := b.order(client)[0]
	for range 10 {
		if b.order(client)[0] != due {
			t.Error("source: a client changes its server")
		}
	}
	if got := first(b, 256); len(got) != 3 || got["a"] < 40 || got["b"] < 40 || got["c"] < 40 {
		t.Errorf("source: %v", got)
	}
	v6 := func(s string) string { return b.order(netip.MustParseAddr(s))[0].Address }
	if v6("2001:db8::1") != v6("2001:db8::ffff") {
		t.Error("source: one subscriber's IPv6 addresses have several servers")
	}

	b = pool(RoundRobin, Server{Address: "a", MaxConnections: 1}, Server{Address: "b"})
	b.count(b.servers()[0], 1)
	if order := b.order(client); len(order) != 1 || order[0].Address != "b" {
		t.Error("max_connections of a server is not kept")
	}
	b.cfg.MaxConnections = 1
	if b.order(client) != nil {
		t.Error("max_connections of a backend is not kept")
	}
}
