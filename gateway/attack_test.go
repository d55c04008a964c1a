package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A backend that takes no bytes holds no session longer than stall_timeout,
// opaque or filtered.
func TestBackendStalls(t *testing.T) {
	for name, u := range map[string]upgraders.Upgrader{
		"opaque":   &toyUpgrader{},
		"filtered": filtering{&toyUpgrader{}},
	} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			r := newRig(t, func(l *Listener) {
				l.Upgrader = u
				l.Policy.StallTimeout = 200 * time.Millisecond
				l.Routes[0].Backend.Servers[0].Address = serve(t, func(c net.Conn) {
					io.WriteString(c, "backend\r\n")
					<-release
				})
			})
			defer close(release)
			v := r.startTLS(clientTLS())
			go func() {
				for b := make([]byte, 64<<10); ; {
					if _, err := v.Conn.Write(b); err != nil {
						return
					}
				}
			}()
			r.logged("outcome=stalled")
		})
	}
}

// filtering copies up and down by itself, as a filter does.
type filtering struct{ *toyUpgrader }

func (u filtering) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	h, err := u.toyUpgrader.Upgrade(ctx, s)
	h.Converse = func(ctx context.Context, l *upgraders.Link) error {
		copies := func(to, from *wire.Conn) func() error {
			return func() error {
				_, err := io.Copy(to, from)
				if err == nil {
					err = io.EOF
				}
				return err
			}
		}
		return wire.Duplex(l.Client, l.Backend, copies(l.Backend, l.Client), copies(l.Client, l.Backend))
	}
	return h, err
}

// What a client puts into its hello or its certificate is not for the log: no
// ALPN id that is none of ours, and no more of anything than a line can hold.
func TestClientWordsStayOutOfTheLog(t *testing.T) {
	r := newRig(t, implicit)
	cfg := clientTLS()
	for i := range 100 {
		cfg.NextProtos = append(cfg.NextProtos, fmt.Sprintf("evil%03d\x1b[31m%s", i, strings.Repeat("x", 200)))
	}
	_, err := r.shake(cfg)
	wantAlert(t, err, alertNoApplicationProtocol)
	if line := r.logged("outcome=handshake_failed"); strings.Contains(line, "evil") {
		t.Errorf("the log repeats the ALPN of a client: %.300s", line)
	}

	// A certificate of nobody's, with a name as long as names get.
	ca := x509.NewCertPool()
	ca.AddCert(pki().ca)
	r = newRig(t, func(l *Listener) { l.Mode = Implicit; l.TLS = &TLS{ClientAuth: &ClientAuth{CAs: ca}} })
	stranger := newPKI().issue(strings.Repeat("evil", 4000))
	cfg = clientTLS()
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return stranger, nil }
	if v, err := r.shake(cfg); err == nil {
		io.ReadAll(v.in)
	}
	if line := r.logged("outcome=handshake_failed", "client="); len(line) > 1500 {
		t.Errorf("a client's certificate makes a log line of %d bytes", len(line))
	}
}

// A client that is not let in for want of a certificate is told so, though it
// has already sent more: a reset would take the alert away (RFC 8446, 6.2).
func TestAlertArrives(t *testing.T) {
	ca := x509.NewCertPool()
	ca.AddCert(pki().ca)
	r := newRig(t, func(l *Listener) { l.Mode = Implicit; l.TLS = &TLS{ClientAuth: &ClientAuth{Require: true, CAs: ca}} })
	for range 20 {
		v, err := r.shake(clientTLS())
		if err != nil {
			t.Fatal(err) // in TLS 1.3 the client is through first
		}
		for range 3 {
			io.WriteString(v, strings.Repeat("x", 4000))
		}
		_, err = io.ReadAll(v.in)
		if err == nil || !strings.Contains(err.Error(), "certificate required") {
			t.Fatalf("heard %v instead of the alert", err)
		}
		below := v.Conn.(*tls.Conn).NetConn()
		if _, err := below.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("after the alert comes %v", err) // on other systems, instead of it
		}
		v.Close()
	}
}

