package acme_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/certs/acme"
	"github.com/sallyport/sallyport/certs/acme/acmetest"
	"github.com/sallyport/sallyport/certs/store"
)

// A world is an authority, a store, and the doors at which challenges are
// answered.
type world struct {
	*acmetest.Authority
	t     *testing.T
	store store.Store
	dir   string
	log   *logBuffer

	mu     sync.Mutex
	answer *acme.Authority // who answers challenges
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newWorld(t *testing.T, o acmetest.Options) *world {
	t.Helper()
	w := &world{t: t, log: new(logBuffer)}
	w.dir = filepath.Join(t.TempDir(), "acme")
	w.store = store.Open(w.dir)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	o.TLSPort = ln.Addr().(*net.TCPAddr).Port
	go w.serveTLS(ln)
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.HTTPPort = web.Addr().(*net.TCPAddr).Port
	srv := &http.Server{Handler: http.HandlerFunc(w.serveHTTP)}
	t.Cleanup(func() { srv.Close() })
	go srv.Serve(web)
	w.Authority = acmetest.Start(t, o)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", w.log)
		}
	})
	return w
}

func (w *world) answering() *acme.Authority {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.answer
}

func (w *world) answers(a *acme.Authority) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = a
}

func (w *world) serveTLS(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			tls.Server(conn, &tls.Config{
				NextProtos: []string{acme.ALPN},
				GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
					a := w.answering()
					if a == nil {
						return nil, acme.ErrNoChallenge
					}
					return a.ChallengeCertificate(hello)
				},
			}).Handshake()
		}()
	}
}

func (w *world) serveHTTP(rw http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.URL.Path, "/.well-known/acme-challenge/")
	a := w.answering()
	if !ok || a == nil {
		http.NotFound(rw, r)
		return
	}
	data, err := a.ChallengeResponse(r.Context(), r.Host, token)
	if err != nil {
		http.NotFound(rw, r)
		return
	}
	rw.Write(data)
}

func (w *world) config() acme.Config {
	return acme.Config{Name: "pebble", Directory: w.Directory, Email: "hostmaster@example.org", AcceptTOS: true, CAs: w.CAs, Store: w.store}
}

// authority returns a new process's authority, which answers challenges.
func (w *world) authority(change ...func(*acme.Config)) *acme.Authority {
	cfg := w.config()
	for _, f := range change {
		f(&cfg)
	}
	a := acme.New(cfg)
	w.answers(a)
	return a
}

func (w *world) logger() *slog.Logger { return slog.New(slog.NewTextHandler(w.log, nil)) }

// keep runs Keep until the test ends, or the returned stop.
func (w *world) keep(s *acme.Source) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Keep(ctx, w.logger().With("certificate", s.Name()))
	}()
	stop = func() { cancel(); <-done }
	w.t.Cleanup(stop)
	return stop
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			w.t.Fatalf("never: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func issued(s *acme.Source) bool {
	st := s.Status()
	return st.Certificate != nil && !st.StandIn
}

// trusted fails when clients that trust the authority would not take what is
// served for a name.
func (w *world) trusted(s *acme.Source, name string) {
	w.t.Helper()
	cert, err := s.Certificate()
	if err != nil {
		w.t.Fatal(err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go tls.Server(a, &tls.Config{Certificates: []tls.Certificate{*cert}}).Handshake()
	if err := tls.Client(b, &tls.Config{RootCAs: w.Roots(w.t), ServerName: name}).Handshake(); err != nil {
		w.t.Error(err)
	}
}

func order(label string, names ...string) acme.Order { return acme.Order{Label: label, Names: names} }

// A certificate is issued by either challenge, trusted, and there after a
// restart without asking the authority.
func TestIssue(t *testing.T) {
	w := newWorld(t, acmetest.Options{})
	for i, challenge := range []string{acme.TLSALPN01, acme.HTTP01} {
		t.Run(challenge, func(t *testing.T) {
			w.t = t
			name := fmt.Sprintf("mail%d.example.org", i)
			only := func(c *acme.Config) { c.Challenges = []string{challenge} }
			s := w.authority(only).Source(order(challenge, name))
			if _, err := s.Certificate(); err == nil || !strings.HasPrefix(err.Error(), "not issued yet: ") {
				t.Errorf("before: %v", err)
			}
			stop := w.keep(s)
			w.eventually("a certificate", func() bool { return issued(s) })
			w.trusted(s, name)
			cert, _ := s.Certificate()
			stop()
			orders := w.Orders()

			again := w.authority(only).Source(order(challenge, name))
			w.Break(acmetest.Down)
			defer w.Break(nil)
			w.keep(again)
			w.eventually("the certificate of the store", func() bool { return issued(again) })
			if c, _ := again.Certificate(); !c.Leaf.Equal(cert.Leaf) {
				t.Error("another certificate after a restart")
			}
			if w.Orders() != orders {
				t.Error("a restart made an order")
			}
		})
	}
}
