package ftp

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/gateway"
)

// patience bounds whatever a test waits for; none waits so long when all is
// well.
const patience = time.Minute

// A legacy is an FTP server that knows no TLS, unless it is told to.
type legacy struct {
	t   *testing.T
	ln  net.Listener
	tls *tls.Config // it demands AUTH TLS, and PROT P with sessions resumed

	lie     string // what PASV says instead of 127,0,0,1
	silent  bool   // no 150 before what is sent at once
	fail    bool   // RETR breaks off in the middle
	refuse  string // the answer to RETR
	trickle bool   // RETR sends a byte now and then

	mu      sync.Mutex
	files   map[string][]byte
	stored  map[string]error // how an upload ended
	heard   []string
	waiting sync.WaitGroup
}

func newLegacy(t *testing.T, address string) *legacy {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	l := &legacy{t: t, ln: ln, files: map[string][]byte{}, stored: map[string]error{}}
	l.waiting.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			l.waiting.Go(func() { l.serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); l.waiting.Wait() })
	return l
}

// ended returns how an upload ended, once it has.
func (l *legacy) ended(name string) (data []byte, err error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		err, ok := l.stored[name]
		data = l.files[name]
		l.mu.Unlock()
		if ok {
			return data, err
		}
	}
	l.t.Fatalf("the upload of %s has no end", name)
	return nil, nil
}

func (l *legacy) serve(c net.Conn) {
	defer func() { c.Close() }()
	deadline := time.Now().Add(patience)
	c.SetDeadline(deadline)
	in := bufio.NewReader(c)
	reply := func(format string, args ...any) { fmt.Fprintf(c, format+"\r\n", args...) }
	reply("220 legacy")
	var ln net.Listener
	defer func() {
		if ln != nil {
			ln.Close()
		}
	}()
	open := func() net.Conn {
		ln.(*net.TCPListener).SetDeadline(deadline)
		d, err := ln.Accept()
		ln.Close()
		ln = nil
		if err != nil {
			reply("425 no data connection")
			return nil
		}
		d.SetDeadline(deadline)
		return d
	}
	secure := func(d net.Conn) (net.Conn, bool) {
		if l.tls == nil {
			return d, true
		}
		s := tls.Server(d, l.tls)
		if err := s.Handshake(); err != nil || !s.ConnectionState().DidResume {
			reply("522 handshake: %v", err)
			d.Close()
			return nil, false
		}
		return s, true
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		l.mu.Lock()
		l.heard = append(l.heard, line)
		l.mu.Unlock()
		verb, name, _ := strings.Cut(line, " ")
		switch verb {
		case "AUTH":
			reply("234 go")
			s := tls.Server(c, l.tls)
			if s.Handshake() != nil {
				return
			}
			c, in = s, bufio.NewReader(s)
		case "PASV", "EPSV":
			if ln != nil {
				ln.Close()
			}
			if ln, err = net.Listen("tcp", netip.AddrPortFrom(addr(l.ln.Addr()).Addr(), 0).String()); err != nil {
				return
			}
			port := addr(ln.Addr()).Port()
			if verb == "EPSV" {
				reply("229 Entering Extended Passive Mode (|||%d|)", port)
				continue
			}
			host := "127,0,0,1"
			if l.lie != "" {
				host = l.lie
			}
			reply("227 Entering Passive Mode (%s,%d,%d).", host, port>>8, port&255)
		case "RETR", "LIST":
			if l.refuse != "" {
				reply("%s", l.refuse)
				continue
			}
			d := open()
			if d == nil {
				continue
			}
			if !l.silent {
				reply("150 here it comes")
			}
			s, ok := secure(d)
			if !ok {
				continue
			}
			l.mu.Lock()
			data := l.files[name]
			l.mu.Unlock()
			switch {
			case l.fail:
				s.Write(data[:len(data)/2])
				d.(*net.TCPConn).SetLinger(0)
				d.Close()
				reply("451 the disk is gone")
				continue
			case l.trickle:
				for i := range data {
					s.Write(data[i : i+1])
					time.Sleep(50 * time.Millisecond)
				}
				c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				_, err := in.Peek(1)
				c.SetReadDeadline(deadline)
				if err == io.EOF {
					s.Close()
					reply("426 the client has left")
					continue
				}
			default:
				if _, err := s.Write(data); err != nil {
					d.Close()
					reply("426 %v", errors.Unwrap(err))
					continue
				}
			}
			s.Close()
			reply("226 done")
		case "STOR":
			d := open()
			if d == nil {
				continue
			}
			reply("150 give it to me")
			s, ok := secure(d)
			if !ok {
				continue
			}
			data, err := io.ReadAll(s)
			l.mu.Lock()
			l.files[name], l.stored[name] = data, err
			l.mu.Unlock()
			s.Close()
			if err != nil {
				reply("426 broken off")
				continue
			}
			reply("226 got it")
		case "ABOR":
			reply("226 nothing to abort")
		case "QUIT":
			reply("221 bye")
			return
		default:
			reply("200 %s ok", verb)
		}
	}
}

