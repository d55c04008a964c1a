package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"hash/fnv"
	"log/slog"
	"math"
	"net"
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
	cfg        *Backend
	protocol   *upgraders.Protocol
	hostname   string // what probes call the gateway, or the host they ask for
	log        *slog.Logger
	metrics    *Metrics
	resolver   *net.Resolver
	tls        *tls.Config // nil: the leg is cleartext
	pool       atomic.Pointer[[]*server]
	active     *atomic.Int64 // of all servers, those that were among them included
	before     []*server     // of the backend that this one replaced
	turn       atomic.Uint64
	learned    learned
	ctx        context.Context // set by start, ended by stop
	cancel     context.CancelFunc
	background sync.WaitGroup
}

// A server is one address of a backend.
type server struct {
	Server
	configured string             // the address it was found by
	active     *atomic.Int64      // sessions and probes, dials included; shared with its predecessor
	down       atomic.Bool        // by the last probe
	unprobe    context.CancelFunc // ends its probes; nil: there are none
}

// newServer makes the server of a configured one at an address. What is open
// there is known from its predecessors.
func newServer(cfg Server, address string, before []*server) *server {
	sv := &server{Server: cfg, configured: cfg.Address, active: new(atomic.Int64)}
	sv.Address = address
	if i := slices.IndexFunc(before, func(old *server) bool { return old.Address == address }); i >= 0 {
		sv.active = before[i].active
	}
	return sv
}

func newBackend(cfg *Backend, p *upgraders.Protocol, hostname string, g *Gateway, resolver *net.Resolver) *backend {
	b := &backend{cfg: cfg, protocol: p, hostname: hostname, log: g.log, metrics: g.metrics, resolver: resolver, tls: backendTLS(cfg)}
	b.replace(nil)
	return b
}

// replace makes the pool. Connections of the backend that is replaced, if
// there is one, count against the limits of this one.
func (b *backend) replace(old *backend) {
	b.active = new(atomic.Int64)
	if old != nil {
		b.active, b.before = old.active, old.servers()
	}
	var pool []*server
	for _, sv := range b.cfg.Servers {
		pool = append(pool, newServer(sv, sv.Address, b.before))
	}
	b.pool.Store(&pool)
}

// count counts a connection to a server in or out.
func (b *backend) count(sv *server, n int64) {
	sv.active.Add(n)
	b.active.Add(n)
}

// admit counts a connection in that stays within the limits, or reports false.
func (b *backend) admit(sv *server) bool {
	full := func(n int64, limit int) bool { return limit > 0 && n > int64(limit) }
	here, all := sv.active.Add(1), b.active.Add(1)
	if full(here, sv.MaxConnections) || full(all, b.cfg.MaxConnections) {
		b.count(sv, -1)
		return false
	}
	return true
}

func (b *backend) servers() []*server { return *b.pool.Load() }

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
	var classes [4][]*server
	for _, sv := range b.servers() {
		active := sv.active.Load()
		if sv.MaxConnections > 0 && active >= int64(sv.MaxConnections) {
			continue
		}
		class := 0
		if sv.Backup {
			class |= 1
		}
		if sv.down.Load() {
			class |= 2
		}
		classes[class] = append(classes[class], sv)
	}
	if b.cfg.MaxConnections > 0 && b.active.Load() >= int64(b.cfg.MaxConnections) {
		return nil
	}
	turn := b.turn.Add(1) - 1
	var order []*server
	for _, class := range classes {
		b.balance(class, client, turn)
		order = append(order, class...)
	}
	return order
}

// balance sorts equal servers, the one that is due first.
func (b *backend) balance(servers []*server, client netip.Addr, turn uint64) {
	if len(servers) < 2 {
		return
	}
	switch b.cfg.Balance {
	case LeastConn:
		slices.SortStableFunc(servers, func(x, y *server) int {
			return cmp.Compare(float64(x.active.Load())/x.weight(), float64(y.active.Load())/y.weight())
		})
	case Source:
		// Weighted rendezvous hashing: a client keeps its server, and a
		// server that leaves moves only its own clients.
		slices.SortStableFunc(servers, func(x, y *server) int { return cmp.Compare(x.distance(client), y.distance(client)) })
	default:
		// One server is due; the others follow it in a ring, so that the
		// clients of one that fails spread over the rest.
		var sum uint64
		for _, sv := range servers {
			sum += uint64(sv.weight())
		}
		at := turn % sum
		for i, sv := range servers {
			w := uint64(sv.weight())
			if at < w {
				rotated := slices.Concat(servers[i:], servers[:i])
				copy(servers, rotated)
				return
			}
			at -= w
		}
	}
}

// distance is a server's place in the rendezvous hashing of a client.
func (sv *server) distance(client netip.Addr) float64 {
	h := fnv.New64a()
	h.Write(clientKey(client).AsSlice())
	h.Write([]byte(sv.Address))
	u := (float64(mix(h.Sum64())>>11) + 0.5) / (1 << 53)
	return -math.Log(u) / sv.weight()
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

// start begins what a backend does by itself: probes and look-ups.
func (b *backend) start(ctx context.Context) {
	b.ctx, b.cancel = context.WithCancel(ctx)
	for _, sv := range b.servers() {
		b.startProbe(sv)
	}
	if slices.ContainsFunc(b.cfg.Servers, func(sv Server) bool { _, _, ok := sv.name(); return ok }) {
		b.background.Go(func() { b.resolveLoop(b.ctx) })
	}
}

// stop ends it.
func (b *backend) stop() {
	b.learned.mu.Lock()
	b.learned.closed = true
	b.learned.mu.Unlock()
	b.cancel()
	b.background.Wait()
}

func (b *backend) startProbe(sv *server) {
	if b.cfg.Probe == nil || b.protocol.Probe == nil {
		return
	}
	ctx, cancel := context.WithCancel(b.ctx)
	sv.unprobe = cancel
	b.metrics.backendUp.WithLabelValues(b.cfg.Name, sv.Address).Set(1)
	b.background.Go(func() { b.probeLoop(ctx, sv) })
}

// stopProbe forgets a server that DNS no longer has.
func (b *backend) stopProbe(sv *server) {
	if sv.unprobe != nil {
		sv.unprobe()
	}
}

// probeLoop asks one server at intervals and marks it up or down.
func (b *backend) probeLoop(ctx context.Context, sv *server) {
	defer b.metrics.backendUp.DeleteLabelValues(b.cfg.Name, sv.Address)
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
