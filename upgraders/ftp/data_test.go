package ftp

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/gateway"
)

// expired is a context for what must not wait.
func expired() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx, cancel
}

var sizes = []int{0, 1, 5000, 3 << 20}

// Data pass in both directions, whoever connects and however the port was asked
// for; in TLS each stream ends with a close_notify (F-08, F-09, F-13).
func TestTransfers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.backend.lie = "192,0,2,9" // F-07, CVE-2020-8284
	r.options.RequireSessionReuse = true
	r.start()
	transfers := func(t *testing.T, c *client) {
		for _, size := range sizes {
			data := pattern(size)
			name := fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), size)
			for _, verb := range []string{"PASV", "EPSV"} {
				d := c.pasv(verb)
				c.do("150", "STOR "+name)
				c.store(d, data, "226")
				if got, err := r.backend.ended(name); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s: the backend has %d bytes of %d, %v", verb, len(got), size, err)
				}
				d = c.pasv(verb)
				c.do("150", "RETR "+name)
				if got := c.retrieve(d, "226"); !bytes.Equal(got, data) {
					t.Errorf("%s: the client has %d bytes of %d", verb, len(got), size)
				}
			}
			for _, verb := range []string{"PORT", "EPRT"} {
				ln := c.active(verb)
				c.do("150", "STOR "+name)
				d, err := ln.Accept()
				if err != nil {
					t.Fatal(err)
				}
				c.store(d, data, "226")
				ln = c.active(verb)
				c.do("150", "RETR "+name)
				if d, err = ln.Accept(); err != nil {
					t.Fatal(err)
				}
				if got := c.retrieve(d, "226"); !bytes.Equal(got, data) {
					t.Errorf("%s: the client has %d bytes of %d", verb, len(got), size)
				}
			}
		}
		c.do("221", "QUIT")
		c.conn.Close()
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			c := r.secured(r.tls(version))
			c.do("200", "NOOP") // TLS 1.3: the ticket comes with the first words
			transfers(t, c)
		})
	}
	// What data connections moved is the session's: 4 times 3 MiB and more.
	r.log.until(t, "msg=session", "outcome=ok", "tls_version=TLSv1.2", "bytes_in=12")
}

// Over IPv6 the commands are EPSV and EPRT, to clients and to the backend (F-08).
func TestIPv6(t *testing.T) {
	t.Parallel()
	probe, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("this machine has no IPv6: %v", err)
	}
	probe.Close()
	r := newRigAt(t, "[::1]:0")
	r.start()
	c := r.secured(r.tls(0))
	c.do("425 PASV is of IPv4", "PASV")
	c.do("522", "EPSV 1")
	c.do("504", "PORT 127,0,0,1,40,1")
	c.do("522", "EPRT |1|127.0.0.1|2000|")
	c.do("504", "EPRT |2|2001:db8::1|2000|")
	data := pattern(100_000)
	d := c.pasv("EPSV")
	c.do("150", "STOR a")
	c.store(d, data, "226")
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c.do("200", fmt.Sprintf("EPRT |2|::1|%d|", addr(ln.Addr()).Port()))
	c.do("150", "RETR a")
	if d, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	if got := c.retrieve(d, "226"); !bytes.Equal(got, data) {
		t.Errorf("the client has %d bytes", len(got))
	}
	r.backend.mu.Lock()
	defer r.backend.mu.Unlock()
	if heard := strings.Join(r.backend.heard, ", "); heard != "EPSV, STOR a, EPSV, RETR a" {
		t.Errorf("the backend was told %s", heard)
	}
}

// In a session in cleartext data pass the gateway, too.
func TestTransfersInCleartext(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.listener.Cleartext, r.listener.CleartextAuth = true, true
	r.start()
	c := r.greeted()
	c.do("200", "USER u1")
	data := pattern(100_000)
	d := c.pasv("EPSV")
	c.do("150", "STOR a")
	c.store(d, data, "226")
	ln := c.active("PORT")
	c.do("150", "RETR a")
	d, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got := c.retrieve(d, "226"); !bytes.Equal(got, data) {
		t.Errorf("the client has %d bytes", len(got))
	}
}

