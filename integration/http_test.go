package integration

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const cupsdConf = `Listen %s
ServerAlias *
DefaultEncryption Never
DefaultAuthType None
Browsing No
WebInterface No
LogLevel warn
<Location />
  Order allow,deny
  Allow all
</Location>
<Policy default>
  <Limit All>
    Order allow,deny
    Allow all
  </Limit>
</Policy>
`

const cupsFilesConf = `ServerRoot %[1]s/root
RequestRoot %[1]s/spool
CacheDir %[1]s/cache
StateDir %[1]s/state
TempDir %[1]s/tmp
ServerKeychain %[1]s/ssl
ErrorLog %[1]s/error_log
AccessLog %[1]s/access_log
PageLog %[1]s/page_log
FileDevice Yes
User lp
Group lp
SystemGroup lpadmin
CreateSelfSignedCerts no
`

const printersConf = `<Printer raw>
Info raw
DeviceURI file:///dev/null
State Idle
Accepting Yes
</Printer>
`

// cupsd starts a print server with TLS off, and one printer.
func cupsd(t *testing.T) string {
	t.Helper()
	need(t, "cupsd", "ipptool")
	root(t)
	dir, err := os.MkdirTemp(lab.dir, "cups-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	addr := address()
	for _, sub := range []string{"root", "spool", "cache", "state", "tmp", "ssl"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"cupsd.conf":         fmt.Sprintf(cupsdConf, addr),
		"cups-files.conf":    fmt.Sprintf(cupsFilesConf, dir),
		"root/printers.conf": printersConf,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d, err := start("cupsd", "-f", "-c", filepath.Join(dir, "cupsd.conf"), "-s", filepath.Join(dir, "cups-files.conf"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.stop)
	if err := reachable(d, addr); err != nil {
		t.Fatal(err)
	}
	return addr
}

// ippTest asks for a printer's attributes, prints a file, and asks how much of
// it has come.
const ippTest = `{
  NAME "attributes"
  OPERATION Get-Printer-Attributes
  GROUP operation-attributes-tag
  ATTR charset attributes-charset utf-8
  ATTR language attributes-natural-language en
  ATTR uri printer-uri $uri
  STATUS successful-ok
  EXPECT printer-name WITH-VALUE "raw"
}
{
  NAME "print"
  OPERATION Print-Job
  GROUP operation-attributes-tag
  ATTR charset attributes-charset utf-8
  ATTR language attributes-natural-language en
  ATTR uri printer-uri $uri
  ATTR name requesting-user-name $user
  ATTR mimeMediaType document-format application/octet-stream
  FILE $filename
  STATUS successful-ok
  EXPECT job-id
}
{
  NAME "job"
  OPERATION Get-Job-Attributes
  GROUP operation-attributes-tag
  ATTR charset attributes-charset utf-8
  ATTR language attributes-natural-language en
  ATTR uri printer-uri $uri
  ATTR integer job-id $job-id
  ATTR name requesting-user-name $user
  STATUS successful-ok
  EXPECT job-k-octets WITH-VALUE 3072
}
`

// A printer's client asks for TLS in cleartext, as RFC 2817 has it, and prints:
// in chunks and by length, also where the gateway itself asks a gateway. Where
// the option is off nobody upgrades.
func TestPrinter(t *testing.T) {
	t.Parallel()
	g := serve(t, fmt.Sprintf(`
listener "http" "ipp" {
  address = [{{listen "ipp"}}]
  mode    = "starttls"
  opossum = "accepted"
  backend = backend.cups
  options {
    upgrade = true
  }
}
listener "http" "again" {
  address = [{{listen "again"}}]
  mode    = "implicit"
  backend = backend.gateway
}
listener "http" "off" {
  address = [{{listen "off"}}]
  mode    = "starttls"
  backend = backend.cups
  options {
    redirect = true
  }
}
backend "cups" {
  servers = [%q]
}
backend "gateway" {
  servers = [{{listen "ipp"}}]
  tls {
    mode        = "starttls"
    ca_file     = "{{ca}}"
    server_name = "localhost"
  }
}
`, cupsd(t)))
	dir := t.TempDir()
	file, test := filepath.Join(dir, "job"), filepath.Join(dir, "job.test")
	if err := os.WriteFile(file, bytes.Repeat([]byte("a page\n\f"), 3<<17), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(test, []byte(ippTest), 0o644); err != nil {
		t.Fatal(err)
	}
	ipp := func(t *testing.T, listener string, more ...string) result {
		argv := append([]string{"ipptool", "-t", "-T", "10", "-f", file}, more...)
		return client(t, "", append(argv, "ipp://localhost:"+g.port(listener)+"/printers/raw", test)...)
	}
	for _, framing := range []string{"-c", "-L"} {
		t.Run("upgrade"+framing, func(t *testing.T) {
			ipp(t, "ipp", "-E", framing).ok(t)
			g.session("ipp").is(t, "security", "encrypted", "protocol", "http")
			g.session("ipp").ended(t)
		})
	}
	t.Run("backend by upgrade", func(t *testing.T) {
		// ipptool cannot begin with TLS 1.3: CUPS 2.4 takes a session ticket for
		// an error where nothing else comes with it.
		url := "https://localhost:" + g.port("again") + "/printers/raw"
		curl(t, "127.0.8.11", "-i", url, url).ok(t).says(t, "Server: CUPS/")
		g.session("127.0.8.11").is(t, "security", "encrypted", "outcome", "ok")
	})
	t.Run("off", func(t *testing.T) {
		if r := ipp(t, "off", "-E"); r.code == 0 {
			t.Errorf("a listener that does not upgrade did: %s", r.out)
		}
		g.session("off").is(t, "security", "cleartext", "reason", "tls_required")
	})
}

// What a backend says beyond its answer is not passed on, and not logged.
func TestUnaskedIsNotLogged(t *testing.T) {
	t.Parallel()
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"
	said := make(chan bool, 1)
	backend := serveStub(t, func(_ *stub, conn net.Conn) {
		in := bufio.NewReader(conn)
		if _, err := http.ReadRequest(in); err == nil {
			io.WriteString(conn, answer+"secret") // to HEAD
			in.Peek(1)                            // until the gateway has had enough
			said <- true
		}
	})
	g := serve(t, fmt.Sprintf(`
listener "http" "unasked" {
  address = [{{listen "unasked"}}]
  mode    = "implicit"
  backend = backend.unasked
}
backend "unasked" {
  servers = [%q]
}
`, backend.addr))
	url := "https://localhost:" + g.port("unasked") + "/"
	curl(t, "127.0.8.12", "--head", url).ok(t)
	<-said
	g.session("127.0.8.12").is(t, "outcome", "ok")
	if strings.Contains(g.said(), "secret") {
		t.Errorf("the log has it:\n%s", g.said())
	}
}

// A website is a server in the test that tells what it was sent.
type website struct {
	addr string
	mu   sync.Mutex
	cut  []string // uploads that broke off, with the error
}

func newWebsite(t *testing.T) *website {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &website{addr: ln.Addr().String()}
	mux := http.NewServeMux()
	mux.HandleFunc("/told", func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "Via", "Upgrade"} {
			fmt.Fprintf(w, "%s: %s\n", name, strings.Join(r.Header.Values(name), " | "))
		}
	})
	mux.HandleFunc("/up", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		if err != nil {
			s.mu.Lock()
			s.cut = append(s.cut, fmt.Sprintf("%d %v", n, err))
			s.mu.Unlock()
			return
		}
		fmt.Fprintf(w, "%d %x chunked=%v trailer=%s\n", n, sum.Sum(nil), r.ContentLength < 0, r.Trailer.Get("Sum"))
	})
	mux.HandleFunc("/down", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.FormValue("bytes"), 10, 64)
		w.Header().Set("Trailer", "Sum")
		sum := sha256.New()
		io.CopyN(io.MultiWriter(w, sum), rand.Reader, n)
		w.Header().Set("Sum", hex.EncodeToString(sum.Sum(nil)))
	})
	mux.HandleFunc("/socket", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		io.Copy(c, rw) // an echo
	})
	server := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(ln) }()
	t.Cleanup(func() { server.Close(); <-done })
	return s
}