func addr(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

// An authority issues the certificates of a test.
type authority struct {
	roots *x509.CertPool
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{roots: x509.NewCertPool()}
	leaf := a.issue(t)
	a.cert, a.key = leaf.Leaf, leaf.PrivateKey.(*ecdsa.PrivateKey)
	a.roots.AddCert(a.cert)
	return a
}

// issue makes a certificate for 127.0.0.1; the first is the authority's own.
func (a *authority) issue(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"gw.example.org"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        a.cert == nil, BasicConstraintsValid: true,
	}
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

type certificates struct{ leaf tls.Certificate }

var _ gateway.Certificates = certificates{}

func (c certificates) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, bool, error) {
	return &c.leaf, true, nil
}
func (certificates) Ready() error { return nil }

// A rig is a gateway before a legacy server.
type rig struct {
	t        *testing.T
	ca       *authority
	backend  *legacy
	listener *gateway.Listener
	options  *options
	server   *gateway.Backend
	gw       *gateway.Gateway
	log      *logged
	addr     string
}

// logged keeps what the gateway logs.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// until waits for a line with each of the words and returns it.
func (l *logged) until(t *testing.T, words ...string) string {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		text := l.buf.String()
		l.mu.Unlock()
	lines:
		for line := range strings.Lines(text) {
			for _, word := range words {
				if !strings.Contains(line, word) {
					continue lines
				}
			}
			return line
		}
		if time.Now().After(deadline) {
			t.Fatalf("no line with %q in the log:\n%s", words, text)
		}
	}
}

// newRig makes a rig, which start starts.
func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigAt(t, "127.0.0.1:0")
}

// newRigAt is newRig for another address of gateway and legacy server.
func newRigAt(t *testing.T, address string) *rig {
	t.Helper()
	r := &rig{t: t, ca: newAuthority(t), backend: newLegacy(t, address), log: &logged{}}
	p := Protocol()
	r.options = p.Options().(*options)
	r.options.PassivePorts = "0"
	r.server = &gateway.Backend{Name: "legacy", Servers: []gateway.Server{{Address: r.backend.ln.Addr().String()}}}
	r.listener = &gateway.Listener{
		Name: "ftp", Protocol: p, Addresses: []string{address}, Mode: gateway.StartTLS, Hostname: "gw.example.org",
		Certificates: certificates{r.ca.issue(t)}, Policy: gateway.NewPolicy(), TLS: &gateway.TLS{},
		Routes: []*gateway.Route{{Backend: r.server}},
	}
	r.listener.Policy.Limits = gateway.Limits{}
	return r
}

func (r *rig) start() *rig {
	r.t.Helper()
	var err error
	if r.listener.Upgrader, err = newUpgrader(r.options); err != nil {
		r.t.Fatal(err)
	}
	r.gw = gateway.New(gateway.Options{Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err := r.gw.Apply(&gateway.Config{Listeners: []*gateway.Listener{r.listener}, Backends: []*gateway.Backend{r.server}}); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		ctx, cancel := expired()
		defer cancel()
		r.gw.Shutdown(ctx)
	})
	r.addr = r.gw.Addrs("ftp")[0].String()
	return r
}

// A client speaks FTP by hand.
type client struct {
	t      *testing.T
	r      *rig
	conn   net.Conn
	in     *bufio.Reader
	config *tls.Config // nil: data connections are in cleartext, too
}

// greeted returns a client that has had its greeting.
func (r *rig) greeted() *client {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.on(conn)
}

func (r *rig) on(conn net.Conn) *client {
	r.t.Helper()
	r.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	c := &client{t: r.t, r: r, conn: conn, in: bufio.NewReader(conn)}
	c.want("220")
	return c
}

