package gateway

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// zone is a DNS server on loopback with one name in it.
type zone struct {
	mu    sync.Mutex
	name  string
	addrs []netip.Addr // none: SERVFAIL
	addr  string
}

func newZone(t *testing.T, name string) *zone {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{name: name, addr: pc.LocalAddr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply, ok := z.answer(buf[:n]); ok {
				pc.WriteTo(reply, from)
			}
		}
	})
	t.Cleanup(func() { pc.Close(); wg.Wait() })
	return z
}

func (z *zone) set(addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.addrs = nil
	for _, a := range addrs {
		z.addrs = append(z.addrs, netip.MustParseAddr(a))
	}
}

func (z *zone) answer(query []byte) ([]byte, bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, false
	}
	q, err := p.Question()
	if err != nil {
		return nil, false
	}
	h.Response, h.RCode = true, dnsmessage.RCodeSuccess
	if len(z.addrs) == 0 || q.Name.String() != z.name+"." {
		h.RCode = dnsmessage.RCodeServerFailure
	}
	b := dnsmessage.NewBuilder(nil, h)
	b.StartQuestions()
	b.Question(q)
	b.StartAnswers()
	for _, a := range z.addrs {
		if q.Type == dnsmessage.TypeA && a.Is4() {
			b.AResource(dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}, dnsmessage.AResource{A: a.As4()})
		}
	}
	reply, err := b.Finish()
	return reply, err == nil
}

// A name with several addresses is several servers; they come and go with DNS,
// keep their counts, and outlive a look-up that fails.
func TestResolve(t *testing.T) {
	z := newZone(t, "mail.example.org")
	z.set("127.0.0.3", "127.0.0.2")
	r := newRig(t, nil)
	_, port, _ := net.SplitHostPort(r.cfg.Listeners[0].Routes[0].Backend.Servers[0].Address)
	l := *r.cfg.Listeners[0]
	l.Routes = []*Route{{Backend: &Backend{Name: "named", Resolve: 10 * time.Millisecond, Servers: []Server{{Address: "mail.example.org:" + port}, {Address: "127.0.0.1:" + port}}}}}
	if err := r.g.Apply(&Config{Listeners: []*Listener{&l}, Resolver: z.addr}); err != nil {
		t.Fatal(err)
	}
	b := r.g.listeners["front"].routes[0].backend
	wait := func(want ...string) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			var got []string
			for _, sv := range b.servers() {
				host, _, _ := net.SplitHostPort(sv.Address)
				got = append(got, host)
			}
			if slices.Equal(got, want) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("servers %v, want %v", got, want)
			}
		}
	}
	wait("127.0.0.2", "127.0.0.3", "127.0.0.1")
	kept := b.servers()[1]
	z.set("127.0.0.3", "127.0.0.4")
	wait("127.0.0.3", "127.0.0.4", "127.0.0.1")
	if b.servers()[0] != kept {
		t.Error("a server that stays is a new one")
	}
	z.set()
	r.logged("backend server cannot be looked up", "server=mail.example.org:"+port)
	wait("127.0.0.3", "127.0.0.4", "127.0.0.1")
	z.set("127.0.0.1")
	r.logged("backend server is looked up again")
	wait("127.0.0.1", "127.0.0.1")

	v := r.startTLS(clientTLS())
	v.say("ping")
	v.hear("backend: ping")
}
