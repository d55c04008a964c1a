package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/sallyport/sallyport/certs"
	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders"
)

type listenerBlock struct {
	block
	Protocol      attr[string]              `hcl:"protocol,label"`
	Name          attr[ident]               `hcl:"name,label"`
	Address       attr[[]bind]              `hcl:"address" doc:"where to listen; without a host on every address, with port 0 on any free port"`
	Mode          attr[string]              `hcl:"mode,optional" unset:"by the well-known port" enum:"starttls|implicit|auto" doc:"how TLS begins: when the client asks, with the first byte, or as the first bytes say"`
	Cleartext     attr[string]              `hcl:"cleartext,optional" default:"refuse" enum:"refuse|allow" doc:"what a session gets that never upgrades"`
	CleartextAuth attr[bool]                `hcl:"cleartext_auth,optional" unset:"by protocol: false for smtp, lmtp, xmpp, irc; true for others" doc:"whether such a session may send a password"`
	Certs         attr[[]*certificateBlock] `hcl:"certs,optional" unset:"every certificate" doc:"what to choose from by SNI; without SNI it is the first, or without certs what covers hostname"`
	Hostname      attr[host]                `hcl:"hostname,optional" unset:"the machine's name" doc:"what the gateway calls itself, in greetings and to backends"`
	StrictSNI     attr[bool]                `hcl:"strict_sni,optional" default:"false" doc:"end the handshake when no certificate has the name the client asks for"`
	TLS           attr[*tlsBlock]           `hcl:"tls,optional" unset:"TLS 1.2 and up, forward secrecy, X25519MLKEM768 first" doc:"how sessions are encrypted"`
	Policy        attr[*policyBlock]        `hcl:"policy,optional" unset:"policy.default" doc:"timeouts and limits"`
	Backend       attr[*backendBlock]       `hcl:"backend,optional" doc:"short for a single route"`
	AutoWait      attr[time.Duration]       `hcl:"auto_wait,optional" default:"300ms" doc:"how long an auto listener waits for a ClientHello before it greets"`
	Opossum       attr[string]              `hcl:"opossum,optional" default:"warn" enum:"warn|accepted" doc:"accepted: this listener may share a certificate with one that begins TLS in the other way"`
	Routes        []*routeBlock             `hcl:"route,block" doc:"Where sessions go. The first route that matches wins."`
	Options       *optionsBlock             `hcl:"options,block" doc:"What only this protocol has."`
}

type routeBlock struct {
	block
	SNI     attr[[]sni]         `hcl:"sni,optional" unset:"every session" doc:"server names that the client asks for; * stands for one label on the left"`
	Host    attr[[]sni]         `hcl:"host,optional" unset:"every session" doc:"the same for the host that the client names in the protocol's own words, before TLS and inside it (xmpp, xmpp-server)"`
	TLS     attr[*tlsBlock]     `hcl:"tls,optional" unset:"the listener's" doc:"how these sessions are encrypted"`
	Backend attr[*backendBlock] `hcl:"backend" doc:"where they go"`
}

type optionsBlock struct {
	block
	Body hcl.Body `hcl:",body"`
}

// listener returns what a block stands for, or nil where the protocol isn't
// known.
func (l *loader) listener(b *listenerBlock) *gateway.Listener {
	p := l.protocolOf(b)
	if p == nil {
		return nil
	}
	if p.Pages {
		return l.web(b, p)
	}
	g := &gateway.Listener{
		Name:          string(b.Name.Value),
		Protocol:      p,
		Upgrader:      l.upgrader(b, p),
		Mode:          l.mode(b, p),
		Cleartext:     b.Cleartext.Value == "allow",
		CleartextAuth: p.CleartextAuth,
		Hostname:      l.hostnameOf(b),
		StrictSNI:     b.StrictSNI.Value,
		AutoWait:      b.AutoWait.Value,
		Policy:        l.policies[l.root.Policies[0]],
		TLS:           &gateway.TLS{},
		Routes:        l.routes(b, p),
	}
	for _, address := range b.Address.Value {
		g.Addresses = append(g.Addresses, string(address))
	}
	if b.CleartextAuth.good() {
		g.CleartextAuth = b.CleartextAuth.Value
	}
	if b.Policy.good() {
		g.Policy = l.policies[b.Policy.Value]
	}
	if b.TLS.good() {
		g.TLS = l.tls[b.TLS.Value]
	}
	g.Certificates = l.certificates(b, g.Hostname)
	l.checkCleartext(b, g)
	l.checkOldTLS(b, g)
	l.checkClearRoute(b, g)
	l.checkAuto(b, g)
	l.checkOptions(b, g)
	l.warnUncovered(b, g)
	return g
}

// lookup returns the protocol of a name, or nil.
func (l *loader) lookup(name string) *upgraders.Protocol {
	for _, p := range l.protocols {
		if p.Name == name {
			return p
		}
	}
	return nil
}