// require_prot = "C": what the client has not protected passes in cleartext.
func TestProtC(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.options.RequireProt = "C"
	r.start()
	c := r.secured(r.tls(0))
	c.do("200", "PROT C")
	c.config = nil
	d := c.pasv("PASV")
	c.do("150", "STOR a")
	c.store(d, []byte("clear"), "226")
	if got, err := r.backend.ended("a"); string(got) != "clear" || err != nil {
		t.Errorf("the backend has %q, %v", got, err)
	}
}

// F-05: a data connection resumes the session of its own control connection, or
// is refused; and then the control connection goes on (F-12).
func TestSessionReuse(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.options.RequireSessionReuse = true
	r.backend.files["a"] = pattern(100)
	r.start()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			own := r.tls(version)
			c := r.secured(own)
			c.do("200", "NOOP")
			other := r.tls(version)
			r.secured(other).do("200", "NOOP")
			for _, config := range []*tls.Config{r.tls(version), other} {
				c.config = config
				d := c.protect(c.pasv("EPSV"))
				c.do("150", "RETR a")
				if data, err := io.ReadAll(d); len(data) > 0 || err == nil {
					t.Errorf("got %q, %v", data, err)
				}
				c.want("522")
				c.do("200", "NOOP")
			}
			c.config = own
			for range 3 { // what a data connection brings resumes the next, too
				d := c.pasv("EPSV")
				c.do("150", "RETR a")
				if got := c.retrieve(d, "226"); len(got) != 100 {
					t.Errorf("got %d bytes", len(got))
				}
			}
		})
	}
	if line := r.log.until(t, "a data connection failed"); !strings.Contains(line, "did not resume") {
		t.Error(line)
	}
}

// A client that has shown who it is shows it on data connections, too.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	pool := x509.NewCertPool()
	pool.AddCert(r.ca.cert)
	r.listener.TLS = &gateway.TLS{ClientAuth: &gateway.ClientAuth{CAs: pool, Identity: "x"}}
	r.backend.files["a"] = pattern(100)
	r.start()
	mine := r.tls(0)
	mine.Certificates = []tls.Certificate{r.ca.issue(t)}
	c := r.secured(mine)
	for _, config := range []*tls.Config{r.tls(0), r.tls(0)} {
		if config.Certificates == nil {
			config.Certificates = []tls.Certificate{r.ca.issue(t)}
		}
		c.config = config
		d := c.protect(c.pasv("EPSV"))
		c.do("150", "RETR a")
		if data, err := io.ReadAll(d); len(data) > 0 || err == nil {
			t.Errorf("got %q, %v", data, err)
		}
		c.want("522")
	}
	c.config = mine
	d := c.pasv("EPSV")
	c.do("150", "RETR a")
	c.retrieve(d, "226")
}

// T-01: a data connection has ids of its own.
func TestDataALPN(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.backend.files["a"] = pattern(100)
	r.start()
	config := r.tls(0)
	c := r.secured(config)
	for _, tt := range []struct{ id, reply string }{{"ftp-data", "226"}, {"ftp", "226"}, {"imap", "522"}} {
		c.config = config.Clone()
		c.config.NextProtos = []string{tt.id}
		d := c.protect(c.pasv("EPSV"))
		c.do("150", "RETR a")
		data, err := io.ReadAll(d)
		if ok := tt.reply == "226"; ok != (err == nil) || ok != (len(data) == 100) {
			t.Errorf("%s: %d bytes, %v", tt.id, len(data), err)
		}
		c.want(tt.reply)
	}
}

// F-12: what is no TLS on a data connection that should be is refused, the
// backend's own connection is reset, and the session goes on.
func TestDataGarbage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	c := r.secured(r.tls(0))
	d := c.pasv("EPSV")
	c.do("150", "STOR a")
	io.WriteString(d, "this is no ClientHello, but a file\r\n")
	c.want("522")
	if data, err := r.backend.ended("a"); len(data) > 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the backend has %q, %v", data, err)
	}
	c.do("200", "NOOP")
	d = c.pasv("EPSV")
	c.do("150", "STOR b")
	c.store(d, []byte("x"), "226")
}

