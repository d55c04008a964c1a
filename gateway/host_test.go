package gateway

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// byHost gives the rig two routes by host, the second with a tls of its own.
func byHost(r *rig, second *TLS) {
	l := r.cfg.Listeners[0]
	l.Mode = Implicit
	l.Upgrader = hostUpgrader{&toyUpgrader{}}
	first := *l.Routes[0]
	first.Host = []string{"gw.example.org"}
	l.Routes = []*Route{&first, {Host: []string{"other.example.org"}, TLS: second,
		Backend: &Backend{Name: "other", Servers: []Server{{Address: r.backend("backend2")}}}}}
	if err := r.g.Apply(r.cfg); err != nil {
		r.Fatal(err)
	}
}

// whose certificate was asked for by SNI is who is spoken to. A client
// that asked for none, or for one that no route is about, may name any host.
func TestHostAndSNI(t *testing.T) {
	for sni, want := range map[string]string{
		"gw.example.org":     "unavailable",
		"other.example.org":  "backend2: ping",
		"a.wild.example.org": "backend2: ping",
		"":                   "backend2: ping",
	} {
		r := newRig(t, nil)
		byHost(r, nil)
		cfg := clientTLS()
		cfg.ServerName, cfg.InsecureSkipVerify = sni, true
		v, err := r.shake(cfg)
		if err != nil {
			t.Fatal(err)
		}
		v.say("OTHER.example.org", "ping")
		v.hear(want)
		v.Close()
		if want == "unavailable" {
			r.logged("outcome=no_route", "the SNI is another route's")
		}
	}
}

// A route by host has its tls where the SNI is that host, too.
func TestHostRouteTLS(t *testing.T) {
	r := newRig(t, nil)
	ca := x509.NewCertPool()
	ca.AddCert(pki().ca)
	byHost(r, &TLS{ClientAuth: &ClientAuth{Require: true, CAs: ca}})
	cfg := clientTLS()
	cfg.ServerName = "other.example.org"
	if v, err := r.shake(cfg); err == nil {
		v.say("other.example.org")
		if _, err := v.in.ReadString('\n'); err == nil {
			t.Fatal("served without the certificate that the route requires")
		}
	}
	cfg.Certificates = []tls.Certificate{*pki().issue("partner.example.org")}
	v, err := r.shake(cfg)
	if err != nil {
		t.Fatal(err)
	}
	v.say("other.example.org", "ping")
	v.hear("backend2: ping")
}

// A preview is the backend connection of a session that stays in cleartext, and
// of no session in TLS: what a backend was told before TLS it was told by
// another (G-08).
func TestPreview(t *testing.T) {
	var dialled, left atomic.Int32
	r := newRig(t, func(l *Listener) {
		l.Policy.Dialogue.Timeout = 2 * time.Second
		l.Routes[0].Host = []string{"gw.example.org"}
		busy := serve(t, func(c net.Conn) { io.WriteString(c, "421 busy\r\n") })
		l.Routes[0].Backend.Servers = []Server{{Address: busy}, {Backup: true}}
		l.Routes[0].Backend.Servers[1].Address = serve(t, func(c net.Conn) {
			name := fmt.Sprintf("backend %d", dialled.Add(1))
			fmt.Fprintf(c, "%s\r\n", name)
			for in := bufio.NewReader(c); ; {
				line, err := in.ReadString('\n')
				if err != nil {
					left.Add(1)
					return
				}
				io.WriteString(c, name+": "+line)
			}
		})
		u := &toyUpgrader{}
		u.hook = func(s *upgraders.Session, line string) (upgraders.Handover, error) {
			if host, ok := strings.CutPrefix(line, "PREVIEW "); ok {
				err := s.Preview(t.Context(), host, func(backend *wire.Conn) error {
					if _, err := backend.Peek(1); err != nil || backend.Unread()[0] != 'b' {
						return &upgraders.Refusal{Reply: "busy"}
					}
					io.WriteString(backend, "in clear\r\n")
					backend.Peek(len("backend 1\r\nbackend 1: in clear\r\n"))
					return nil
				})
				if !s.Routed(host) {
					fmt.Fprintf(s.Conn, "unknown, %v\r\n", err)
					return upgraders.Handover{}, nil
				}
				return upgraders.Handover{}, err
			}
			return upgraders.Handover{}, nil
		}
		u.accept = "gw.example.org"
		l.Upgrader = u
	})
	v := r.dial()
	v.hear("hello")
	v.say("PREVIEW nobody.example.org", "PREVIEW gw.example.org", "PLAIN", "ping")
	v.hear("unknown, no route takes this name")
	v.hear("what?")
	v.hear("what?")
	v.hear("backend 1: in clear")
	v.hear("backend 1: ping")
	v.Close()

	v = r.dial()
	v.hear("hello")
	v.say("PREVIEW gw.example.org")
	v.hear("what?")
	v.say("TLS")
	v.hear("go")
	if err := v.upgrade(clientTLS()); err != nil {
		t.Fatal(err)
	}
	v.say("ping")
	v.hear("backend 3: ping")
	for end := time.Now().Add(10 * time.Second); left.Load() != 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of 2 connections were closed", left.Load())
		}
	}
}

// A server that is full is no preview, and no conn either.
func TestPreviewFull(t *testing.T) {
	r := newRig(t, func(l *Listener) {
		l.Routes[0].Backend.MaxConnections = 1
		l.Upgrader = &toyUpgrader{early: true}
	})
	first := r.dial()
	first.hear("hello")
	second := r.dial()
	second.hear("no backend")
	second.end()
	r.logged("max_connections")
}
