package relay

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// Bytes pass unchanged both ways, and each end is passed on while the other
// direction goes on: the client's first.
func TestClientEndsFirst(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := new(rig).start(t, m)
		send(t, r.client, "QUIT\r\n")
		expect(t, r.backend, "QUIT\r\n")
		r.client.CloseWrite()
		ends(t, r.backend, io.EOF)
		r.goesOn(t)
		send(t, r.backend, "221 bye\r\n")
		expect(t, r.client, "221 bye\r\n")
		r.goesOn(t)
		r.backend.Close()
		ends(t, r.client, io.EOF)
		r.wants(t, OK)
	})
}

// The backend's end first: the client is told by close_notify and FIN, and may
// still send.
func TestBackendEndsFirst(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := new(rig).start(t, m)
		send(t, r.backend, "* BYE\r\n")
		r.backend.CloseWrite()
		expect(t, r.client, "* BYE\r\n")
		ends(t, r.client, io.EOF)
		if m.tls() {
			ends(t, r.clientTCP, io.EOF) // FIN behind the close_notify
		}
		send(t, r.client, "last words")
		expect(t, r.backend, "last words")
		r.goesOn(t)
		r.client.CloseWrite()
		ends(t, r.backend, io.EOF)
		r.wants(t, OK)
	})
}

// Once the backend has ended its stream, a client that just leaves is no
// failure, but its stream is still not called whole.
func TestClientLeavesAfterBackend(t *testing.T) {
	eachTLS(t, func(t *testing.T, m mode) {
		r := new(rig).start(t, m)
		r.backend.CloseWrite()
		ends(t, r.client, io.EOF)
		r.clientTCP.Close()
		ends(t, r.backend, syscall.ECONNRESET)
		r.wants(t, OK)
	})
}

// A client that stays silent once the backend has closed does not hold the
// session beyond the linger time (here: the shorter idle time).
func TestSilentClientAfterBackend(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		t.Parallel()
		r := (&rig{Idle: 150 * time.Millisecond}).start(t, m)
		r.backend.Close()
		ends(t, r.client, io.EOF)
		r.wants(t, OK)
	})
}

func TestLingerShortensIdle(t *testing.T) {
	near, far := tcpPair(t)
	defer near.Close()
	s := NewSocket(far)
	s.SetIdle(NewClock(time.Hour))
	s.linger(50 * time.Millisecond)
	if _, err := s.Read(make([]byte, 1)); err == nil || err.Error() != "idle for too long" {
		t.Error("an hour's clock was not shortened: ", err)
	}
	s.SetIdle(nil)
	s.linger(50 * time.Millisecond)
	if _, err := s.Read(make([]byte, 1)); err == nil || err.Error() != "idle for too long" {
		t.Error("no clock was not replaced: ", err)
	}
}

// A client whose stream ends without close_notify is not a client that has
// finished: the backend gets RST, not FIN (G-26).
func TestClientLeavesWithoutCloseNotify(t *testing.T) {
	eachTLS(t, func(t *testing.T, m mode) {
		r := new(rig).start(t, m)
		send(t, r.client, "DATA")
		expect(t, r.backend, "DATA")
		r.clientTCP.CloseWrite()
		ends(t, r.backend, syscall.ECONNRESET)
		r.wants(t, ClientGone)
	})
}

// So does a client that resets.
func TestClientResets(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := new(rig).start(t, m)
		send(t, r.client, "DATA")
		expect(t, r.backend, "DATA")
		reset(r.clientTCP)
		ends(t, r.backend, syscall.ECONNRESET)
		r.wants(t, ClientGone)
	})
}

// The same in the middle of a record.
func TestClientBreaksInRecord(t *testing.T) {
	eachTLS(t, func(t *testing.T, m mode) {
		r := new(rig).start(t, m)
		send(t, r.client, "DATA")
		expect(t, r.backend, "DATA")
		send(t, r.clientTCP, "\x17\x03\x03\x01\x00half of a record")
		r.clientTCP.CloseWrite()
		ends(t, r.backend, syscall.ECONNRESET)
		r.wants(t, ClientGone)
	})
}

