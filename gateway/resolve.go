package gateway

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	resolveDefault = 30 * time.Second
	resolveTimeout = 5 * time.Second
)

// newResolver returns the system's resolver, or one that asks address.
func newResolver(address string) *net.Resolver {
	if address == "" {
		return net.DefaultResolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
}

// name returns the host name that a server's address must be looked up by, if
// it must.
func (sv *Server) name() (host, port string, ok bool) {
	host, port, err := net.SplitHostPort(sv.Address)
	if err != nil || strings.HasPrefix(sv.Address, "unix:") {
		return "", "", false
	}
	_, err = netip.ParseAddr(host)
	return host, port, err != nil
}

// resolveLoop keeps the servers of a backend in step with DNS: a name with
// several addresses, such as a headless Kubernetes service, is several
// servers. Until a name was looked up once it is one server, and dialling it
// looks it up; when a later look-up fails, what was known stays.
func (b *backend) resolveLoop(ctx context.Context) {
	every := b.cfg.Resolve
	if every <= 0 {
		every = resolveDefault
	}
	failing := map[string]bool{}
	for {
		var pool []*server
		for _, sv := range b.cfg.Servers {
			pool = append(pool, b.expand(ctx, sv, failing)...)
		}
		if ctx.Err() != nil {
			return
		}
		b.setPool(pool)
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

// expand looks one configured server up. Servers that were known before stay
// the same, with their counts and their health.
func (b *backend) expand(ctx context.Context, cfg Server, failing map[string]bool) []*server {
	known := func(match func(*server) bool) []*server {
		var list []*server
		for _, sv := range b.servers() {
			if match(sv) {
				list = append(list, sv)
			}
		}
		return list
	}
	host, port, ok := cfg.name()
	if !ok {
		return known(func(sv *server) bool { return sv.configured == cfg.Address })
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, err := b.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(addrs) == 0 {
		if ctx.Err() != context.Canceled && !failing[host] {
			failing[host] = true
			b.log.Warn("backend server cannot be looked up; what was known of it is kept", "backend", b.cfg.Name, "server", cfg.Address, "error", err)
		}
		return known(func(sv *server) bool { return sv.configured == cfg.Address })
	}
	if failing[host] {
		delete(failing, host)
		b.log.Info("backend server is looked up again", "backend", b.cfg.Name, "server", cfg.Address)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	var list []*server
	for _, a := range slices.Compact(addrs) {
		address := net.JoinHostPort(a.String(), port)
		if same := known(func(sv *server) bool { return sv.Address == address && sv.configured == cfg.Address }); len(same) > 0 {
			list = append(list, same[0])
			continue
		}
		list = append(list, newServer(cfg, address, b.before))
	}
	return list
}

// setPool replaces the servers, and starts and stops their probes.
func (b *backend) setPool(pool []*server) {
	old := b.servers()
	b.pool.Store(&pool)
	for _, sv := range pool {
		if !slices.Contains(old, sv) {
			b.startProbe(sv)
		}
	}
	for _, sv := range old {
		if !slices.Contains(pool, sv) {
			b.stopProbe(sv)
		}
	}
}
