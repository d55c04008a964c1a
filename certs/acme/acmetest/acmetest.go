// Package acmetest runs a real ACME authority (RFC 8555) on loopback, Let's
// Encrypt's Pebble, for tests of whatever has certificates issued. It rejects
// some nonces, as it does by default, so that retries are exercised, and is
// reached through a front that counts, and that can be broken.
package acmetest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Options say what kind of authority it is. The zero Options do.
type Options struct {
	TLSPort  int // where it comes for tls-alpn-01; 0: a free one
	HTTPPort int // where it comes for http-01; 0: a free one

	Life     time.Duration            // of certificates; 0: 90 days
	Profiles map[string]time.Duration // and their lives; nil: one, "default", of Life

	// ExternalAccounts are the keys by id, base64url, without which no account
	// is made; nil: accounts are made for everybody.
	ExternalAccounts map[string]string

	// DNS is the server, ADDRESS:PORT, that it asks. Empty: one that says
	// 127.0.0.1 of all names, and what SetTXT said.
	DNS string

	Env []string // for Pebble, "PEBBLE_VA_ALWAYS_VALID=1"
}

// An Authority is a Pebble with a front.
type Authority struct {
	Directory string // URL, through the front
	CAFile    string // PEM: whom to trust for the directory
	CAs       *x509.CertPool
	TLSPort   int
	HTTPPort  int

	manage string // URL of Pebble's own management
	dns    string // URL of the DNS server's
	inner  *http.Client
	orders atomic.Int64
	broken atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
}

// Start starts an authority that ends with the test.
func Start(t testing.TB, o Options) *Authority {
	t.Helper()
	a := &Authority{TLSPort: o.TLSPort, HTTPPort: o.HTTPPort}
	for _, port := range []*int{&a.TLSPort, &a.HTTPPort} {
		if *port == 0 {
			*port = freePort(t)
		}
	}
	dir := t.TempDir()
	if o.DNS == "" {
		o.DNS = fmt.Sprintf("127.0.0.1:%d", freePort(t))
		manage := fmt.Sprintf("127.0.0.1:%d", freePort(t))
		a.dns = "http://" + manage
		run(t, dir, nil, "pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dnsserver", o.DNS,
			"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-management", manage)
		await(t, "pebble-challtestsrv", func() error { return dial(manage) })
	}
	a.pebble(t, dir, o)
	a.front(t, dir)
	return a
}

// pebble starts the authority itself, with a certificate that only the front
// trusts.
func (a *Authority) pebble(t testing.TB, dir string, o Options) {
	t.Helper()
	tests := httptest.NewUnstartedServer(nil)
	tests.StartTLS() // for a certificate of 127.0.0.1
	cert, pool := tests.TLS.Certificates[0], x509.NewCertPool()
	tests.Close()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(leaf)
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}))
	write(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))

	if o.Life == 0 {
		o.Life = 90 * 24 * time.Hour
	}
	if o.Profiles == nil {
		o.Profiles = map[string]time.Duration{"default": o.Life}
	}
	profiles := make(map[string]any)
	for name, life := range o.Profiles {
		profiles[name] = map[string]any{"description": name, "validityPeriod": int(life.Seconds())}
	}
	listen, manage := fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": listen, "managementListenAddress": manage,
		"certificate": certFile, "privateKey": keyFile,
		"httpPort": a.HTTPPort, "tlsPort": a.TLSPort,
		"externalAccountBindingRequired": o.ExternalAccounts != nil, "externalAccountMACKeys": o.ExternalAccounts,
		"retryAfter":   map[string]int{"authz": 1, "order": 1},
		"keyAlgorithm": "ecdsa",
		"profiles":     profiles,
	}})
	if err != nil {
		t.Fatal(err)
	}
	configFile := filepath.Join(dir, "pebble.json")
	write(t, configFile, config)
	env := append([]string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=5", "PEBBLE_AUTHZREUSE=0"}, o.Env...)
	run(t, dir, env, "pebble", "-config", configFile, "-dnsserver", o.DNS)

	a.Directory, a.manage = "https://"+listen+"/dir", "https://"+manage
	a.inner = &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}}}
	t.Cleanup(a.inner.CloseIdleConnections)
	await(t, "pebble", func() error { return a.get(a.Directory, new(bytes.Buffer)) })
	await(t, "pebble", func() error { return a.get(a.manage+"/roots/0", new(bytes.Buffer)) })
}

