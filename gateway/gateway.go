package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/relay"
)

// Options is what a Gateway needs besides its configuration.
type Options struct {
	Logger  *slog.Logger // nil: discard
	Metrics *Metrics     // nil: counted, but not exposed

	// Listen opens a listening socket for an address of the configuration;
	// nil: Listen. It is where sockets of systemd's come in.
	Listen func(address string) (net.Listener, error)
}

// A Gateway runs the listeners of one configuration at a time.
type Gateway struct {
	log     *slog.Logger
	metrics *Metrics
	listen  func(address string) (net.Listener, error)
	ctx     context.Context // ends when sessions are forced to
	cancel  context.CancelFunc
	// stopping is closed when Shutdown begins.
	stopping chan struct{}
	prefix   string // of every cid, so that cids of two runs differ
	nextCID  atomic.Uint64
	buffers  *relay.Buffers

	mu        sync.Mutex // guards what Apply and Shutdown change
	ports     map[string]*port
	listeners map[string]*listener
	backends  map[backendKey]*backend
	resolver  string
	accepting sync.WaitGroup
	stopped   bool

	sessions tracker
}

// relayBudget is how much the relay may lend in large buffers; beyond it every
// transfer goes on with small ones.
const relayBudget = 256 << 20

// New returns a Gateway that does nothing until Apply.
func New(opts Options) *Gateway {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Listen == nil {
		opts.Listen = Listen
	}
	if opts.Metrics == nil {
		opts.Metrics = NewMetrics(nil)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &Gateway{
		log:       opts.Logger,
		metrics:   opts.Metrics,
		listen:    opts.Listen,
		ctx:       ctx,
		cancel:    cancel,
		stopping:  make(chan struct{}),
		prefix:    strings.ToLower(rand.Text()[:4]),
		buffers:   relay.NewBuffers(relayBudget),
		ports:     map[string]*port{},
		listeners: map[string]*listener{},
		backends:  map[backendKey]*backend{},
	}
	g.metrics.sessions.Store(&g.sessions)
	return g
}

func (g *Gateway) newCID() string {
	return g.prefix + "-" + strconv.FormatUint(g.nextCID.Add(1), 36)
}

// Apply starts the gateway, or replaces the configuration of a running one.
// Everything new is built and bound before anything old is touched; on an
// error nothing has changed. Open sessions keep the configuration they began
// with, and sockets whose address stays are never closed.
func (g *Gateway) Apply(cfg *Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return errors.New("gateway is shut down")
	}

	resolver := newResolver(cfg.Resolver)
	backends := map[backendKey]*backend{}
	for _, lc := range cfg.Listeners {
		for _, rc := range lc.Routes {
			key := backendKey{rc.Backend.Name, lc.Protocol.Name}
			if backends[key] != nil {
				continue
			}
			old := g.backends[key]
			if old != nil && old.hostname == lc.probesFor(rc) && sameBackend(old.cfg, rc.Backend) && g.resolver == cfg.Resolver {
				backends[key] = old // keeps what was learned
				continue
			}
			backends[key] = newBackend(rc.Backend, lc.Protocol, lc.probesFor(rc), g, resolver)
			backends[key].replace(old)
		}
	}

	listeners := map[string]*listener{}
	ports := map[string]*port{}
	var bound []*port
	unbind := func() {
		for _, p := range bound {
			p.ln.Close()
		}
	}
	for _, lc := range cfg.Listeners {
		l := newListener(lc, backends, g.listeners[lc.Name])
		listeners[lc.Name] = l
		for i, address := range lc.Addresses {
			key := portKey(lc.Name, i, address)
			if ports[key] != nil {
				unbind()
				return fmt.Errorf("listener %q: another listener has %s", lc.Name, address)
			}
			p := g.ports[key]
			if p == nil {
				ln, err := g.listen(address)
				if err != nil {
					unbind()
					return fmt.Errorf("listener %q: %w", lc.Name, explainBind(err))
				}
				p = &port{ln: ln}
				bound = append(bound, p)
			}
			ports[key] = p
			l.ports = append(l.ports, p)
		}
	}

	// Nothing can fail from here on.
	for key, b := range g.backends {
		if backends[key] != b {
			b.stop()
		}
	}
	for key, b := range backends {
		if g.backends[key] != b {
			b.start(g.ctx)
		}
	}
	for _, l := range listeners {
		l.limits.set(l.cfg.Policy.Limits)
		g.metrics.listener(l.cfg)
		for _, p := range l.ports {
			p.owner.Store(l)
		}
	}
	for _, p := range bound {
		g.accepting.Add(1)
		go g.acceptLoop(p)
	}
	for key, p := range g.ports {
		if ports[key] == nil {
			p.ln.Close()
		}
	}
	g.ports, g.listeners, g.backends, g.resolver = ports, listeners, backends, cfg.Resolver
	return nil
}

