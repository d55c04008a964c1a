package integration

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/certs/acme/acmetest"
)

// issuing is how long an order may take, from the account to the handshake.
const issuing = time.Minute

// acmeBlock is an acme block for an authority on loopback, with its state.
func acmeBlock(a *acmetest.Authority, state, name, more string) string {
	return fmt.Sprintf("state { path = %q }\n", state) + acmeOnly(a, name, more)
}

func acmeOnly(a *acmetest.Authority, name, more string) string {
	return fmt.Sprintf(`acme %q {
  directory  = %q
  ca_file    = %q
  accept_tos = true
  %s
}
`, name, a.Directory, a.CAFile, more)
}

// opensslFor is a client that takes nothing but a certificate of a name from a
// root.
func opensslFor(t *testing.T, addr, root, name string, more ...string) result {
	t.Helper()
	return client(t, "QUIT\n", append([]string{"openssl", "s_client", "-connect", addr, "-servername", name, "-CAfile", root,
		"-verify_return_error", "-verify_hostname", name, "-brief"}, more...)...)
}

// issued waits until a listener shows a certificate of a root.
func (g *gateway) issued(listener, root, name string, more ...string) {
	g.t.Helper()
	if !eventually(issuing, func() bool { return opensslFor(g.t, g.addr(listener), root, name, more...).code == 0 }) {
		g.t.Fatalf("no certificate of %s:\n%s", name, opensslFor(g.t, g.addr(listener), root, name, more...).out)
	}
}

// challenged returns the sessions of a listener that were an authority's look
// at a name.
func (g *gateway) challenged(listener, name string) (n int) {
	for _, line := range g.sessions(listener) {
		if line.field("outcome") == "challenge" && line.field("sni") == name {
			n++
		}
	}
	return n
}

