package config

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/sallyport/sallyport/gateway"
)

// use notes that something refers to a block; name "" refers to all of a kind.
func (l *loader) use(kind, name string) { l.used[kind+"."+name] = true }

// warnUnused warns of blocks that nothing refers to: most often the reference
// to one has another's name. Where there are errors, it may follow from them.
func (l *loader) warnUnused() {
	if l.diags.HasErrors() {
		return
	}
	unused := func(kind string, at hcl.Range, name string) bool {
		if l.used[kind+"."+name] || l.used[kind+"."] {
			return false
		}
		l.warnf(at, fmt.Sprintf("Nothing uses %s %q", kind, name), "Refer to it as %s.%s where it is meant, or leave it out.", kind, name)
		return true
	}
	for _, b := range l.root.ACME {
		unused("acme", b.At, b.label())
	}
	for _, b := range l.root.TLS {
		unused("tls", b.At, b.label())
	}
	for _, b := range l.root.Policies[1:] { // the first is the default
		unused("policy", b.At, b.label())
	}
	for _, b := range l.root.Backends {
		unused("backend", b.At, b.label())
	}
	// A listener without certs takes every certificate.
	if !slices.ContainsFunc(l.root.Listeners, func(b *listenerBlock) bool { return !b.Certs.written }) {
		for _, b := range l.root.Certificates {
			unused("certificate", b.At, b.label())
		}
	}
}

// expected reports whether a listener has a certificate for a name that only
// isn't issued yet.
func (l *loader) expected(b *listenerBlock, name string) bool {
	for _, c := range l.chosen(b) {
		for _, src := range l.sources[c] {
			if _, err := src.Certificate(); err == nil {
				continue
			}
			if slices.ContainsFunc(src.Names(), func(n string) bool { return sni(strings.ToLower(n)).covers(sni(strings.ToLower(name))) }) {
				return true
			}
		}
	}
	return false
}

// warnUncovered warns of a hostname that is not in any certificate of its
// listener: clients connect by that name, and refuse what does not have it.
func (l *loader) warnUncovered(b *listenerBlock, g *gateway.Listener) {
	if !b.Hostname.good() || l.expected(b, g.Hostname) {
		return
	}
	_, covered, err := g.Certificates.Certificate(&tls.ClientHelloInfo{ServerName: g.Hostname})
	if err == nil && !covered {
		l.warnf(b.Hostname.At, "No certificate has the hostname", "Clients that verify %s will refuse the listener: add the name to a certificate, or write the hostname that a certificate has.", g.Hostname)
	}
}
