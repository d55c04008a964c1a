package gateway

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"sync/atomic"
	"testing"
)

// fakeRing holds what a test says.
type fakeRing struct {
	generation atomic.Uint64
	now        atomic.Pointer[secrets]
}

type secrets struct {
	seal []byte
	open [][]byte
}

var _ TicketRing = (*fakeRing)(nil)

func (r *fakeRing) Secrets() (uint64, []byte, [][]byte) {
	s := r.now.Load()
	return r.generation.Load(), s.seal, s.open
}

func (r *fakeRing) set(seal []byte, open ...[]byte) {
	r.now.Store(&secrets{seal, open})
	r.generation.Add(1)
}

func secret(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func sharing(seal []byte, open ...[]byte) *fakeRing {
	r := &fakeRing{}
	r.set(seal, open...)
	return r
}

// A ticketHolder is one client that visits gateways and offers each the last
// ticket that it was given.
type ticketHolder struct {
	t   *testing.T
	cfg *tls.Config
}

func newTicketHolder(t *testing.T, version uint16) *ticketHolder {
	cfg := clientTLS()
	cfg.MinVersion, cfg.MaxVersion = version, version
	cfg.ClientSessionCache = oneTicket{new(*tls.ClientSessionState)}
	return &ticketHolder{t, cfg}
}

// visit reports whether the ticket was taken; keep keeps the ticket whatever
// the gateway gives.
func (h *ticketHolder) visit(r *rig, listener, name string, keep bool) bool {
	h.t.Helper()
	c := h.cfg.Clone()
	c.ServerName = name
	if keep {
		last := *c.ClientSessionCache.(oneTicket).last
		c.ClientSessionCache = oneTicket{&last}
	}
	conn, err := tls.Dial("tcp", r.g.Addrs(listener)[0].String(), c)
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "ping\r\n")
	conn.Read(make([]byte, 100)) // the ticket comes before it
	return conn.ConnectionState().DidResume
}

// With a ring, a ticket of TLS 1.3 is good at another gateway and after a
// restart; without one it is not, and in TLS 1.2 it never is.
func TestSharedTickets(t *testing.T) {
	for _, c := range []struct {
		version uint16
		shared  bool
	}{{tls.VersionTLS13, true}, {tls.VersionTLS13, false}, {tls.VersionTLS12, true}} {
		ring := sharing(secret(1))
		gateway := func() *rig {
			return newRig(t, func(l *Listener) {
				l.Mode = Implicit
				if c.shared {
					l.TLS = &TLS{Name: "shared", Tickets: ring}
				}
			})
		}
		first, second := gateway(), gateway()
		h := newTicketHolder(t, c.version)
		if h.visit(first, "front", "gw.example.org", false) {
			t.Error("resumed without a ticket")
		}
		if got, want := h.visit(second, "front", "gw.example.org", true), c.shared && c.version == tls.VersionTLS13; got != want {
			t.Errorf("%s, shared %v: resumed at another gateway: %v", tls.VersionName(c.version), c.shared, got)
		}
		if !h.visit(first, "front", "gw.example.org", true) {
			t.Errorf("%s: not resumed where the ticket is from", tls.VersionName(c.version))
		}
	}
}

