package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/upgraders"
)

// implicit makes a rig whose listener begins with TLS.
func implicit(l *Listener) { l.Mode = Implicit }

// shake dials an implicit listener.
func (r *rig) shake(cfg *tls.Config) (*visit, error) {
	v := r.dial()
	return v, v.upgrade(cfg)
}

func wantAlert(t *testing.T, err error, alert uint8) {
	t.Helper()
	if want := "remote error: " + tls.AlertError(alert).Error(); err == nil || err.Error() != want {
		t.Errorf("handshake: %v; want %s", err, want)
	}
}

// T-01, T-02, RFC 7301, 3.2: no ALPN is fine, an id of the protocol is taken,
// any other ends the handshake.
func TestALPN(t *testing.T) {
	r := newRig(t, implicit)
	for _, protos := range [][]string{nil, {"toy"}, {"h2", "toy"}} {
		cfg := clientTLS()
		cfg.NextProtos = protos
		v, err := r.shake(cfg)
		if err != nil {
			t.Fatalf("ALPN %q: %v", protos, err)
		}
		v.say("ping")
		v.hear("backend: ping")
	}
	for _, protos := range [][]string{{"h2", "http/1.1"}, {"imap"}} {
		cfg := clientTLS()
		cfg.NextProtos = protos
		_, err := r.shake(cfg)
		wantAlert(t, err, alertNoApplicationProtocol)
	}
	// A protocol without an id takes none.
	r = newRig(t, func(l *Listener) { l.Mode = Implicit; l.Protocol.ALPN = nil })
	cfg := clientTLS()
	cfg.NextProtos = []string{"toy"}
	_, err := r.shake(cfg)
	wantAlert(t, err, alertNoApplicationProtocol)
	if _, err := r.shake(clientTLS()); err != nil {
		t.Error(err)
	}
}

// A protocol can demand ALPN, or forbid it.
func TestALPNRules(t *testing.T) {
	for rule, c := range map[upgraders.ALPNRule]struct{ good, bad []string }{
		upgraders.ALPNRequired:  {[]string{"toy"}, nil},
		upgraders.ALPNForbidden: {nil, []string{"toy"}},
	} {
		r := newRig(t, func(l *Listener) {
			u := &toyUpgrader{}
			u.hook = func(s *upgraders.Session, line string) (upgraders.Handover, error) {
				h := u.Implicit(s)
				h.Verdict, h.Reply, h.ALPN = upgraders.StartTLS, []byte("go\r\n"), rule
				return h, nil
			}
			l.Upgrader = u
		})
		for _, protos := range [][]string{c.good, c.bad} {
			v := r.dial()
			v.hear("hello")
			v.say("TLS")
			v.hear("go")
			cfg := clientTLS()
			cfg.NextProtos = protos
			err := v.upgrade(cfg)
			if len(protos) == len(c.good) {
				if err != nil {
					t.Errorf("rule %d, ALPN %q: %v", rule, protos, err)
				}
			} else {
				wantAlert(t, err, alertNoApplicationProtocol)
			}
		}
	}
}

// T-04: a name that no certificate covers gets the default certificate, or,
// with strict_sni, the alert.
func TestStrictSNI(t *testing.T) {
	cfg := clientTLS()
	cfg.ServerName = "stranger.example.org"
	cfg.InsecureSkipVerify = true
	if _, err := newRig(t, implicit).shake(cfg); err != nil {
		t.Error(err)
	}
	r := newRig(t, func(l *Listener) { l.Mode = Implicit; l.StrictSNI = true })
	_, err := r.shake(cfg)
	wantAlert(t, err, alertUnrecognizedName)
	cfg.ServerName = "a.wild.example.org"
	if _, err := r.shake(cfg); err != nil {
		t.Error(err)
	}
	cfg.ServerName = ""
	if _, err := r.shake(cfg); err != nil {
		t.Errorf("no SNI: %v", err)
	}
}

// T-05: what is no host name never gets as far as routes or logs.
func TestValidServerName(t *testing.T) {
	long := strings.Repeat("a.", 126) + "aa" // 254 bytes
	for name, want := range map[string]bool{
		"mx.example.org": true, "MX.Example.ORG": true, "a_b.example.org": true, "xn--bcher-kva.example": true, "localhost": true,
		long[2:]: true, long: false, "": false, ".": false, "mx.example.org.": false, "a..b": false, "192.0.2.1": false, "2001:db8::1": false,
		"a\x00b.example": false, "a b": false, "bücher.example": false, "a\r\nb": false, strings.Repeat("a", 64) + ".example": false,
	} {
		if got := validServerName(name); got != want {
			t.Errorf("validServerName(%q) = %v", name, got)
		}
	}
	r := newRig(t, implicit)
	cfg := clientTLS()
	cfg.InsecureSkipVerify = true
	cfg.ServerName = "a_b$c"
	_, err := r.shake(cfg)
	wantAlert(t, err, alertUnrecognizedName)
	if log := r.logged("outcome=handshake_failed"); strings.Contains(log, "a_b$c") {
		t.Errorf("the log repeats an invalid SNI: %s", log)
	}
}