// Bytes that are no TLS break the client, too.
func TestClientSendsGarbage(t *testing.T) {
	eachTLS(t, func(t *testing.T, m mode) {
		r := new(rig).start(t, m)
		send(t, r.clientTCP, "\x17\x03\x03\x00\x20this is not what the key says...")
		ends(t, r.backend, syscall.ECONNRESET)
		r.wants(t, ClientGone)
	})
}

// What the backend sent before RST arrives; then the client sees that the
// stream was cut: no close_notify (G-25), and RST where there is no TLS.
func TestBackendBreaks(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := new(rig).start(t, m)
		send(t, r.backend, "* 1 FETCH")
		expect(t, r.client, "* 1 FETCH")
		reset(r.backend)
		want := errCut
		if !m.tls() {
			want = syscall.ECONNRESET
		}
		ends(t, r.client, want)
		r.client.Close()
		r.wants(t, BackendGone)
	})
}

// A backend that refuses what the client is sending, closes, and so resets:
// its last words reach the client even though the client's bytes go nowhere.
func TestLastWordsOfBackend(t *testing.T) {
	t.Parallel()
	eachTLS(t, func(t *testing.T, m mode) {
		t.Parallel()
		for range 20 {
			r := new(rig).start(t, m)
			send(t, r.client, "DATA")
			expect(t, r.backend, "DATA")
			sent := make(chan struct{})
			go sendForEver(r.client, sent)
			expect(t, r.backend, string(pattern(1<<10, 1)))
			eventually(t, "more to arrive", NewSocket(r.backend).Pending)
			send(t, r.backend, "552 too much\r\n")
			r.backend.Close() // with bytes unread: RST
			expect(t, r.client, "552 too much\r\n")
			ends(t, r.client, errCut)
			// What the client still sends is read away: RST could overtake
			// the last words.
			select {
			case <-sent:
				t.Error("the client was reset")
			case <-time.After(10 * time.Millisecond):
			}
			r.client.Close()
			<-sent
			r.wants(t, BackendGone)
		}
	})
}

func sendForEver(c net.Conn, done chan<- struct{}) {
	defer close(done)
	b := pattern(1<<10, 1)
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// RST is an RST even when a write of the other direction was told of it first
// and a read then meets an end.
func TestResetIsNoEnd(t *testing.T) {
	near, far := tcpPair(t)
	s := NewSocket(far)
	reset(near)
	eventually(t, "the RST to arrive", func() bool {
		_, err := s.Write([]byte("x"))
		return err != nil
	})
	if _, err := s.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("read after RST: %v", err)
	}
}

// 24 MiB both ways at once arrive byte for byte, with both ends.
func TestBulkBothWays(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		buffers := NewBuffers(64 << 20)
		r := (&rig{Options: Options{Buffers: buffers}}).start(t, m)
		var wg sync.WaitGroup
		for _, way := range []struct{ from, to stream }{{r.client, r.backend}, {r.backend, r.client}} {
			sum := make(chan [sha256.Size]byte, 1)
			wg.Go(func() { sum <- sendRandom(t, way.from, 24<<20) })
			wg.Go(func() {
				h := sha256.New()
				n, err := io.Copy(h, way.to)
				if want := <-sum; err != nil || n != 24<<20 || !bytes.Equal(h.Sum(nil), want[:]) {
					t.Errorf("%d bytes arrived, %v; same: %v", n, err, bytes.Equal(h.Sum(nil), want[:]))
				}
			})
		}
		wg.Wait()
		r.wants(t, OK)
		if n := buffers.Lent(); n != 0 {
			t.Errorf("%d bytes of buffers were not given back", n)
		}
	})
}

// sendRandom sends n bytes in writes of all sizes, ends the stream, and
// returns their digest.
func sendRandom(t *testing.T, c stream, n int) [sha256.Size]byte {
	src := rand.NewChaCha8([32]byte{byte(n)})
	sizes := rand.New(rand.NewPCG(1, 2))
	h := sha256.New()
	for n > 0 {
		b := make([]byte, min(n, 1+sizes.IntN(200<<10)))
		src.Read(b)
		h.Write(b)
		if _, err := c.Write(b); err != nil {
			t.Error(err)
			break
		}
		n -= len(b)
	}
	c.CloseWrite()
	return [sha256.Size]byte(h.Sum(nil))
}

