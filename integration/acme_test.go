package integration

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/sallyport/sallyport/certs/acme/acmetest"
)

// These tests have the gateway get its certificates from Pebble, Let's
// Encrypt's authority for tests, which comes to verify names as the real one
// does, rejects some nonces, and is reached through a front that can be broken.

// issuedName is what the certificates of these tests are for.
const issuedName = "mx.acme.example.org"

const mxIssued = `
state { path = "STATE" }
acme "test" {
  directory  = "DIRECTORY"
  accept_tos = true
  ca_file    = "CAFILE"
  store "dir" { path = "STORE" }
MORE
}
certificate "issued" {
  names     = ["mx.acme.example.org"]
  acme      = acme.test
  bootstrap = "BOOTSTRAP"
  key       = "KEY"
}
listener "web" "front" { address = [WEB] }
listener "smtp" "issuing" {
  address  = [{{listen "mx"}}]
  mode     = "starttls"
  hostname = "mx.acme.example.org"
  certs    = [certificate.issued]
  backend  = backend.postfix
}
backend "postfix" { servers = [{{postfix "mx"}}] }
`

// An issuer is an authority, and what the configurations say that use it.
type issuer struct {
	*acmetest.Authority
	t              *testing.T
	state, store   string
	web, more      string
	bootstrap, key string
}

func newIssuer(t *testing.T, o acmetest.Options) *issuer {
	t.Helper()
	o.TLSPort, o.HTTPPort = freePort(), freePort()
	a := acmetest.Start(t, o)
	dir := t.TempDir()
	return &issuer{
		Authority: a, t: t,
		state: filepath.Join(dir, "state"), store: filepath.Join(dir, "store"),
		web:       fmt.Sprintf(`"127.0.0.1:%d", "127.0.0.1:%d"`, a.TLSPort, a.HTTPPort),
		bootstrap: "refuse", key: "reuse",
	}
}

func (i *issuer) hcl() string {
	if err := os.MkdirAll(i.state, 0o700); err != nil {
		i.t.Fatal(err)
	}
	return strings.NewReplacer("STATE", i.state, "DIRECTORY", i.Directory, "CAFILE", i.CAFile, "STORE", i.store,
		"MORE", i.more, "BOOTSTRAP", i.bootstrap, "KEY", i.key, "WEB", i.web).Replace(mxIssued)
}

// launch starts a gateway and waits until commands reach it.
func (i *issuer) launch(wrapper ...string) *gateway {
	i.t.Helper()
	gw := launch(i.t, i.hcl(), wrapper...)
	socket := filepath.Join(i.state, "control.sock")
	eventually(patience, func() bool {
		_, err := os.Stat(socket)
		return err == nil || !gw.running()
	})
	return gw
}

// trust is what a client needs that trusts the authority.
func (i *issuer) trust() *tls.Config {
	return &tls.Config{ServerName: issuedName, RootCAs: i.Roots(i.t)}
}

// certs runs a command of certs for a gateway.
func (g *gateway) certs(verb string, more ...string) result {
	g.t.Helper()
	return client(g.t, "", append([]string{lab.binary, "certs", verb, "-c", g.path()}, more...)...)
}

// leaf shakes hands by STARTTLS and returns the gateway's certificate.
func (g *gateway) leaf(cfg *tls.Config) *x509.Certificate {
	g.t.Helper()
	c := dial(g.t, loopback(), g.addr("mx"))
	defer func() { c.conn.Close() }()
	c.smtpTLS(cfg)
	return c.state().PeerCertificates[0]
}

// anyone is a client that takes every certificate.
var anyone = &tls.Config{InsecureSkipVerify: true}

func pin(leaf *x509.Certificate) string {
	return fmt.Sprintf("%x", sha256.Sum256(leaf.RawSubjectPublicKeyInfo))
}

func serial(leaf *x509.Certificate) string { return fmt.Sprintf("%x", leaf.SerialNumber) }

