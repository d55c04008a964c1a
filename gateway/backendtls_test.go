package gateway

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
)

// tlsBackend echoes in TLS, after words in the clear: what to say first, and
// what to answer to the request.
func tlsBackend(t *testing.T, greeting, goAhead string, cert *tls.Certificate, seen *atomic.Int32) string {
	return serve(t, func(c net.Conn) {
		if greeting != "" {
			io.WriteString(c, greeting)
			if _, err := bufio.NewReaderSize(c, 16).ReadString('\n'); err != nil {
				return
			}
			io.WriteString(c, goAhead)
		}
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*cert}})
		if s.Handshake() != nil {
			return
		}
		if greeting == "" {
			io.WriteString(s, "backend\r\n")
		}
		in := bufio.NewReader(s)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			seen.Add(1)
			io.WriteString(s, "backend: "+line)
		}
	})
}

// B-01, B-02, B-03: the leg to a backend is TLS that was verified, or there is
// no session; never is it cleartext instead.
func TestBackendTLS(t *testing.T) {
	good := pki().issue("backend.example.org")
	for name, c := range map[string]struct {
		greeting, goAhead, serverName string
		mode                          Mode
		insecure, works               bool
	}{
		"implicit":              {mode: Implicit, serverName: "backend.example.org", works: true},
		"starttls":              {mode: StartTLS, serverName: "backend.example.org", greeting: "backend\r\n", goAhead: "go\r\n", works: true},
		"wrong name":            {mode: Implicit, serverName: "other.example.org"},
		"name from the address": {mode: Implicit},
		"not verified":          {mode: Implicit, serverName: "other.example.org", insecure: true, works: true},
		"not offered":           {mode: StartTLS, serverName: "backend.example.org", greeting: "backend\r\n", goAhead: "what?\r\n"},
		"injected":              {mode: StartTLS, serverName: "backend.example.org", greeting: "backend\r\n", goAhead: "go\r\nbackend: evil\r\n"},
		"cleartext":             {mode: Implicit, serverName: "backend.example.org", greeting: "backend\r\n", goAhead: "go\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var seen atomic.Int32
			r := newRig(t, func(l *Listener) {
				b := l.Routes[0].Backend
				b.Servers = []Server{{Address: tlsBackend(t, c.greeting, c.goAhead, good, &seen)}}
				b.TLS = &BackendTLS{Mode: c.mode, CAs: pki().pool, ServerName: c.serverName, Insecure: c.insecure}
			})
			for _, open := range []func() *visit{
				func() *visit { return r.startTLS(clientTLS()) },
				func() *visit { v := r.dial(); v.hear("hello"); v.say("PLAIN"); return v },
			} {
				v := open()
				v.say("ping")
				if c.works {
					v.hear("backend: ping")
				} else {
					v.hear("unavailable")
				}
				v.Close()
			}
			if !c.works && seen.Load() != 0 {
				t.Error("the backend was sent something all the same")
			}
			if !c.works {
				r.logged("outcome=backend_down")
			}
		})
	}
}

// A close of the client reaches a backend in TLS as close_notify.
func TestBackendTLSEnds(t *testing.T) {
	ends := make(chan error, 1)
	r := newRig(t, func(l *Listener) {
		b := l.Routes[0].Backend
		b.Servers = []Server{{Address: serve(t, func(c net.Conn) {
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*pki().issue("backend.example.org")}})
			io.WriteString(s, "backend\r\n")
			b, err := io.ReadAll(s)
			if err == nil && strings.TrimSpace(string(b)) != "last words" {
				err = io.ErrUnexpectedEOF
			}
			ends <- err
		})}}
		b.TLS = &BackendTLS{Mode: Implicit, CAs: pki().pool, ServerName: "backend.example.org"}
	})
	v := r.startTLS(clientTLS())
	v.say("last words")
	v.Close()
	if err := <-ends; err != nil {
		t.Error(err)
	}
}