// F-06: only the control connection's peer may connect to a data port; others
// are dropped, and the port is free again when it has served.
func TestPeer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.backend.files["a"] = pattern(100)
	r.start()
	c := r.secured(r.tls(0))
	port := c.port("EPSV")
	c.do("150", "RETR a")
	dropped(t, net.IPv4(127, 0, 0, 2), port, "")
	d, err := net.Dial("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	c.retrieve(d, "226")
	closed := func() {
		t.Helper()
		if d, err := net.Dial("tcp", port); err == nil {
			d.Close()
			t.Error("the port is still open")
		}
	}
	closed()
	port = c.port("PASV")
	c.do("150", "STOR b")
	if d, err = net.Dial("tcp", port); err != nil {
		t.Fatal(err)
	}
	p := c.protect(d)
	if err := p.Conn.(*tls.Conn).Handshake(); err != nil {
		t.Fatal(err)
	}
	closed() // one connection has been taken, and is at work
	p.Close()
	c.want("226")
}

// dropped demands that a connection is dropped, whether its maker hears of that
// when it is made or later.
func dropped(t *testing.T, from net.IP, to, says string) {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
	c, err := dialer.Dial("tcp", to)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, says)
		var n int
		if n, err = c.Read(make([]byte, 1)); n > 0 {
			t.Errorf("%q from %s: got a byte", says, from)
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%q from %s: want a connection that is dropped, got %v", says, from, err)
	}
}

// F-08: a new port replaces the old one, and the end of the session frees what
// nobody has used.
func TestReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	c := r.secured(r.tls(0))
	first := c.port("PASV")
	second := c.port("EPSV")
	c.active("PORT")
	third := c.port("EPSV")
	for _, port := range []string{first, second} {
		if d, err := net.Dial("tcp", port); err == nil {
			d.Close()
			t.Error("a port that was replaced is open")
		}
	}
	c.do("221", "QUIT")
	c.conn.Close()
	r.log.until(t, "msg=session")
	if d, err := net.Dial("tcp", third); err == nil {
		d.Close()
		t.Error("the session has left a port open")
	}
}

// The ports are those that the options name; when all are taken the client is
// told, and gets one when one is free.
func TestPassivePorts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := addr(ln.Addr()).Port()
	r.options.PassivePorts = fmt.Sprintf("%d-%d", port, port)
	r.options.PublicAddress = "192.0.2.1"
	r.start()
	c := r.secured(r.tls(0))
	c.do("425", "PASV")
	ln.Close()
	reply := c.do("227", "PASV")
	if want := fmt.Sprintf("227 Entering Passive Mode (192,0,2,1,%d,%d)", port>>8, port&255); reply != want {
		t.Errorf("got %q, want %q", reply, want)
	}
	c.do("229", "EPSV")
}

// F-09: an upload that is cut short is reset for the backend, whatever had come
// of it, and never called complete.
func TestTruncatedUpload(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.listener.Cleartext, r.listener.CleartextAuth = true, true
	r.start()
	for name, cut := range map[string]func(d *dataConn){
		"FIN without close_notify": func(d *dataConn) { d.raw.Close() },
		"RST":                      func(d *dataConn) { d.raw.SetLinger(0); d.raw.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			c := r.secured(r.tls(0))
			d := c.protect(c.pasv("EPSV"))
			c.do("150", "STOR "+name)
			d.Write(pattern(100_000))
			cut(d)
			c.want("426")
			if data, err := r.backend.ended(name); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the backend has %d bytes, %v", len(data), err)
			}
			c.do("200", "NOOP")
		})
	}
	t.Run("RST in cleartext", func(t *testing.T) {
		c := r.greeted()
		c.do("200", "USER u1")
		d := c.protect(c.pasv("EPSV"))
		c.do("150", "STOR c")
		d.Write(pattern(100_000))
		d.raw.SetLinger(0)
		d.raw.Close()
		c.want("426")
		if _, err := r.backend.ended("c"); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
	})
}