func (l *loader) protocolOf(b *listenerBlock) *upgraders.Protocol {
	name := b.Protocol.Value
	if p := l.lookup(name); p != nil {
		return p
	}
	var names []string
	for _, p := range l.protocols {
		names = append(names, p.Name)
	}
	l.errorf(b.Protocol.At, "Unknown protocol "+name, "The first label of a listener is its protocol: write %s.%s", oneOf(names), didYouMean(name, names))
	return nil
}

// mode returns how TLS begins, as written or by the well-known ports.
func (l *loader) mode(b *listenerBlock, p *upgraders.Protocol) gateway.Mode {
	mode := gateway.Mode(b.Mode.Value)
	if p.Keyword == "" {
		if b.Mode.good() && mode != gateway.Implicit {
			l.errorf(b.Mode.At, "Unsuitable value for mode", "%s has no words to ask for TLS, it begins with it: leave mode out.", p.Name)
		}
		return gateway.Implicit
	}
	for _, address := range b.Address.Value {
		usual := usualMode(p, address.port())
		switch {
		case b.Mode.good() && mode != gateway.Auto && usual != "" && usual != mode:
			l.warnf(b.Mode.At, "Unusual mode for the port", "On port %d clients of %s expect mode = %q: leave mode out, or listen elsewhere.", address.port(), p.Name, usual)
		case b.Mode.written:
		case usual == "":
			l.errorf(b.Address.At, "Missing mode", "Port %d is none of those of %s: write mode = %q or mode = %q.", address.port(), p.Name, gateway.StartTLS, gateway.Implicit)
			return ""
		case mode != "" && mode != usual:
			l.errorf(b.Address.At, "Ports of both modes", "On some of these ports TLS is asked for, on others it comes first: write a listener for each mode, with backend and policy in common.")
			return ""
		default:
			mode = usual
		}
	}
	return mode
}

func usualMode(p *upgraders.Protocol, port uint16) gateway.Mode {
	switch {
	case slices.Contains(p.Ports, port):
		return gateway.StartTLS
	case slices.Contains(p.Implicit, port):
		return gateway.Implicit
	}
	return ""
}

// What an auto listener waits for a ClientHello. One from another continent
// takes longer than the least, and clients give up on a greeting that takes
// longer than the most.
const (
	leastAutoWait = 50 * time.Millisecond
	mostAutoWait  = 10 * time.Second
)

// checkAuto refuses a listener that would guess where it cannot, and recommends
// not to guess where it can.
func (l *loader) checkAuto(b *listenerBlock, g *gateway.Listener) {
	if g.Mode != gateway.Auto {
		if b.AutoWait.written {
			l.errorf(b.AutoWait.At, "auto_wait on a listener that does not wait", "It is about mode = %q: leave it out.", gateway.Auto)
		}
		return
	}
	if g.Protocol.Name == "mysql" || g.Protocol.Name == "telnet" {
		l.errorf(b.Mode.At, "Unsuitable value for mode", "The first bytes of %s do not tell how TLS begins: write a listener for each mode.", g.Protocol.Title)
		return
	}
	switch wait := b.AutoWait.Value; {
	case b.AutoWait.bad:
	case !g.Protocol.ServerFirst && b.AutoWait.written:
		l.errorf(b.AutoWait.At, "auto_wait where the client begins", "A client of %s speaks first, so nothing is waited for: leave it out.", g.Protocol.Name)
	case wait < leastAutoWait || wait > mostAutoWait:
		l.errorf(b.AutoWait.At, "Unsuitable value for auto_wait", "%s is not between %s, in which a ClientHello can arrive, and %s, which clients wait for a greeting.", wait, leastAutoWait, mostAutoWait)
	case wait >= g.Policy.Dialogue.Timeout:
		l.errorf(b.AutoWait.At, "Unsuitable value for auto_wait", "Policy %q allows a dialogue %s in all, and the wait is a part of it: write less.", g.Policy.Name, g.Policy.Dialogue.Timeout)
	}
	why := "one port has one certificate for both ways to begin TLS, which is what the Opossum attack needs"
	if g.Protocol.ServerFirst {
		why = fmt.Sprintf("each client that waits for the greeting waits %s longer, and one whose ClientHello takes longer than that is greeted in cleartext and fails", b.AutoWait.Value)
	}
	l.warnf(b.Mode.At, "A port that guesses how TLS begins", "Two ports are better: %s. Write one listener with mode = %q and one with mode = %q, and send clients to the second (RFC 8314, 3).", why, gateway.StartTLS, gateway.Implicit)
}

func (l *loader) hostnameOf(b *listenerBlock) string {
	if b.Hostname.written {
		return string(b.Hostname.Value)
	}
	name, err := l.hostname()
	if err == nil {
		_, err = parseHost(name)
	}
	if err != nil {
		l.errorf(b.At, "Missing hostname", "The machine's name cannot be used (%v): write what the gateway calls itself, such as hostname = \"mx1.example.org\".", err)
	}
	return name
}

