package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// serving is a toy that answers its clients itself.
type serving struct {
	*toyUpgrader
	serve func(ctx context.Context, s *upgraders.Session, client net.Conn, d upgraders.Dialer) error
}

func (u serving) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	h, err := u.toyUpgrader.Upgrade(ctx, s)
	h.Serve = func(ctx context.Context, client net.Conn, d upgraders.Dialer) error {
		return u.serve(ctx, s, client, d)
	}
	return h, err
}

func serveRig(t *testing.T, change func(l *Listener), serve func(ctx context.Context, s *upgraders.Session, client net.Conn, d upgraders.Dialer) error) *rig {
	return newRig(t, func(l *Listener) {
		l.Upgrader = serving{&toyUpgrader{}, serve}
		if change != nil {
			change(l)
		}
	})
}

// A session that is served is idle when neither the client nor what was
// dialled for it moves a byte, and not before.
func TestServeIdle(t *testing.T) {
	const idle = 300 * time.Millisecond
	r := serveRig(t, func(l *Listener) {
		l.Policy.IdleTimeout = idle
		l.Routes[0].Backend.Servers[0].Address = serve(t, func(c net.Conn) {
			for range 5 {
				time.Sleep(idle / 3)
				io.WriteString(c, "tick\r\n")
			}
			io.Copy(io.Discard, c)
		})
	}, func(ctx context.Context, s *upgraders.Session, client net.Conn, d upgraders.Dialer) error {
		leg, err := d.Dial(ctx, "")
		if err != nil {
			return err
		}
		began := time.Now()
		ticks := make(chan int)
		go func() {
			n := 0
			for in := bufio.NewReader(leg); ; n++ {
				if _, err := in.ReadString('\n'); err != nil {
					break
				}
			}
			ticks <- n
		}()
		_, err = client.Read(make([]byte, 1))
		if n := <-ticks; n != 5 || time.Since(began) < idle*5/3 {
			t.Errorf("%v after %d ticks and %s", err, n, time.Since(began))
		}
		return err
	})
	v := r.startTLS(clientTLS())
	if b, err := io.ReadAll(v.in); err != nil || len(b) > 0 {
		t.Errorf("an idle session ended with %q, %v; want close_notify", b, err)
	}
	v.Close()
	r.logged("outcome=idle")
}

// A leg that is closed counts no more; one that is left behind ends with the
// session, and none begins after it.
func TestServeLegs(t *testing.T) {
	ended := make(chan struct{}, 4)
	var late upgraders.Dialer
	r := serveRig(t, func(l *Listener) {
		l.Routes[0].Backend.Servers[0].MaxConnections = 1
		l.Routes[0].Backend.Servers[0].Address = serve(t, func(c net.Conn) {
			io.WriteString(c, "backend\r\n")
			io.Copy(io.Discard, c)
			ended <- struct{}{}
		})
	}, func(ctx context.Context, s *upgraders.Session, client net.Conn, d upgraders.Dialer) error {
		late = d
		for range 3 {
			leg, err := d.Dial(ctx, "")
			if err != nil {
				return err
			}
			if line, err := leg.ReadLine(100); err != nil || string(line) != "backend" {
				t.Errorf("leg: %q, %v", line, err)
			}
			if _, err := d.Dial(ctx, ""); !errors.Is(err, upgraders.ErrNoServer) {
				t.Errorf("a second leg to a server that takes one: %v", err)
			}
			leg.Close()
			leg.Close()
			<-ended
		}
		if _, err := d.Dial(ctx, ""); err != nil {
			return err
		}
		if _, err := d.Dial(ctx, d.Servers()[0]); !errors.Is(err, upgraders.ErrNoServer) {
			t.Errorf("a second leg to a server by its name: %v", err)
		}
		_, err := io.WriteString(client, "served\r\n")
		return err
	})
	v := r.startTLS(clientTLS())
	v.hear("served")
	v.end()
	<-ended
	line := r.logged("msg=session", "outcome=ok")
	address := r.cfg.Listeners[0].Routes[0].Backend.Servers[0].Address
	if !strings.Contains(line, "backend="+address) {
		t.Errorf("the log does not name the server: %s", line)
	}
	if _, err := late.Dial(context.Background(), ""); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a session that has ended dials: %v", err)
	}
	// And the place at the server is free again.
	r.startTLS(clientTLS()).hear("served")
}

