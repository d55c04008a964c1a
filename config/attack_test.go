package config

import (
	"bufio"
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
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders/all"
)

// These tests run a gateway from a text, with the protocols as they are.

// running loads and runs a configuration, and returns what `check` says of it.
func running(t *testing.T, src string) (*gateway.Gateway, string) {
	t.Helper()
	cfg, diags := loadText(t, "a.hcl", src, Options{})
	if diags.HasErrors() {
		t.Fatal(text(diags))
	}
	g := gateway.New(gateway.Options{})
	if err := g.Apply(cfg.Gateway); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		g.Shutdown(ctx)
	})
	return g, text(diags)
}

// greeter is a server that greets each connection, counts them and reads on.
func greeter(t *testing.T, greeting string) (address string, met *atomic.Int32) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	met = new(atomic.Int32)
	var serving sync.WaitGroup
	t.Cleanup(func() { ln.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			met.Add(1)
			serving.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				io.WriteString(c, greeting)
				io.Copy(io.Discard, c)
			})
		}
	})
	return ln.Addr().String(), met
}

func dialled(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// T-03: the same ClientHello is answered by listeners of its own protocol and
// by no others (ALPACA, 2021).
func TestALPNOfOthers(t *testing.T) {
	backend, _ := greeter(t, "")
	src := "certificate \"a\" {\n names = [\"gw.example.org\"]\n self_signed = true\n}\nbackend \"b\" { servers = [\"" + backend + "\"] }\n"
	ids := []string{"h2", "http/1.1", "acme-tls/1"}
	for _, p := range all.Protocols() {
		ids = append(ids, p.ALPN...)
		mode := "  mode = \"implicit\"\n"
		if p.Keyword == "" {
			mode = ""
		}
		route := "  backend = backend.b\n"
		if p.Pages {
			route = ""
		}
		src += fmt.Sprintf("listener %q %q {\n  address = [\"127.0.0.1:0\"]\n%s%s}\n", p.Name, p.Name, mode, route)
	}
	g, _ := running(t, src)
	for _, p := range all.Protocols() {
		for _, id := range ids {
			c := tls.Client(dialled(t, g.Addrs(p.Name)[0].String()), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{id}})
			err := c.Handshake()
			if own := slices.Contains(p.ALPN, id); own != (err == nil) {
				t.Errorf("%s, ALPN %q: %v", p.Name, id, err)
			} else if want := "remote error: " + tls.AlertError(120).Error(); !own && err.Error() != want {
				t.Errorf("%s, ALPN %q: %v; want %s", p.Name, id, err, want)
			}
			c.Close()
		}
	}
}

// G-31: the idle time of no protocol is below what its RFC demands of a server,
// unless somebody has written so.
func TestIdleFloors(t *testing.T) {
	floors := map[string]time.Duration{
		"smtp":  10 * time.Minute, // RFC 5321, 4.5.3.2.6; 4.5.3.2.7 alone would be 5
		"lmtp":  10 * time.Minute,
		"imap":  30 * time.Minute, // RFC 9051, 5.4
		"pop3":  10 * time.Minute, // RFC 1939, 3
		"sieve": 30 * time.Minute, // RFC 5804, 1.2
		"http":  time.Minute,      // no RFC has one; a connection that is kept, or a slow answer
	}
	checked := 0
	for _, p := range all.Protocols() {
		floor, known := floors[p.Name]
		if known {
			checked++
		}
		if known && (p.IdleTimeout == 0 || p.IdleTimeout < floor) {
			t.Errorf("%s: a session may be idle for %s; want %s", p.Name, p.IdleTimeout, floor)
		}
		if !known && p.IdleTimeout != 0 && p.IdleTimeout < 10*time.Minute {
			t.Errorf("%s: %s; name its floor here", p.Name, p.IdleTimeout)
		}
	}
	if checked < 4 {
		t.Errorf("%d protocols were looked at", checked)
	}
	cfg, diags := loadText(t, "a.hcl", strings.Replace(selfSignedText, "NAMES", `"a.example.org"`, 1), Options{})
	if cfg == nil {
		t.Fatal(text(diags))
	}
	// It would stand in place of the protocol's.
	if idle := cfg.Gateway.Listeners[0].Policy.IdleTimeout; idle != 0 {
		t.Errorf("the default policy has an idle time: %s", idle)
	}
}