// upgrader makes the protocol's part of the listener, with its options.
func (l *loader) upgrader(b *listenerBlock, p *upgraders.Protocol) upgraders.Upgrader {
	var options any
	if p.Options != nil {
		options = p.Options()
	}
	at := b.At
	if b.Options != nil {
		at = b.Options.At
		if options == nil {
			l.errorf(at, "No options for "+p.Name, "The protocol has no options: leave the block out.")
			return nil
		}
		errorsBefore := len(l.diags)
		l.decode("listener.options", b.Options.Body, reflect.ValueOf(options).Elem())
		if len(l.diags) > errorsBefore {
			return nil
		}
	}
	u, err := p.New(options)
	if err != nil {
		if b.Options != nil {
			at = b.Options.named(err.Error())
		}
		l.errorf(at, "Unsuitable options for "+p.Name, "%s", sentence(err))
	}
	return u
}

// checkOptions lets the protocol refuse options that do not suit the listener.
func (l *loader) checkOptions(b *listenerBlock, g *gateway.Listener) {
	u, ok := g.Upgrader.(upgraders.Particular)
	if !ok || g.Mode == "" || b.Cleartext.bad {
		return
	}
	facts := &upgraders.Listener{Name: g.Name, Hostname: g.Hostname, Cleartext: g.Cleartext, CleartextAuth: g.CleartextAuth}
	if err := u.Check(facts, g.Mode != gateway.Implicit, g.Mode != gateway.StartTLS); err != nil {
		at := b.At
		if b.Options != nil {
			at = b.Options.named(err.Error())
		}
		l.errorf(at, "Options that do not suit the listener", "%s", sentence(err))
	}
}

// named returns the place of the option that a text is about.
func (b *optionsBlock) named(text string) hcl.Range {
	attrs, _ := b.Body.JustAttributes()
	for name, a := range attrs {
		if strings.Contains(text, name) {
			return a.Expr.Range()
		}
	}
	return b.At
}

// chosen returns the certificates of a listener.
func (l *loader) chosen(b *listenerBlock) []*certificateBlock {
	if b.Certs.good() {
		return b.Certs.Value
	}
	return l.root.Certificates
}

func (l *loader) certificates(b *listenerBlock, hostname string) *certs.Set {
	chosen := l.chosen(b)
	var sources []certs.Source
	for _, c := range chosen {
		sources = append(sources, l.sources[c]...)
	}
	if len(chosen) == 0 {
		l.errorf(b.At, "No certificate", "Without one there is no TLS: write certificate \"mail\" { … } with cert_file and key_file.")
	}
	return certs.NewSet(sources, hostname, b.Certs.written)
}

// checkCleartext checks what is said of sessions without TLS against mode,
// port and protocol.
func (l *loader) checkCleartext(b *listenerBlock, g *gateway.Listener) {
	if g.Mode == gateway.Implicit {
		if g.Cleartext {
			l.errorf(b.Cleartext.At, "Cleartext on a listener that begins with TLS", "In mode %q there is no session without TLS: leave cleartext out, or write a listener with mode = %q.", g.Mode, gateway.StartTLS)
		}
		return
	}
	public := slices.ContainsFunc(b.Address.Value, func(a bind) bool { return a.port() == 25 })
	if g.Protocol.Name == "smtp" && public && !g.Cleartext && !b.Cleartext.bad {
		at := b.Address.At
		if b.Cleartext.written {
			at = b.Cleartext.At
		}
		l.warnf(at, "Mail from servers without TLS is refused", "A server that the public may send mail to must not require TLS (RFC 3207, 4): write cleartext = \"allow\", unless this port is for your own servers only.")
	}
	if g.Cleartext && g.CleartextAuth {
		at := b.Cleartext.At
		if b.CleartextAuth.written {
			at = b.CleartextAuth.At
		}
		l.warnf(at, "Passwords may travel in clear", "Sessions without TLS are allowed, and may log in: write cleartext_auth = false, or cleartext = \"refuse\".")
	}
}

// checkAddresses refuses sockets that cannot both listen.
func (l *loader) checkAddresses() {
	type socket struct {
		bind
		at   hcl.Range
		what string
	}
	var sockets []socket
	add := func(address bind, at hcl.Range, what string) {
		for _, s := range sockets {
			if s.collides(address) {
				l.errorf(at, "Address in use", "%s cannot be bound, because %s has %s (%s): choose another port, or name the host in each.", address, s.what, s.bind, where(s.at))
				break
			}
		}
		sockets = append(sockets, socket{address, at, what})
	}
	if a := l.root.Admin.Address; a.good() {
		add(a.Value, a.At, "admin")
	}
	for _, b := range l.root.Listeners {
		for _, address := range b.Address.Value {
			add(address, b.Address.At, fmt.Sprintf("listener %q", b.Name.Value))
		}
	}
}
