package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// asked answers for one name, as long as there is a question about it.
type asked struct {
	name  string
	cert  *tls.Certificate
	calls atomic.Int32
}

func newAsked(t *testing.T, name string) *asked {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := asn1.Marshal(make([]byte, 32))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}, Critical: true, Value: digest}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &asked{name: name, cert: &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
}

func (a *asked) ChallengeCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.calls.Add(1)
	if hello.ServerName != a.name {
		return nil, errors.New("nobody asks about this name")
	}
	return a.cert, nil
}

var _ Challenger = (*asked)(nil)

// authority is the hello of one that validates a name.
func authority(name string) *tls.Config {
	return &tls.Config{ServerName: name, NextProtos: []string{acmeTLS}, InsecureSkipVerify: true}
}

// untouched makes a listener whose backend and dialogue must not be reached.
func untouched(t *testing.T, change func(l *Listener)) (*rig, func()) {
	var reached atomic.Int32
	r := newRig(t, func(l *Listener) {
		l.Mode = Implicit
		l.Routes[0].Backend.Servers[0].Address = serve(t, func(net.Conn) { reached.Add(1) })
		l.Upgrader = &toyUpgrader{hook: func(*upgraders.Session, string) (upgraders.Handover, error) {
			reached.Add(1)
			return upgraders.Handover{}, nil
		}}
		change(l)
	})
	return r, func() {
		t.Helper()
		if n := reached.Load(); n != 0 {
			t.Errorf("a challenge has reached backend or dialogue %d times", n)
		}
	}
}

// W-01: who offers acme-tls/1 alone gets the certificate of the challenge and
// the end of the connection. What it says after the handshake reaches nobody,
// nor does a backend hear of it; the log calls it what it is.
func TestChallenge(t *testing.T) {
	for _, mode := range []Mode{Implicit, Auto} {
		t.Run(string(mode), func(t *testing.T) {
			a := newAsked(t, "mx.example.org")
			r, unreached := untouched(t, func(l *Listener) {
				l.Mode, l.AutoWait, l.Challenges = mode, 5*time.Second, a
			})
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				cfg := authority("mx.example.org")
				cfg.MinVersion, cfg.MaxVersion = version, version
				cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
				v := r.dial()
				if err := v.upgrade(cfg); err != nil {
					t.Fatal(err)
				}
				state := v.Conn.(*tls.Conn).ConnectionState()
				if state.NegotiatedProtocol != acmeTLS {
					t.Errorf("negotiated %q", state.NegotiatedProtocol)
				}
				if got := state.PeerCertificates[0].Raw; string(got) != string(a.cert.Certificate[0]) {
					t.Error("another certificate than the challenge's")
				}
				io.WriteString(v, "TLS\r\nLEAVE\r\nping\r\n")
				if b, err := io.ReadAll(v.in); len(b) > 0 || err != nil {
					t.Errorf("a challenge is answered %q, %v; want close_notify", b, err)
				}
				v.Close()
				if _, ok := cfg.ClientSessionCache.Get("mx.example.org"); ok {
					t.Error("a challenge gets a ticket")
				}
			}
			line := r.logged("outcome=challenge", "sni=mx.example.org", "level=INFO")
			if strings.Contains(line, "backend=") {
				t.Errorf("a challenge has a backend: %s", line)
			}
			for end := time.Now().Add(10 * time.Second); r.metric("sallyport_sessions_total", "outcome", "challenge") != 2; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("challenges are not counted")
				}
			}
			unreached()
		})
	}
}

// W-02: a challenge for a name that nobody asks about, for none, or for what is
// no name, ends in the handshake; the certificates that are served are not
// shown for it, nor is the challenge's own.
func TestChallengeForOthers(t *testing.T) {
	for name, sni := range map[string]string{
		"served": "gw.example.org", "not served": "other.example.net", "none": "", "address": "192.0.2.1", "path": "../mx.example.org", "pattern": "*.wild.example.org",
	} {
		t.Run(name, func(t *testing.T) {
			a := newAsked(t, "mx.example.org")
			r, unreached := untouched(t, func(l *Listener) { l.Challenges = a })
			hello := clientHello(t, authority(""))
			if sni != "" {
				hello = withExtension(hello, 0, serverNameList(sni))
			}
			v := r.dial()
			v.Write(hello)
			if b, _ := io.ReadAll(v.in); !bytes.Equal(b, []byte{21, 3, 3, 0, 2, 2, alertUnrecognizedName}) {
				t.Errorf("answered % x, want unrecognized_name", b)
			}
			v.Close()
			r.logged("outcome=handshake_failed", "challenge")
			if !validServerName(sni) && a.calls.Load() > 0 {
				t.Error("what is no host name is asked about")
			}
			unreached()
		})
	}
}