// A gateway that starts with nothing has its certificate issued, and clients
// verify it. A renewal is seen by the next STARTTLS, keeps the key that a TLSA
// record pins, and no open session notices. Control: a client that does not
// trust the authority does not verify.
func TestACME(t *testing.T) {
	t.Parallel()
	need(t, "openssl", "swaks")
	ca := newIssuer(t, acmetest.Options{})
	gw := serve(t, ca.hcl())
	first := gw.leaf(ca.trust())
	if n := ca.Orders(); n != 1 {
		t.Errorf("%d orders for one certificate", n)
	}
	roots := ca.RootFile(t)
	starttls := func(ca string) result {
		return client(t, "QUIT\r\n", "openssl", "s_client", "-connect", gw.addr("mx"), "-starttls", "smtp", "-CAfile", ca, "-verify_return_error",
			"-verify_hostname", issuedName, "-servername", issuedName, "-ign_eof", "-brief")
	}
	starttls(roots).ok(t).says(t, "Verification: OK", "221 2.0.0")
	if r := starttls(lab.pki.ca); r.code == 0 {
		t.Error("control: a client verified without trusting the authority")
	}

	gw.certs("list").ok(t).says(t, "issued  ", "acme", issuedName, "ECDSA P-256", " 89 ")
	_, port, _ := net.SplitHostPort(gw.addr("mx"))
	tlsa := fmt.Sprintf("_%s._tcp.%s. IN TLSA 3 1 1 %s\n", port, issuedName, pin(first))
	gw.certs("show", "issued").ok(t).says(t, "Pebble Intermediate CA", "authority     test", tlsa)

	open := dial(t, loopback(), gw.addr("mx"))
	open.smtpTLS(ca.trust())
	to := fresh("renewed")
	open.cmd(250, "MAIL FROM:<a@example.net>")

	gw.certs("renew", "issued").ok(t).says(t, "certificate issued: ordering a new one", "certificate issued: renewed, valid until", "its key is the old one")
	second := gw.leaf(ca.trust())
	if serial(second) == serial(first) || pin(second) != pin(first) {
		t.Errorf("renewed: serial %s, then %s; key %s, then %s", serial(first), serial(second), pin(first), pin(second))
	}
	gw.certs("show", "issued").ok(t).says(t, "serial        "+serial(second), tlsa)
	seen := filepath.Join(t.TempDir(), "seen.pem")
	client(t, "", "swaks", "--server", "127.0.0.1", "--port", port, "-tls", "--tls-sni", issuedName, "--tls-verify", "--tls-ca-path", roots, "--tls-get-peer-cert", seen,
		"--to", fresh("swaks")+"@raw.example.org", "--from", "a@example.net").ok(t)
	client(t, "", "openssl", "x509", "-in", seen, "-noout", "-serial").ok(t).says(t, "serial="+strings.ToUpper(fmt.Sprintf("%02x", second.SerialNumber.Bytes())))

	open.cmd(250, "RCPT TO:<%s@raw.example.org>", to)
	open.cmd(354, "DATA")
	open.cmd(250, "Subject: open while renewed\r\n\r\nwhole\r\n.")
	open.cmd(221, "QUIT")
	open.clean()
	thePostfix(t).delivered(t, to)

	// A restart has it at once, and orders nothing.
	gw.stop()
	gw.certs("list").ok(t).says(t, "no gateway runs with", "issued  ", "acme", " 89 ")
	gw.certs("show", "issued").ok(t).says(t, "serial        "+serial(second), tlsa)
	gw.certs("renew", "issued").exited(t, 1).says(t, "needs a running gateway")
	again := serve(t, ca.hcl())
	if third := again.leaf(ca.trust()); serial(third) != serial(second) {
		t.Errorf("after a restart: serial %s, not %s", serial(third), serial(second))
	}
	if n := ca.Orders(); n != 2 {
		t.Errorf("%d orders for two certificates", n)
	}
}