// sameBackend reports whether a reload leaves a backend as it is. A pool of
// certificates holds functions, which are never deeply equal.
func sameBackend(old, new *Backend) bool {
	if (old.TLS == nil) != (new.TLS == nil) {
		return false
	}
	a, b := *old, *new
	if a.TLS != nil {
		if (a.TLS.CAs == nil) != (b.TLS.CAs == nil) || a.TLS.CAs != nil && !a.TLS.CAs.Equal(b.TLS.CAs) {
			return false
		}
		s, t := *a.TLS, *b.TLS
		s.CAs, t.CAs = nil, nil
		a.TLS, b.TLS = &s, &t
	}
	return reflect.DeepEqual(a, b)
}

// validate catches what no configuration file can lead to, but a literal can.
func (cfg *Config) validate() error {
	names := map[string]bool{}
	for _, l := range cfg.Listeners {
		switch {
		case l.Name == "" || names[l.Name]:
			return fmt.Errorf("listener %q: its name must be unique and not empty", l.Name)
		case l.Protocol == nil || l.Upgrader == nil:
			return fmt.Errorf("listener %q has no protocol", l.Name)
		case l.Mode != StartTLS && l.Mode != Implicit && l.Mode != Auto:
			return fmt.Errorf("listener %q: mode %q is not one of starttls, implicit, auto", l.Name, l.Mode)
		case l.Protocol.Pages && (l.Mode != Auto || len(l.Routes) > 0):
			return fmt.Errorf("listener %q: %s is served by the gateway itself; use mode auto and no route", l.Name, l.Protocol.Name)
		case l.Mode != Implicit && l.Protocol.Keyword == "" && !l.Protocol.Pages:
			return fmt.Errorf("listener %q: %s has no way to ask for TLS; use mode implicit", l.Name, l.Protocol.Name)
		case l.Certificates == nil || l.Policy == nil:
			return fmt.Errorf("listener %q needs certificates and a policy", l.Name)
		case !l.Protocol.Pages && len(l.Routes) == 0 || slices.ContainsFunc(l.Routes, func(r *Route) bool { return r.Backend == nil || len(r.Backend.Servers) == 0 }):
			return fmt.Errorf("listener %q needs a route with a backend that has servers", l.Name)
		}
		names[l.Name] = true
	}
	return nil
}

// Addrs returns the addresses a listener is bound to, in the order of its
// configuration; nil for a listener that is not there.
func (g *Gateway) Addrs(listener string) []net.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.listeners[listener]
	if l == nil {
		return nil
	}
	addrs := make([]net.Addr, len(l.ports))
	for i, p := range l.ports {
		addrs[i] = p.ln.Addr()
	}
	return addrs
}

// Ready returns nil when every listener is bound and has a certificate to
// serve, else why not.
func (g *Gateway) Ready() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.stopped:
		return errors.New("shutting down")
	case len(g.listeners) == 0:
		return errors.New("no listener is configured")
	}
	var errs []error
	for name, l := range g.listeners {
		if err := l.cfg.Certificates.Ready(); err != nil {
			errs = append(errs, fmt.Errorf("listener %q: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// ErrForced is what Shutdown returns when sessions had to be ended.
var ErrForced = errors.New("sessions were still open when the drain timeout ran out")

// forceGrace is how long sessions have for their last words once they are
// forced to end.
const forceGrace = 5 * time.Second

// Shutdown stops accepting and lets sessions end by themselves, each until its
// listener's drain timeout or until ctx ends. The rest is refused in the
// protocol's words where the protocol is ours, or gets what was read and an
// orderly end where it is opaque; then Shutdown returns ErrForced.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.mu.Lock()
	if !g.stopped {
		g.stopped = true
		close(g.stopping)
	}
	for _, p := range g.ports {
		p.ln.Close()
	}
	g.mu.Unlock()
	g.accepting.Wait()

	forced := g.sessions.drain(ctx, time.Now(), g.cancel)
	g.cancel()
	g.mu.Lock()
	for _, b := range g.backends {
		b.stop()
	}
	g.mu.Unlock()
	if forced > 0 {
		return fmt.Errorf("%w: %d", ErrForced, forced)
	}
	return nil
}