// T-06, CVE-2025-23419: who goes without TLS, where that is allowed, does not
// get around a client certificate that is required.
func TestCleartextAndClientAuth(t *testing.T) {
	ca := x509.NewCertPool()
	ca.AddCert(pki().ca)
	var dialled atomic.Int32
	r := newRig(t, func(l *Listener) {
		l.Cleartext = true
		l.TLS = &TLS{ClientAuth: &ClientAuth{Require: true, CAs: ca}}
		l.Routes[0].Backend.Servers[0].Address = serve(t, func(c net.Conn) { dialled.Add(1); io.WriteString(c, "backend\r\n"); io.Copy(c, c) })
	})
	v := r.dial()
	v.hear("hello")
	v.say("PLAIN")
	v.hear("unavailable")
	v.end()
	r.logged("outcome=no_route", "client certificate")
	if dialled.Load() != 0 {
		t.Error("the backend was dialled")
	}
}

// A protocol that goes on without TLS where the listener requires it reaches no
// backend: the policy is the gateway's to keep.
func TestCleartextIsTheListenersToAllow(t *testing.T) {
	r := newRig(t, func(l *Listener) { l.Cleartext = false })
	v := r.dial()
	v.hear("hello")
	v.say("PLAIN")
	v.hear("unavailable")
	v.end()
	r.logged("outcome=no_route", "requires TLS")
}

// T-06: a name that is only said inside TLS leads to no route whose TLS is
// another than the one that was agreed on: SNI of the one, Host of the other.
func TestHostAndClientAuth(t *testing.T) {
	ca := x509.NewCertPool()
	ca.AddCert(pki().ca)
	for name, demand := range map[string]*TLS{
		"certificate": {ClientAuth: &ClientAuth{Require: true, CAs: ca}},
		"asked":       {ClientAuth: &ClientAuth{CAs: ca}},
		"version":     {MinVersion: tls.VersionTLS13},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			l := r.cfg.Listeners[0]
			l.Mode = Implicit
			l.Upgrader = hostUpgrader{&toyUpgrader{}}
			open := *l.Routes[0]
			open.SNI = []string{"gw.example.org"}
			closed := &Route{Host: []string{"secret.example.org"}, SNI: []string{"other.example.org"}, TLS: demand,
				Backend: &Backend{Name: "secret", Servers: []Server{{Address: r.backend("backend of secrets")}}}}
			l.Routes = []*Route{closed, &open}
			if err := r.g.Apply(r.cfg); err != nil {
				t.Fatal(err)
			}
			cfg := clientTLS()
			cfg.MaxVersion = tls.VersionTLS12
			v, err := r.shake(cfg)
			if err != nil {
				t.Fatal(err)
			}
			v.say("secret.example.org", "ping")
			v.hear("unavailable")
			v.Close()
			r.logged("outcome=no_route")

			cfg.MaxVersion = 0
			cfg.ServerName = "other.example.org"
			cfg.Certificates = []tls.Certificate{*pki().issue("partner.example.org")}
			if v, err = r.shake(cfg); err != nil {
				t.Fatal(err)
			}
			v.say("secret.example.org", "ping")
			v.hear("backend of secrets: ping")
		})
	}
}

// hostUpgrader hears inside TLS which host is meant.
type hostUpgrader struct{ *toyUpgrader }

func (u hostUpgrader) Implicit(s *upgraders.Session) upgraders.Handover {
	h := u.toyUpgrader.Implicit(s)
	h.Accept = func(ctx context.Context, c *wire.Conn) (upgraders.Route, error) {
		line, err := c.ReadLine(100)
		return upgraders.Route{Host: string(line)}, err
	}
	return h
}