// A certificate that was revoked is replaced at the operator's word, by one
// that is good; with key = "rollover" its key is new, too, as it must be where
// the old one was stolen, and was told beforehand. Control: the authority calls
// the old one revoked.
func TestACMERevoked(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t, acmetest.Options{})
	gw := serve(t, ca.hcl())
	first := gw.leaf(ca.trust())
	key, chain := ca.stored(first)
	who := &acme.Client{Key: key, DirectoryURL: ca.Directory, HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.CAs}, DisableKeepAlives: true}}}
	if err := who.RevokeCert(t.Context(), key, chain[0], acme.CRLReasonKeyCompromise); err != nil {
		t.Fatal(err)
	}
	if status := ca.CertificateStatus(t, serial(first)); status != "Revoked" {
		t.Errorf("control: the authority says that the old one is %s", status)
	}
	gw.configure(strings.Replace(ca.hcl(), `"reuse"`, `"rollover"`, 1))
	gw.reload("ok")
	var shown result
	if !eventually(patience, func() bool {
		shown = gw.certs("show", "issued").ok(t)
		return strings.Contains(shown.out, "; of the next key")
	}) {
		t.Errorf("the next key is not told:\n%s", shown.out)
	}
	shown.says(t, pin(first))
	gw.certs("renew", "issued").ok(t).says(t, "its key is new, and so are its TLSA records")
	second := gw.leaf(ca.trust())
	shown.says(t, pin(second))
	if pin(second) == pin(first) {
		t.Error("the key is the one that was stolen")
	}
	if status := ca.CertificateStatus(t, serial(second)); status != "Valid" {
		t.Errorf("the authority says that the new one is %s", status)
	}
}

// stored returns key and chain of a certificate in the store.
func (i *issuer) stored(leaf *x509.Certificate) (key crypto.Signer, chain [][]byte) {
	i.t.Helper()
	err := filepath.Walk(filepath.Join(i.store, "certificates"), func(name string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if pair, err := tls.X509KeyPair(data, data); err == nil && bytes.Equal(pair.Leaf.Raw, leaf.Raw) {
			key, chain = pair.PrivateKey.(crypto.Signer), pair.Certificate
		}
		return nil
	})
	if err != nil || key == nil {
		i.t.Fatalf("the certificate is not in the store: %v", err)
	}
	return key, chain
}

// An authority that wants a customer's account has it with the right key.
// Control: with a wrong one nothing is issued, and the error says so wherever
// an operator looks.
func TestACMEExternalAccount(t *testing.T) {
	t.Parallel()
	const account = "  external_account {\n    key_id = \"kid-1\"\n    hmac   = \"%s\"\n  }"
	const right, wrong = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W", "AAAAAM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	ca := newIssuer(t, acmetest.Options{ExternalAccounts: map[string]string{"kid-1": right}})
	ca.more = fmt.Sprintf(account, wrong)
	gw := ca.launch()
	gw.notReady("the authority refuses")
	gw.certs("list").ok(t).says(t, "issued: ", "the authority refuses").silentOf(t, wrong)
	if strings.Contains(gw.said(), wrong) {
		t.Error("the key is in the log")
	}
	gw.stop()

	ca.more = fmt.Sprintf(account, right)
	gw = ca.launch()
	gw.certs("renew", "issued").ok(t)
	gw.ready()
	gw.leaf(ca.trust())
}

// notReady waits until /readyz says why.
func (g *gateway) notReady(why string) {
	g.t.Helper()
	var status int
	var page string
	if !eventually(patience, func() bool { status, page, _ = g.fetch("/readyz"); return status == 503 && strings.Contains(page, why) }) {
		g.t.Fatalf("/readyz: %d %s, not 503 with %q", status, page, why)
	}
}

