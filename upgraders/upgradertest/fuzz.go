package upgradertest

import (
	"fmt"
	"runtime/metrics"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders"
)

// maxAllocated is what one dialogue may allocate in all, the harness included:
// many times what the budget of bytes needs, and far below what a length that
// a client merely announces could ask for.
const maxAllocated = 16 << 20

// Fuzz looks for a dialogue that breaks the contract: one that panics, reads
// or allocates without bound, answers differently when its bytes are cut
// otherwise, writes in the clear after the go-ahead, or lets a word that was
// said before TLS reach the backend after it. It begins with what the clients
// of the calling package's scripts say.
func Fuzz(f *testing.F, p *upgraders.Protocol) {
	scripts, err := scriptsOf(p)
	if err != nil {
		f.Fatal(err)
	}
	z, err := newFuzzer(scripts, p)
	if err != nil {
		f.Fatal(err)
	}
	for i, seed := range z.seeds {
		f.Add(seed, uint64(i), byte(i))
	}
	f.Fuzz(func(t *testing.T, said []byte, seed uint64, setting byte) {
		if err := z.judge(said, seed, setting); err != nil {
			t.Error(err)
		}
	})
}

// A fuzzer judges dialogues in each of the settings that matter.
type fuzzer struct {
	seeds    [][]byte
	settings [8]fuzzed
}

type fuzzed struct {
	*checker
	said []byte // the dialogue of the reference
	told *told  // what the backend is told after it
}

func newFuzzer(scripts []*script, p *upgraders.Protocol) (*fuzzer, error) {
	base := &script{mode: gateway.StartTLS, hostname: serverName, policy: gateway.NewPolicy()}
	z := &fuzzer{}
	for _, s := range scripts {
		if s.mode != gateway.StartTLS {
			continue
		}
		if base.name == "" && s.is("starttls") {
			base = s
		}
		z.seeds = append(z.seeds, slices.Concat(s.said()...))
	}
	if len(z.seeds) == 0 {
		z.seeds = [][]byte{nil}
	}
	for i := range z.settings {
		s := *base
		s.cleartext = i&1 != 0
		s.noCertificate = i&2 != 0
		if i&4 != 0 {
			s.caps = nil
		}
		c, err := newChecker(&s, scripts, p)
		if err != nil {
			return nil, err
		}
		z.settings[i] = fuzzed{checker: c, said: slices.Concat(c.segments...)}
		if z.settings[i].told, err = c.reference(); err != nil {
			return nil, err
		}
	}
	return z, nil
}

// judge plays one dialogue in one setting, whole and in pieces.
func (z *fuzzer) judge(said []byte, seed uint64, setting byte) error {
	s := z.settings[int(setting)%len(z.settings)]
	s.conns = nil
	before := allocated()
	if err := s.checker.judge(said, seed); err != nil {
		return err
	}
	if s.told != nil {
		if err := s.sameAs(s.told, said, s.said); err != nil {
			return err
		}
	}
	if n := allocated() - before; n > maxAllocated {
		return fmt.Errorf("a dialogue of %d bytes makes the gateway allocate %d", len(said), n)
	}
	for _, conn := range s.conns {
		if conn.broken() {
			return errLeak
		}
	}
	return nil
}

// allocated returns how many bytes were ever allocated.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