const twoWays = `
certificate "mail" {
  names       = ["mail.example.org"]
  self_signed = true
}
certificate "other" {
  names       = ["other.example.org"]
  self_signed = true
}
backend "b" { servers = ["192.0.2.1:25"] }
listener "PROTOCOL" "clear" {
  address = [":8001"]
  mode    = "starttls"
  backend = backend.b
  CLEAR
}
listener "PROTOCOL" "tls" {
  address = [":8002"]
  mode    = "implicit"
  backend = backend.b
  TLS
}
`

// S-13: RFC 3207, 4: who receives mail from everyone must not require TLS.
func TestPublicMailWarning(t *testing.T) {
	for _, c := range []struct {
		protocol, port, cleartext string
		warns                     bool
	}{
		{"smtp", "25", "", true},
		{"smtp", "25", `cleartext = "refuse"`, true},
		{"smtp", "25", `cleartext = "allow"`, false},
		{"smtp", "587", "", false},
		{"lmtp", "24", "", false},
	} {
		src := strings.NewReplacer("PROTOCOL", c.protocol, ":8001", ":"+c.port, "CLEAR", c.cleartext, "TLS", "").Replace(twoWays)
		_, diags := loadText(t, "a.hcl", src, Options{})
		if diags.HasErrors() {
			t.Fatal(text(diags))
		}
		if warns := strings.Contains(text(diags), "RFC 3207, 4"); warns != c.warns {
			t.Errorf("%s on %s with %q: warned is %v", c.protocol, c.port, c.cleartext, warns)
		}
	}
}

// S-12: RFC 3207, 4.1 has a server whose client proved too little answer every
// command with 554. Here the handshake ends instead, which says the same in one
// alert, and no command is ever read: without a certificate, with one of
// nobody's, and with one for another use.
func TestUnfitClientCertificate(t *testing.T) {
	dir := t.TempDir()
	fit := clientCertificate(t, x509.ExtKeyUsageClientAuth)
	server := clientCertificate(t, x509.ExtKeyUsageServerAuth)
	stranger := clientCertificate(t, x509.ExtKeyUsageClientAuth)
	ca := filepath.Join(dir, "ca.pem")
	writePEM(t, ca, "CERTIFICATE", fit.Certificate[0])
	trusted, _ := os.ReadFile(ca)
	writePEM(t, filepath.Join(dir, "server.pem"), "CERTIFICATE", server.Certificate[0])
	more, _ := os.ReadFile(filepath.Join(dir, "server.pem"))
	if err := os.WriteFile(ca, append(trusted, more...), 0o600); err != nil {
		t.Fatal(err)
	}
	backend, met := greeter(t, "220 backend.example.org ESMTP\r\n")
	g, _ := running(t, fmt.Sprintf(`
certificate "mail" {
  names       = ["mail.example.org"]
  self_signed = true
}
tls "partners" {
  client_auth {
    mode    = "require"
    ca_file = %q
  }
}
backend "b" { servers = [%q] }
listener "smtp" "tls" {
  address = ["127.0.0.1:0"]
  mode    = "implicit"
  tls     = tls.partners
  backend = backend.b
}
`, ca, backend))
	for name, c := range map[string]struct {
		cert *tls.Certificate
		fits bool
	}{
		"none":     {nil, false},
		"stranger": {stranger, false},
		"server":   {server, false},
		"fit":      {fit, true},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			met.Store(0)
			cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}
			if c.cert != nil {
				cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cert, nil }
			}
			conn := tls.Client(dialled(t, g.Addrs("tls")[0].String()), cfg)
			err := conn.Handshake()
			var line string
			if err == nil {
				io.WriteString(conn, "EHLO client.example.org\r\nMAIL FROM:<>\r\n")
				line, err = bufio.NewReader(conn).ReadString('\n')
			}
			if c.fits != strings.HasPrefix(line, "220") {
				t.Errorf("%s, %s: heard %q, %v", name, tls.VersionName(version), line, err)
			}
			if !c.fits && (err == nil || !strings.HasPrefix(err.Error(), "remote error: ") || met.Load() > 0) {
				t.Errorf("%s, %s: ended with %v; the backend was met %d times", name, tls.VersionName(version), err, met.Load())
			}
			conn.Close()
		}
	}
}

