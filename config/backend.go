package config

import (
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders"
)

type backendBlock struct {
	block
	Name           attr[ident]         `hcl:"name,label"`
	Servers        attr[[]server]      `hcl:"servers,optional" doc:"equal servers: host:port, or unix:/path; names are resolved again"`
	ServerBlocks   []*serverBlock      `hcl:"server,block" doc:"A server that needs more than an address, beside those of servers."`
	Balance        attr[string]        `hcl:"balance,optional" default:"round_robin" enum:"round_robin|least_conn|source" doc:"how servers share sessions; the next is tried when one refuses"`
	Send           attr[string]        `hcl:"send,optional" default:"none" enum:"none|proxy-v1|proxy-v2" doc:"the PROXY header that tells the backend the client's address; v2 tells of its TLS as well"`
	ConnectTimeout attr[time.Duration] `hcl:"connect_timeout,optional" default:"5s" doc:"for a connection to one server"`
	Resolve        attr[time.Duration] `hcl:"resolve,optional" default:"30s" doc:"how long a resolved name is good"`
	MaxConnections attr[count]         `hcl:"max_connections,optional" unset:"none" none:"no limit" doc:"to all servers together"`
	Forward        *forwardBlock       `hcl:"forward,block" doc:"Client facts in the protocol's own words, for a backend that does not understand PROXY."`
	TLS            *backendTLSBlock    `hcl:"tls,block" doc:"Encrypts the connection to the backend. Without the block it is in cleartext."`
	Probe          *probeBlock         `hcl:"probe,block" doc:"Asks every server at intervals whether it serves and what it offers. Without the block that is learned with the first session."`
}

type serverBlock struct {
	block
	Address        attr[server] `hcl:"address,label"`
	Weight         attr[int]    `hcl:"weight,optional" default:"1" doc:"its share of the sessions"`
	Backup         attr[bool]   `hcl:"backup,optional" default:"false" doc:"used only when no other serves"`
	MaxConnections attr[count]  `hcl:"max_connections,optional" unset:"none" none:"no limit" doc:"to this server"`
}

// The names are those of upgraders.Forward.
type forwardBlock struct {
	block
	XCLIENT attr[bool]   `hcl:"xclient,optional" default:"false" doc:"smtp, lmtp, pop3, sieve: the XCLIENT command"`
	ID      attr[bool]   `hcl:"id,optional" default:"false" doc:"imap: x- fields of the ID command (RFC 2971)"`
	WEBIRC  attr[string] `hcl:"webirc,optional" doc:"irc: the password of the WEBIRC command; keep it in a file and write file(\"path\")"`
}

type backendTLSBlock struct {
	block
	Mode           attr[string] `hcl:"mode" enum:"off|starttls|implicit" doc:"how TLS begins; it never falls back to cleartext"`
	Verify         attr[string] `hcl:"verify,optional" default:"ca" enum:"ca|none" doc:"what the backend's certificate must be; with none, whoever is in between reads along"`
	CAFile         attr[string] `hcl:"ca_file,optional" unset:"the system's authorities" doc:"PEM file with the authorities to trust"`
	ServerName     attr[host]   `hcl:"server_name,optional" unset:"the host of the server" doc:"the name that the certificate must have"`
	ChannelBinding attr[string] `hcl:"channel_binding,optional" default:"strip" enum:"strip|pass" doc:"whether SASL mechanisms ending in -PLUS are offered; pass only where gateway and backend share key and certificate"`
}

type probeBlock struct {
	block
	Interval attr[time.Duration] `hcl:"interval,optional" default:"10s" doc:"from one probe of a server to the next"`
}

func (b *backendBlock) label() string { return string(b.Name.Value) }

func (l *loader) backend(b *backendBlock) *gateway.Backend {
	l.checkClientFacts(b)
	servers := l.servers(b)
	backend := &gateway.Backend{
		Name:           b.label(),
		Servers:        servers,
		Balance:        gateway.Balance(b.Balance.Value),
		Send:           gateway.Send(b.Send.Value),
		Forward:        b.forward(),
		TLS:            l.backendTLS(b, servers),
		ConnectTimeout: b.ConnectTimeout.Value,
		Resolve:        b.Resolve.Value,
		MaxConnections: int(b.MaxConnections.Value),
	}
	if b.Probe != nil {
		backend.Probe = &gateway.Probe{Interval: b.Probe.Interval.Value}
	}
	return backend
}

