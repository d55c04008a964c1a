package gateway

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// G-07, CVE-2021-23222: whatever backends say at the moment of the go-ahead,
// to a probe or to the session itself, not a byte of it goes to the client in
// clear.
func TestBackendSpeaksAtGoAhead(t *testing.T) {
	for name, early := range map[string]bool{"probed": false, "dialled before TLS": true} {
		t.Run(name, func(t *testing.T) {
			speak := make(chan struct{})
			r := newRig(t, func(l *Listener) {
				l.Upgrader = &toyUpgrader{early: early}
				l.Routes[0].Backend.Servers[0].Address = serve(t, func(c net.Conn) {
					io.WriteString(c, "backend\r\n")
					<-speak
					io.WriteString(c, "unasked\r\n")
					io.Copy(io.Discard, c)
				})
			})
			v := r.dial()
			v.hear("hello")
			v.say("CAPS")
			v.hear(`caps ["backend"]`)
			v.say("TLS")
			v.hear("go")
			close(speak)
			v.Conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if b, err := v.in.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("in clear after the go-ahead: %q, %v", b, err)
			}
			v.Conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			if err := v.upgrade(clientTLS()); err != nil {
				t.Fatal(err)
			}
			v.hear("unasked") // by the session's own backend, which has greeted
		})
	}
}

// T-09: a client of TLS 1.2 does not renegotiate, neither by a ClientHello nor
// by a HelloRequest; the session ends, and its backend has heard nothing.
func TestRenegotiation(t *testing.T) {
	for name, message := range map[string][]byte{
		"ClientHello":  clientHello(t, clientTLS())[5:],
		"HelloRequest": {0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r, heard := newHearing(t)
			f := r.forge(tls.VersionTLS12)
			f.send(23, []byte("before\r\n"))
			f.v.hear("heard")
			f.send(22, message)
			f.send(23, []byte("after\r\n"))
			if b, _ := io.ReadAll(f.v.in); len(b) > 0 {
				t.Errorf("the session goes on: %q", b)
			}
			r.logged("outcome=client_gone", "security=encrypted")
			if got := heard(); got != "before\r\n" {
				t.Errorf("the backend heard %q", got)
			}
		})
	}
}

// T-10: messages that lead nowhere are bounded in number, in the handshake and
// after it.
func TestIdleRecords(t *testing.T) {
	ccs := []byte{20, 3, 3, 0, 1, 1}
	t.Run("early ChangeCipherSpec", func(t *testing.T) {
		r := newRig(t, implicit)
		v := r.dial()
		v.Write(bytes.Repeat(ccs, 100))
		if b, _ := io.ReadAll(v.in); len(b) > 7 {
			t.Errorf("it is answered %q", b)
		}
		r.logged("outcome=handshake_failed")
	})
	t.Run("doubled ChangeCipherSpec", func(t *testing.T) {
		r := newRig(t, implicit)
		cfg := clientTLS()
		cfg.MinVersion = tls.VersionTLS13
		for n, want := range map[int]bool{2: true, 1000: false} {
			v := r.dial()
			v.Conn = &secondFlight{Conn: v.Conn, before: bytes.Repeat(ccs, n)}
			err := v.upgrade(cfg)
			if err == nil {
				io.WriteString(v, "ping\r\n")
				_, err = v.in.ReadString('\n')
			}
			if (err == nil) != want {
				t.Errorf("%d of them: %v", n, err)
			}
			v.Close()
		}
	})
	for _, c := range []struct {
		name    string
		version uint16
		flood   func(f *forger)
	}{
		{"ChangeCipherSpec", tls.VersionTLS13, func(f *forger) { f.raw(ccs) }},
		{"ChangeCipherSpec", tls.VersionTLS12, func(f *forger) { f.send(20, []byte{1}) }},
		{"nothing", tls.VersionTLS13, func(f *forger) { f.send(23, nil) }},
		{"nothing", tls.VersionTLS12, func(f *forger) { f.send(23, nil) }},
		{"user_canceled", tls.VersionTLS13, func(f *forger) { f.send(21, []byte{1, 90}) }},
		{"warnings", tls.VersionTLS12, func(f *forger) { f.send(21, []byte{1, 90}) }},
		{"KeyUpdate", tls.VersionTLS13, func(f *forger) { f.send(22, []byte{24, 0, 0, 1, 0}); f.update() }},
		{"KeyUpdate in return", tls.VersionTLS13, func(f *forger) { f.send(22, []byte{24, 0, 0, 1, 1}); f.update() }},
	} {
		t.Run(c.name+" after "+tls.VersionName(c.version), func(t *testing.T) {
			r, heard := newHearing(t)
			f := r.forge(c.version)
			f.send(23, []byte("before\r\n"))
			f.v.hear("heard")
			var sent atomic.Int32
			for f.broken == nil && sent.Add(1) < 100_000 {
				c.flood(f)
				if sent.Load() == 100 {
					time.Sleep(50 * time.Millisecond) // for the reset to arrive
				}
			}
			if f.broken == nil {
				t.Error("the session goes on")
			}
			f.v.Conn.Close()
			r.logged("outcome=client_gone")
			if got := heard(); got != "before\r\n" {
				t.Errorf("the backend heard %q", got)
			}
			if n := r.metric("sallyport_bytes_total", "direction", "in"); n > 64<<10 {
				t.Errorf("%v bytes of them were read", n)
			}
		})
	}
}