// F-09: a download that the backend cuts short has no close_notify, and in
// cleartext is reset.
func TestTruncatedDownload(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.listener.Cleartext, r.listener.CleartextAuth = true, true
	r.backend.fail = true
	r.backend.files["a"] = pattern(100_000)
	r.start()
	c := r.secured(r.tls(0))
	d := c.protect(c.pasv("EPSV"))
	c.do("150", "RETR a")
	if data, err := io.ReadAll(d); err == nil {
		t.Errorf("%d bytes look complete", len(data))
	}
	c.want("451 the disk is gone")
	c.do("200", "NOOP")

	c = r.greeted()
	c.do("200", "USER u1")
	d = c.protect(c.pasv("EPSV"))
	c.do("150", "RETR a")
	if data, err := io.ReadAll(d); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	c.want("451")
}

// F-10: the client hears 226 when it can have all of its data, and not before.
func TestCompleteLast(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	data := pattern(6 << 20) // more than two kernels keep, less than four
	r.backend.files["a"] = data
	r.start()
	c := r.secured(r.tls(0))
	d := c.protect(c.pasv("EPSV"))
	d.raw.SetReadBuffer(64 << 10)
	c.do("150", "RETR a")
	first := make([]byte, 1)
	if _, err := io.ReadFull(d, first); err != nil {
		t.Fatal(err)
	}
	c.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if b, err := c.in.Peek(1); err == nil {
		t.Errorf("before the data: %q", b)
	}
	c.conn.SetReadDeadline(time.Now().Add(patience))
	rest, err := io.ReadAll(d)
	if err != nil || !bytes.Equal(append(first, rest...), data) {
		t.Errorf("%d bytes, %v", len(rest)+1, err)
	}
	c.want("226")
}

// A transfer that fails before it begins has the backend's words, and one that
// ends without a beginning its data.
func TestOddReplies(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.backend.refuse = "550 no such file"
	r.start()
	c := r.secured(r.tls(0))
	c.pasv("EPSV")
	c.do("550", "RETR a")
	c.do("425", "RETR a") // the port is used up
	ln := c.active("PORT")
	c.do("550", "RETR a")
	ln.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := ln.Accept(); err == nil {
		t.Error("connected to, for nothing")
	}

	quiet := newRig(t)
	quiet.backend.silent = true
	quiet.start()
	c = quiet.secured(quiet.tls(0))
	d := c.pasv("EPSV")
	c.say("LIST")
	if got := c.retrieve(d, "226"); len(got) > 0 {
		t.Errorf("got %q", got)
	}
}

// A client that cannot be connected to gets 425, and no 150 before it.
func TestNobodyWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.backend.files["a"] = pattern(100)
	r.start()
	c := r.secured(r.tls(0))
	c.active("PORT").Close()
	c.do("425", "RETR a")
	c.do("200", "NOOP")
}

// F-11: ABOR ends a transfer that is going on, also one whose data nobody takes,
// and everything is answered in its order.
func TestAbort(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.backend.files["a"] = pattern(64 << 20)
	r.start()
	for _, abort := range []string{"ABOR", "\xff\xf4\xff\xf2ABOR"} {
		c := r.secured(r.tls(0))
		d := c.protect(c.pasv("EPSV"))
		c.do("150", "RETR a")
		if err := d.Conn.(*tls.Conn).Handshake(); err != nil {
			t.Fatal(err)
		}
		c.say(abort)
		c.want("426")
		c.want("226 nothing to abort")
		if _, err := io.ReadAll(d); err == nil {
			t.Error("what was cut looks complete")
		}
		c.do("200", "NOOP")
		d = c.protect(c.pasv("EPSV"))
		c.do("150", "STOR b")
		d.Write([]byte("some"))
		c.say("ABOR")
		c.want("426")
		c.want("226")
	}
}

// Commands that come during a transfer are answered after it.
func TestCommandsMeanwhile(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	c := r.secured(r.tls(0))
	d := c.pasv("EPSV")
	c.do("150", "STOR a")
	c.say("NOOP\r\nPROT C\r\nQUIT")
	c.store(d, []byte("x"), "226")
	c.want("200 NOOP ok")
	c.want("534")
	c.want("221")
}