// serverNameList is the extension of RFC 6066, 3.
func serverNameList(name string) []byte {
	n := len(name)
	return append([]byte{byte((n + 3) >> 8), byte(n + 3), 0, byte(n >> 8), byte(n)}, name...)
}

// W-03: acme-tls/1 beside other ids is no challenge (RFC 8737, 3). With an id
// of the protocol it is a session like any other; without one it is a mismatch.
func TestMixedALPNIsNoChallenge(t *testing.T) {
	a := newAsked(t, "gw.example.org")
	r := newRig(t, func(l *Listener) { l.Mode, l.Challenges = Implicit, a })
	for _, offer := range [][]string{{acmeTLS, "toy"}, {"toy", acmeTLS}} {
		cfg := clientTLS()
		cfg.NextProtos = offer
		v := r.dial()
		if err := v.upgrade(cfg); err != nil {
			t.Fatal(err)
		}
		v.say("ping")
		v.hear("backend: ping")
		if got := v.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != "toy" {
			t.Errorf("%q: negotiated %q", offer, got)
		}
	}
	for _, offer := range [][]string{{acmeTLS, "http/1.1"}, {acmeTLS, acmeTLS}, {"ACME-TLS/1"}} {
		cfg := authority("gw.example.org")
		cfg.NextProtos = offer
		err := r.dial().upgrade(cfg)
		if err == nil || !strings.Contains(err.Error(), "no application protocol") {
			t.Errorf("%q: the handshake ends with %v", offer, err)
		}
	}
	if n := a.calls.Load(); n != 0 {
		t.Errorf("%d of them were taken for challenges", n)
	}
}

// W-04: where TLS was asked for in words, or nobody answers challenges,
// acme-tls/1 is an id of another protocol.
func TestChallengeElsewhere(t *testing.T) {
	refused := func(t *testing.T, v *visit) {
		t.Helper()
		if err := v.upgrade(authority("gw.example.org")); err == nil || !strings.Contains(err.Error(), "no application protocol") {
			t.Errorf("the handshake ends with %v", err)
		}
		v.Close()
	}
	for _, mode := range []Mode{StartTLS, Auto} {
		t.Run("asked for in words, "+string(mode), func(t *testing.T) {
			a := newAsked(t, "gw.example.org")
			r := newRig(t, func(l *Listener) { l.Mode, l.AutoWait, l.Challenges = mode, time.Millisecond, a })
			v := r.dial()
			v.hear("hello")
			v.say("TLS")
			v.hear("go")
			refused(t, v)
			if n := a.calls.Load(); n != 0 {
				t.Errorf("%d challenges", n)
			}
			r.logged("outcome=handshake_failed")
		})
	}
	t.Run("nobody answers", func(t *testing.T) {
		r := newRig(t, implicit)
		refused(t, r.dial())
	})
}

// W-05: client certificates, strict SNI and what else a listener demands of
// clients are not asked of authorities, and a challenge opens no session that
// could be without them.
func TestChallengePassesPolicy(t *testing.T) {
	ca := x509.NewCertPool()
	ca.AddCert(pki().ca)
	r, unreached := untouched(t, func(l *Listener) {
		l.Challenges, l.StrictSNI = newAsked(t, "new.example.org"), true
		l.TLS = &TLS{MinVersion: tls.VersionTLS13, ClientAuth: &ClientAuth{Require: true, CAs: ca, Identity: "x"}}
		l.Certificates = oneCert{err: errors.New("none yet")}
	})
	cfg := authority("new.example.org")
	cfg.MaxVersion = tls.VersionTLS12
	v := r.dial()
	if err := v.upgrade(cfg); err != nil {
		t.Fatal(err)
	}
	v.end()
	r.logged("outcome=challenge", "security=encrypted")
	unreached()
}

// An answer that does not come ends with the handshake's time, and holds
// nobody else up.
func TestChallengeBlocks(t *testing.T) {
	r, unreached := untouched(t, func(l *Listener) {
		l.Challenges, l.Policy.HandshakeTimeout = blocked{}, 100*time.Millisecond
	})
	begin := time.Now()
	if err := r.dial().upgrade(authority("mx.example.org")); err == nil {
		t.Error("answered out of nothing")
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	r.logged("outcome=handshake_failed")
	unreached()
}

// blocked waits for a store that does not answer.
type blocked struct{}

func (blocked) ChallengeCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	<-hello.Context().Done()
	return nil, hello.Context().Err()
}