// T-12: a ClientHello with early data is refused, and the data goes nowhere.
func TestEarlyData(t *testing.T) {
	r, heard := newHearing(t)
	hello := clientHello(t, clientTLS())
	v := r.dial()
	v.hear("hello")
	v.say("TLS")
	v.hear("go")
	v.Conn.Write(append(withExtension(hello, 42, nil), 23, 3, 3, 0, 6, 'e', 'a', 'r', 'l', 'y', '\n'))
	if b, _ := io.ReadAll(v.in); len(b) < 7 || !bytes.Equal(b[:5], []byte{21, 3, 3, 0, 2}) {
		t.Errorf("early data is answered %q", b)
	}
	r.logged("outcome=handshake_failed", "early data")
	if got := heard(); got != "" {
		t.Errorf("the backend heard %q", got)
	}

	// It is the extension that is refused, and nothing else in what was made.
	v = r.dial()
	v.hear("hello")
	v.say("TLS")
	v.hear("go")
	v.Conn.Write(withExtension(hello, 0xfefe, nil))
	if b, _ := v.in.Peek(6); !bytes.Equal(b, []byte{22, 3, 3, b[3], b[4], 2}) {
		t.Errorf("an unknown extension is answered %q", b)
	}
}

// T-13, CVE-2023-40217: what a client sends before its handshake has succeeded
// is read by nobody, though it comes encrypted with the right key.
func TestDataBeforeHandshake(t *testing.T) {
	ca := x509.NewCertPool()
	ca.AddCert(pki().ca)
	r, heard := newHearing(t)
	l := *r.cfg.Listeners[0]
	l.TLS = &TLS{ClientAuth: &ClientAuth{Require: true, CAs: ca}}
	if err := r.g.Apply(&Config{Listeners: []*Listener{&l}}); err != nil {
		t.Fatal(err)
	}
	f := r.forge(tls.VersionTLS13) // without a certificate, through by its own lights
	f.send(23, []byte("secret\r\n"))
	if _, err := io.ReadAll(f.v.in); err == nil {
		t.Error("a client without a certificate is let in")
	}
	r.logged("outcome=handshake_failed")
	if got := heard(); got != "" {
		t.Errorf("the backend heard %q", got)
	}
}

