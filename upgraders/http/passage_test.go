package http

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A yard is a backend that counts what is open, and the gateway's way to it.
type yard struct {
	*httptest.Server
	dialled, open atomic.Int32
}

func newYard(t *testing.T, h http.HandlerFunc) *yard {
	y := &yard{Server: httptest.NewServer(h)}
	t.Cleanup(y.Close)
	return y
}

func (y *yard) Servers() []string { return []string{y.Listener.Addr().String()} }

func (y *yard) Dial(ctx context.Context, _ string) (*wire.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", y.Listener.Addr().String())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", upgraders.ErrNoServer, err)
	}
	y.dialled.Add(1)
	y.open.Add(1)
	return wire.NewConn(&counted{Conn: c, open: &y.open}), nil
}

type counted struct {
	net.Conn
	open *atomic.Int32
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

// visit serves one client from the yard, as one of implicit TLS.
func visit(t *testing.T, y *yard, client netip.AddrPort) (conn net.Conn, ended chan error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if conn, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	u, err := Protocol().New(&options{})
	if err != nil {
		t.Fatal(err)
	}
	h := u.Implicit(&upgraders.Session{
		Client: client, Listener: &upgraders.Listener{Hostname: "gw.example.org"},
		Suits: func(host string) bool { return !strings.EqualFold(host, "guarded.example.org") },
	})
	ended = make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer server.Close()
		ended <- h.Serve(context.Background(), wire.NewConn(server), y)
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn, ended
}

// fetch sends a request and returns the answer's body.
func fetch(t *testing.T, c net.Conn, in *bufio.Reader, request string) string {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

const get = "GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n"

// A backend's connection serves the requests of one client, no other's, and
// does not outlive it: its PROXY header is about this client.
func TestBackendConnections(t *testing.T) {
	y := newYard(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "page") })
	for n := int32(1); n <= 3; n++ {
		c, ended := visit(t, y, netip.MustParseAddrPort("192.0.2.1:1234"))
		in := bufio.NewReader(c)
		for range 5 {
			if body := fetch(t, c, in, get); body != "page" {
				t.Errorf("got %q", body)
			}
		}
		if y.dialled.Load() != n || y.open.Load() != 1 {
			t.Errorf("client %d: %d connections were made, %d are open", n, y.dialled.Load(), y.open.Load())
		}
		c.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		for end := time.Now().Add(keepBackend / 2); y.open.Load() > 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		if n := y.open.Load(); n != 0 {
			t.Errorf("%d connections outlive their client", n)
		}
	}
}

// Who the client is, in the words of RFC 7239 and in those before it.
func TestTold(t *testing.T) {
	y := newYard(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s|%s", r.Header.Get("X-Forwarded-For"), r.Header.Get("Forwarded"))
	})
	for client, want := range map[netip.AddrPort]string{
		netip.MustParseAddrPort("192.0.2.1:1234"):      `192.0.2.1|for=192.0.2.1;host="www.example.org";proto=https`,
		netip.MustParseAddrPort("[2001:db8::1]:1234"):  `2001:db8::1|for="[2001:db8::1]";host="www.example.org";proto=https`,
		netip.MustParseAddrPort("[fe80::1%eth0]:1234"): `fe80::1|for="[fe80::1]";host="www.example.org";proto=https`,
		netip.AddrPort{}: `|for=unknown;host="www.example.org";proto=https`,
	} {
		c, _ := visit(t, y, client)
		if got := fetch(t, c, bufio.NewReader(c), get); got != want {
			t.Errorf("%s: told %s, want %s", client, got, want)
		}
	}
}

// H-11: a host whose TLS the session has not gone through is not spoken of to
// the backend, however it is written.
func TestMisdirected(t *testing.T) {
	y := newYard(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("the backend is asked for %s", r.Host) })
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: guarded.example.org\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: Guarded.example.org.:443\r\n\r\n",
		"GET http://guarded.example.org/ HTTP/1.0\r\nHost: guarded.example.org\r\n\r\n",
	} {
		c, ended := visit(t, y, netip.AddrPort{})
		if got := fetch(t, c, bufio.NewReader(c), request); got != "This connection is not for that host.\n" {
			t.Errorf("got %q", got)
		}
		if err := <-ended; !errors.Is(err, upgraders.ErrNoRoute) {
			t.Error(err)
		}
	}
}

// A body passes without being kept, in both directions.
func TestStreams(t *testing.T) {
	const size = 48 << 20
	y := newYard(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(w, r.Body)
		if n != size || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
	y.Config.Handler = full(y.Config.Handler)
	c, _ := visit(t, y, netip.AddrPort{})
	done := make(chan error, 1)
	go func() {
		_, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding: chunked\r\n\r\n")
		for piece := strings.Repeat("x", 64<<10); err == nil; {
			for range size / len(piece) {
				if _, err = fmt.Fprintf(c, "%x\r\n%s\r\n", len(piece), piece); err != nil {
					break
				}
			}
			io.WriteString(c, "0\r\n\r\n")
			break
		}
		done <- err
	}()
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var most uint64
	got, buf := 0, make([]byte, 64<<10)
	for next := 0; ; {
		n, err := res.Body.Read(buf)
		got += n
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if got >= next {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most, next = max(most, m.HeapAlloc), next+size/16
		}
	}
	if err := <-done; err != nil || got != size {
		t.Errorf("%d bytes came back, %v", got, err)
	}
	if most > 24<<20 {
		t.Errorf("%d bytes of heap for a body of %d", most, size)
	}
}

// full lets a handler answer while it still reads.
func full(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		h.ServeHTTP(w, r)
	})
}