// tls is the configuration of a client with a session cache of its own.
func (r *rig) tls(version uint16) *tls.Config {
	return &tls.Config{
		RootCAs: r.ca.roots, ServerName: "gw.example.org", MaxVersion: version,
		ClientSessionCache: tls.NewLRUClientSessionCache(10),
	}
}

// secured returns a client in TLS whose data are to be protected.
func (r *rig) secured(config *tls.Config) *client {
	r.t.Helper()
	return r.greeted().secure(config)
}

func (c *client) secure(config *tls.Config) *client {
	c.t.Helper()
	c.do("234", "AUTH TLS")
	conn := tls.Client(c.conn, config)
	if err := conn.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	c.conn, c.in, c.config = conn, bufio.NewReader(conn), config
	c.do("200", "PBSZ 0")
	c.do("200", "PROT P")
	return c
}

// reset leaves without a word.
func (c *client) reset() {
	tcp := c.conn.(*tls.Conn).NetConn().(*net.TCPConn)
	tcp.SetLinger(0)
	tcp.Close()
}

// want takes a reply that begins with the text.
func (c *client) want(start string) string {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(patience))
	line, err := c.in.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, start) {
		c.t.Fatalf("want %s, got %q, %v", start, line, err)
	}
	return strings.TrimSpace(line)
}

func (c *client) say(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, line+"\r\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) do(start, line string) string {
	c.t.Helper()
	c.say(line)
	return c.want(start)
}

// A dataConn is the client's side of a data connection.
type dataConn struct {
	net.Conn
	raw *net.TCPConn
}

// pasv opens a data connection by PASV or EPSV.
func (c *client) pasv(verb string) net.Conn {
	c.t.Helper()
	d, err := net.Dial("tcp", c.port(verb))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { d.Close() })
	return d
}

// port asks for a data port.
func (c *client) port(verb string) string {
	c.t.Helper()
	if verb == "EPSV" {
		host, _, _ := net.SplitHostPort(c.r.addr)
		return net.JoinHostPort(host, fmt.Sprint(extendedPort(c.do("229", "EPSV"))))
	}
	reply := c.do("227", "PASV")
	if !strings.Contains(reply, "(127,0,0,1,") {
		c.t.Errorf("PASV names another address: %s", reply)
	}
	return fmt.Sprintf("127.0.0.1:%d", passivePort(reply))
}

// active opens a port that the gateway is to connect to, by PORT or EPRT.
func (c *client) active(verb string) *net.TCPListener {
	c.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { ln.Close() })
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	port := addr(ln.Addr()).Port()
	if verb == "EPRT" {
		c.do("200", fmt.Sprintf("EPRT |1|127.0.0.1|%d|", port))
	} else {
		c.do("200", fmt.Sprintf("PORT 127,0,0,1,%d,%d", port>>8, port&255))
	}
	return ln.(*net.TCPListener)
}

// protect makes a data connection what the session has agreed on.
func (c *client) protect(d net.Conn) *dataConn {
	d.SetDeadline(time.Now().Add(patience))
	raw := d.(*net.TCPConn)
	if c.config == nil {
		return &dataConn{d, raw}
	}
	return &dataConn{tls.Client(strict{d}, c.config), raw}
}

// strict makes a FIN an error for crypto/tls, which otherwise takes one between
// two records for an end in order.
type strict struct{ net.Conn }

var errNoCloseNotify = errors.New("FIN without close_notify")

func (c strict) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == io.EOF {
		err = errNoCloseNotify
	}
	return n, err
}

// retrieve takes what comes on a data connection and the reply that follows.
func (c *client) retrieve(d net.Conn, reply string) []byte {
	c.t.Helper()
	data, err := io.ReadAll(c.protect(d))
	if err != nil {
		c.t.Fatalf("after %d bytes: %v", len(data), err)
	}
	c.want(reply)
	d.Close()
	return data
}

// store sends data and ends it in good order.
func (c *client) store(d net.Conn, data []byte, reply string) {
	c.t.Helper()
	p := c.protect(d)
	if _, err := p.Write(data); err != nil {
		c.t.Fatal(err)
	}
	p.Close()
	c.want(reply)
}

// pattern makes n bytes in which a lost or doubled piece shows.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(n + 1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}