// While the authority is down at the start, a listener refuses TLS, and never
// goes on in the clear instead; where it was allowed to sign for itself, it does
// that. Either way the page and the commands say why, and once the authority is
// back the certificate is there.
func TestACMEDownAtStart(t *testing.T) {
	t.Parallel()
	for _, bootstrap := range []string{"refuse", "self_signed"} {
		t.Run(bootstrap, func(t *testing.T) {
			t.Parallel()
			ca := newIssuer(t, acmetest.Options{})
			ca.Break(acmetest.Down)
			ca.bootstrap = bootstrap
			gw := ca.launch()
			if bootstrap == "refuse" {
				gw.notReady("the authority cannot be asked")
				c := dial(t, loopback(), gw.addr("mx"))
				c.reply(220)
				c.cmd(250, "EHLO client.example.net")
				c.cmd(454, "STARTTLS")
				c.cmd(530, "MAIL FROM:<a@example.net>")
				gw.certs("list").ok(t).says(t, "none", "the authority cannot be asked")
			} else {
				gw.ready()
				if leaf := gw.leaf(anyone); leaf.Issuer.String() != leaf.Subject.String() || leaf.VerifyHostname(issuedName) != nil {
					t.Errorf("%s signed for %q", leaf.Issuer, leaf.DNSNames)
				}
				eventually(patience, func() bool { return strings.Contains(gw.certs("list").out, "the authority cannot be asked") })
				gw.certs("list").ok(t).says(t, "stand-in", "the authority cannot be asked")
				gw.certs("show", "issued").ok(t).silentOf(t, "TLSA")
			}
			gw.certs("renew", "issued").exited(t, 1).says(t, "not renewed: ", "the authority cannot be asked")
			ca.Break(nil)
			gw.certs("renew", "issued").ok(t)
			gw.ready()
			gw.leaf(ca.trust())
			gw.certs("list").ok(t).says(t, "acme").silentOf(t, "cannot be asked")
		})
	}
}