// Streams in writes of one byte are streams, too.
func TestSingleBytes(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := new(rig).start(t, m)
		data := pattern(2000, 3)
		for _, way := range []struct{ from, to stream }{{r.client, r.backend}, {r.backend, r.client}} {
			go sendBytes(way.from, data)
			if got, err := io.ReadAll(way.to); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d of %d bytes, %v", len(got), len(data), err)
			}
		}
		r.wants(t, OK)
	})
}

func sendBytes(c stream, data []byte) {
	for i := range data {
		c.Write(data[i : i+1])
	}
	c.CloseWrite()
}

// A TLS record that arrives byte by byte is waited for without losing its
// beginning.
func TestRecordInPieces(t *testing.T) {
	eachTLS(t, func(t *testing.T, m mode) {
		r := new(rig).start(t, m)
		cut := &cutWriter{TCPConn: r.clientTCP}
		r.client.(*tls.Conn).NetConn().(*strictEnd).Conn = cut
		text := string(pattern(300, 4))
		sent := make(chan error, 1)
		go func() { _, err := io.WriteString(r.client, text); sent <- err }()
		expect(t, r.backend, text)
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
}

type cutWriter struct{ *net.TCPConn }

func (c *cutWriter) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := c.TCPConn.Write(p[i : i+1]); err != nil {
			return i, err
		}
		time.Sleep(100 * time.Microsecond)
	}
	return len(p), nil
}

// A client that changes its keys, and asks for a change in return, notices
// nothing but that (RFC 8446, 4.6.3). crypto/tls cannot ask; openssl can.
func TestKeyUpdate(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		lacking(t, "no openssl to be the client: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command(openssl, "s_client", "-tls1_3", "-connect", l.Addr().String())
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said output
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()

	l.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	backend, there := tcpPair(t)
	backend.SetDeadline(time.Now().Add(patience))
	s, b := NewSocket(far), NewSocket(there)
	s.SetDeadline(time.Now().Add(patience))
	inner := tls.Server(s, serverTLS(tls13))
	if err := inner.Handshake(); err != nil {
		t.Fatal(err)
	}
	done := make(chan Result, 1)
	go func() { done <- Pump(End{Conn: inner, Socket: s}, End{Conn: b, Socket: b}, Options{}) }()
	io.WriteString(stdin, "before\n")
	expect(t, backend, "before\n")
	for i := range 3 {
		io.WriteString(stdin, "K\n") // a command to s_client
		eventually(t, "the key update", func() bool { return said.count("KEYUPDATE") == i+1 })
		io.WriteString(stdin, "after\n")
		expect(t, backend, "after\n")
		data := strings.Repeat("answer\n", 20<<10)
		send(t, backend, data)
		eventually(t, "the answer", func() bool { return said.count("answer\n") == (i+1)*20<<10 })
	}
	backend.Close()
	stdin.Close()
	if res := <-done; res.Outcome != OK {
		t.Error(res)
	}
}

// output is what a command said so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) count(s string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Count(o.text.String(), s)
}

// What was read from an end before Pump goes first.
func TestUnreadFirst(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := (&rig{Unread: []byte("a1 NOOP\r\n")}).start(t, m)
		send(t, r.client, "a2 NOOP\r\n")
		expect(t, r.backend, "a1 NOOP\r\na2 NOOP\r\n")
	})
}