func (s *website) broken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cut
}

func website443(t *testing.T, s *website) *gateway {
	t.Helper()
	return serve(t, fmt.Sprintf(`
listener "http" "https" {
  address = [{{listen "https"}}]
  mode    = "implicit"
  backend = backend.site
  options {
    hsts = "max-age=600"
  }
}
listener "http" "http" {
  address = [{{listen "http"}}]
  mode    = "starttls"
  backend = backend.site
  options {
    redirect = true
  }
}
listener "http" "both" {
  address   = [{{listen "both"}}]
  mode      = "starttls"
  cleartext = "allow"
  opossum   = "accepted"
  backend   = backend.site
  options {
    upgrade = true
  }
}
backend "site" {
  servers = [%q]
}
`, s.addr))
}

// curl, from an address of its own.
func curl(t *testing.T, from string, argv ...string) result {
	t.Helper()
	return client(t, "", append([]string{"curl", "-sS", "--cacert", lab.pki.ca, "--interface", from}, argv...)...)
}

// A website in TLS: who the client is reaches it, and is not the client's to
// say; browsers that come without TLS are sent there.
func TestWebsite(t *testing.T) {
	t.Parallel()
	g := website443(t, newWebsite(t))
	told := "https://localhost:" + g.port("https") + "/told"
	curl(t, "127.0.8.1", "-i", "-H", "X-Forwarded-For: 192.0.2.1", "-H", "Forwarded: for=192.0.2.1", told).ok(t).
		says(t, "HTTP/1.1 200 OK", "Strict-Transport-Security: max-age=600",
			"X-Forwarded-For: 127.0.8.1\n", "X-Forwarded-Proto: https\n", "X-Forwarded-Host: localhost:"+g.port("https")+"\n",
			`Forwarded: for=127.0.8.1;host="localhost:`+g.port("https")+`";proto=https`, "Via: 1.1 sallyport\n").
		silentOf(t, "192.0.2.1")
	g.session("127.0.8.1").is(t, "security", "encrypted", "protocol", "http", "outcome", "ok", "sni", "localhost")

	// Several requests on one connection.
	curl(t, "127.0.8.2", told, told, told).ok(t)
	if n := len(g.sessions("127.0.8.2")); n > 1 {
		t.Errorf("three requests made %d sessions", n)
	}

	plain := "http://localhost:" + g.port("http") + "/told?a=b"
	curl(t, "127.0.8.3", "-i", plain).ok(t).says(t, "HTTP/1.1 308 ", "Location: https://localhost/told?a=b\r\n")
	// H-10: and nobody is led to TLS here who did not begin with it.
	curl(t, "127.0.8.3", "-i", "-X", "OPTIONS", "--request-target", "*", "-H", "Upgrade: TLS/1.0", "-H", "Connection: Upgrade", plain).ok(t).says(t, "HTTP/1.1 403 ")

	// A session that is allowed in cleartext is told as what it is.
	curl(t, "127.0.8.4", "http://localhost:"+g.port("both")+"/told").ok(t).says(t, "X-Forwarded-Proto: http\n", ";proto=http\n")
	g.session("127.0.8.4").is(t, "security", "cleartext")
}