// An operator's HSTS is what RFC 6797 has, or an error that says so.
func TestHSTS(t *testing.T) {
	for value, ok := range map[string]bool{
		"max-age=0": true, "max-age=31536000": true, "Max-Age=600; includeSubDomains; preload": true,
		"31536000": false, "max-age": false, "max-age=": false, "max-age=1y": false, "max-age=-1": false, "max-age=12345678901": false,
		"includeSubDomains": false, "max-age=1; max-age=2": false, "max-age=1; other": false, "max-age=1; preload=1": false, "max-age=1\r\nX: y": false,
	} {
		if _, err := Protocol().New(&options{HSTS: value}); (err == nil) != ok {
			t.Errorf("%q: %v", value, err)
		}
	}
}

// server says each answer in turn, each to one request, and notes the requests.
func server(t *testing.T, answers ...string) (*wire.Conn, func() string) {
	t.Helper()
	client, conn := net.Pipe()
	var heard strings.Builder
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer conn.Close()
		in := bufio.NewReader(conn)
		for _, a := range answers {
			for {
				line, err := in.ReadString('\n')
				if heard.WriteString(line); err != nil {
					return
				}
				if line == "\r\n" {
					break
				}
			}
			io.WriteString(conn, a)
		}
	}()
	t.Cleanup(func() { client.Close(); <-done })
	client.SetDeadline(time.Now().Add(10 * time.Second))
	return wire.NewConn(client), func() string { client.Close(); <-done; return heard.String() }
}

const nothing = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

// B-01, B-02: a server is asked for TLS as RFC 2817 has it; whatever is not 101
// is a refusal, and what stands behind it was said in the clear.
func TestRequest(t *testing.T) {
	for answer, want := range map[string]error{
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: TLS/1.2, HTTP/1.1\r\nConnection: Upgrade\r\n\r\n": nil,
		nothing:                                 upgraders.ErrNotOffered,
		"HTTP/1.1 426 Upgrade Required\r\n\r\n": upgraders.ErrNotOffered,
		"HTTP/1.0 101 Switching Protocols\r\n\r\n":                         upgraders.ErrNotOffered,
		"220 mail.example.org\r\n\r\n":                                     upgraders.ErrNotOffered,
		"HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\n":      upgraders.ErrBackend,
		"HTTP/1.1 101 " + strings.Repeat("x", maxBackendLine) + "\r\n\r\n": wire.ErrTooLong,
	} {
		c, heard := server(t, answer)
		if err := request(t.Context(), c, "www.example.org"); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%.60q: %v, want %v", answer, err, want)
		}
		if got := heard(); got != "OPTIONS * HTTP/1.1\r\nHost: www.example.org\r\nConnection: Upgrade\r\nUpgrade: TLS/1.2\r\n\r\n" {
			t.Errorf("asked with %q", got)
		}
	}
}

// A server that answers serves; the answer that it still owes to a request for
// TLS comes first.
func TestProbe(t *testing.T) {
	for _, test := range []struct {
		answers []string
		owed    bool
		want    error
	}{
		{answers: []string{nothing}},
		{answers: []string{"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 2\r\n\r\nno"}},
		{answers: []string{"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"}, want: upgraders.ErrTryNext},
		{answers: []string{"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n"}, want: upgraders.ErrBackend},
		{answers: []string{"220 mail.example.org\r\n"}, want: upgraders.ErrBackend},
		{answers: []string{nothing + nothing}, want: upgraders.ErrBackend},
		{answers: []string{"HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("endless", maxAnswer)}},
	} {
		c, _ := server(t, test.answers...)
		link := &upgraders.Link{Backend: c, Facts: upgraders.Facts{Name: "gw.example.org"}}
		if _, err := probe(t.Context(), link); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%.60q: %v, want %v", test.answers, err, test.want)
		}
	}
	// The answer to the request for TLS is taken, and the probe has its own.
	c, _ := server(t, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
	c.Putback([]byte(switching + nothing))
	if _, err := probe(t.Context(), &upgraders.Link{Backend: c}); !errors.Is(err, upgraders.ErrTryNext) {
		t.Errorf("the answer that was owed is taken for the probe's: %v", err)
	}
	c, _ = server(t)
	c.Putback([]byte(switching + "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nno"))
	if _, err := probe(t.Context(), &upgraders.Link{Backend: c}); err == nil || !strings.Contains(err.Error(), "400 Bad Request, and leaves") {
		t.Errorf("a server that leaves after the upgrade: %v", err)
	}
}

// A server that shows strangers what is for its own machine is told of.
func TestAudit(t *testing.T) {
	const status = "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nScoreboard: __"
	for _, test := range []struct {
		answer   string
		proxied  bool
		findings int
		severity upgraders.Severity
	}{
		{"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", true, 0, 0},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true, 0, 0},
		{status, true, 1, upgraders.Wrong},
		{status, false, 1, upgraders.Doubtful},
	} {
		c, heard := server(t, test.answer)
		found, err := audit(t.Context(), &upgraders.Link{Backend: c, Facts: upgraders.Facts{Name: "gw.example.org"}}, upgraders.Told{Proxied: test.proxied})
		if err != nil || len(found) != test.findings || len(found) == 1 && found[0].Severity != test.severity {
			t.Errorf("%.60q: %v, %v", test.answer, found, err)
		}
		if got := heard(); !strings.HasPrefix(got, "GET /server-status?auto HTTP/1.1\r\nHost: gw.example.org\r\n") {
			t.Errorf("asked with %q", got)
		}
	}
}