// A session is not idle while its data move, and is when they have moved.
func TestIdle(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.backend.trickle = true
	r.backend.files["a"] = pattern(60) // three seconds
	r.listener.Policy.IdleTimeout = 1500 * time.Millisecond
	r.start()
	c := r.secured(r.tls(0))
	d := c.pasv("EPSV")
	c.do("150", "RETR a")
	if got := c.retrieve(d, "226"); len(got) != 60 {
		t.Errorf("got %d bytes", len(got))
	}
	c.want("421 Idle")
}

// A gateway that is told to stop lets a transfer end.
func TestDrain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.backend.trickle = true
	r.backend.files["a"] = pattern(20)
	r.start()
	c := r.secured(r.tls(0))
	d := c.pasv("EPSV")
	c.do("150", "RETR a")
	stopped := make(chan error, 1)
	go func() { stopped <- r.gw.Shutdown(t.Context()) }()
	if got := c.retrieve(d, "226"); len(got) != 20 {
		t.Errorf("got %d bytes", len(got))
	}
	c.do("221", "QUIT")
	c.conn.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A session has one data connection at a time, however long a client keeps its
// side of the last one.
func TestLingering(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.backend.files["a"] = pattern(10)
	r.start()
	c := r.secured(r.tls(0))
	d := c.protect(c.pasv("EPSV"))
	c.do("150", "RETR a")
	if _, err := io.ReadAll(d); err != nil {
		t.Fatal(err)
	}
	c.want("226")
	c.port("EPSV")
	d.raw.SetDeadline(time.Now().Add(patience))
	for began := time.Now(); time.Since(began) < time.Second; time.Sleep(5 * time.Millisecond) {
		if _, err := d.raw.Write([]byte("x")); err != nil {
			return
		}
	}
	t.Error("the gateway still holds the first data connection")
}

// What is cut at the end of the drain takes a transfer along that the backend
// is through with and the client takes its time for.
func TestCut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.listener.Policy.StallTimeout = 0
	r.backend.files["a"] = pattern(6 << 20) // as in TestCompleteLast
	r.start()
	c := r.secured(r.tls(0))
	d := c.protect(c.pasv("EPSV"))
	d.raw.SetReadBuffer(64 << 10)
	c.do("150", "RETR a\r\nNOOP") // which waits, so that nobody reads what the client says
	if _, err := io.ReadFull(d, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := expired()
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- r.gw.Shutdown(ctx) }()
	select {
	case <-stopped:
	case <-time.After(patience / 3):
		t.Error("the gateway does not stop")
		d.raw.Close()
		<-stopped
	}
	if _, err := io.ReadAll(d); err == nil {
		t.Error("what was cut looks complete")
	}
}

// A client that has ended its control stream still has its transfer: the
// backend, which would end it, hears of that afterwards (G-24).
func TestHalfClosed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.backend.trickle = true
	r.backend.files["a"] = pattern(10)
	r.start()
	c := r.secured(r.tls(0))
	d := c.pasv("EPSV")
	c.do("150", "RETR a")
	c.conn.(*tls.Conn).CloseWrite()
	if got := c.retrieve(d, "226"); len(got) != 10 {
		t.Errorf("got %d bytes", len(got))
	}
}

// A client that is gone takes its transfer along.
func TestClientGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	c := r.secured(r.tls(0))
	d := c.protect(c.pasv("EPSV"))
	c.do("150", "STOR a")
	d.Write(pattern(1000))
	c.reset()
	if data, err := r.backend.ended("a"); err == nil {
		t.Errorf("the backend takes %d bytes for all", len(data))
	}
}

// A client that is gone is not waited for, whatever the backend has said.
func TestGoneBeforeData(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.backend.files["a"] = pattern(10)
	r.start()
	c := r.secured(r.tls(0))
	c.port("EPSV")
	c.do("150", "RETR a")
	c.reset()
	began := time.Now()
	r.log.until(t, "msg=session")
	if took := time.Since(began); took > acceptTime/4 {
		t.Errorf("the session ended after %s", took)
	}
}