// front starts what clients take for the authority.
func (a *Authority) front(t testing.TB, dir string) {
	target, err := url.Parse(a.Directory)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
			r.Out.Host = r.In.Host // Pebble's URLs are made of it
		},
		Transport: a.inner.Transport,
		ModifyResponse: func(res *http.Response) error {
			if res.Request.URL.Path == "/order-plz" && res.StatusCode == http.StatusCreated {
				a.orders.Add(1)
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken := a.broken.Load(); broken != nil && (*broken)(w, r) {
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	a.Directory = server.URL + "/dir"
	a.CAs = x509.NewCertPool()
	a.CAs.AddCert(server.Certificate())
	a.CAFile = filepath.Join(dir, "front.pem")
	write(t, a.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}

// Orders returns how many orders were made.
func (a *Authority) Orders() int { return int(a.orders.Load()) }

// Break has each request go to a handler first, which answers it if it returns
// true. Nil mends it.
func (a *Authority) Break(handler func(http.ResponseWriter, *http.Request) bool) {
	if handler == nil {
		a.broken.Store(nil)
		return
	}
	a.broken.Store(&handler)
}

// Down breaks each connection, as an authority does that is not there.
func Down(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }

// Roots returns whom clients trust that trust this authority.
func (a *Authority) Roots(t testing.TB) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if text := a.root(t); !pool.AppendCertsFromPEM(text) {
		t.Fatalf("no root in %q", text)
	}
	return pool
}

// RootFile is Roots in a file, PEM.
func (a *Authority) RootFile(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "root.pem")
	write(t, file, a.root(t))
	return file
}

func (a *Authority) root(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := a.get(a.manage+"/roots/0", &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// CertificateStatus returns what the authority thinks of a certificate: "Valid",
// "Revoked". serial is hexadecimal.
func (a *Authority) CertificateStatus(t testing.TB, serial string) string {
	t.Helper()
	var out bytes.Buffer
	if err := a.get(a.manage+"/cert-status-by-serial/"+serial, &out); err != nil {
		t.Fatal(err)
	}
	var answer struct{ Status string }
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	return answer.Status
}

// SetTXT adds a TXT record to a name of its DNS server, which ends with a dot.
func (a *Authority) SetTXT(t testing.TB, name, value string) {
	t.Helper()
	a.post(t, a.dns+"/set-txt", map[string]string{"host": name, "value": value})
}

// ClearTXT removes the TXT records of a name.
func (a *Authority) ClearTXT(t testing.TB, name string) {
	t.Helper()
	a.post(t, a.dns+"/clear-txt", map[string]string{"host": name})
}

// SetRenewalInfo has the authority answer with a document when it is asked
// when to renew a certificate (RFC 9773, 4.2). id is the certificate, PEM.
func (a *Authority) SetRenewalInfo(t testing.TB, certificate []byte, info string) {
	t.Helper()
	a.post(t, a.manage+"/set-renewal-info/", map[string]string{"certificate": string(certificate), "ariResponse": info})
}

func (a *Authority) get(url string, into *bytes.Buffer) error {
	res, err := a.inner.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	_, err = into.ReadFrom(res.Body)
	return err
}

func (a *Authority) post(t testing.TB, url string, value any) {
	t.Helper()
	body, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	res, err := a.inner.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		t.Fatalf("%s: %s: %s", url, res.Status, text)
	}
}

// run starts a tool of go.mod until the test ends, and shows what it said when
// that failed.
func run(t testing.TB, dir string, env []string, tool string, args ...string) {
	t.Helper()
	paths, err := built()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(paths[tool], args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", tool, &out)
		}
	})
}

// built returns where the go command has built the tools of go.mod that are
// needed here. It takes its time to tell.
var built = sync.OnceValues(func() (paths map[string]string, err error) {
	paths = make(map[string]string)
	for _, tool := range []string{"pebble", "pebble-challtestsrv"} {
		out, err := exec.Command("go", "tool", "-n", tool).Output()
		if err != nil {
			if e := (*exec.ExitError)(nil); errors.As(err, &e) {
				err = fmt.Errorf("%w: %s", err, e.Stderr)
			}
			return nil, fmt.Errorf("go tool -n %s: %w", tool, err)
		}
		paths[tool] = strings.TrimSpace(string(out))
	}
	return paths, nil
})

// A tail keeps the end of what a process says.
type tail struct {
	mu  sync.Mutex
	out []byte
}

func (o *tail) Write(p []byte) (int, error) {
	const most = 16 << 10
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.out = append(o.out, p...); len(o.out) > most {
		o.out = append([]byte(nil), o.out[len(o.out)-most:]...)
	}
	return len(p), nil
}

func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.out)
}

// await waits until something is there.
func await(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not start: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// freePort returns a port that is free for TCP and UDP. It is below those that
// the kernel gives to connections, so that it stays free until it is bound.
func freePort(t testing.TB) int {
	t.Helper()
	const first, last = 10000, 32000
	for range 100 {
		port := first + rand.N(last-first)
		address := fmt.Sprintf("127.0.0.1:%d", port)
		ln, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		conn, err := net.ListenPacket("udp", address)
		ln.Close()
		if err == nil {
			conn.Close()
			return port
		}
	}
	t.Fatal("no port is free for TCP and UDP")
	return 0
}

func write(t testing.TB, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func dial(address string) error {
	conn, err := net.Dial("tcp", address)
	if err == nil {
		conn.Close()
	}
	return err
}