// clientCertificate is an authority of its own, for one use.
func clientCertificate(t *testing.T, usage x509.ExtKeyUsage) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "client.example.org"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{usage},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// T-15: Opossum, with the splice made. With one certificate a client of the one
// kind ends up in a session of the other: silent where it waits for a greeting
// (A), or greeted where it waits for an answer (B). No gateway can tell, so
// `check` has warned. With two certificates neither handshake comes about.
func TestOpossumSplice(t *testing.T) {
	backend, _ := greeter(t, "* OK backend.example.org\r\n")
	for name, c := range map[string]struct {
		implicit string
		spliced  bool
	}{
		"one certificate":  {"mail", true},
		"two certificates": {"other", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testCertificates(t)
			g, warned := running(t, fmt.Sprintf(`
certificate "mail" {
  cert_file = "%[1]s/mail.crt"
  key_file  = "%[1]s/mail.key"
}
certificate "other" {
  cert_file = "%[1]s/other.crt"
  key_file  = "%[1]s/other.key"
}
backend "b" { servers = [%[2]q] }
listener "imap" "clear" {
  address = ["127.0.0.1:0"]
  mode    = "starttls"
  certs   = [certificate.mail]
  backend = backend.b
}
listener "imap" "tls" {
  address = ["127.0.0.1:0"]
  mode    = "implicit"
  certs   = [certificate.%[3]s]
  backend = backend.b
}
`, dir, backend, c.implicit))
			if got := strings.Contains(warned, "Opossum"); got != c.spliced {
				t.Errorf("warned is %v", got)
			}
			trust := func(name string) *tls.Config {
				pem, err := os.ReadFile(filepath.Join(dir, name+".crt"))
				if err != nil {
					t.Fatal(err)
				}
				pool := x509.NewCertPool()
				pool.AppendCertsFromPEM(pem)
				return &tls.Config{RootCAs: pool, ServerName: name + ".example.org", NextProtos: []string{"imap"}}
			}

			// A: the attacker asks for TLS, the victim's ClientHello follows.
			attacker := dialled(t, g.Addrs("clear")[0].String())
			said := bufio.NewReader(attacker)
			said.ReadString('\n')
			io.WriteString(attacker, "a STARTTLS\r\n")
			if line, err := said.ReadString('\n'); !strings.HasPrefix(line, "a OK") {
				t.Fatalf("heard %q, %v", line, err)
			}
			victim := tls.Client(attacker, trust(c.implicit))
			if err := victim.Handshake(); (err == nil) != c.spliced {
				t.Errorf("A: the victim shakes hands: %v", err)
			} else if err == nil {
				victim.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
				if n, err := victim.Read(make([]byte, 100)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("A: the victim, who waits for a greeting, gets %d bytes, %v", n, err)
				}
			}

			// B: the attacker answers the victim in clear, and its
			// ClientHello goes to the other port.
			victim = tls.Client(dialled(t, g.Addrs("tls")[0].String()), trust("mail"))
			if err := victim.Handshake(); (err == nil) != c.spliced {
				t.Errorf("B: the victim shakes hands: %v", err)
			} else if err == nil {
				line, err := bufio.NewReader(victim).ReadString('\n')
				if !strings.HasPrefix(line, "* OK") {
					t.Errorf("B: the victim, who waits for no greeting, gets %q, %v", line, err)
				}
			}
		})
	}
}