// An authority that is down, or talks nonsense, at a renewal leaves the old
// certificate in service, and says what happened.
func TestACMEDownAtRenewal(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t, acmetest.Options{})
	gw := serve(t, ca.hcl())
	first := gw.leaf(ca.trust())
	for _, c := range []struct {
		what  string
		spoil func(http.ResponseWriter, *http.Request) bool
	}{
		{"is down", acmetest.Down},
		{"answers garbage", func(w http.ResponseWriter, _ *http.Request) bool { io.WriteString(w, "<html>\x1b[1m"); return true }},
		{"is overloaded", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "3600")
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"come back later"}`)
			return true
		}},
	} {
		ca.Break(c.spoil)
		res := gw.certs("renew", "issued").exited(t, 1).says(t, "not renewed: ").silentOf(t, "\x1b")
		if c.what == "is overloaded" {
			res.says(t, "come back later")
		}
		if now := gw.leaf(ca.trust()); serial(now) != serial(first) {
			t.Errorf("an authority that %s: another certificate is served", c.what)
		}
		if gw.get("/readyz") != 200 {
			t.Errorf("an authority that %s: not ready", c.what)
		}
		gw.certs("list").ok(t).says(t, "acme", "\nissued: ")
	}
	ca.Break(nil)
	gw.certs("renew", "issued").ok(t)
	if now := gw.leaf(ca.trust()); serial(now) == serial(first) {
		t.Error("control: not renewed though the authority is back")
	}
}

// A port for challenges that another program has is an error at the start that
// names it; one that another program answers on instead of us fails the
// validation, whose error says what the authority saw. Control: once it is
// ours, the certificate is issued.
func TestACMEChallengePortTaken(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t, acmetest.Options{})
	squatter, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ca.TLSPort))
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	var visits atomic.Int32
	go func() {
		for {
			c, err := squatter.Accept()
			if err != nil {
				return
			}
			visits.Add(1)
			io.WriteString(c, "220 this is no TLS\r\n")
			c.Close()
		}
	}()
	gw := ca.launch()
	if code, err := gw.exit(patience); err != nil || code != 1 {
		t.Errorf("exit code %d, %v", code, err)
	}
	gw.waitLog(fmt.Sprintf(`127\.0\.0\.1:%d: bind: address already in use; another process listens there`, ca.TLSPort))

	ours := ca.web
	ca.web, ca.more = `"`+address()+`"`, `  challenges = ["tls-alpn-01"]`
	gw = ca.launch()
	gw.notReady("the authority could not verify a name")
	gw.certs("list").ok(t).says(t, "issued: ", "could not verify a name")
	if visits.Load() == 0 {
		t.Error("control: nobody came to verify")
	}
	squatter.Close()
	ca.web = ours
	gw.configure(ca.hcl())
	gw.reload("ok")
	gw.certs("renew", "issued").ok(t)
	gw.ready()
	gw.leaf(ca.trust())
}

// A store that cannot be used has nothing ordered that would be lost, at the
// start and at a renewal; what is served stays. Controls: with the store it
// works.
func TestACMEStoreUnusable(t *testing.T) {
	t.Parallel()
	need(t, "setpriv")
	for what, c := range map[string]struct {
		spoil, mend func(dir string) error
		want        string
	}{
		"a file in its place": {
			func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
			os.Remove,
			"store",
		},
		"read-only": {
			func(dir string) error { return os.Mkdir(dir, 0o500) },
			os.Remove,
			"permission denied",
		},
		"of another version": {
			func(dir string) error {
				return os.WriteFile(filepath.Join(must(dir, os.Mkdir(dir, 0o700)), ".version"), []byte("sallyport store 99\n"), 0o600)
			},
			os.RemoveAll,
			"another version",
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			ca := newIssuer(t, acmetest.Options{})
			if err := c.spoil(ca.store); err != nil {
				t.Fatal(err)
			}
			gw := ca.launch("setpriv", "--bounding-set=-dac_override,-dac_read_search") // or root may write everywhere
			gw.notReady(c.want)
			gw.certs("renew", "issued").exited(t, 1).says(t, c.want)
			if n := ca.Orders(); n != 0 {
				t.Errorf("%d orders that nobody could keep", n)
			}
			if err := c.mend(ca.store); err != nil {
				t.Fatal(err)
			}
			gw.certs("renew", "issued").ok(t)
			gw.ready()
			first := gw.leaf(ca.trust())

			aside := ca.store + ".aside"
			if err := os.Rename(ca.store, aside); err != nil {
				t.Fatal(err)
			}
			if err := c.spoil(ca.store); err != nil {
				t.Fatal(err)
			}
			gw.certs("renew", "issued").exited(t, 1).says(t, c.want)
			if now := gw.leaf(ca.trust()); serial(now) != serial(first) || ca.Orders() != 1 {
				t.Errorf("serial %s, then %s; %d orders", serial(first), serial(now), ca.Orders())
			}
			if err := c.mend(ca.store); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(aside, ca.store); err != nil {
				t.Fatal(err)
			}
			gw.certs("renew", "issued").ok(t)
		})
	}
}

func must(dir string, err error) string {
	if err != nil {
		panic(err)
	}
	return dir
}

// A disk without room has nothing ordered; what is there stays whole. The limit
// of a file's size stands in for the disk, since not every machine lets tests
// mount one. Control: without the limit it is issued.
func TestACMEDiskFull(t *testing.T) {
	t.Parallel()
	need(t, "prlimit")
	ca := newIssuer(t, acmetest.Options{})
	gw := ca.launch("prlimit", "--fsize=15000")
	gw.notReady("file too large")
	if n := ca.Orders(); n != 0 {
		t.Errorf("%d orders that nobody could keep", n)
	}
	gw.stop()
	gw = ca.launch()
	gw.certs("renew", "issued").ok(t)
	gw.ready()
	gw.leaf(ca.trust())
}

// Three gateways with one store that start at once with nothing make exactly
// one order. The authority may come to any of them to verify; all have the
// certificate at once, and what one of them renews.
func TestACMEReplicas(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t, acmetest.Options{})
	all := make(chan struct{})
	ca.Break(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/order-plz") {
			select {
			case <-all:
			case <-r.Context().Done():
			}
		}
		return false
	})
	var fronts []string
	var gateways []*gateway
	for n := range 3 {
		front := address()
		fronts = append(fronts, front)
		ca.web, ca.state = quote(front), filepath.Join(filepath.Dir(ca.store), "state"+strconv.Itoa(n))
		gateways = append(gateways, ca.launch())
	}
	balance(t, fmt.Sprintf("127.0.0.1:%d", ca.TLSPort), fronts)
	balance(t, fmt.Sprintf("127.0.0.1:%d", ca.HTTPPort), fronts)
	for _, gw := range gateways {
		gw.notReady("not issued yet")
	}
	close(all)
	same := func(after string) string {
		t.Helper()
		var serials []string
		if !eventually(2*patience, func() bool {
			serials = nil
			for _, gw := range gateways {
				serials = append(serials, serial(gw.leaf(ca.trust())))
			}
			return serials[0] != after && serials[0] == serials[1] && serials[1] == serials[2]
		}) {
			t.Fatalf("serials %q", serials)
		}
		return serials[0]
	}
	for _, gw := range gateways {
		gw.ready()
	}
	first := same("")
	if n := ca.Orders(); n != 1 {
		t.Errorf("%d orders of three gateways for one certificate", n)
	}
	gateways[1].certs("renew", "issued").ok(t)
	same(first)
	if n := ca.Orders(); n != 2 {
		t.Errorf("%d orders for two certificates", n)
	}
}

// balance passes connections to servers in turn.
func balance(t *testing.T, addr string, servers []string) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var passing sync.WaitGroup
	t.Cleanup(func() { ln.Close(); passing.Wait() })
	passing.Go(func() {
		for n := 0; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			server := servers[n%len(servers)]
			passing.Go(func() {
				defer c.Close()
				s, err := net.DialTimeout("tcp", server, patience)
				if err != nil {
					return
				}
				defer s.Close()
				for _, conn := range []net.Conn{c, s} {
					conn.SetDeadline(time.Now().Add(patience))
				}
				passing.Go(func() { io.Copy(s, c); s.(*net.TCPConn).CloseWrite() })
				io.Copy(c, s)
			})
		}
	})
}

// A gateway that is killed in the middle of an order leaves its place to
// another one at once.
func TestACMELeaderDies(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t, acmetest.Options{})
	asked, dead := make(chan struct{}, 10), make(chan struct{})
	ca.Break(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/order-plz") {
			asked <- struct{}{}
			<-dead
		}
		return false
	})
	web := ca.web
	ca.web = quote(address())
	leader := ca.launch()
	<-asked
	ca.web, ca.state = web, ca.state+"2"
	heir := ca.launch()
	heir.notReady("not issued yet")
	leader.signal(syscall.SIGKILL)
	<-leader.ended
	close(dead)
	heir.ready()
	heir.leaf(ca.trust())
}

// A reload in the middle of an order neither breaks it nor makes another one.
func TestACMEReloadDuringOrder(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t, acmetest.Options{})
	asked, reloaded := make(chan struct{}, 10), make(chan struct{})
	ca.Break(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/finalize-order/") {
			asked <- struct{}{}
			<-reloaded
		}
		return false
	})
	gw := ca.launch()
	select {
	case <-asked:
	case <-time.After(patience):
		t.Fatal("no order was finalized")
	}
	gw.configure(ca.hcl() + `