// T-14: on an auto listener the first bytes decide, and none of them is lost
// to what follows, command or ClientHello, however they are cut.
func TestAutoKeepsBytes(t *testing.T) {
	for _, serverFirst := range []bool{true, false} {
		r := newRig(t, func(l *Listener) {
			l.Mode, l.AutoWait = Auto, 5*time.Second
			l.Protocol.ServerFirst = serverFirst
		})
		v := r.dial()
		v.Conn = slowConn{v.Conn}
		if err := v.upgrade(clientTLS()); err != nil {
			t.Fatal(err)
		}
		v.say("ping")
		v.hear("backend: ping")

		v = r.dial()
		for i, piece := range []string{"P", "L", "AIN\r\npi", "ng\r\n"} {
			if i > 0 {
				time.Sleep(5 * time.Millisecond)
			}
			io.WriteString(v, piece)
		}
		v.hear("hello")
		v.hear("backend: ping")

		// A command and a ClientHello in one segment: injection, and nothing
		// is routed by a hello that was sent in clear.
		v = r.dial()
		v.Write(append([]byte("TLS\r\n"), clientHello(t, clientTLS())...))
		v.hear("hello")
		v.hear("no")
		v.end()
	}
}

// newHearing is a rig whose backend answers each line "heard". heard returns
// what it was told once the sessions have ended.
func newHearing(t *testing.T) (r *rig, heard func() string) {
	var mu sync.Mutex
	var got strings.Builder
	r = newRig(t, func(l *Listener) {
		l.Routes[0].Backend.Servers[0].Address = serve(t, func(c net.Conn) {
			io.WriteString(c, "backend\r\n")
			for b := make([]byte, 1000); ; {
				n, err := c.Read(b)
				mu.Lock()
				got.Write(b[:n])
				mu.Unlock()
				if err != nil {
					return
				}
				io.WriteString(c, "heard\r\n")
			}
		})
	})
	return r, func() string {
		mu.Lock()
		defer mu.Unlock()
		return got.String()
	}
}

// secondFlight sends something before what a client sends second.
type secondFlight struct {
	net.Conn
	before []byte
	writes int
}

func (c *secondFlight) Write(p []byte) (int, error) {
	if c.writes++; c.writes == 2 {
		if _, err := c.Conn.Write(c.before); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// clientHello is the record in which a client of crypto/tls begins.
func clientHello(t *testing.T, cfg *tls.Config) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go tls.Client(near, cfg).Handshake()
	header := make([]byte, 5)
	io.ReadFull(far, header)
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(far, body); err != nil || header[0] != 22 || body[0] != 1 {
		t.Fatalf("no ClientHello: %v", err)
	}
	return append(header, body...)
}

// withExtension adds an extension in front of the others (RFC 8446, 4.1.2).
func withExtension(hello []byte, id uint16, data []byte) []byte {
	at := 5 + 4 + 2 + 32
	at += 1 + int(hello[at])                           // session id
	at += 2 + int(binary.BigEndian.Uint16(hello[at:])) // cipher suites
	at += 1 + int(hello[at])                           // compression
	all := hello[at+2:]                                // extensions
	ext := binary.BigEndian.AppendUint16(nil, id)      //
	ext = binary.BigEndian.AppendUint16(ext, uint16(len(data)))
	ext = append(append(ext, data...), all...)
	out := binary.BigEndian.AppendUint16(bytes.Clone(hello[:at]), uint16(len(ext)))
	out = append(out, ext...)
	binary.BigEndian.PutUint16(out[3:], uint16(len(out)-5))
	binary.BigEndian.PutUint16(out[7:], uint16(len(out)-9)) // the low bytes of three
	return out
}

// A forger is a client that has shaken hands and then makes its records by
// itself: such as crypto/tls does not send.
type forger struct {
	t       *testing.T
	v       *visit // reads through crypto/tls, writes below it
	version uint16
	suite   uint16
	secret  []byte // of TLS 1.3
	aead    cipher.AEAD
	iv      []byte
	seq     uint64
	broken  error
}

// forge goes through the dialogue and the handshake.
func (r *rig) forge(version uint16) *forger {
	r.Helper()
	var keys bytes.Buffer
	cfg := clientTLS()
	cfg.MinVersion, cfg.MaxVersion, cfg.KeyLogWriter = version, version, &keys
	cfg.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	v := r.dial()
	v.hear("hello")
	v.say("TLS")
	v.hear("go")
	below := &recorder{Conn: v.Conn}
	v.Conn = below
	if err := v.upgrade(cfg); err != nil {
		r.Fatal(err)
	}
	state := v.Conn.(*tls.Conn).ConnectionState()
	v.Conn = below.Conn
	f := &forger{t: r.T, v: v, version: version, suite: state.CipherSuite}
	for line := range strings.Lines(keys.String()) {
		words := strings.Fields(line)
		random, _ := hex.DecodeString(words[1])
		secret, _ := hex.DecodeString(words[2])
		switch words[0] {
		case "CLIENT_TRAFFIC_SECRET_0":
			f.secret = secret
			f.rekey()
		case "CLIENT_RANDOM":
			// RFC 5246, 6.3. Finished was the first record.
			block := prf(secret, "key expansion", append(bytes.Clone(below.first[11:43]), random...), 16+16+4+4)
			f.aead, f.iv, f.seq = gcm(block[:16]), block[32:36], 1
		}
	}
	if f.aead == nil {
		r.Fatal("crypto/tls logs no key")
	}
	return f
}

// recorder keeps the beginning of what is read.
type recorder struct {
	net.Conn
	first []byte
}

func (c *recorder) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if len(c.first) < 43 {
		c.first = append(c.first, p[:n]...)
	}
	return n, err
}

