package config

import (
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"

	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders"
)

func (l *loader) routes(b *listenerBlock, p *upgraders.Protocol) (routes []*gateway.Route) {
	blocks := b.Routes
	switch {
	case b.Backend.written && len(blocks) > 0:
		l.errorf(b.Backend.At, "Backend beside routes", "backend is short for a single route: write it as the last one, route { backend = … }.")
	case b.Backend.written:
		blocks = []*routeBlock{{Backend: b.Backend}}
	case len(blocks) == 0:
		l.errorf(b.At, "No backend", "Write where sessions go, with backend = … or with route blocks%s", l.instead("backend", ""))
	}
	l.checkOrder(blocks)
	l.checkNames(blocks, p)
	for _, r := range blocks {
		l.checkHost(r, p)
		route := &gateway.Route{SNI: plain(r.SNI.Value), Host: plain(r.Host.Value)}
		if r.TLS.good() {
			route.TLS = l.tls[r.TLS.Value]
		}
		if r.Backend.good() {
			route.Backend = l.backends[r.Backend.Value]
			l.checkForward(r.Backend.Value, b, p)
			l.checkRequest(r.Backend.Value, b, p)
			l.warnClientFacts(r.Backend, p)
		}
		routes = append(routes, route)
	}
	return routes
}

func plain(names []sni) (list []string) {
	for _, n := range names {
		list = append(list, string(n))
	}
	return list
}

// checkHost refuses a route by what no client of the protocol says.
func (l *loader) checkHost(r *routeBlock, p *upgraders.Protocol) {
	if r.Host.written && !p.Hosts {
		l.errorf(r.Host.At, "A route by a host that nobody names", "Clients of %s say whom they want by SNI alone: write sni.", p.Name)
	}
}

// checkOrder refuses routes that no session can reach, because those before
// them match whatever they match.
func (l *loader) checkOrder(blocks []*routeBlock) {
	for i, r := range blocks {
		if r.SNI.bad || r.Host.bad {
			continue
		}
		for _, before := range blocks[:i] {
			if !before.SNI.bad && !before.Host.bad && before.shadows(r) {
				l.errorf(r.At, "A route that no session reaches", "The route at %s matches all that this one does: move this one before it, or leave it out.", where(before.At))
				break
			}
		}
	}
}

// names are those that choose the route: hosts are named later than the SNI,
// and by every client.
func (r *routeBlock) names() []sni {
	if len(r.Host.Value) > 0 {
		return r.Host.Value
	}
	return r.SNI.Value
}

// checkNames refuses routes by name where the server must speak before a client
// can say a name.
func (l *loader) checkNames(blocks []*routeBlock, p *upgraders.Protocol) {
	for _, r := range blocks {
		if p.Name == "mysql" && r.SNI.written {
			l.errorf(r.SNI.At, "A route by name where the server speaks first", "A client of %s needs the server's greeting before it can say a name: write a single backend = …, and for each other backend a listener with an address of its own.", p.Name)
		}
	}
}

func (r *routeBlock) shadows(later *routeBlock) bool {
	if len(r.names()) == 0 {
		return true
	}
	if len(later.names()) == 0 {
		return false
	}
	for _, name := range later.names() {
		if !slices.ContainsFunc(r.names(), func(p sni) bool { return p.covers(name) }) {
			return false
		}
	}
	return true
}

// checkForward refuses client facts that the protocol of a listener cannot
// tell.
func (l *loader) checkForward(backend *backendBlock, b *listenerBlock, p *upgraders.Protocol) {
	if backend.Forward == nil {
		return
	}
	for _, f := range backend.Forward.written() {
		if slices.Contains(p.Forwards, f.name) {
			continue
		}
		l.errorf(f.at, "Client facts that the protocol cannot tell", "%s has no %s, and listener %q sends its sessions here: write send = \"proxy-v2\"%s.", p.Name, f.name, b.Name.Value, orForward(p))
	}
}

// checkRequest refuses to ask a backend for TLS in words that a protocol
// doesn't have.
func (l *loader) checkRequest(backend *backendBlock, b *listenerBlock, p *upgraders.Protocol) {
	if backend.TLS != nil && backend.TLS.Mode.Value == "starttls" && p.Request == nil {
		l.errorf(backend.TLS.Mode.At, "TLS that the protocol cannot ask for", "%s has no words to ask a backend for TLS, and listener %q sends its sessions here: write mode = \"implicit\".", p.Name, b.Name.Value)
	}
}

type forwarded struct {
	name string
	at   hcl.Range
}

func (b *forwardBlock) written() (list []forwarded) {
	if b.XCLIENT.Value {
		list = append(list, forwarded{"xclient", b.XCLIENT.At})
	}
	if b.ID.Value {
		list = append(list, forwarded{"id", b.ID.At})
	}
	if b.WEBIRC.Value != "" {
		list = append(list, forwarded{"webirc", b.At}) // the line with the password is not shown
	}
	return list
}

// warnClientFacts warns of a route whose backend takes the gateway for the
// client: what it grants to the gateway's address it grants to everyone.
func (l *loader) warnClientFacts(to attr[*backendBlock], p *upgraders.Protocol) {
	if p.TellsClient || to.Value.tellsClient() {
		return
	}
	danger := "what it grants to that address, it grants to everyone"
	switch p.Name {
	case "smtp":
		danger = "an open relay if that is in mynetworks"
	case "mysql":
		danger += ", and clients that break off their logins make it block that address (max_connect_errors)"
	}
	l.warnf(to.At, "The backend does not learn who the client is", "The backend sees every client as the gateway's address: %s. Write send = \"proxy-v2\"%s in backend %q, and let the backend accept it from the gateway only. One that understands no such thing must grant that address nothing.", danger, orForward(p), to.Value.label())
}

// orForward is the alternative to a PROXY header that a protocol has.
func orForward(p *upgraders.Protocol) string {
	if len(p.Forwards) == 0 {
		return ""
	}
	value := "true"
	if p.Forwards[0] == "webirc" {
		value = `file("…")`
	}
	return fmt.Sprintf(" or forward { %s = %s }", p.Forwards[0], value)
}