// Bytes that crypto/tls has decrypted, or taken from the socket, before Pump
// began are passed on though the socket never becomes readable again.
func TestReadAheadOfTLS(t *testing.T) {
	eachTLS(t, func(t *testing.T, m mode) {
		near, far := tcpPair(t)
		s := NewSocket(far)
		inner := tls.Server(s, serverTLS(m))
		outer := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
		shaken := make(chan error, 1)
		go func() { shaken <- inner.Handshake() }()
		if err := errors.Join(outer.Handshake(), <-shaken); err != nil {
			t.Fatal(err)
		}
		// Once two records are there, the gateway reads one byte of the first.
		send(t, outer, "first")
		send(t, outer, "second")
		eventually(t, "both records to arrive", s.Pending)
		first := make([]byte, 1)
		if _, err := inner.Read(first); err != nil {
			t.Fatal(err)
		}
		backendFar, backendNear := tcpPair(t)
		b := NewSocket(backendNear)
		done := make(chan Result, 1)
		go func() {
			done <- Pump(End{Conn: inner, Socket: s, Unread: first}, End{Conn: b, Socket: b}, Options{})
		}()
		backendFar.SetDeadline(time.Now().Add(patience))
		expect(t, backendFar, "firstsecond")
		reset(near)
		if res := <-done; res.Outcome != ClientGone {
			t.Error(res)
		}
	})
}

// Silence in both directions ends the session: close_notify and FIN for the
// client, and no whole-looking end for the backend.
func TestIdle(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		t.Parallel()
		r := (&rig{Idle: 150 * time.Millisecond}).start(t, m)
		ends(t, r.client, io.EOF)
		ends(t, r.backend, syscall.ECONNRESET)
		r.client.Close()
		r.wants(t, Idle)
	})
}

// Bytes in one direction keep the session alive for both.
func TestIdleCountsBothDirections(t *testing.T) {
	t.Parallel()
	const idle = 400 * time.Millisecond
	r := (&rig{Idle: idle}).start(t, tls13)
	for start := time.Now(); time.Since(start) < 3*idle; time.Sleep(idle / 20) {
		send(t, r.backend, ".")
		expect(t, r.client, ".")
	}
	r.goesOn(t)
	ends(t, r.client, io.EOF)
	r.client.Close()
	r.wants(t, Idle)
}

// A client that takes nothing ends the session; both sides learn that it was
// cut.
func TestStalledClient(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		t.Parallel()
		buffers := NewBuffers(64 << 20)
		r := (&rig{Stall: 200 * time.Millisecond, Options: Options{Buffers: buffers}}).start(t, m)
		sent := make(chan struct{})
		go sendForEver(r.backend, sent)
		r.wants(t, Stalled)
		<-sent
		if _, err := io.Copy(io.Discard, r.client); err == nil {
			t.Error("the client saw a clean end")
		}
		if n := buffers.Lent(); n != 0 {
			t.Errorf("%d bytes of buffers were not given back", n)
		}
	})
}

// A stalled backend, with the client waiting in vain.
func TestStalledBackend(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		t.Parallel()
		for _, unix := range []bool{false, true} {
			r := (&rig{Stall: 200 * time.Millisecond, Unix: unix}).start(t, m)
			sent := make(chan struct{})
			go sendForEver(r.client, sent)
			r.wants(t, Stalled)
			<-sent
		}
	})
}

// A client that takes a little all the time is not stalled, though the kernel
// accepts nothing more for much longer than the stall time.
func TestSlowClient(t *testing.T) {
	t.Parallel()
	const stall = 800 * time.Millisecond
	r := (&rig{Stall: stall, SmallWindow: true}).start(t, plain)
	sent := make(chan struct{})
	go sendForEver(r.backend, sent)
	// Below TLS, whose records come only whole.
	for slow := time.Now(); time.Since(slow) < 5*stall; time.Sleep(stall / 4) {
		if _, err := io.CopyN(io.Discard, r.clientTCP, 4<<10); err != nil {
			t.Fatal(err)
		}
	}
	r.goesOn(t)
	reset(r.clientTCP)
	<-sent
}

// The end itself reaches a slow client, however long it takes to come to it:
// longer than the five seconds that crypto/tls gives its close_notify.
func TestSlowClientSeesEnd(t *testing.T) {
	eachTLS(t, func(t *testing.T, m mode) {
		synctest.Test(t, func(t *testing.T) {
			client, backend, done := pipes(t, m)
			backend.Close()
			time.Sleep(time.Minute)
			b := make([]byte, 1)
			if _, err := client.Read(b); err != io.EOF {
				t.Errorf("the client's stream ended with %v", err)
			}
			client.NetConn().Close()
			if res := <-done; res.Outcome != OK {
				t.Error(res)
			}
		})
	})
}

