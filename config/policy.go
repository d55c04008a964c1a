package config

import (
	"net/netip"
	"reflect"
	"time"

	"github.com/sallyport/sallyport/gateway"
)

type policyBlock struct {
	block
	Name             attr[ident]         `hcl:"name,label"`
	HandshakeTimeout attr[time.Duration] `hcl:"handshake_timeout,optional" default:"10s" doc:"for a TLS handshake, in all"`
	IdleTimeout      attr[time.Duration] `hcl:"idle_timeout,optional" unset:"by protocol: smtp, lmtp 10m; imap, pop3, sieve, nntp 35m; ftp 15m; http 5m; others none" none:"no limit" doc:"how long a session may be silent in both directions"`
	StallTimeout     attr[time.Duration] `hcl:"stall_timeout,optional" default:"5m" doc:"how long a peer may take no bytes that are due to it"`
	Keepalive        attr[time.Duration] `hcl:"keepalive,optional" default:"2m" none:"off" doc:"interval of TCP keep-alive probes"`
	DrainTimeout     attr[time.Duration] `hcl:"drain_timeout,optional" default:"1h" doc:"how long sessions may go on after a shutdown began"`
	Downgrade        attr[string]        `hcl:"downgrade,optional" default:"report" enum:"report|refuse" doc:"what is done about a client that comes with less TLS than it can"`
	Dialogue         dialogueBlock       `hcl:"dialogue,block" doc:"Bounds of everything before TLS, in all."`
	Limits           limitsBlock         `hcl:"limits,block" doc:"Bounds of what a listener carries at a time. An address is an IPv4 address or an IPv6 /64."`
	ProxyProtocol    *proxyProtocolBlock `hcl:"proxy_protocol,block" doc:"Takes the client's address from a PROXY header (v1 or v2)."`
}

type dialogueBlock struct {
	block
	Timeout  attr[time.Duration] `hcl:"timeout,optional" default:"30s" doc:"from the first byte to the request for TLS"`
	Bytes    attr[size]          `hcl:"bytes,optional" default:"16KiB" doc:"that a client may send"`
	Commands attr[int]           `hcl:"commands,optional" default:"50" doc:"that a client may send"`
}

type limitsBlock struct {
	block
	Connections  attr[count] `hcl:"connections,optional" default:"20000" none:"no limit" doc:"in all"`
	Pending      attr[count] `hcl:"pending,optional" default:"2000" none:"no limit" doc:"not yet joined to a backend"`
	PerIP        attr[count] `hcl:"per_ip,optional" default:"1000" none:"no limit" doc:"of one address"`
	PendingPerIP attr[count] `hcl:"pending_per_ip,optional" default:"50" none:"no limit" doc:"of one address, not yet joined to a backend"`
	RatePerIP    attr[rate]  `hcl:"rate_per_ip,optional" default:"20/s" none:"no limit" doc:"new connections of one address; bursts of one second's worth"`
}

type proxyProtocolBlock struct {
	block
	From   attr[[]netip.Prefix] `hcl:"from" doc:"peers that must send the header; all others are refused"`
	warned bool
}

func (b *policyBlock) label() string { return string(b.Name.Value) }

// defaultPolicy puts the policy "default" first, with its defaults where none
// is written.
func (l *loader) defaultPolicy() {
	policies := l.root.Policies
	for i, p := range policies {
		if p.label() == "default" {
			copy(policies[1:i+1], policies[:i])
			policies[0] = p
			return
		}
	}
	p := &policyBlock{}
	l.defaults(reflect.ValueOf(p).Elem())
	p.Name.Value = "default"
	l.root.Policies = append([]*policyBlock{p}, policies...)
}

// inherit takes everything but name and place from another policy.
func (b *policyBlock) inherit(from *policyBlock) {
	name, place := b.Name, b.block
	*b = *from
	b.Name, b.block = name, place
}

func (l *loader) policy(b *policyBlock) *gateway.Policy {
	if n := &b.Dialogue.Commands; n.good() && n.Value < 1 {
		l.errorf(n.At, "Unsuitable value for commands", "Without a command nobody can ask for TLS: write a number above 0.")
	}
	p := &gateway.Policy{
		Name:             b.label(),
		HandshakeTimeout: b.HandshakeTimeout.Value,
		IdleTimeout:      b.IdleTimeout.Value,
		StallTimeout:     b.StallTimeout.Value,
		Keepalive:        b.Keepalive.Value,
		DrainTimeout:     b.DrainTimeout.Value,
		Dialogue: gateway.Dialogue{
			Timeout:  b.Dialogue.Timeout.Value,
			Bytes:    int(b.Dialogue.Bytes.Value),
			Commands: b.Dialogue.Commands.Value,
		},
		Limits: gateway.Limits{
			Connections:  int(b.Limits.Connections.Value),
			Pending:      int(b.Limits.Pending.Value),
			PerIP:        int(b.Limits.PerIP.Value),
			PendingPerIP: int(b.Limits.PendingPerIP.Value),
			RatePerIP:    float64(b.Limits.RatePerIP.Value),
		},
	}
	if b.ProxyProtocol != nil {
		p.ProxyFrom = b.ProxyProtocol.From.Value
		l.warnProxyFrom(b.ProxyProtocol)
	}
	return p
}

// warnProxyFrom warns of an address that everybody may choose: limits, logs and
// the backend's own rules would go by it. A policy that inherits the block is
// not warned of again.
func (l *loader) warnProxyFrom(b *proxyProtocolBlock) {
	for _, network := range b.From.Value {
		if network.Bits() == 0 && !b.warned {
			b.warned = true
			l.warnf(b.From.At, "Anybody may say who the client is", "%s is everybody, and whoever can connect can then claim to be any client: name the load balancer's own addresses.", network)
		}
	}
}
