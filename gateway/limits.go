package gateway

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxTracked bounds the table of client addresses. When that many are active
// at once, the rate of further ones is not limited; the totals still are.
const maxTracked = 1 << 17

// A limiter counts one listener's connections, in all and by client network.
// It lives across reloads.
type limiter struct {
	mu      sync.Mutex
	limits  Limits
	active  int
	pending int
	clients map[netip.Addr]*clientCount
	swept   time.Time
	told    map[string]time.Time // when the log last heard of a limit
}

type clientCount struct {
	active, pending int
	rate            *rate.Limiter
}

func newLimiter() *limiter {
	return &limiter{clients: map[netip.Addr]*clientCount{}, told: map[string]time.Time{}}
}

// tell reports whether the log should hear that a limit is reached: not for
// each client of a flood.
func (l *limiter) tell(limit string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.told[limit]) < 10*time.Second {
		return false
	}
	l.told[limit] = now
	return true
}

func (l *limiter) set(limits Limits) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if limits.RatePerIP != l.limits.RatePerIP {
		for _, c := range l.clients {
			c.rate = nil
		}
	}
	l.limits = limits
}

// clientKey is what counts as one client: an IPv4 address, or an IPv6 /64,
// which is what one subscriber gets.
func clientKey(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		return netip.PrefixFrom(a, 64).Masked().Addr()
	}
	return a
}

// enter counts a connection in and returns "", or says which limit it would
// break. Whose it is may not be known yet: a PROXY header may have to be read.
func (l *limiter) enter() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch m := l.limits; {
	case m.Connections > 0 && l.active >= m.Connections:
		return "connections"
	case m.Pending > 0 && l.pending >= m.Pending:
		return "pending"
	}
	l.active++
	l.pending++
	return ""
}

// admit counts an entered connection as a client's and returns "", or says
// which of the client's limits it would break.
func (l *limiter) admit(client netip.Addr, now time.Time) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep(now)
	key := clientKey(client)
	c := l.clients[key]
	if c == nil {
		c = &clientCount{}
	}
	m := l.limits
	if m.RatePerIP > 0 {
		if c.rate == nil {
			c.rate = rate.NewLimiter(rate.Limit(m.RatePerIP), max(1, int(m.RatePerIP)))
		}
		if len(l.clients) < maxTracked {
			l.clients[key] = c // so that what is refused counts, too
		}
		if !c.rate.AllowN(now, 1) {
			return "rate_per_ip"
		}
	}
	switch {
	case m.PerIP > 0 && c.active >= m.PerIP:
		return "per_ip"
	case m.PendingPerIP > 0 && c.pending >= m.PendingPerIP:
		return "pending_per_ip"
	}
	l.clients[key] = c
	c.active++
	c.pending++
	return ""
}

// joined says that an admitted session has reached its backend.
func (l *limiter) joined(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending--
	l.clients[clientKey(client)].pending--
}

// leave counts an entered connection out, and the client's if it was admitted.
func (l *limiter) leave(client netip.Addr, admitted, joined bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active--
	if !joined {
		l.pending--
	}
	if !admitted {
		return
	}
	c := l.clients[clientKey(client)]
	c.active--
	if !joined {
		c.pending--
	}
	if c.active == 0 && c.rate == nil {
		delete(l.clients, clientKey(client))
	}
}

// sweep forgets clients that are gone and whose rate has recovered.
func (l *limiter) sweep(now time.Time) {
	if now.Sub(l.swept) < 10*time.Second {
		return
	}
	l.swept = now
	for key, c := range l.clients {
		if c.active == 0 && (c.rate == nil || c.rate.TokensAt(now) >= float64(c.rate.Burst())) {
			delete(l.clients, key)
		}
	}
}
