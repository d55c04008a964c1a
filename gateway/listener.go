package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/upgraders"
)

// A port is one bound address. It outlives the listener that owns it, so that
// a reload never refuses a connection.
type port struct {
	ln    net.Listener
	owner atomic.Pointer[listener]
}

// portKey tells which ports are the same before and after a reload. A port
// number of 0 is a different one for each listener.
func portKey(listener string, i int, address string) string {
	if strings.HasSuffix(address, ":0") {
		return fmt.Sprintf("%s/%d/%s", listener, i, address)
	}
	return address
}

// Listen opens a new socket for an address of the configuration. Keep-alive is
// for each session's policy to set.
func Listen(address string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1}
	return lc.Listen(context.Background(), network(address), address)
}

// network keeps 0.0.0.0 and [::] apart, so that both can be listened on. For
// package net each stands for both families.
func network(address string) string {
	switch host, _, _ := net.SplitHostPort(address); host {
	case "0.0.0.0":
		return "tcp4"
	case "::":
		return "tcp6"
	}
	return "tcp"
}

func explainBind(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; another process listens there (`ss -ltnp` names it)", err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w; ports below 1024 need CAP_NET_BIND_SERVICE", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w; no interface has this address", err)
	}
	return err
}

// A listener is one configured listener at work. It is immutable but for what
// it shares with its predecessor: tickets, limits, tallies.
type listener struct {
	cfg     *Listener
	facts   *upgraders.Listener
	routes  []*route
	ports   []*port
	tickets *tls.Config // its ticket keys; good on this listener only
	limits  *limiter
	clients *clientTallies
	configs configs
	idle    time.Duration
}

type route struct {
	*Route
	backend *backend
}

func newListener(cfg *Listener, backends map[backendKey]*backend, old *listener) *listener {
	l := &listener{
		cfg: cfg,
		facts: &upgraders.Listener{
			Name:          cfg.Name,
			Hostname:      cfg.Hostname,
			Cleartext:     cfg.Cleartext,
			CleartextAuth: cfg.CleartextAuth,
			Pages:         cfg.Pages,
		},
		idle: cfg.Policy.IdleTimeout,
	}
	if l.facts.Hostname == "" {
		if l.facts.Hostname, _ = os.Hostname(); l.facts.Hostname == "" {
			l.facts.Hostname = "localhost"
		}
	}
	if l.idle == 0 {
		l.idle = cfg.Protocol.IdleTimeout
	}
	for _, rc := range cfg.Routes {
		l.routes = append(l.routes, &route{rc, backends[backendKey{rc.Backend.Name, cfg.Protocol.Name}]})
	}
	if old != nil {
		l.tickets, l.limits, l.clients = old.tickets, old.limits, old.clients
	} else {
		l.tickets, l.limits, l.clients = &tls.Config{}, newLimiter(), newClientTallies()
	}
	l.configs = newConfigs(l)
	return l
}

// acceptLoop hands each connection of a port to the listener that owns it
// now. It ends when the port is closed.
func (g *Gateway) acceptLoop(p *port) {
	defer g.accepting.Done()
	var delay time.Duration
	for {
		conn, err := p.ln.Accept()
		if err == nil {
			delay = 0
			g.sessions.start(newSession(g, p.owner.Load(), conn))
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of descriptors, most likely: sessions that end will help, an
		// exit would not.
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		g.log.Error("cannot accept", "listener", p.owner.Load().cfg.Name, "error", err, "retry_in", delay.Seconds())
		time.Sleep(delay)
	}
}
