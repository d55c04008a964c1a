package gateway

import (
	"cmp"
	"crypto/tls"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/upgraders"
)

// maxClientNetworks bounds the tally of one listener. Networks beyond it are
// counted together, under the zero prefix.
const maxClientNetworks = 10_000

// How a client came to its backend, from the weakest on.
const (
	ByCleartext = "cleartext"
	ByStartTLS  = "starttls"
	ByImplicit  = "implicit"
)

// A ClientTally counts the sessions of one client network that a stricter
// policy would break: those in cleartext, those with a TLS version before 1.3,
// and those that asked for TLS on a port where TLS could come first (RFC 8314,
// 3).
type ClientTally struct {
	Listener string       `json:"listener"`
	Protocol string       `json:"protocol"`
	Network  netip.Prefix `json:"network"` // IPv4 /24, IPv6 /48; the zero prefix: all beyond the bound
	By       string       `json:"by"`      // cleartext, starttls, implicit
	Version  string       `json:"tls_version,omitempty"`
	Sessions uint64       `json:"sessions"`
	Last     time.Time    `json:"last"`
	Example  netip.Addr   `json:"example"` // the last client of the network
}

type clientTallyKey struct {
	network netip.Prefix
	by      string
	version uint16
}

// clientTallies is one listener's tally; it lives across reloads.
type clientTallies struct {
	mu   sync.Mutex
	seen map[clientTallyKey]*ClientTally
}

func newClientTallies() *clientTallies {
	return &clientTallies{seen: map[clientTallyKey]*ClientTally{}}
}

// clientNetwork is what one operator of clients is likely to own.
func clientNetwork(a netip.Addr) netip.Prefix {
	bits := 24
	if a = a.Unmap().WithZone(""); a.Is6() {
		bits = 48
	}
	p, _ := a.Prefix(bits) // invalid for a client without an address
	return p
}

// tally counts a session that reached its backend.
func (s *session) tally() {
	key := clientTallyKey{network: clientNetwork(s.client.Addr())}
	switch {
	case s.security == upgraders.Clear:
		key.by = ByCleartext
	case s.implicit:
		key.by, key.version = ByImplicit, s.tls.Version
	default:
		key.by, key.version = ByStartTLS, s.tls.Version
	}
	if key.by == ByImplicit && key.version >= tls.VersionTLS13 {
		return // nothing is stricter
	}
	if key.by == ByStartTLS && key.version >= tls.VersionTLS13 && len(s.l.cfg.Protocol.Implicit) == 0 {
		return
	}
	t := s.l.clients
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.seen[key]
	if c == nil && len(t.seen) >= maxClientNetworks {
		key.network = netip.Prefix{}
		c = t.seen[key]
	}
	if c == nil {
		c = &ClientTally{Listener: s.l.cfg.Name, Protocol: s.l.cfg.Protocol.Name, Network: key.network, By: key.by, Version: versionName(key.version)}
		t.seen[key] = c
	}
	c.Sessions++
	c.Last = time.Now()
	c.Example = s.client.Addr()
}

// Clients returns whom a stricter policy would break, since the gateway
// started, the busiest first.
func (g *Gateway) Clients() []ClientTally {
	g.mu.Lock()
	var tallies []*clientTallies
	for _, l := range g.listeners {
		tallies = append(tallies, l.clients)
	}
	g.mu.Unlock()
	var list []ClientTally
	for _, t := range tallies {
		t.mu.Lock()
		for _, c := range t.seen {
			list = append(list, *c)
		}
		t.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b ClientTally) int {
		return cmp.Or(cmp.Compare(b.Sessions, a.Sessions), cmp.Compare(a.Listener, b.Listener),
			a.Network.Addr().Compare(b.Network.Addr()), cmp.Compare(a.By, b.By), cmp.Compare(a.Version, b.Version))
	})
	return list
}