func gcm(key []byte) cipher.AEAD {
	block, _ := aes.NewCipher(key)
	aead, _ := cipher.NewGCM(block)
	return aead
}

// prf is TLS 1.2's (RFC 5246, 5).
func prf(secret []byte, label string, seed []byte, n int) (out []byte) {
	mac := func(parts ...[]byte) []byte {
		h := hmac.New(sha256.New, secret)
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	seed = append([]byte(label), seed...)
	for a := mac(seed); len(out) < n; a = mac(a) {
		out = append(out, mac(a, seed)...)
	}
	return out[:n]
}

// rekey derives the keys of TLS 1.3 from the secret (RFC 8446, 7.3).
func (f *forger) rekey() {
	switch f.suite {
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		f.t.Fatal("crypto/tls prefers ChaCha20 on this machine, which the standard library shows nobody else")
	case tls.TLS_AES_256_GCM_SHA384:
		f.aead = gcm(f.expand("key", 32))
	default:
		f.aead = gcm(f.expand("key", 16))
	}
	f.iv, f.seq = f.expand("iv", 12), 0
}

// update goes on to the next keys (RFC 8446, 7.2).
func (f *forger) update() {
	f.secret = f.expand("traffic upd", len(f.secret))
	f.rekey()
}

func (f *forger) expand(label string, n int) []byte {
	var sum func() hash.Hash = sha256.New
	if f.suite == tls.TLS_AES_256_GCM_SHA384 {
		sum = sha512.New384
	}
	label = "tls13 " + label
	info := append([]byte{byte(n >> 8), byte(n), byte(len(label))}, label...)
	out, err := hkdf.Expand(sum, f.secret, string(append(info, 0)), n)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// send sends one record.
func (f *forger) send(kind byte, data []byte) {
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], f.seq)
	f.seq++
	var record []byte
	if f.version == tls.VersionTLS13 {
		nonce := bytes.Clone(f.iv)
		for i, b := range number {
			nonce[4+i] ^= b
		}
		inner := append(bytes.Clone(data), kind)
		record = binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(inner)+16))
		record = f.aead.Seal(record, nonce, inner, record)
	} else {
		about := append(number[:], kind, 3, 3, byte(len(data)>>8), byte(len(data)))
		record = binary.BigEndian.AppendUint16([]byte{kind, 3, 3}, uint16(8+len(data)+16))
		record = f.aead.Seal(append(record, number[:]...), append(bytes.Clone(f.iv), number[:]...), data, about)
	}
	f.raw(record)
}

// raw sends what is a record already.
func (f *forger) raw(record []byte) {
	if _, err := f.v.Conn.Write(record); f.broken == nil {
		f.broken = err
	}
}