// What Serve returns is how the session ended, and a client that was given
// less than it was promised sees the stream break off.
func TestServeOutcomes(t *testing.T) {
	for _, test := range []struct {
		name    string
		err     error
		outcome string
		reason  string
		cut     bool
	}{
		{"nothing", nil, "ok", "", false},
		{"broken", fmt.Errorf("half an answer: %w", io.ErrUnexpectedEOF), "client_gone", "", true},
		{"backend broken", fmt.Errorf("%w: %w", upgraders.ErrBackend, io.ErrUnexpectedEOF), "backend_gone", "", true},
		{"no server", upgraders.ErrNoServer, "backend_down", "", false},
		{"no protocol", upgraders.ErrSyntax, "rejected", "syntax", false},
		{"idle", wire.ErrIdle, "idle", "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := serveRig(t, nil, func(_ context.Context, _ *upgraders.Session, client net.Conn, _ upgraders.Dialer) error {
				io.WriteString(client, "served\r\n")
				return test.err
			})
			v := r.dial()
			v.hear("hello")
			v.say("TLS")
			v.hear("go")
			v.Conn = noticing{v.Conn}
			if err := v.upgrade(clientTLS()); err != nil {
				t.Fatal(err)
			}
			v.hear("served")
			if _, err := io.ReadAll(v.in); errors.Is(err, errNoCloseNotify) != test.cut {
				t.Errorf("the stream ended with %v", err)
			}
			v.Close()
			line := r.logged("msg=session", "outcome="+test.outcome)
			if test.reason != "" && (!strings.Contains(line, "reason="+test.reason) || r.metric("sallyport_dialogue_rejected_total", "reason", test.reason) != 1) {
				t.Errorf("not counted by reason: %s", line)
			}
		})
	}
}

// noticing makes an end of the TCP stream an error for crypto/tls, which
// forgives one between two records.
type noticing struct{ net.Conn }

var errNoCloseNotify = errors.New("FIN without close_notify")

func (c noticing) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF {
		err = errNoCloseNotify
	}
	return n, err
}

// Who serves learns that the gateway stops, and can end in time.
func TestServeStopping(t *testing.T) {
	r := serveRig(t, nil, func(_ context.Context, s *upgraders.Session, client net.Conn, _ upgraders.Dialer) error {
		io.WriteString(client, "served\r\n")
		<-s.Stopping
		return nil
	})
	v := r.startTLS(clientTLS())
	v.hear("served")
	done := make(chan error)
	go func() { done <- r.g.Shutdown(context.Background()) }()
	v.end()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// H-11: a session that is served may speak of the hosts whose tls it has gone
// through, and of those that no route takes.
func TestServeSuits(t *testing.T) {
	ca := x509.NewCertPool()
	ca.AddCert(pki().ca)
	guard := &TLS{ClientAuth: &ClientAuth{Require: true, CAs: ca}}
	told := make(chan string, 1)
	r := serveRig(t, func(l *Listener) {
		open := *l.Routes[0]
		open.SNI = []string{"gw.example.org", "www.example.org"}
		guarded := open
		guarded.SNI, guarded.TLS = []string{"other.example.org"}, guard
		l.Routes = []*Route{&open, &guarded}
	}, func(_ context.Context, s *upgraders.Session, _ net.Conn, _ upgraders.Dialer) error {
		var may []string
		for _, host := range []string{"gw.example.org", "www.example.org", "OTHER.example.org", "192.0.2.1"} {
			if s.Suits(host) {
				may = append(may, host)
			}
		}
		told <- strings.Join(may, " ")
		return nil
	})
	r.startTLS(clientTLS())
	if got := <-told; got != "gw.example.org www.example.org 192.0.2.1" {
		t.Errorf("without a certificate: %s", got)
	}
	cfg := clientTLS()
	cfg.ServerName = "other.example.org"
	cfg.Certificates = []tls.Certificate{*pki().issue("partner.example.org")}
	r.startTLS(cfg)
	if got := <-told; got != "OTHER.example.org 192.0.2.1" {
		t.Errorf("with one: %s", got)
	}
}