func (l *loader) servers(b *backendBlock) (servers []gateway.Server) {
	var places []hcl.Range
	for _, address := range b.Servers.Value {
		servers = append(servers, gateway.Server{Address: string(address), Weight: 1})
		places = append(places, b.Servers.At)
	}
	for _, s := range b.ServerBlocks {
		if s.Weight.good() && s.Weight.Value < 1 {
			l.errorf(s.Weight.At, "Unsuitable value for weight", "A weight is a whole number above 0: leave the server out to send it nothing.")
		}
		servers = append(servers, gateway.Server{
			Address:        string(s.Address.Value),
			Weight:         s.Weight.Value,
			Backup:         s.Backup.Value,
			MaxConnections: int(s.MaxConnections.Value),
		})
		places = append(places, s.At)
	}
	if len(servers) == 0 && !b.Servers.bad {
		l.errorf(b.At, "A backend without servers", "Write where it is: servers = [\"192.0.2.10:25\"].")
	}
	for i, s := range servers {
		first := slices.IndexFunc(servers, func(t gateway.Server) bool { return t.Address == s.Address })
		if first < i && s.Address != "" {
			l.duplicate("server", s.Address, places[i], places[first])
		}
	}
	return servers
}

// checkClientFacts refuses two ways at once of telling who the client is: the
// second would be told of a connection that the first has already renamed.
func (l *loader) checkClientFacts(b *backendBlock) {
	if strings.ContainsFunc(b.forward().WEBIRC, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		l.errorf(b.Forward.At, "Unsuitable value for webirc", "The password holds a space or control character, which would end it: choose another.")
	}
	if b.Send.Value != "none" && b.forward() != (upgraders.Forward{}) {
		l.errorf(b.Forward.At, "Client facts twice", "The PROXY header of send = %q tells the backend who the client is: leave out either send or forward.", b.Send.Value)
	}
}

// tellsClient reports whether a backend is told anything of the client.
func (b *backendBlock) tellsClient() bool {
	return b.Send.Value != "none" || b.Send.bad || b.Forward != nil && b.Forward.WEBIRC.bad ||
		b.forward() != (upgraders.Forward{})
}

func (b *backendBlock) forward() (f upgraders.Forward) {
	if b.Forward != nil {
		f.XCLIENT = b.Forward.XCLIENT.Value
		f.ID = b.Forward.ID.Value
		f.WEBIRC = b.Forward.WEBIRC.Value
	}
	return f
}

func (l *loader) backendTLS(b *backendBlock, servers []gateway.Server) *gateway.BackendTLS {
	if b.TLS == nil || b.TLS.Mode.Value == "off" {
		return nil
	}
	l.checkBackendTLS(b, servers)
	t := &gateway.BackendTLS{
		Mode:        gateway.Mode(b.TLS.Mode.Value),
		ServerName:  string(b.TLS.ServerName.Value),
		Insecure:    b.TLS.Verify.Value == "none",
		PassBinding: b.TLS.ChannelBinding.Value == "pass",
	}
	if b.TLS.CAFile.good() {
		t.CAs, _ = l.authorities(b.TLS.CAFile.Value, b.TLS.CAFile.At)
	}
	return t
}

// checkBackendTLS looks for what would make the encryption worth nothing, or
// fail for every session.
func (l *loader) checkBackendTLS(b *backendBlock, servers []gateway.Server) {
	if b.TLS.Verify.good() && b.TLS.Verify.Value == "none" {
		if b.TLS.CAFile.written {
			l.errorf(b.TLS.CAFile.At, "Authorities that nobody asks", "With verify = \"none\" every certificate is taken: leave out either verify or ca_file.")
		}
		l.warnf(b.TLS.Verify.At, "The backend may be anybody", "With verify = \"none\" whoever is between the gateway and backend %q can read along and change what passes: write ca_file with the authority of its certificate, which may be the certificate itself.", b.label())
		return
	}
	if b.TLS.ServerName.written || b.TLS.Verify.bad {
		return
	}
	for _, s := range servers {
		if strings.HasPrefix(s.Address, "unix:") {
			l.errorf(b.TLS.At, "Missing server_name", "%s has no host that its certificate could be checked against: write server_name = \"mail.example.org\".", s.Address)
			return
		}
	}
}