var _ Challenger = blocked{}

// pager is the smallest protocol whose pages are the gateway's own: a line is a
// path.
type pager struct{}

func (p pager) Upgrade(_ context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	h := p.Implicit(s)
	h.Verdict = upgraders.Cleartext
	return h, nil
}

func (pager) Implicit(s *upgraders.Session) upgraders.Handover {
	return upgraders.Handover{Serve: func(ctx context.Context, client net.Conn, d upgraders.Dialer) error {
		if d != nil {
			return errors.New("a dialer without a backend")
		}
		c := wire.NewConn(client)
		for {
			line, err := c.ReadLine(100)
			if err != nil {
				return err
			}
			answer := httptest.NewRecorder()
			s.Listener.Pages.ServeHTTP(answer, httptest.NewRequestWithContext(ctx, "GET", string(line), nil))
			if _, err := io.WriteString(client, answer.Body.String()+"\r\n"); err != nil || string(line) == "/last" {
				return err
			}
		}
	}}
}

var _ upgraders.Upgrader = pager{}

// pages makes a listener a pager's.
func pages(l *Listener) {
	l.Mode, l.Routes, l.Upgrader = Auto, nil, pager{}
	l.Protocol = &upgraders.Protocol{Name: "pager", Pages: true, ALPN: []string{"pager"}}
	l.Pages = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "page "+r.URL.Path) })
}

// A listener without a backend serves pages in cleartext and in TLS, as the
// first byte says, answers challenges beside them, and takes part in nothing
// that is about backends.
func TestPages(t *testing.T) {
	a := newAsked(t, "mx.example.org")
	r := newRig(t, func(l *Listener) { pages(l); l.Challenges = a })
	v := r.dial()
	v.say("/a", "/last")
	v.hear("page /a")
	v.hear("page /last")
	v.end()
	r.logged("outcome=ok", "security=cleartext")
	v = r.dial()
	if err := v.upgrade(clientTLS()); err != nil {
		t.Fatal(err)
	}
	v.say("/b", "/last")
	v.hear("page /b")
	v.hear("page /last")
	v.end()
	r.logged("outcome=ok", "security=encrypted")
	v = r.dial()
	if err := v.upgrade(authority("mx.example.org")); err != nil {
		t.Fatal(err)
	}
	v.end()
	r.logged("outcome=challenge")
	if clients := r.g.Clients(); len(clients) > 0 {
		t.Errorf("a stricter policy would break %v", clients)
	}
}

// Nobody stays at a page: the time of a dialogue is all there is, in TLS too,
// and byte by byte, and all that time the client is pending.
func TestPagesDeadline(t *testing.T) {
	for _, inTLS := range []bool{false, true} {
		t.Run(fmt.Sprint("in TLS ", inTLS), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(l *Listener) {
				pages(l)
				l.Policy.Dialogue.Timeout, l.Policy.Limits.PendingPerIP = 3*time.Second, 1
			})
			v := r.dial()
			security := "security=cleartext"
			if inTLS {
				security = "security=encrypted"
				if err := v.upgrade(clientTLS()); err != nil {
					t.Fatal(err)
				}
			}
			v.say("/a")
			v.hear("page /a")
			second := r.dial()
			second.end() // it may not even speak
			for {
				if _, err := io.WriteString(v, "x"); err != nil {
					if errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error("it stays")
					}
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			v.Close()
			r.logged("reason=timeout", security)
			r.logged("reason=limit", "pending_per_ip")
		})
	}
}

// What cannot be is refused before anything is bound.
func TestPagesConfig(t *testing.T) {
	for why, change := range map[string]func(l *Listener){
		"a route":       func(l *Listener) { r := l.Routes; pages(l); l.Routes = r },
		"implicit only": func(l *Listener) { pages(l); l.Mode = Implicit },
		"starttls":      func(l *Listener) { pages(l); l.Mode = StartTLS },
	} {
		t.Run(why, func(t *testing.T) {
			r := newRig(t, nil)
			l := *r.cfg.Listeners[0]
			change(&l)
			if err := r.g.Apply(&Config{Listeners: []*Listener{&l}}); err == nil || !strings.Contains(err.Error(), "served by the gateway itself") {
				t.Errorf("error = %v", err)
			}
		})
	}
}