listener "smtp" "more" {
  address = [{{listen "more"}}]
  mode    = "starttls"
  backend = backend.postfix
}
`)
	gw.reload("ok")
	close(reloaded)
	gw.ready()
	gw.leaf(ca.trust())
	if n := ca.Orders(); n != 1 {
		t.Errorf("%d orders", n)
	}
}

// A stop ends an order that is under way at once, though a session keeps the
// gateway up: without listeners its names could not be found, and the authority
// would count that. Control: the session goes on until it has had its say.
func TestACMEStopDuringOrder(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t, acmetest.Options{})
	asked, ended := make(chan struct{}, 10), make(chan struct{}, 10)
	ca.Break(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/finalize-order/") {
			asked <- struct{}{}
			io.Copy(io.Discard, r.Body) // else nobody sees the gateway hang up
			select {
			case <-r.Context().Done():
				ended <- struct{}{}
			case <-time.After(patience):
			}
		}
		return false
	})
	gw := ca.launch()
	select {
	case <-asked:
	case <-time.After(patience):
		t.Fatal("no order was finalized")
	}
	c := dial(t, loopback(), gw.addr("mx"))
	c.reply(220)
	gw.signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the order goes on")
	}
	c.cmd(250, "NOOP")
	c.cmd(221, "QUIT")
	if code, err := gw.exit(patience); err != nil || code != 0 {
		t.Errorf("exit code %d, %v", code, err)
	}
	if strings.Contains(gw.said(), "not obtained") {
		t.Error("an order that was ended counts as a failure")
	}
}

// Where each name of a block has a certificate of its own, the commands take the
// block's name for all and block/name for one, and scripts read of each in JSON.
func TestACMENames(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t, acmetest.Options{})
	gw := launch(t, ca.hcl()+`