// max_connections holds however many clients come at once, and across reloads.
func TestMaxConnections(t *testing.T) {
	var open, most atomic.Int32
	address := serve(t, func(c net.Conn) {
		n := open.Add(1)
		defer open.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(20 * time.Millisecond)
		io.WriteString(c, "backend\r\n")
		io.Copy(c, c)
	})
	for _, limit := range []Backend{
		{Name: "back", Servers: []Server{{Address: address, MaxConnections: 2}}},
		{Name: "back", Servers: []Server{{Address: address}}, MaxConnections: 2},
	} {
		most.Store(0)
		r := newRig(t, func(l *Listener) { l.Routes[0].Backend = &limit })
		var wg sync.WaitGroup
		for range 20 {
			v := r.dial()
			v.hear("hello")
			wg.Go(func() {
				v.say("PLAIN", "ping")
				v.in.ReadString('\n')
			})
		}
		wg.Wait()
		if n := most.Load(); n != 2 {
			t.Errorf("%d connections at once with max_connections = 2", n)
		}
		changed := limit
		changed.Balance = LeastConn
		r.cfg.Listeners[0].Routes[0].Backend = &changed
		if err := r.g.Apply(r.cfg); err != nil {
			t.Fatal(err)
		}
		v := r.dial()
		v.hear("hello")
		v.say("PLAIN")
		v.hear("unavailable")
		v.Close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r.g.Shutdown(ctx)
		for end := time.Now().Add(10 * time.Second); open.Load() > 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
}

// A reload in which a backend stays as it is forgets nothing that was learned
// of it, though its authorities were read anew.
func TestReloadKeepsWhatWasLearned(t *testing.T) {
	configured := func(hostname string) *Backend {
		pool := x509.NewCertPool()
		pool.AddCert(pki().ca)
		return &Backend{Name: "back", Servers: []Server{{Address: "127.0.0.1:1"}}, TLS: &BackendTLS{Mode: Implicit, CAs: pool, ServerName: hostname}}
	}
	r := newRig(t, func(l *Listener) { l.Routes[0].Backend = configured("a.example.org") })
	now := func() *backend { return r.g.listeners["front"].routes[0].backend }
	before := now()
	apply := func(b *Backend) {
		t.Helper()
		l := *r.cfg.Listeners[0]
		l.Routes = []*Route{{Backend: b}}
		r.cfg = &Config{Listeners: []*Listener{&l}}
		if err := r.g.Apply(r.cfg); err != nil {
			t.Fatal(err)
		}
	}
	apply(configured("a.example.org"))
	if now() != before {
		t.Error("a backend that stays as it is was made anew")
	}
	apply(configured("b.example.org"))
	if now() == before {
		t.Error("a backend that changed was kept")
	}
	changed := configured("b.example.org")
	changed.TLS.CAs = x509.NewCertPool()
	before = now()
	apply(changed)
	if now() == before {
		t.Error("a backend with other authorities was kept")
	}
	before = now()
	renamed := *r.cfg.Listeners[0]
	renamed.Hostname = "renamed.example.org"
	if err := r.g.Apply(&Config{Listeners: []*Listener{&renamed}}); err != nil {
		t.Fatal(err)
	}
	if now() == before {
		t.Error("a backend that is to hear another hostname was kept")
	}
}

// The series of a server that a reload took out of its backend goes with it:
// an alert on sallyport_backend_up would never end.
func TestReloadForgetsServers(t *testing.T) {
	old := serve(t, func(c net.Conn) { io.WriteString(c, "backend\r\n") })
	kept := serve(t, func(c net.Conn) { io.WriteString(c, "backend\r\n") })
	config := func(servers ...string) *Backend {
		b := &Backend{Name: "back", Probe: &Probe{Interval: time.Hour}}
		for _, s := range servers {
			b.Servers = append(b.Servers, Server{Address: s})
		}
		return b
	}
	r := newRig(t, func(l *Listener) { l.Routes[0].Backend = config(old, kept) })
	if n := r.metric("sallyport_backend_up"); n != 2 {
		t.Fatalf("servers that are up: %v", n)
	}
	l := *r.cfg.Listeners[0]
	l.Routes = []*Route{{Backend: config(kept)}}
	if err := r.g.Apply(&Config{Listeners: []*Listener{&l}}); err != nil {
		t.Fatal(err)
	}
	if r.metric("sallyport_backend_up", "server", old) != 0 || r.metric("sallyport_backend_up", "server", kept) != 1 {
		t.Error("the series of servers do not follow the configuration")
	}
}

// A backend whose answer makes a probe panic is one that does not serve, and
// ends neither the gateway nor its sessions.
func TestProbePanics(t *testing.T) {
	r := newRig(t, func(l *Listener) {
		l.Protocol.Probe = func(context.Context, *upgraders.Link) (upgraders.Capabilities, error) {
			var lines []string
			return upgraders.Capabilities{lines[0]}, nil
		}
		l.Routes[0].Backend.Probe = &Probe{Interval: 10 * time.Millisecond}
	})
	r.logged("backend server is down", "panic")
	v := r.startTLS(clientTLS())
	v.say("ping")
	v.hear("backend: ping")
}

// One address cannot be two listeners', whoever had it before.
func TestAddressOfTwo(t *testing.T) {
	g := New(Options{Listen: func(string) (net.Listener, error) { return Listen("127.0.0.1:0") }})
	defer g.Shutdown(t.Context())
	one := *newRig(t, nil).cfg.Listeners[0]
	one.Addresses = []string{"192.0.2.2:25"}
	if err := g.Apply(&Config{Listeners: []*Listener{&one}}); err != nil {
		t.Fatal(err)
	}
	two := one
	two.Name = "two"
	if err := g.Apply(&Config{Listeners: []*Listener{&one, &two}}); err == nil || !strings.Contains(err.Error(), `"two"`) {
		t.Errorf("Apply: %v", err)
	}
}

// Reloads that swap backends, addresses and limits under clients who come and
// go at every step leave nobody unserved, nothing counted and nothing behind.
func TestReloadStorm(t *testing.T) {
	r := newRig(t, func(l *Listener) {
		l.Policy.Limits = Limits{Connections: 1000, Pending: 1000, PerIP: 1000, PendingPerIP: 1000, RatePerIP: 1e6}
		l.Routes[0].Backend.Probe = &Probe{Interval: time.Millisecond}
	})
	var configs []*Config
	for i := range 4 {
		l := *r.cfg.Listeners[0]
		b := *l.Routes[0].Backend
		b.MaxConnections = 500 + i%2
		l.Routes = []*Route{{Backend: &b}}
		p := *l.Policy
		p.Limits.RatePerIP += float64(i)
		l.Policy = &p
		cfg := &Config{Listeners: []*Listener{&l}}
		if i%2 == 0 {
			more := l
			more.Name = fmt.Sprintf("more%d", i)
			cfg.Listeners = append(cfg.Listeners, &more)
		}
		configs = append(configs, cfg)
	}
	address := r.g.Addrs("front")[0].String()
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var served, unserved atomic.Int32
	for i := range 8 {
		clients.Go(func() {
			for step := i; ; step++ {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				c.SetDeadline(time.Now().Add(20 * time.Second))
				v := &visit{t, c, bufio.NewReader(c)}
				said := func(line string) bool {
					got, err := v.in.ReadString('\n')
					return err == nil && got == line+"\r\n"
				}
				ok := said("hello")
				if ok && step%4 > 0 {
					io.WriteString(c, "TLS\r\n")
					ok = said("go")
				}
				if ok && step%4 > 1 {
					ok = v.upgrade(clientTLS()) == nil
				}
				if ok && step%4 > 2 {
					io.WriteString(v, "ping\r\n")
					ok = said("backend: ping")
					served.Add(1)
				}
				if !ok {
					unserved.Add(1)
				}
				c.Close()
			}
		})
	}
	for end, i := time.Now().Add(500*time.Millisecond), 0; time.Now().Before(end); i++ {
		if err := r.g.Apply(configs[i%len(configs)]); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	clients.Wait()
	if unserved.Load() > 0 || served.Load() == 0 {
		t.Errorf("%d served, %d not", served.Load(), unserved.Load())
	}
	if err := r.g.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	for name, l := range r.g.listeners {
		if m := l.limits; m.active != 0 || m.pending != 0 {
			t.Errorf("%s: %d active and %d pending are left", name, m.active, m.pending)
		}
		for _, rt := range l.routes {
			if n := rt.backend.active.Load(); n != 0 {
				t.Errorf("%s: %d connections to the backend are left", name, n)
			}
		}
	}
}