// A client that stays silent once the backend has closed holds the session for
// the linger time, counted from its last byte, and no longer.
func TestLinger(t *testing.T) {
	eachTLS(t, func(t *testing.T, m mode) {
		synctest.Test(t, func(t *testing.T) {
			client, backend, done := pipes(t, m)
			start := time.Now()
			backend.Close()
			if _, err := client.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the client's stream ended with %v", err)
			}
			if res := <-done; res.Outcome != OK {
				t.Error(res)
			}
			if took := time.Since(start); took < lingerTime || took > lingerTime+time.Second {
				t.Errorf("ended after %v", took)
			}
			client.NetConn().Close()
		})
	})
}

// pipes is a session without sockets, for a bubble of synctest: its writes
// wait until they are read.
func pipes(t *testing.T, m mode) (client *tls.Conn, backend net.Conn, done chan Result) {
	near, far := net.Pipe()
	backend, there := net.Pipe()
	s, b := NewSocket(far), NewSocket(there)
	config := serverTLS(m)
	config.SessionTicketsDisabled = true // they would wait to be read, too
	inner := tls.Server(s, config)
	client = tls.Client(&strictEnd{near}, &tls.Config{InsecureSkipVerify: true})
	done = make(chan Result, 1)
	go func() {
		if err := inner.Handshake(); err != nil {
			t.Error(err)
		}
		done <- Pump(End{Conn: inner, Socket: s}, End{Conn: b, Socket: b}, Options{})
	}()
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	return client, backend, done
}

// Shutdown writes what was read, then ends both streams in order.
func TestShutdown(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		t.Parallel()
		r := new(rig).start(t, m)
		data := pattern(64<<20, 6)
		sent := make(chan struct{})
		go func() { defer close(sent); r.backend.Write(data) }()
		// The relay is full when it reads no more.
		last := int64(-1)
		eventually(t, "the relay to be full", func() bool {
			time.Sleep(50 * time.Millisecond)
			n := r.backendSocket.Received()
			defer func() { last = n }()
			return n > 0 && n == last
		})
		r.clientSocket.Shutdown()
		r.backendSocket.Shutdown()
		got, err := io.ReadAll(r.client)
		if err != nil || int64(len(got)) != r.backendSocket.Received() || !bytes.Equal(got, data[:len(got)]) {
			t.Errorf("client got %d bytes, %v; the relay had read %d", len(got), err, r.backendSocket.Received())
		}
		r.client.Close()
		r.wants(t, Shutdown)
		<-sent
	})
}

// A silent session is shut down at once, with an orderly end on both sides.
func TestShutdownSilent(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := new(rig).start(t, m)
		r.clientSocket.Shutdown()
		ends(t, r.client, io.EOF)
		ends(t, r.backend, io.EOF)
		r.client.Close()
		r.wants(t, Shutdown)
	})
}

// A session that waits holds no buffer, before and after it carried bulk.
func TestNoBufferWhileIdle(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		for _, unix := range []bool{false, true} {
			buffers := NewBuffers(64 << 20)
			r := (&rig{Options: Options{Buffers: buffers}, Unix: unix}).start(t, m)
			none := func() bool { return buffers.Lent() == 0 }
			eventually(t, "a fresh session to hold no buffer", none)
			data := string(pattern(1<<20, 7))
			for _, way := range []struct{ from, to stream }{{r.client, r.backend}, {r.backend, r.client}} {
				go io.WriteString(way.from, data)
				expect(t, way.to, data)
			}
			eventually(t, "a session after bulk to hold no buffer", none)
			r.goesOn(t)
		}
	})
}

// Large buffers stay within the budget; a peer who stalls holds the smallest.
func TestBudget(t *testing.T) {
	buffers := NewBuffers(1 << 20)
	var got []*buffer
	for range 100 {
		got = append(got, buffers.get(2))
	}
	if n, most := buffers.Lent(), int64(1<<20+100*sizes[0]); n > most {
		t.Errorf("%d bytes are lent, more than %d", n, most)
	}
	for _, b := range got {
		buffers.put(b)
	}
	if n := buffers.Lent(); n != 0 {
		t.Errorf("%d bytes lent after all was given back", n)
	}
	if b := buffers.get(2); b.class != 2 {
		t.Error("no large buffer though none is lent")
	}
}