certificate "pair" {
  names = ["imap.acme.example.org", "pop.acme.example.org"]
  acme  = acme.test
}
listener "imap" "pair" {
  address = [{{listen "pair"}}]
  mode    = "starttls"
  certs   = [certificate.pair]
  backend = backend.postfix
}
`)
	gw.ready()
	read := func(argv ...string) (list []certificate) {
		t.Helper()
		out := gw.certs(argv[0], append(argv[1:], "--json")...).ok(t).out
		if i := strings.IndexByte(out, '['); i < 0 || json.Unmarshal([]byte(out[i:]), &list) != nil {
			t.Fatalf("%q: no JSON: %s", argv, out)
		}
		return list
	}
	const imap, pop = "pair/imap.acme.example.org", "pair/pop.acme.example.org"
	if !eventually(patience, func() bool {
		for _, c := range read("show", "pair") {
			if c.NotAfter.IsZero() {
				return false
			}
		}
		return true
	}) {
		t.Fatal("the pair is not issued")
	}
	var names []string
	for _, c := range read("list") {
		names = append(names, c.Name+" "+c.From)
	}
	if want := []string{"localhost files", "mail files", "corp files", "issued acme", imap + " acme", pop + " acme"}; !slices.Equal(names, want) {
		t.Errorf("listed: %q, want %q", names, want)
	}
	before := read("show", "pair")
	if len(before) != 2 || before[0].Name != imap || before[1].Name != pop || before[0].Authority != "test" || len(before[0].TLSA) != 1 ||
		!strings.HasPrefix(before[0].TLSA[0], "_"+gw.port("pair")+"._tcp.imap.acme.example.org. IN TLSA 3 1 1 ") || time.Until(before[0].NotAfter) < 80*24*time.Hour {
		t.Errorf("%+v", before)
	}
	one := read("renew", pop)
	if len(one) != 1 || one[0].Serial == before[1].Serial || !slices.Equal(one[0].TLSA, before[1].TLSA) {
		t.Errorf("renewed: %+v, before: %+v", one, before[1])
	}
	both := read("renew", "pair")
	if len(both) != 2 || both[0].Serial == before[0].Serial || both[1].Serial == one[0].Serial {
		t.Errorf("renewed: %+v", both)
	}
	gw.certs("renew", "pai").exited(t, 1).says(t, `no certificate "pai", but: localhost, mail, corp, issued, `+imap)
	if n := ca.Orders(); n != 6 {
		t.Errorf("%d orders for six certificates", n)
	}
}

// A certificate is one as certs tells of it.
type certificate struct {
	Name, From, Authority, Serial string
	TLSA                          []string
	NotAfter                      time.Time `json:"not_after"`
}
