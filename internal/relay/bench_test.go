package relay

import (
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Each benchmark runs the relay and, beside it, what one would write without
// it: two times io.Copy. Only ratios within one run mean anything.

// pumps are what is compared.
var pumps = []struct {
	name string
	run  func(client, backend End)
}{
	{"relay", relayed()},
	{"iocopy", naive},
}

func relayed() func(client, backend End) {
	buffers := NewBuffers(256 << 20)
	return func(client, backend End) { Pump(client, backend, Options{Buffers: buffers}) }
}

func naive(client, backend End) {
	done := make(chan struct{})
	go naiveDown(client, backend, done)
	naiveCopy(backend, client)
	<-done
	client.Socket.Close()
	backend.Socket.Close()
}

func naiveDown(client, backend End, done chan<- struct{}) {
	defer close(done)
	naiveCopy(client, backend)
}

func naiveCopy(dst, src End) {
	io.Copy(dst.Conn, src.Conn)
	if dst.layered() {
		dst.Conn.(*tls.Conn).CloseWrite()
	}
	dst.Socket.CloseWrite()
}

// A benched session is one whose client can be spoken for in sealed records,
// so that a benchmark measures one side of TLS, not both.
type benched struct {
	client  *tls.Conn
	below   *tap
	backend *net.TCPConn
	done    chan struct{}
}

// tap keeps what is written when it is told to.
type tap struct {
	*net.TCPConn
	keep bool
	kept []byte
}

func (t *tap) Write(p []byte) (int, error) {
	if !t.keep {
		return t.TCPConn.Write(p)
	}
	t.kept = append(t.kept, p...)
	return len(p), nil
}

func bench(b testing.TB, run func(client, backend End)) *benched {
	b.Helper()
	near, far := tcpPair(b)
	backendNear, backendFar := tcpPair(b)
	s := &benched{below: &tap{TCPConn: near}, backend: backendNear, done: make(chan struct{})}
	config := serverTLS(tls13)
	config.SessionTicketsDisabled = true
	sock, backendSock := NewSocket(far), NewSocket(backendFar)
	client := End{Conn: tls.Server(sock, config), Socket: sock}
	backend := End{Conn: backendSock, Socket: backendSock}
	s.client = tls.Client(s.below, &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true})
	shaken := make(chan error, 1)
	go func() { shaken <- client.Conn.(*tls.Conn).Handshake() }()
	if err := s.client.Handshake(); err != nil {
		b.Fatal(err)
	}
	if err := <-shaken; err != nil {
		b.Fatal(err)
	}
	go func() { run(client, backend); close(s.done) }()
	b.Cleanup(s.close)
	return s
}

func (s *benched) close() {
	s.below.TCPConn.Close()
	s.backend.Close()
	<-s.done
}

const (
	benchMiB   = 1 << 20
	benchBatch = 32 // MiB sealed at a time
)

func BenchmarkBulkUp(b *testing.B) {
	for _, p := range pumps {
		b.Run(p.name, func(b *testing.B) {
			s := bench(b, p.run)
			data := pattern(benchMiB, 1)
			b.SetBytes(benchMiB)
			cpu := time.Duration(0)
			b.ResetTimer()
			for left := b.N; left > 0; {
				n := min(left, benchBatch)
				left -= n
				b.StopTimer()
				s.below.keep, s.below.kept = true, s.below.kept[:0]
				for range n {
					s.client.Write(data)
				}
				b.StartTimer()
				cpu -= cpuTime()
				go s.below.TCPConn.Write(s.below.kept)
				discard(b, s.backend, n*benchMiB)
				cpu += cpuTime()
			}
			b.ReportMetric(cpu.Seconds()/float64(b.N)*1000, "cpu-s/GB")
		})
	}
}

func BenchmarkBulkDown(b *testing.B) {
	for _, p := range pumps {
		b.Run(p.name, func(b *testing.B) {
			s := bench(b, p.run)
			data := pattern(benchBatch*benchMiB, 1)
			b.SetBytes(benchMiB)
			drained := make(chan struct{})
			go func() { defer close(drained); drop(s.below.TCPConn) }()
			b.ResetTimer()
			cpu := -cpuTime()
			for left := b.N; left > 0; {
				n := min(left, benchBatch)
				left -= n
				if _, err := s.backend.Write(data[:n*benchMiB]); err != nil {
					b.Fatal(err)
				}
			}
			s.backend.CloseWrite()
			<-drained
			cpu += cpuTime()
			b.ReportMetric(cpu.Seconds()/float64(b.N)*1000, "cpu-s/GB")
		})
	}
}

// BenchmarkEcho is one small request and its answer.
func BenchmarkEcho(b *testing.B) {
	for _, p := range pumps {
		b.Run(p.name, func(b *testing.B) {
			s := bench(b, p.run)
			go func() { io.Copy(struct{ io.Writer }{s.backend}, s.backend) }()
			request := pattern(128, 1)
			b.ReportAllocs()
			b.ResetTimer()
			cpu := -cpuTime()
			for range b.N {
				if _, err := s.client.Write(request); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(s.client, request); err != nil {
					b.Fatal(err)
				}
			}
			cpu += cpuTime()
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}

// BenchmarkIdleSession reports what a session holds that has nothing to do:
// heap and stacks, fresh and after 64 KiB each way. Run it with -benchtime 1x.
func BenchmarkIdleSession(b *testing.B) {
	const sessions = 500
	for _, p := range pumps {
		for _, used := range []bool{false, true} {
			name := p.name + "/fresh"
			if used {
				name = p.name + "/used"
			}
			b.Run(name, func(b *testing.B) {
				for range b.N {
					before := memory()
					all := make([]*benched, sessions)
					for i := range all {
						all[i] = bench(b, p.run)
						if used {
							data := string(pattern(64<<10, 1))
							go io.WriteString(all[i].client, data)
							expect(b, all[i].backend, data)
							go io.WriteString(all[i].backend, data)
							expect(b, all[i].client, data)
						}
						all[i].client = nil // the client's own TLS is not counted
					}
					time.Sleep(100 * time.Millisecond)
					b.ReportMetric(float64(memory()-before)/sessions, "B/session")
					for _, s := range all {
						s.close()
					}
				}
			})
		}
	}
}

// memory is what heap and stacks hold after collection, which also shrinks
// stacks, once for each cycle.
func memory() int64 {
	for range 6 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// discard reads n bytes and looks at none.
func discard(b *testing.B, c net.Conn, n int) {
	b.Helper()
	p := make([]byte, 1<<20)
	for n > 0 {
		m, err := c.Read(p)
		if err != nil {
			b.Fatal(err)
		}
		n -= m
	}
}

// drop reads to the end and looks at nothing.
func drop(c net.Conn) {
	p := make([]byte, 1<<20)
	for {
		if _, err := c.Read(p); err != nil {
			return
		}
	}
}