// Bodies of any length pass in both directions, in chunks and by length, and
// what breaks off has not come to its end.
func TestBodies(t *testing.T) {
	t.Parallel()
	site := newWebsite(t)
	g := website443(t, site)
	base := "https://localhost:" + g.port("https")
	const size = 24 << 20
	file := filepath.Join(t.TempDir(), "file")
	body := make([]byte, size)
	rand.Read(body)
	if err := os.WriteFile(file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%d %x", size, sha256.Sum256(body))
	curl(t, "127.0.8.5", "-T", file, "-H", "Transfer-Encoding: chunked", base+"/up").ok(t).says(t, sum+" chunked=true")
	curl(t, "127.0.8.5", "-T", file, base+"/up").ok(t).says(t, sum+" chunked=false")
	curl(t, "127.0.8.5", "-T", file, "-H", "Expect: 100-continue", base+"/up").ok(t).says(t, sum)
	got := filepath.Join(t.TempDir(), "got")
	trailers := curl(t, "127.0.8.5", "-o", got, "-D", "-", base+"/down?bytes="+strconv.Itoa(size)).ok(t).out
	down, err := os.ReadFile(got)
	if err != nil || len(down) != size || !strings.Contains(trailers, fmt.Sprintf("Sum: %x", sha256.Sum256(down))) {
		t.Errorf("%d bytes came down (%v), with %s", len(down), err, trailers)
	}

	p := dialTLS(t, "127.0.8.6", g.addr("https"), lab.pki.client("localhost"))
	p.send("POST /up HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n")
	p.send("5\r\nhello\r\n0\r\nSum: 1\r\n")
	p.until(`^5 [0-9a-f]+ chunked=true trailer=1`)
	if cut := site.broken(); cut != nil {
		t.Fatalf("a whole upload broke off: %q", cut)
	}
	p.send("POST /up HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n")
	p.send("5\r\nhello")
	p.conn.Close() // with close_notify, and no last chunk
	if !eventually(patience, func() bool { return len(site.broken()) == 1 }) {
		t.Error("an upload that broke off looks whole to the backend")
	}
	g.session("127.0.8.6").is(t, "outcome", "client_gone")
}

// A WebSocket passes over TLS that came first.
func TestWebSocket(t *testing.T) {
	t.Parallel()
	g := website443(t, newWebsite(t))
	p := dialTLS(t, "127.0.8.7", g.addr("https"), lab.pki.client("localhost"))
	p.send("GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
	p.until("^$")
	p.send("\x81\x05hello")
	if line := p.line(); line != "\x81\x05hello" {
		t.Errorf("the socket says %q", line)
	}
	p.conn.(interface{ CloseWrite() error }).CloseWrite()
	p.clean()
	g.session("127.0.8.7").is(t, "outcome", "ok")
}

// H-06, T-15: who offers ALPN in an upgrade believes to be on HTTPS, and was led
// here. Without ALPN the same handshake succeeds.
func TestUpgradeALPN(t *testing.T) {
	t.Parallel()
	g := website443(t, newWebsite(t))
	for _, ids := range [][]string{nil, {"http/1.1"}, {"h2", "http/1.1"}} {
		p := dial(t, "127.0.8.8", g.addr("both"))
		p.send("OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: TLS/1.2\r\n")
		p.want("^HTTP/1.1 101 ")
		p.until("^$")
		cfg := lab.pki.client("localhost")
		cfg.NextProtos = ids
		err := p.tryTLS(cfg)
		if refused := err != nil && strings.Contains(err.Error(), "no application protocol"); refused != (ids != nil) {
			t.Errorf("ALPN %q: %v", ids, err)
		}
		if ids == nil {
			p.want("^HTTP/1.1 ") // the answer to the OPTIONS
		}
	}
}

// H-07: what a lenient server takes, the gateway refuses.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	site := newWebsite(t)
	g := website443(t, site)
	ask := func(p *peer, said string) string {
		t.Helper()
		p.write([]byte(said))
		status := p.line()
		p.conn.Close()
		return status
	}
	for name, said := range map[string]string{
		"two lengths":  "POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
		"two framings": "POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"bare LF":      "GET /told HTTP/1.1\nHost: localhost\n\n",
		"folded":       "GET /told HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n c\r\n\r\n",
	} {
		if status := ask(dialTLS(t, "127.0.8.9", g.addr("https"), lab.pki.client("localhost")), said); !strings.HasPrefix(status, "HTTP/1.1 400 ") {
			t.Errorf("%s inside TLS: %s", name, status)
		}
		if status := ask(dial(t, "127.0.8.9", g.addr("both")), said); !strings.HasPrefix(status, "HTTP/1.1 400 ") {
			t.Errorf("%s in cleartext: %s", name, status)
		}
		// The control: net/http by itself takes each of these for a request.
		if status := ask(dial(t, "", site.addr), said); !strings.HasPrefix(status, "HTTP/1.1 200 ") {
			t.Errorf("%s: the backend itself would refuse, too: %s", name, status)
		}
	}
}

// A stop ends the connections on which nothing is under way, at once and in
// good order.
func TestStopBetweenRequests(t *testing.T) {
	t.Parallel()
	g := website443(t, newWebsite(t))
	p := dialTLS(t, "127.0.8.10", g.addr("https"), lab.pki.client("localhost"))
	p.send("GET /told HTTP/1.1\r\nHost: localhost\r\n")
	p.until("^Upgrade: ") // the last line of the body
	began := time.Now()
	g.signal(syscall.SIGTERM)
	p.clean()
	if code, err := g.exit(patience); code != 0 || time.Since(began) > patience/2 {
		t.Errorf("the gateway ended with %d, %v after %s", code, err, time.Since(began))
	}
}
