package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds whatever a test waits for; no test waits so long when all
// is well.
const patience = 20 * time.Second

// modes are what lies between client and gateway.
var (
	plain = mode{"plain", 0}
	tls12 = mode{"tls1.2", tls.VersionTLS12}
	tls13 = mode{"tls1.3", tls.VersionTLS13}
	modes = []mode{plain, tls12, tls13}
)

type mode struct {
	name    string
	version uint16
}

func (m mode) tls() bool { return m.version != 0 }

func eachMode(t *testing.T, test func(t *testing.T, m mode)) {
	t.Helper()
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) { test(t, m) })
	}
}

func eachTLS(t *testing.T, test func(t *testing.T, m mode)) {
	t.Helper()
	for _, m := range modes[1:] {
		t.Run(m.name, func(t *testing.T) { test(t, m) })
	}
}

// rig is one relayed session: the test is its client and its backend.
type rig struct {
	Options
	Idle, Stall time.Duration
	Unread      []byte // of the client
	Unix        bool   // the backend is a unix-domain socket
	SmallWindow bool   // the client's kernel takes 8 KiB ahead of it, and no more

	client    stream // what the client speaks: TLS, or TCP
	clientTCP *net.TCPConn
	backend   stream

	clientSocket, backendSocket *Socket
	result                      chan Result
}

type stream interface {
	net.Conn
	CloseWrite() error
}

func (r *rig) start(t testing.TB, m mode) *rig {
	t.Helper()
	var dialer net.Dialer
	if r.SmallWindow {
		dialer.Control = smallWindow
	}
	near, far := tcpPairBy(t, &dialer)
	r.clientTCP = near
	r.clientSocket = NewSocket(far)
	client := End{Conn: r.clientSocket, Socket: r.clientSocket, Unread: r.Unread}
	r.client = near
	if m.tls() {
		// As in the gateway, with the buffer of the dialogue in between.
		inner := tls.Server(wire.NewConn(r.clientSocket), serverTLS(m))
		outer := tls.Client(&strictEnd{near}, &tls.Config{InsecureSkipVerify: true})
		shaken := make(chan error, 1)
		go func() { shaken <- inner.Handshake() }()
		if err := outer.Handshake(); err != nil {
			t.Fatal(err)
		}
		if err := <-shaken; err != nil {
			t.Fatal(err)
		}
		client.Conn, r.client = inner, outer
	}

	var backend net.Conn
	if r.Unix {
		r.backend, backend = unixPair(t)
	} else {
		r.backend, backend = tcpPair(t)
	}
	r.backendSocket = NewSocket(backend)

	clock := NewClock(r.Idle)
	for _, s := range []*Socket{r.clientSocket, r.backendSocket} {
		s.SetIdle(clock)
		s.SetStall(r.Stall)
	}
	for _, c := range []net.Conn{near, r.backend} {
		c.SetDeadline(time.Now().Add(patience))
	}
	r.result = make(chan Result, 1)
	go r.pump(client)
	t.Cleanup(func() {
		near.Close()
		r.backend.Close()
		r.clientSocket.Shutdown()
		r.backendSocket.Shutdown()
		select {
		case res := <-r.result:
			r.result <- res
		case <-time.After(patience):
			t.Error("Pump did not return")
		}
	})
	return r
}

func (r *rig) pump(client End) {
	r.result <- Pump(client, End{Conn: r.backendSocket, Socket: r.backendSocket}, r.Options)
}

// wants demands an outcome.
func (r *rig) wants(t testing.TB, want Outcome) {
	t.Helper()
	select {
	case res := <-r.result:
		if res.Outcome != want {
			t.Errorf("outcome %s (%v), want %s", res.Outcome, res.Err, want)
		}
		if (res.Err == nil) != (res.Outcome == OK) {
			t.Errorf("outcome %s has error %v", res.Outcome, res.Err)
		}
		r.result <- res
	case <-time.After(patience):
		t.Fatalf("session goes on; want %s", want)
	}
}

// goesOn demands that the session has not ended.
func (r *rig) goesOn(t testing.TB) {
	t.Helper()
	select {
	case res := <-r.result:
		t.Fatalf("session ended: %s (%v)", res.Outcome, res.Err)
	default:
	}
}

// errCut is what strictEnd ends with, and so the TLS above it unless
// close_notify came first.
var errCut = errors.New("cut")

type strictEnd struct{ net.Conn }

func (c *strictEnd) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF {
		err = errCut
	}
	return n, err
}

func (c *strictEnd) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

func tcpPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	return tcpPairBy(t, new(net.Dialer))
}

func smallWindow(_, _ string, c syscall.RawConn) (err error) {
	c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 8<<10)
	})
	return err
}

func tcpPairBy(t testing.TB, d *net.Dialer) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, b := connect(t, d, l)
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

func unixPair(t testing.TB) (near, far *net.UnixConn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, b := connect(t, new(net.Dialer), l)
	return b.(*net.UnixConn), a.(*net.UnixConn)
}

func connect(t testing.TB, d *net.Dialer, l net.Listener) (dialed, accepted net.Conn) {
	t.Helper()
	a, err := d.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

var certificate = func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}()

func serverTLS(m mode) *tls.Config {
	return &tls.Config{
		Certificates:                []tls.Certificate{certificate},
		MinVersion:                  m.version,
		MaxVersion:                  m.version,
		DynamicRecordSizingDisabled: true,
	}
}

func send(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// expect demands that text comes next.
func expect(t testing.TB, c net.Conn, text string) {
	t.Helper()
	b := make([]byte, len(text))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != text {
		t.Fatalf("read %q, %v; want %q", b[:n], err, text)
	}
}

// ends demands that nothing but the given end comes: io.EOF where it is clean.
func ends(t testing.TB, c net.Conn, want error) {
	t.Helper()
	b, err := io.ReadAll(c)
	if err == nil {
		err = io.EOF
	}
	if len(b) > 0 || !errors.Is(err, want) {
		t.Errorf("read %d bytes, then %v; want %v", len(b), err, want)
	}
}

// reset closes c with RST.
func reset(c net.Conn) {
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		lacking(t, "no /proc/self/fd to count open files in: %v", err)
	}
	return len(names)
}

// lacking ends a test that cannot run here: skipped for people, failed in CI,
// where nothing may be skipped.
func lacking(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// pattern is n bytes in which no piece is like another.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	x := uint32(seed) + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}