// MaxBuffer bounds what one direction borrows.
func TestMaxBuffer(t *testing.T) {
	d := &direction{largest: 1}
	for range 5 {
		d.adapt(sizes[d.class], sizes[d.class])
	}
	if d.class != 1 {
		t.Errorf("grew to class %d", d.class)
	}
	for range 5 {
		d.adapt(1, sizes[d.class])
	}
	if d.class != 0 {
		t.Errorf("did not shrink: class %d", d.class)
	}
}

// However a session is cut, no goroutine and no file stays behind.
func TestAbruptEnds(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		before := openFiles(t)
		rounds := 1000
		if testing.Short() || m.tls() {
			rounds = 250
		}
		for i := range rounds {
			abrupt(t, m, i)
		}
		eventually(t, "all files to be closed", func() bool { return openFiles(t) <= before })
	})
}

func abrupt(t *testing.T, m mode, i int) {
	near, far := tcpPair(t)
	backend, there := tcpPair(t)
	s, b := NewSocket(far), NewSocket(there)
	client := End{Conn: s, Socket: s}
	var outer stream = near
	if m.tls() {
		inner := tls.Server(s, serverTLS(m))
		c := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
		shaken := make(chan error, 1)
		go func() { shaken <- inner.Handshake() }()
		if err := errors.Join(c.Handshake(), <-shaken); err != nil {
			t.Fatal(err)
		}
		client.Conn, outer = inner, c
	}
	done := make(chan Result, 1)
	go func() { done <- Pump(client, End{Conn: b, Socket: b}, Options{}) }()
	if i%2 == 0 {
		outer.Write([]byte("up"))
		backend.Write([]byte("down"))
	}
	switch i / 2 % 6 {
	case 0:
		reset(near)
	case 1:
		reset(backend)
	case 2:
		near.Close()
	case 3:
		backend.Close()
	case 4:
		outer.Close()
	case 5:
		s.Shutdown()
	}
	near.Close()
	backend.Close()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("round %d: Pump did not return", i)
	}
}

// Without a file descriptor the relay works, with blocking reads.
func TestWithoutDescriptor(t *testing.T) {
	t.Parallel()
	client, far := net.Pipe()
	backend, there := net.Pipe()
	done := make(chan Result, 1)
	s, b := NewSocket(far), NewSocket(there)
	go func() { done <- Pump(End{Conn: s, Socket: s}, End{Conn: b, Socket: b}, Options{}) }()
	go io.WriteString(client, "ping")
	expect(t, backend, "ping")
	go io.WriteString(backend, "pong")
	expect(t, client, "pong")
	s.Shutdown()
	select {
	case res := <-done:
		if res.Outcome != Shutdown {
			t.Error(res)
		}
	case <-time.After(patience):
		t.Error("Shutdown did not end a pipe's session")
	}
	client.Close()
	backend.Close()
}

// A unix-domain backend: both ends, and its sudden close.
func TestUnixBackend(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := (&rig{Unix: true}).start(t, m)
		send(t, r.client, "hello")
		expect(t, r.backend, "hello")
		r.client.CloseWrite()
		ends(t, r.backend, io.EOF)
		send(t, r.backend, "bye")
		r.backend.Close()
		expect(t, r.client, "bye")
		ends(t, r.client, io.EOF)
		r.wants(t, OK)
	})
}

// An explicit deadline that was left behind does not end the session.
func TestPumpLiftsDeadlines(t *testing.T) {
	near, far := tcpPair(t)
	backend, there := tcpPair(t)
	s, b := NewSocket(far), NewSocket(there)
	s.SetDeadline(longAgo)
	b.SetDeadline(longAgo)
	done := make(chan Result, 1)
	go func() { done <- Pump(End{Conn: s, Socket: s}, End{Conn: b, Socket: b}, Options{}) }()
	send(t, near, "hello")
	expect(t, backend, "hello")
	near.Close()
	backend.Close()
	if res := <-done; res.Outcome != OK {
		t.Error(res)
	}
}