// An authority proves one name by tls-alpn-01 and another by http-01, on the
// same listener, where the first byte tells the one from the other. Clients of
// STARTTLS then see the certificates, by SNI; nobody had to restart anything.
// Both kinds of proof are in the log for what they are, and the rest of what
// the listener shows is nothing.
func TestACMEWeb(t *testing.T) {
	t.Parallel()
	need(t, "openssl", "swaks", "curl")
	o := acmetest.Options{TLSPort: freePort(), HTTPPort: freePort()}
	a := acmetest.Start(t, o)
	root := a.RootFile(t)
	state := t.TempDir()
	config := acmeBlock(a, state, "alpn", `challenges = ["tls-alpn-01"]`) + acmeOnly(a, "http", `challenges = ["http-01"]`) + fmt.Sprintf(`
certificate "a" {
  names = ["a.example.org"]
  acme  = acme.alpn
}
certificate "b" {
  names     = ["b.example.org", "c.example.org"]
  acme      = acme.http
  bootstrap = "self_signed"
}
listener "web" "front" {
  address = ["127.0.0.1:%d", "127.0.0.1:%d"]
  certs   = [certificate.a]
}
listener "smtp" "mx" {
  address  = [{{listen "mx"}}]
  mode     = "starttls"
  hostname = "a.example.org"
  certs    = [certificate.a, certificate.b]
  backend  = backend.postfix
}
backend "postfix" {
  servers = [{{postfix "mx"}}]
}
`, o.TLSPort, o.HTTPPort)
	g := launch(t, config)
	for _, name := range []string{"a.example.org", "b.example.org", "c.example.org"} {
		g.issued("mx", root, name, "-starttls", "smtp")
	}
	if n := g.challenged("front", "a.example.org"); n == 0 {
		t.Error("no challenge for a.example.org is in the log")
	}
	if n := g.challenged("front", "b.example.org") + g.challenged("front", "c.example.org"); n != 0 {
		t.Errorf("%d of tls-alpn-01 for names that are proved by http-01", n)
	}
	pages := 0
	for _, line := range g.sessions("front") {
		if line.field("security") == "cleartext" && line.field("outcome") == "ok" {
			pages++
		}
	}
	if pages < 2 {
		t.Errorf("%d pages were shown in cleartext, want one for each name", pages)
	}
	if n := a.Orders(); n != 3 {
		t.Errorf("%d orders, want one for each name", n)
	}
	for _, name := range []string{"a", "b/b.example.org", "b/c.example.org"} {
		until := time.Unix(int64(g.metric("sallyport_certificate_not_after_seconds", fmt.Sprintf("name=%q", name))), 0)
		if left := time.Until(until); left < 89*24*time.Hour || left > 91*24*time.Hour {
			t.Errorf("the metric of %s says %v", name, until)
		}
	}
	client(t, "", "swaks", "--server", g.addr("mx"), "--tls", "--tls-verify", "--tls-ca-path", root, "--tls-sni", "a.example.org",
		"--to", "u1@localhost", "--from", "a@example.net", "--quit-after", "RCPT").ok(t).says(t, "TLS started with cipher")

	// What is shown beside the proofs, to a client that isn't ours.
	curl := func(args ...string) string {
		return strings.TrimSpace(client(t, "", append([]string{"curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", root,
			"--resolve", fmt.Sprintf("a.example.org:%d:127.0.0.1", o.TLSPort)}, args...)...).ok(t).out)
	}
	for _, url := range []string{
		fmt.Sprintf("http://127.0.0.1:%d/", o.HTTPPort),
		fmt.Sprintf("http://127.0.0.1:%d/.well-known/acme-challenge/token", o.HTTPPort),
		fmt.Sprintf("https://a.example.org:%d/", o.TLSPort),
		fmt.Sprintf("http://127.0.0.1:%d/", o.TLSPort), // cleartext, on the port of TLS
	} {
		if status := curl(url); status != "404" {
			t.Errorf("%s: %s", url, status)
		}
	}
	if status := curl("-d", "x=y", fmt.Sprintf("http://127.0.0.1:%d/", o.HTTPPort)); status != "405" {
		t.Errorf("POST: %s", status)
	}
	// W-02: a challenge that is over is none.
	over := client(t, "", "openssl", "s_client", "-connect", fmt.Sprintf("127.0.0.1:%d", o.TLSPort), "-servername", "a.example.org", "-alpn", "acme-tls/1")
	if over.code == 0 || !strings.Contains(over.out, "unrecognized name") {
		t.Errorf("a challenge that nobody makes is answered:\n%s", over.out)
	}
	// W-04: nor is there one behind STARTTLS.
	after := opensslFor(t, g.addr("mx"), root, "a.example.org", "-starttls", "smtp", "-alpn", "acme-tls/1")
	if after.code == 0 || !strings.Contains(after.out, "no application protocol") {
		t.Errorf("a challenge behind STARTTLS is answered:\n%s", after.out)
	}

	// A reload orders nothing again, and takes nothing away.
	g.reload("ok")
	g.issued("mx", root, "b.example.org", "-starttls", "smtp")

	// Nor does a restart, though the authority is gone: what is in the store is
	// there for the first client.
	g.stop()
	a.Break(acmetest.Down)
	g = launch(t, config)
	if !eventually(issuing, func() bool { return g.running() && strings.Contains(g.said(), `"listener":"mx","protocol":"smtp"`) }) {
		t.Fatalf("it does not start: %s", g.said())
	}
	for _, name := range []string{"a.example.org", "b.example.org", "c.example.org"} {
		opensslFor(t, g.addr("mx"), root, name, "-starttls", "smtp").ok(t)
	}
	if n := a.Orders(); n != 3 {
		t.Errorf("%d orders after a reload and a restart", n)
	}
	// The keys are nobody else's business.
	err := filepath.WalkDir(state, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := d.Info(); err == nil && path != state && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A listener that begins with TLS answers tls-alpn-01 beside its clients, and
// its server hears nothing of it. Until there is a certificate, /readyz fails
// and says why.
func TestACMEImplicit(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	o := acmetest.Options{TLSPort: freePort(), HTTPPort: freePort()}
	a := acmetest.Start(t, o)
	root := a.RootFile(t)
	server := serveStub(t, func(s *stub, conn net.Conn) {
		s.note("connected")
		io.WriteString(conn, "* OK ready\r\n")
		io.Copy(io.Discard, conn)
	})
	config := func() string {
		return acmeBlock(a, t.TempDir(), "pebble", "") + fmt.Sprintf(`
certificate "imap" {
  names = ["imap.example.org"]
  acme  = acme.pebble
}
listener "tcp" "imaps" {
  address = ["127.0.0.1:%d"]
  certs   = [certificate.imap]
  backend = backend.server
}
backend "server" {
  servers = [%q]
}
`, o.TLSPort, server.addr)
	}
	address := fmt.Sprintf("127.0.0.1:%d", o.TLSPort)

	a.Break(acmetest.Down)
	g := launch(t, config())
	var why string
	if !eventually(issuing, func() bool {
		var status int
		status, why, _ = g.fetch("/readyz")
		return status == 503 && strings.Contains(why, "not issued yet") && !strings.Contains(why, "is being asked for it")
	}) {
		t.Fatalf("/readyz says %q", why)
	}
	for _, word := range []string{`listener "imaps"`, "certificate imap"} {
		if !strings.Contains(why, word) {
			t.Errorf("/readyz does not say %s: %s", word, why)
		}
	}
	if r := opensslFor(t, address, root, "imap.example.org"); r.code == 0 {
		t.Errorf("a handshake without a certificate:\n%s", r.out)
	}
	g.stop()

	a.Break(nil)
	g = launch(t, config())
	g.addrs["imaps"] = address
	if !eventually(issuing, func() bool { return g.get("/readyz") == 200 }) {
		_, why, _ := g.fetch("/readyz")
		t.Fatalf("/readyz says %q", why)
	}
	if n := g.challenged("imaps", "imap.example.org"); n == 0 {
		t.Error("no challenge is in the log")
	}
	if n := len(server.heard("connected")); n != 0 {
		t.Errorf("%d connections to the server before the first client", n)
	}
	opensslFor(t, address, root, "imap.example.org").ok(t)
	if !eventually(patience, func() bool { return len(server.heard("connected")) == 1 }) {
		t.Errorf("%d connections to the server after the first client", len(server.heard("connected")))
	}
}