// T-06, T-07: a ticket resumes on the listener, for the name and under the
// client-certificate policy that issued it, and nowhere else.
func TestTickets(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		ca := x509.NewCertPool()
		ca.AddCert(pki().ca)
		r := newRig(t, implicit)
		front := r.cfg.Listeners[0]
		other := *front
		other.Name = "second"
		asks := *front
		asks.Name = "asks"
		asks.TLS = &TLS{ClientAuth: &ClientAuth{CAs: ca, Identity: "ca1"}}
		if err := r.g.Apply(&Config{Listeners: []*Listener{front, &other, &asks}}); err != nil {
			t.Fatal(err)
		}
		cfg := clientTLS()
		cfg.MinVersion, cfg.MaxVersion = version, version
		cfg.ClientSessionCache = oneTicket{new(*tls.ClientSessionState)}
		visit := func(listener, name string) bool {
			t.Helper()
			c := cfg.Clone()
			c.ServerName = name
			conn, err := tls.Dial("tcp", r.g.Addrs(listener)[0].String(), c)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, "ping\r\n")
			conn.Read(make([]byte, 100)) // the ticket comes before it
			return conn.ConnectionState().DidResume
		}
		expect := func(want bool, listener, name string) {
			t.Helper()
			if got := visit(listener, name); got != want {
				t.Errorf("%s: resumed at %s for %s: %v", tls.VersionName(version), listener, name, got)
			}
		}
		expect(false, "front", "gw.example.org")
		expect(true, "front", "gw.example.org")
		expect(false, "front", "other.example.org")
		expect(false, "second", "other.example.org")
		expect(true, "second", "other.example.org")
		expect(false, "asks", "other.example.org")
		expect(true, "asks", "other.example.org")

		// The CAs change: what was issued under the old ones is void.
		asks2 := asks
		asks2.TLS = &TLS{ClientAuth: &ClientAuth{CAs: ca, Identity: "ca2"}}
		if err := r.g.Apply(&Config{Listeners: []*Listener{front, &other, &asks2}}); err != nil {
			t.Fatal(err)
		}
		expect(false, "asks", "other.example.org")
		expect(true, "asks", "other.example.org")
	}
}

// oneTicket offers the last ticket to every server.
type oneTicket struct{ last **tls.ClientSessionState }

func (o oneTicket) Get(string) (*tls.ClientSessionState, bool)    { return *o.last, *o.last != nil }
func (o oneTicket) Put(key string, state *tls.ClientSessionState) { *o.last = state }

// A verified client certificate makes a session authenticated; none, where
// one is asked for only, makes it encrypted; none, where one is required, ends
// the handshake.
func TestClientAuth(t *testing.T) {
	ca := x509.NewCertPool()
	ca.AddCert(pki().ca)
	for _, require := range []bool{false, true} {
		r := newRig(t, func(l *Listener) {
			l.Mode = Implicit
			l.TLS = &TLS{ClientAuth: &ClientAuth{Require: require, CAs: ca}}
		})
		cfg := clientTLS()
		cfg.Certificates = []tls.Certificate{*pki().issue("partner.example.org")}
		v, err := r.shake(cfg)
		if err != nil {
			t.Fatal(err)
		}
		v.say("ping")
		v.hear("backend: ping")
		v.Close()
		r.logged("security=authenticated", "outcome=ok")

		v, err = r.shake(clientTLS())
		if err == nil {
			io.WriteString(v, "ping\r\n")
			_, err = v.in.ReadString('\n') // TLS 1.3 tells it late
		}
		if require == (err == nil) {
			t.Errorf("require %v, no certificate: %v", require, err)
		}
		v.Close()
		if !require {
			r.logged("security=encrypted", "outcome=ok")
		}
	}
}

// T-08: nothing below TLS 1.2, and nothing without forward secrecy.
func TestOldTLS(t *testing.T) {
	r := newRig(t, implicit)
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		cfg := clientTLS()
		cfg.MinVersion, cfg.MaxVersion = version, version
		if _, err := r.shake(cfg); err == nil {
			t.Errorf("%s is taken", tls.VersionName(version))
		}
	}
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if strings.HasPrefix(suite.Name, "TLS_ECDHE_") && !suite.Insecure || suite.SupportedVersions[0] == tls.VersionTLS13 {
			continue
		}
		cfg := clientTLS()
		cfg.MaxVersion = tls.VersionTLS12
		cfg.CipherSuites = []uint16{suite.ID}
		if _, err := r.shake(cfg); err == nil {
			t.Errorf("%s is taken", suite.Name)
		}
	}
}

// G-17: a command on an implicit port relays nothing.
func TestCleartextOnImplicit(t *testing.T) {
	r := newRig(t, implicit)
	v := r.dial()
	v.say("ping")
	b, _ := io.ReadAll(v.in)
	if len(b) > 0 && b[0] != 21 {
		t.Errorf("a command on an implicit port is answered %q", b)
	}
	r.logged("outcome=handshake_failed", "does not speak TLS here")
}

// T-11: a ClientHello may come a byte at a time, and in many records.
func TestSlicedHello(t *testing.T) {
	r := newRig(t, implicit)
	v := r.dial()
	v.Conn = slowConn{v.Conn}
	if err := v.upgrade(clientTLS()); err != nil {
		t.Fatal(err)
	}
	v.say("ping")
	v.hear("backend: ping")
}

// slowConn writes each byte by itself.
type slowConn struct{ net.Conn }

func (c slowConn) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}
