package gateway

import (
	"cmp"
	"context"
	"hash/fnv"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/upgraders"
)

// backendKey: what a backend offers depends on the protocol it is asked in.
type backendKey struct{ name, protocol string }

// A backend is one configured backend at work, for one protocol.
type backend struct {
	cfg      *Backend
	protocol *upgraders.Protocol
	hostname string // what the gateway calls itself in probes
	log      *slog.Logger
	metrics  *Metrics
	servers  []*server
	turn     atomic.Uint64
	learned  learned
	ctx      context.Context // set by start, ended by stop
	cancel   context.CancelFunc
	probing  sync.WaitGroup
}

// A server is one address of a backend.
type server struct {
	Server
	active atomic.Int64 // sessions, dials included
	down   atomic.Bool  // by the last probe
}

func newBackend(cfg *Backend, p *upgraders.Protocol, hostname string, log *slog.Logger, m *Metrics) *backend {
	b := &backend{cfg: cfg, protocol: p, hostname: hostname, log: log, metrics: m}
	for _, sv := range cfg.Servers {
		b.servers = append(b.servers, &server{Server: sv})
	}
	return b
}

func (sv *server) network() (network, address string) {
	if path, ok := strings.CutPrefix(sv.Address, "unix:"); ok {
		return "unix", path
	}
	return "tcp", sv.Address
}

func (b *backend) connectTimeout() time.Duration {
	if b.cfg.ConnectTimeout > 0 {
		return b.cfg.ConnectTimeout
	}
	return 5 * time.Second
}

// order lists the servers in the order in which a session should try them:
// those that are up before those that a probe found down (which may be wrong
// by now), primaries before backups, and within each by the balance. Servers
// at their limit are left out.
func (b *backend) order(client netip.Addr) []*server {
	var total int64
	for _, sv := range b.servers {
		total += sv.active.Load()
	}
	if b.cfg.MaxConnections > 0 && total >= int64(b.cfg.MaxConnections) {
		return nil
	}
	candidates := make([]*server, 0, len(b.servers))
	for _, sv := range b.servers {
		if sv.MaxConnections == 0 || sv.active.Load() < int64(sv.MaxConnections) {
			candidates = append(candidates, sv)
		}
	}
	rank := b.ranking(client)
	slices.SortStableFunc(candidates, func(x, y *server) int {
		return cmp.Or(
			compareBool(x.down.Load(), y.down.Load()),
			compareBool(x.Backup, y.Backup),
			cmp.Compare(rank[x], rank[y]),
		)
	})
	return candidates
}

// ranking gives each server a number; the smallest is due.
func (b *backend) ranking(client netip.Addr) map[*server]float64 {
	rank := make(map[*server]float64, len(b.servers))
	switch b.cfg.Balance {
	case LeastConn:
		for _, sv := range b.servers {
			rank[sv] = float64(sv.active.Load()) / sv.weight()
		}
	case Source:
		// Weighted rendezvous hashing: a client keeps its server, and a
		// server that leaves moves only its own clients.
		for _, sv := range b.servers {
			h := fnv.New64a()
			h.Write(clientKey(client).AsSlice())
			h.Write([]byte(sv.Address))
			u := (float64(mix(h.Sum64())>>11) + 0.5) / (1 << 53)
			rank[sv] = -math.Log(u) / sv.weight()
		}
	default:
		// Each turn has one due server; the others follow it in a ring, so
		// that the clients of one that fails spread over the rest.
		var sum uint64
		for _, sv := range b.servers {
			sum += uint64(sv.weight())
		}
		at, first := (b.turn.Add(1)-1)%sum, 0
		for i, sv := range b.servers {
			w := uint64(sv.weight())
			if at < w {
				first = i
				break
			}
			at -= w
		}
		for i, sv := range b.servers {
			rank[sv] = float64((i - first + len(b.servers)) % len(b.servers))
		}
	}
	return rank
}

// mix finishes a hash whose high bits FNV leaves poor (MurmurHash3's fmix64).
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

func (sv *server) weight() float64 { return float64(max(1, sv.Weight)) }

func compareBool(x, y bool) int {
	switch {
	case x == y:
		return 0
	case y:
		return -1
	}
	return 1
}

// start begins the probes of a backend that has them.
func (b *backend) start(ctx context.Context) {
	b.ctx, b.cancel = context.WithCancel(ctx)
	if b.cfg.Probe == nil || b.protocol.Probe == nil {
		return
	}
	for _, sv := range b.servers {
		b.metrics.backendUp.WithLabelValues(b.cfg.Name, sv.Address).Set(1)
		b.probing.Go(func() { b.probeLoop(b.ctx, sv) })
	}
}

// stop ends the probes; gone says that the backend is no longer configured.
func (b *backend) stop(gone bool) {
	b.learned.mu.Lock()
	b.learned.closed = true
	b.learned.mu.Unlock()
	b.cancel()
	b.probing.Wait()
	if gone {
		for _, sv := range b.servers {
			b.metrics.backendUp.DeleteLabelValues(b.cfg.Name, sv.Address)
		}
	}
}

// probeLoop asks one server at intervals and marks it up or down.
func (b *backend) probeLoop(ctx context.Context, sv *server) {
	for {
		_, err := b.ask(ctx, sv)
		if ctx.Err() != nil {
			return
		}
		if down := err != nil; sv.down.Swap(down) != down {
			if down {
				b.log.Warn("backend server is down", "backend", b.cfg.Name, "server", sv.Address, "error", err)
			} else {
				b.log.Info("backend server is up", "backend", b.cfg.Name, "server", sv.Address)
			}
		}
		up := 1.0
		if err != nil {
			up = 0
		}
		b.metrics.backendUp.WithLabelValues(b.cfg.Name, sv.Address).Set(up)
		select {
		case <-ctx.Done():
			return
		case <-time.After(b.cfg.Probe.Interval):
		}
	}
}