// With PROXY headers on the listener, data connections have them, too, and are
// the client's that the header names (F-06).
func TestProxy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.listener.Policy.ProxyFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	r.backend.files["a"] = pattern(100_000)
	r.start()
	header := func(c net.Conn, client string) net.Conn {
		fmt.Fprintf(c, "PROXY TCP4 %s 198.51.100.7 4711 21\r\n", client)
		return c
	}
	dial := func(from net.IP, to string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
		c, err := d.Dial("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
		return c
	}
	balancer := net.IPv4(127, 0, 0, 1)
	c := r.on(header(dial(balancer, r.addr), "203.0.113.5")).secure(r.tls(0))
	if reply := c.do("227", "PASV"); !strings.Contains(reply, "(198,51,100,7,") {
		t.Errorf("PASV names another address than the balancer's: %s", reply)
	}
	port := c.port("EPSV")
	c.do("150", "RETR a")
	for _, stranger := range []struct {
		from net.IP
		says string
	}{
		{balancer, "PROXY TCP4 203.0.113.6 198.51.100.7 4711 21\r\n"},
		{net.IPv4(127, 0, 0, 2), "PROXY TCP4 203.0.113.5 198.51.100.7 4711 21\r\n"},
		{balancer, "\x16\x03\x01"},
		{balancer, "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"}, // the balancer itself
	} {
		dropped(t, stranger.from, port, stranger.says)
	}
	if got := c.retrieve(header(dial(balancer, port), "203.0.113.5"), "226"); len(got) != 100_000 {
		t.Errorf("got %d bytes", len(got))
	}
	c.do("504", "PORT 127,0,0,1,40,1")
}

// A backend that is spoken to in TLS has its data in TLS, too, and each data
// connection resumes the session of its own control connection.
func TestBackendTLS(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.backend.tls = &tls.Config{Certificates: []tls.Certificate{r.ca.issue(t)}}
	r.server.TLS = &gateway.BackendTLS{Mode: gateway.StartTLS, CAs: r.ca.roots}
	r.start()
	for range 2 {
		c := r.secured(r.tls(0))
		data := pattern(1 << 20)
		d := c.pasv("EPSV")
		c.do("150", "STOR a")
		c.store(d, data, "226")
		ln := c.active("PORT")
		c.do("150", "RETR a")
		d, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := c.retrieve(d, "226"); !bytes.Equal(got, data) {
			t.Errorf("got %d bytes", len(got))
		}
		// F-09: what is cut for the gateway is cut for the backend.
		p := c.protect(c.pasv("EPSV"))
		c.do("150", "STOR b")
		p.Write(data)
		p.raw.Close()
		c.want("426")
		if _, err := r.backend.ended("b"); err == nil {
			t.Error("the backend takes a piece for all")
		}
	}
	r.backend.mu.Lock()
	defer r.backend.mu.Unlock()
	if heard := strings.Join(r.backend.heard[:4], ", "); heard != "AUTH TLS, PBSZ 0, PROT P, PASV" {
		t.Errorf("the backend was told %s", heard)
	}
}

// F-14: a host whose TLS the session has not gone through is not spoken of to
// the backend, however it is written.
func TestHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	open, guarded := *r.listener.Routes[0], *r.listener.Routes[0]
	open.SNI = []string{"gw.example.org"}
	guarded.SNI, guarded.TLS = []string{"guarded.example.org"}, &gateway.TLS{ClientAuth: &gateway.ClientAuth{Require: true, CAs: r.ca.roots}}
	r.listener.Routes = []*gateway.Route{&open, &guarded}
	r.start()
	c := r.secured(r.tls(0))
	c.do("504", "HOST guarded.example.org")
	c.do("504", "host  Guarded.example.org. ")
	c.do("200 HOST", "HOST gw.example.org")
}

// F-13: a hundred sessions at once.
func TestParallel(t *testing.T) {
	r := newRig(t)
	r.options.RequireSessionReuse = true
	data := pattern(100_000)
	r.backend.files["a"] = data
	r.start()
	var sessions sync.WaitGroup
	for range 100 {
		sessions.Go(func() {
			c := r.secured(r.tls(0))
			c.do("200", "NOOP")
			for range 2 {
				d := c.pasv("EPSV")
				c.do("150", "RETR a")
				if got := c.retrieve(d, "226"); !bytes.Equal(got, data) {
					t.Errorf("got %d bytes", len(got))
				}
			}
			c.do("221", "QUIT")
		})
	}
	sessions.Wait()
}