// T-06, T-07: though all gateways have the same secrets, a ticket is good for
// its listener, protocol, tls block, client authorities and name only, and so
// is one whose keys would be the same: what it is bound to stands in it too.
func TestSharedTicketsAreBound(t *testing.T) {
	ca := x509.NewCertPool()
	ca.AddCert(pki().ca)
	ring := sharing(secret(1))
	shared := func(change func(l *Listener)) *rig {
		return newRig(t, func(l *Listener) {
			l.Mode = Implicit
			l.TLS = &TLS{Name: "shared", Tickets: ring, ClientAuth: &ClientAuth{CAs: ca, Identity: "request:1"}}
			if change != nil {
				change(l)
			}
		})
	}
	home := shared(nil)
	h := newTicketHolder(t, tls.VersionTLS13)
	h.cfg.Certificates = []tls.Certificate{*pki().issue("partner.example.org")}
	h.visit(home, "front", "gw.example.org", false)

	for what, change := range map[string]func(l *Listener){
		"another listener": func(l *Listener) { l.Name = "other" },
		"another protocol": func(l *Listener) { p := *l.Protocol; p.Name = "toys"; l.Protocol = &p },
		"other client authorities": func(l *Listener) {
			l.TLS.ClientAuth = &ClientAuth{CAs: ca, Identity: "request:2"}
		},
		"client certificates required":  func(l *Listener) { l.TLS.ClientAuth = &ClientAuth{CAs: ca, Require: true, Identity: "require:1"} },
		"no client certificates":        func(l *Listener) { l.TLS.ClientAuth = nil },
		"another tls block":             func(l *Listener) { l.TLS.Name = "more" },
		"a higher version":              func(l *Listener) { l.TLS.MinVersion = tls.VersionTLS13 },
		"no shared tickets":             func(l *Listener) { l.TLS.Tickets = nil },
		"the secrets of somebody else":  func(l *Listener) { l.TLS.Tickets = sharing(secret(2)) },
		"no secrets at all":             func(l *Listener) { l.TLS.Tickets = sharing(nil) },
		"a route with a tls of its own": func(l *Listener) { b := *l.TLS; b.Name = "route"; l.Routes[0].TLS = &b },
	} {
		r := shared(change)
		for name := range r.g.listeners {
			if h.visit(r, name, "gw.example.org", true) {
				t.Errorf("%s: resumed", what)
			}
		}
	}
	if h.visit(shared(nil), "front", "other.example.org", true) {
		t.Error("another name: resumed")
	}
	// The control of all these: the same again is resumed, and the client is
	// still who it was.
	r := shared(nil)
	if !h.visit(r, "front", "gw.example.org", true) {
		t.Error("the same listener elsewhere: not resumed")
	}
	r.logged("security=authenticated", "resumed=true")
}

// T-07: who was authenticated by an authority that is trusted no longer is not
// resumed, though nothing that the ticket is bound to tells it.
func TestSharedTicketOfRemovedAuthority(t *testing.T) {
	ring := sharing(secret(1))
	gateway := func(cas *x509.CertPool) *rig {
		return newRig(t, func(l *Listener) {
			l.Mode = Implicit
			l.TLS = &TLS{Name: "shared", Tickets: ring, ClientAuth: &ClientAuth{CAs: cas, Identity: "the same"}}
		})
	}
	ca := x509.NewCertPool()
	ca.AddCert(pki().ca)
	h := newTicketHolder(t, tls.VersionTLS13)
	h.cfg.Certificates = []tls.Certificate{*pki().issue("partner.example.org")}
	h.visit(gateway(ca), "front", "gw.example.org", false)
	h.cfg.Certificates = nil
	if !h.visit(gateway(ca), "front", "gw.example.org", true) {
		t.Error("not resumed while the authority is trusted")
	}
	if h.visit(gateway(x509.NewCertPool()), "front", "gw.example.org", true) {
		t.Error("resumed by a certificate that nobody trusts any more")
	}
}

// Secrets change while the gateway runs: what was sealed with one that still
// opens resumes, what was sealed with one that is gone does not, and where
// there is none to seal with, the gateway resumes its own with a key in memory,
// before and after.
func TestTicketSecretsChange(t *testing.T) {
	ring := sharing(secret(1))
	r := newRig(t, func(l *Listener) { l.Mode = Implicit; l.TLS = &TLS{Tickets: ring} })
	old := newTicketHolder(t, tls.VersionTLS13)
	old.visit(r, "front", "gw.example.org", false)
	expect := func(want bool, h *ticketHolder, when string) {
		t.Helper()
		if got := h.visit(r, "front", "gw.example.org", true); got != want {
			t.Errorf("%s: resumed: %v", when, got)
		}
	}
	ring.set(secret(2), secret(1))
	expect(true, old, "after a rotation")
	ring.set(nil, secret(1))
	expect(true, old, "with nothing to seal with")

	own := newTicketHolder(t, tls.VersionTLS13)
	own.visit(r, "front", "gw.example.org", false)
	expect(true, own, "sealed in memory")
	ring.set(secret(2))
	expect(false, old, "after its secret has gone")
	expect(true, own, "sealed in memory, after secrets came")

	// A reload keeps both.
	fresh := newTicketHolder(t, tls.VersionTLS13)
	fresh.visit(r, "front", "gw.example.org", false)
	again := *r.cfg.Listeners[0]
	if err := r.g.Apply(&Config{Listeners: []*Listener{&again}}); err != nil {
		t.Fatal(err)
	}
	expect(true, own, "sealed in memory, after a reload")
	expect(true, fresh, "after a reload")
}
