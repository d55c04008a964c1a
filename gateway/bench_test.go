package gateway

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// benchRig is a gateway whose log goes nowhere.
func benchRig(b *testing.B, change func(*Listener)) (address, direct string) {
	b.Helper()
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := backend.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				io.WriteString(c, "backend\r\n")
				io.Copy(c, c)
			})
		}
	})
	policy := NewPolicy()
	policy.Limits = Limits{}
	l := &Listener{
		Name: "front", Protocol: toy(), Upgrader: &toyUpgrader{}, Addresses: []string{"127.0.0.1:0"}, Mode: StartTLS, Hostname: "gw.example.org",
		Certificates: oneCert{cert: pki().issue("gw.example.org")}, Policy: policy, TLS: &TLS{},
		Routes: []*Route{{Backend: &Backend{Name: "back", Servers: []Server{{Address: backend.Addr().String()}}}}},
	}
	if change != nil {
		change(l)
	}
	g := New(Options{})
	if err := g.Apply(&Config{Listeners: []*Listener{l}}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		g.Shutdown(ctx)
		backend.Close()
		wg.Wait()
	})
	return g.Addrs("front")[0].String(), backend.Addr().String()
}

// echo says one line and waits for it to come back.
func echo(b *testing.B, c net.Conn) {
	buf := make([]byte, 6)
	if _, err := io.WriteString(c, "ping\r\n"); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(c, buf); err != nil {
		b.Fatal(err)
	}
}

// startTLSSession is a whole session: greeting, request, handshake, one line
// there and back.
func startTLSSession(b *testing.B, address string, cfg *tls.Config) *tls.Conn {
	c, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 64)
	if _, err := io.ReadFull(c, buf[:len("hello\r\n")]); err != nil {
		b.Fatal(err)
	}
	io.WriteString(c, "TLS\r\n")
	if _, err := io.ReadFull(c, buf[:len("go\r\n")]); err != nil {
		b.Fatal(err)
	}
	t := tls.Client(c, cfg)
	if err := t.Handshake(); err != nil {
		b.Fatal(err)
	}
	echo(b, t)
	return t
}

// BenchmarkSession compares whole sessions: through the gateway by STARTTLS
// and by implicit TLS, full and resumed. Client, gateway and backend share the
// machine, so the figures are for comparing with each other.
func BenchmarkSession(b *testing.B) {
	resuming := clientTLS()
	resuming.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for name, run := range map[string]func(b *testing.B){
		"starttls": func(b *testing.B) {
			address, _ := benchRig(b, nil)
			for b.Loop() {
				startTLSSession(b, address, clientTLS()).Close()
			}
		},
		"implicit": func(b *testing.B) {
			address, _ := benchRig(b, implicit)
			for b.Loop() {
				implicitSession(b, address, clientTLS()).Close()
			}
		},
		"resumed": func(b *testing.B) {
			address, _ := benchRig(b, implicit)
			for b.Loop() {
				implicitSession(b, address, resuming).Close()
			}
		},
	} {
		b.Run(name, run)
	}
}

func implicitSession(b *testing.B, address string, cfg *tls.Config) *tls.Conn {
	t, err := tls.Dial("tcp", address, cfg)
	if err != nil {
		b.Fatal(err)
	}
	echo(b, t)
	return t
}

// BenchmarkBulk moves 64 KiB there and back at a time, through the gateway and
// straight to the backend.
func BenchmarkBulk(b *testing.B) {
	const size = 64 << 10
	pump := func(b *testing.B, c net.Conn) {
		b.SetBytes(2 * size)
		chunk, back := make([]byte, size), make([]byte, size)
		for b.Loop() {
			if _, err := c.Write(chunk); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(c, back); err != nil {
				b.Fatal(err)
			}
		}
		c.Close()
	}
	b.Run("gateway", func(b *testing.B) {
		address, _ := benchRig(b, nil)
		pump(b, startTLSSession(b, address, clientTLS()))
	})
	b.Run("direct", func(b *testing.B) {
		_, direct := benchRig(b, nil)
		c, err := net.Dial("tcp", direct)
		if err != nil {
			b.Fatal(err)
		}
		io.ReadFull(c, make([]byte, len("backend\r\n")))
		pump(b, c)
	})
}

// BenchmarkIdle reports what an idle session costs in memory, the client's and
// the backend's half included, since they live in this process too.
func BenchmarkIdle(b *testing.B) {
	const sessions = 500
	address, _ := benchRig(b, nil)
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		open := make([]net.Conn, sessions)
		for i := range open {
			open[i] = startTLSSession(b, address, clientTLS())
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		held := int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse)
		b.ReportMetric(float64(held)/sessions, "B/session")
		for _, c := range open {
			c.Close()
		}
	}
}
