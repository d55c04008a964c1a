package smtp

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

// A memory is one end of a connection without sockets: it reads what is to be
// read, in pieces cut by chance, and hands what is written to a function.
type memory struct {
	mu      sync.Mutex
	changed *sync.Cond
	in      []byte
	ended   bool // nothing more will come in
	late    bool // the read deadline is past
	cut     *rand.Rand
	written func(p []byte) // with mu held
	end     func()         // the other side half-closes, with mu held
}

var _ net.Conn = (*memory)(nil)

func newMemory(seed uint64) *memory {
	m := &memory{cut: rand.New(rand.NewPCG(seed, 1))}
	m.changed = sync.NewCond(&m.mu)
	return m
}

// push adds what is to be read.
func (m *memory) push(p []byte) {
	m.in = append(m.in, p...)
	m.changed.Broadcast()
}

func (m *memory) Read(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.in) == 0 && !m.ended && !m.late {
		m.changed.Wait()
	}
	switch {
	case m.late:
		return 0, os.ErrDeadlineExceeded
	case len(m.in) == 0:
		return 0, io.EOF
	}
	n := min(len(p), len(m.in), 1+m.cut.IntN(40))
	n = copy(p, m.in[:n])
	m.in = m.in[n:]
	return n, nil
}

func (m *memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.written(p)
	return len(p), nil
}

func (m *memory) CloseWrite() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.end != nil {
		m.end()
	}
	return nil
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	m.changed.Broadcast()
	return nil
}

func (m *memory) SetReadDeadline(t time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.late = !t.IsZero() && t.Before(time.Now())
	m.changed.Broadcast()
	return nil
}

func (m *memory) SetDeadline(t time.Time) error    { return m.SetReadDeadline(t) }
func (m *memory) SetWriteDeadline(time.Time) error { return nil }
func (m *memory) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25} }
func (m *memory) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 25} }
