package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// toy is the smallest protocol that has everything: the server greets with
// "hello", TLS asks for TLS, PLAIN goes on without, LEAVE leaves.
func toy() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name: "toy", Keyword: "TLS", ServerFirst: true, ALPN: []string{"toy"},
		Greeting: []byte("backend, greeted\r\n"),
		Request: func(ctx context.Context, c *wire.Conn, _ string) error {
			if _, err := c.ReadLine(100); err != nil {
				return err
			}
			io.WriteString(c, "TLS\r\n")
			if line, err := c.ReadLine(100); err != nil || string(line) != "go" {
				return fmt.Errorf("%w: %q, %v", upgraders.ErrNotOffered, line, err)
			}
			return nil
		},
		Probe: func(ctx context.Context, l *upgraders.Link) (upgraders.Capabilities, error) {
			line, err := l.Backend.ReadLine(100)
			return upgraders.Capabilities{string(line)}, err
		},
	}
}

type toyUpgrader struct {
	early  bool
	accept string // the host that Accept names
	join   func(context.Context, *upgraders.Link) error
	hook   func(s *upgraders.Session, line string) (upgraders.Handover, error)
}

func (u *toyUpgrader) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	if u.early {
		if err := s.Backend(ctx, u.hear); err != nil {
			return upgraders.Handover{Reply: []byte("no backend\r\n")}, err
		}
	}
	io.WriteString(s.Conn, "hello\r\n")
	for {
		line, err := s.Conn.ReadLine(100)
		if err != nil {
			return upgraders.Handover{Reply: []byte("bye\r\n")}, err
		}
		if u.hook != nil {
			if h, err := u.hook(s, string(line)); h.Verdict != upgraders.HangUp || err != nil {
				return h, err
			}
		}
		switch string(line) {
		case "TLS":
			h := u.Implicit(s)
			h.Verdict, h.Reply, h.Injected = upgraders.StartTLS, []byte("go\r\n"), []byte("no\r\n")
			return h, nil
		case "PLAIN":
			h := u.Implicit(s)
			h.Verdict = upgraders.Cleartext
			return h, nil
		case "CAPS":
			fmt.Fprintf(s.Conn, "caps %q\r\n", s.Capabilities(ctx))
		case "LEAVE":
			return upgraders.Handover{Reply: []byte("farewell\r\n")}, upgraders.ErrQuit
		default:
			io.WriteString(s.Conn, "what?\r\n")
		}
	}
}

// hear takes the backend's greeting.
func (u *toyUpgrader) hear(backend *wire.Conn) error {
	line, err := backend.ReadLine(100)
	if err != nil {
		return &upgraders.Refusal{Reply: err.Error()}
	}
	if !strings.HasPrefix(string(line), "backend") {
		return &upgraders.Refusal{Reply: string(line)}
	}
	return nil
}

func (u *toyUpgrader) Implicit(*upgraders.Session) upgraders.Handover {
	return upgraders.Handover{
		Accept: func(context.Context, *wire.Conn) (upgraders.Route, error) {
			return upgraders.Route{Host: u.accept}, nil
		},
		Join: func(ctx context.Context, l *upgraders.Link) error {
			if u.join != nil {
				return u.join(ctx, l)
			}
			if u.early {
				return nil
			}
			return u.hear(l.Backend)
		},
		Unavailable: func(ctx context.Context, c *wire.Conn, cause error) error {
			_, err := io.WriteString(c, "unavailable\r\n")
			return err
		},
	}
}

var _ upgraders.Upgrader = (*toyUpgrader)(nil)

// pki is a CA that is made once a test run.
var pki = sync.OnceValue(newPKI)

func newPKI() *testPKI {
	p := &testPKI{pool: x509.NewCertPool()}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, _ := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	p.ca, _ = x509.ParseCertificate(der)
	p.key = key
	p.pool.AddCert(p.ca)
	return p
}

