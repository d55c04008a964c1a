package gateway

import (
	"context"
	"log/slog"
	"net"
)

// Options is what a Gateway needs besides its configuration.
type Options struct {
	Logger  *slog.Logger // nil: discard
	Metrics *Metrics     // nil: counted, but not exposed
}

// A Gateway runs the listeners of one configuration at a time.
type Gateway struct{ opts Options }

// New returns a Gateway that does nothing until Apply.
func New(opts Options) *Gateway { return &Gateway{opts: opts} }

// Apply starts the gateway, or replaces the configuration of a running one.
func (g *Gateway) Apply(cfg *Config) error { return nil }

// Addrs returns the addresses a listener is bound to.
func (g *Gateway) Addrs(listener string) []net.Addr { return nil }

// Ready returns nil when every listener can serve, else why not.
func (g *Gateway) Ready() error { return nil }

// Shutdown drains and stops.
func (g *Gateway) Shutdown(ctx context.Context) error { return nil }
