package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/upgraders"
)

// How capabilities are learned. A dialogue waits for a first answer only, and
// not long; after that an answer that is out of date is used while a new one
// is fetched.
const (
	capabilitiesFresh = time.Minute
	capabilitiesRetry = 5 * time.Second // after a backend could not be asked
	capabilitiesStale = time.Hour       // an older answer is none
	capabilitiesWait  = 2 * time.Second
	probeTimeout      = 10 * time.Second
	probeBytes        = 64 << 10
	probeUnits        = 1000
)

// learned is what a backend was last heard to offer a session in TLS.
type learned struct {
	mu      sync.Mutex
	caps    upgraders.Capabilities
	at      time.Time     // of the last answer
	tried   time.Time     // of the last attempt
	running chan struct{} // closed when the attempt under way ends
	closed  bool          // ask no more
}

// capabilities returns what is known, asking when it is time to.
func (b *backend) capabilities(ctx context.Context) upgraders.Capabilities {
	if b.protocol.Probe == nil {
		return nil
	}
	k := &b.learned
	k.mu.Lock()
	now := time.Now()
	due := now.Sub(k.at) > capabilitiesFresh && now.Sub(k.tried) > capabilitiesRetry
	if due && k.running == nil && !k.closed {
		done := make(chan struct{})
		k.running = done
		b.background.Go(func() { b.learn(done) })
	}
	caps, running := b.knownLocked(now), k.running
	k.mu.Unlock()
	if caps != nil || running == nil {
		return caps
	}
	ctx, cancel := context.WithTimeout(ctx, capabilitiesWait)
	defer cancel()
	select {
	case <-running:
	case <-ctx.Done():
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return b.knownLocked(time.Now())
}

func (b *backend) knownLocked(now time.Time) upgraders.Capabilities {
	if b.learned.at.IsZero() || now.Sub(b.learned.at) > capabilitiesStale {
		return nil
	}
	return slices.Clone(b.learned.caps)
}

// learn asks the servers in turn until one answers.
func (b *backend) learn(done chan struct{}) {
	defer close(done)
	ctx, cancel := context.WithTimeout(b.ctx, probeTimeout)
	defer cancel()
	err := errors.New("every server is at its max_connections")
	for _, sv := range b.order(netip.Addr{}) {
		if _, err = b.ask(ctx, sv); err == nil {
			break
		}
	}
	if err != nil {
		b.log.Info("cannot learn what a backend offers; clients are told the least until it answers", "backend", b.cfg.Name, "error", err)
	}
	b.learned.mu.Lock()
	b.learned.tried = time.Now()
	b.learned.running = nil
	b.learned.mu.Unlock()
}

// ask probes one server, as a session in TLS would reach it, and keeps the
// answer.
func (b *backend) ask(ctx context.Context, sv *server) (caps upgraders.Capabilities, err error) {
	defer func() {
		// One backend's answer must not end the sessions of all others.
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
			b.log.Error("a probe panicked; please report this", "backend", b.cfg.Name, "server", sv.Address,
				"panic", fmt.Sprint(r), "stack", string(debug.Stack()))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	// A backend that hides capabilities from cleartext must be told that this
	// is none. The addresses are the gateway's own: it is the client here.
	state := &tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
	self := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 1) // behind a unix socket
	l, err := b.dial(ctx, ctx, sv, func(own netip.AddrPort) []byte {
		if own.IsValid() {
			self = own
		}
		return formatProxy(b.cfg.Send, self, self, state, upgraders.Encrypted)
	})
	if err != nil {
		return nil, err
	}
	defer l.close()
	l.conn.SetBudget(probeBytes, probeUnits)
	caps, err = b.protocol.Probe(ctx, &upgraders.Link{
		Backend:     l.conn,
		Security:    upgraders.Encrypted,
		Facts:       upgraders.Facts{Client: self, Local: self, Name: b.hostname, TTL: forwardTTL},
		Forward:     b.cfg.Forward,
		PassBinding: b.passBinding(),
		BackendTLS:  l.tls != nil,
		Log:         func(msg string, args ...any) { b.log.Warn(msg, append([]any{"backend", b.cfg.Name}, args...)...) },
	})
	if err != nil {
		return nil, err
	}
	b.learned.mu.Lock()
	b.learned.caps, b.learned.at, b.learned.tried = caps, time.Now(), time.Now()
	b.learned.mu.Unlock()
	return caps, nil
}