type testPKI struct {
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func (p *testPKI) issue(names ...string) *tls.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, p.ca, &key.PublicKey, p.key)
	if err != nil {
		panic(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// oneCert serves one certificate for its names, and by default.
type oneCert struct {
	cert *tls.Certificate
	err  error
}

func (o oneCert) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, bool, error) {
	if o.err != nil {
		return nil, false, o.err
	}
	return o.cert, o.cert.Leaf.VerifyHostname(hello.ServerName) == nil, nil
}

func (o oneCert) Ready() error { return o.err }

var _ Certificates = oneCert{}

// a rig is a gateway with one toy listener and echoing backends.
type rig struct {
	*testing.T
	g   *Gateway
	cfg *Config
	reg *prometheus.Registry
	log *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newRig(t *testing.T, change func(l *Listener)) *rig {
	t.Helper()
	r := &rig{T: t, reg: prometheus.NewRegistry(), log: &syncBuffer{}}
	policy := NewPolicy()
	policy.Limits.RatePerIP = 0
	policy.Limits.PendingPerIP = 0
	l := &Listener{
		Name: "front", Protocol: toy(), Upgrader: &toyUpgrader{}, Addresses: []string{"127.0.0.1:0"}, Mode: StartTLS, Cleartext: true, Hostname: "gw.example.org",
		Certificates: oneCert{cert: pki().issue("gw.example.org", "other.example.org", "*.wild.example.org")}, Policy: policy, TLS: &TLS{},
		Routes: []*Route{{Backend: &Backend{Name: "back", Servers: []Server{{Address: r.backend("backend")}}}}},
	}
	if change != nil {
		change(l)
	}
	r.cfg = &Config{Listeners: []*Listener{l}}
	r.g = New(Options{Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Metrics: NewMetrics(r.reg)})
	if err := r.g.Apply(r.cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		r.g.Shutdown(ctx)
		if t.Failed() {
			t.Log(r.log.String())
		}
	})
	return r
}

// serve runs f on each connection to a new loopback listener.
func serve(t *testing.T, f func(c net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() { defer c.Close(); f(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// backend greets with name, then echoes lines with it in front.
func (r *rig) backend(name string) string {
	return serve(r.T, func(c net.Conn) {
		fmt.Fprintf(c, "%s\r\n", name)
		for in := bufio.NewReader(c); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(c, name+": "+line)
		}
	})
}

// a visit is one client connection.
type visit struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func (r *rig) dial() *visit {
	r.Helper()
	c, err := net.Dial("tcp", r.g.Addrs("front")[0].String())
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &visit{r.T, c, bufio.NewReader(c)}
}

func (v *visit) say(lines ...string) {
	v.t.Helper()
	if _, err := io.WriteString(v, strings.Join(lines, "\r\n")+"\r\n"); err != nil {
		v.t.Fatal(err)
	}
}

func (v *visit) hear(want string) {
	v.t.Helper()
	line, err := v.in.ReadString('\n')
	if got := strings.TrimRight(line, "\r\n"); err != nil || got != want {
		v.t.Fatalf("heard %q, %v; want %q", got, err, want)
	}
}

// end demands the end of the stream, with nothing before it, and leaves.
func (v *visit) end() {
	v.t.Helper()
	defer v.Close()
	if b, err := io.ReadAll(v.in); len(b) > 0 || errors.Is(err, context.DeadlineExceeded) || err != nil && strings.Contains(err.Error(), "timeout") {
		v.t.Fatalf("heard %q, %v; want the end", b, err)
	}
}

func clientTLS() *tls.Config { return &tls.Config{RootCAs: pki().pool, ServerName: "gw.example.org"} }

func (v *visit) upgrade(cfg *tls.Config) error {
	c := tls.Client(v.Conn, cfg)
	if err := c.Handshake(); err != nil {
		return err
	}
	v.Conn, v.in = c, bufio.NewReader(c)
	return nil
}

// startTLS goes through the dialogue and the handshake.
func (r *rig) startTLS(cfg *tls.Config) *visit {
	r.Helper()
	v := r.dial()
	v.hear("hello")
	v.say("TLS")
	v.hear("go")
	if err := v.upgrade(cfg); err != nil {
		r.Fatal(err)
	}
	return v
}

// logged waits for a log line that has all the words.
func (r *rig) logged(words ...string) string {
	r.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
	lines:
		for line := range strings.Lines(r.log.String()) {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue lines
				}
			}
			return line
		}
		if time.Now().After(end) {
			r.Fatalf("no log line with %q", words)
		}
	}
}

// metric sums the samples of a name whose labels have all the pairs.
func (r *rig) metric(name string, pairs ...string) float64 {
	r.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	samples:
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			for i := 0; i < len(pairs); i += 2 {
				if labels[pairs[i]] != pairs[i+1] {
					continue samples
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}
