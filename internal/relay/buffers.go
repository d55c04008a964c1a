package relay

import (
	"sync"
	"sync/atomic"
)

// sizes are the classes a direction grows through while its reads fill what it
// has. Large writes are what makes bulk cheap: most of its cost is system
// calls and the wakeups they cause.
var sizes = [...]int{16 << 10, 64 << 10, 256 << 10}

// Buffers lends the buffers of all sessions that share it.
type Buffers struct {
	budget int64
	lent   atomic.Int64
	pools  [len(sizes)]sync.Pool
}

// NewBuffers returns Buffers that lends large buffers only while all that is
// lent stays below budget bytes; beyond it every direction gets the smallest,
// so that many peers who stall cost little.
func NewBuffers(budget int64) *Buffers { return &Buffers{budget: budget} }

// Lent returns how many bytes are lent.
func (b *Buffers) Lent() int64 {
	if b == nil {
		return 0
	}
	return b.lent.Load()
}

type buffer struct {
	bytes []byte
	class int
}

// get lends a buffer of at most the class. A nil Buffers makes each anew.
func (b *Buffers) get(class int) *buffer {
	if b == nil {
		return newBuffer(class)
	}
	if size := int64(sizes[class]); b.lent.Add(size) > b.budget && class > 0 {
		b.lent.Add(int64(sizes[0]) - size)
		class = 0
	}
	if buf, ok := b.pools[class].Get().(*buffer); ok {
		return buf
	}
	return newBuffer(class)
}

func (b *Buffers) put(buf *buffer) {
	if b == nil {
		return
	}
	b.lent.Add(-int64(sizes[buf.class]))
	b.pools[buf.class].Put(buf)
}

func newBuffer(class int) *buffer { return &buffer{make([]byte, sizes[class]), class} }
