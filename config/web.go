package config

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/sallyport/sallyport/certs/acme"
	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders"
)

// web returns a listener of the gateway's own pages. Its pages and challenges
// come later, when all that is to be shown is known.
func (l *loader) web(b *listenerBlock, p *upgraders.Protocol) *gateway.Listener {
	for _, a := range []struct {
		name    string
		at      hcl.Range
		written bool
	}{
		{"mode", b.Mode.At, b.Mode.written},
		{"cleartext", b.Cleartext.At, b.Cleartext.written},
		{"cleartext_auth", b.CleartextAuth.At, b.CleartextAuth.written},
		{"backend", b.Backend.At, b.Backend.written},
		{"auto_wait", b.AutoWait.At, b.AutoWait.written},
		{"opossum", b.Opossum.At, b.Opossum.written},
	} {
		if a.written {
			l.errorf(a.at, "Unsuitable "+a.name, "%s shows the gateway's own pages: the first byte decides between TLS and cleartext, and no server is behind it. Leave %s out.", p.Name, a.name)
		}
	}
	for _, r := range b.Routes {
		l.errorf(r.At, "Unsuitable route", "%s shows the gateway's own pages, and no server is behind it: leave the block out.", p.Name)
	}
	g := &gateway.Listener{
		Name:      string(b.Name.Value),
		Protocol:  p,
		Upgrader:  l.upgrader(b, p),
		Mode:      gateway.Auto,
		Cleartext: true,
		Hostname:  l.hostnameOf(b),
		StrictSNI: b.StrictSNI.Value,
		Policy:    l.policies[l.root.Policies[0]],
		TLS:       &gateway.TLS{},
	}
	for _, address := range b.Address.Value {
		g.Addresses = append(g.Addresses, string(address))
	}
	if b.Policy.good() {
		g.Policy = l.policies[b.Policy.Value]
	}
	if b.TLS.good() {
		g.TLS = l.tls[b.TLS.Value]
		if g.TLS.MinVersion != 0 && g.TLS.MinVersion < tls.VersionTLS12 {
			l.errorf(b.TLS.At, "Old versions of TLS", "tls.%s lets TLS %s in, which is broken (RFC 8996), and who fetches a page has better: write min_version = \"1.2\".", b.TLS.Value.label(), b.TLS.Value.MinVersion.Value)
		}
	}
	g.Certificates = l.certificates(b, g.Hostname)
	return g
}

// pages are what a listener of the gateway's own shows.
type pages struct {
	issuers issuers
	https   []*gateway.Listener // where a browser finds what it looks for
}

var _ http.Handler = (*pages)(nil)

// wellKnown is where an authority looks for the answer to http-01 (RFC 8555,
// 8.3).
const wellKnown = "/.well-known/acme-challenge/"

// ServeHTTP implements http.Handler. Who asks in cleartext for a name that is
// served by HTTPS on its well-known port is sent there; what else there is to
// say, the gateway does not know.
func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host := hostOf(r)
	if token, ok := strings.CutPrefix(r.URL.Path, wellKnown); ok {
		p.challenge(w, r, host, token)
		return
	}
	if r.TLS == nil && p.secured(host) {
		w.Header().Set("Location", "https://"+host+r.URL.RequestURI())
		w.WriteHeader(http.StatusPermanentRedirect)
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

// challenge answers http-01, in cleartext and in TLS: authorities follow
// redirects.
func (p *pages) challenge(w http.ResponseWriter, r *http.Request, host, token string) {
	body, err := p.issuers.response(r.Context(), host, token)
	switch {
	case errors.Is(err, acme.ErrNoChallenge):
		w.WriteHeader(http.StatusNotFound)
	case err != nil:
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(body)
	}
}

// hostOf returns the name that a request is for, without a port.
func hostOf(r *http.Request) string {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.TrimSuffix(host, ".")
}

// secured reports whether a name is served by HTTPS. Only what a certificate
// has is such a name, so that nobody is led elsewhere.
func (p *pages) secured(host string) bool {
	return host != "" && slices.ContainsFunc(p.https, func(g *gateway.Listener) bool {
		_, covered, err := g.Certificates.Certificate(&tls.ClientHelloInfo{ServerName: host})
		return err == nil && covered
	})
}

// answer gives the listeners what authorities and browsers get there. An
// authority comes to port 443 and port 80 only, but a port mapping or a load
// balancer may lead from there to any other.
func answer(listeners []*gateway.Listener, all issuers) {
	p := &pages{issuers: all}
	for _, g := range listeners {
		port443 := func(address string) bool { return bind(address).port() == 443 }
		if g.Protocol.Name == "http" && g.Mode != gateway.StartTLS && slices.ContainsFunc(g.Addresses, port443) {
			p.https = append(p.https, g)
		}
	}
	for _, g := range listeners {
		if g.Protocol.Pages {
			g.Pages = p
		}
		if g.Mode != gateway.StartTLS && len(all) > 0 {
			g.Challenges = all
		}
	}
}
