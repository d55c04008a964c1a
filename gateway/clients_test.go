package gateway

import (
	"crypto/tls"
	"net/netip"
	"testing"
)

// Whom a stricter policy would break is told by network; who has nothing
// stricter before it is not.
func TestClients(t *testing.T) {
	r := newRig(t, func(l *Listener) {
		l.Protocol.Implicit = []uint16{1}
		l.TLS = &TLS{MinVersion: tls.VersionTLS10}
	})
	second := *r.cfg.Listeners[0]
	second.Name, second.Mode = "second", Implicit
	if err := r.g.Apply(&Config{Listeners: []*Listener{r.cfg.Listeners[0], &second}}); err != nil {
		t.Fatal(err)
	}
	finish := func(v *visit) { v.say("ping"); v.hear("backend: ping"); v.Close() }
	for range 3 {
		v := r.dial()
		v.hear("hello")
		v.say("PLAIN")
		finish(v)
	}
	old := clientTLS()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS10
	finish(r.startTLS(old))
	finish(r.startTLS(clientTLS()))
	finish(r.startTLS(clientTLS()))
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := clientTLS()
		cfg.MaxVersion = version
		c, err := tls.Dial("tcp", r.g.Addrs("second")[0].String(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("ping\r\n"))
		c.Read(make([]byte, 100))
		c.Close()
	}
	type row struct {
		listener, by, version string
		sessions              uint64
	}
	var got []row
	for _, c := range r.g.Clients() {
		got = append(got, row{c.Listener, c.By, c.Version, c.Sessions})
		if c.Network.String() != "127.0.0.0/24" || c.Example.String() != "127.0.0.1" || c.Protocol != "toy" || c.Last.IsZero() {
			t.Errorf("%+v", c)
		}
	}
	want := []row{
		{"front", "cleartext", "", 3},
		{"front", "starttls", "TLSv1.3", 2},
		{"front", "starttls", "TLSv1", 1},
		{"second", "implicit", "TLSv1.2", 1},
	}
	if len(got) != len(want) {
		t.Fatalf("%v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("row %d: %v, want %v", i, got[i], want[i])
		}
	}
}

// The tally is bounded, whatever addresses come.
func TestClientsBound(t *testing.T) {
	r := newRig(t, nil)
	l := r.g.listeners["front"]
	for i := range maxClientNetworks + 10 {
		s := &session{l: l, client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 1)}
		s.tally()
	}
	list := r.g.Clients()
	if len(list) > maxClientNetworks+1 || list[0].Network.IsValid() || list[0].Sessions != 10 {
		t.Errorf("%d rows, the first %+v", len(list), list[0])
	}
}
