package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders"
)

// warnOpossum warns, once for all, of a certificate that serves a protocol
// both by implicit TLS and by STARTTLS: someone in between can join the one
// kind of session to the other and shift the answers against the requests
// (Opossum, opossum-attack.com). With HTTP it is an error: there are browsers to
// be led so, and hardly a need for it (CVE-2025-49812).
func (l *loader) warnOpossum(listeners map[*listenerBlock]*gateway.Listener) {
	var pairs []string
	var first *listenerBlock
	found := func(b *listenerBlock, g *gateway.Listener, pair string) {
		if g.Protocol.Name == "http" || g.Protocol.Pages {
			l.errorf(b.At, "An upgrade beside HTTPS", "Who sits between can lead a browser's session in HTTPS to the port that upgrades (Opossum, CVE-2025-49812): %s. Give each its own names and certificate with certs, leave upgrade out, or write opossum = \"accepted\" in one of them.", pair)
			return
		}
		if first == nil {
			first = b
		}
		pairs = append(pairs, pair)
	}
	for i, a := range l.root.Listeners {
		if ga := listeners[a]; ga != nil && ga.Mode == gateway.Auto && offers(ga) && a.Opossum.Value != "accepted" {
			found(a, ga, ga.Name+" in both modes")
		}
		for _, b := range l.root.Listeners[i+1:] {
			ga, gb := listeners[a], listeners[b]
			if ga == nil || gb == nil || !alike(ga.Protocol, gb.Protocol) || !l.shareCertificate(a, b) {
				continue
			}
			if ga.Mode == gb.Mode || ga.Mode == "" || gb.Mode == "" || !offers(ga) && !offers(gb) {
				continue
			}
			if a.Opossum.Value == "accepted" || b.Opossum.Value == "accepted" {
				continue
			}
			found(a, ga, fmt.Sprintf("%s and %s", ga.Name, gb.Name))
		}
	}
	if first != nil {
		l.warnf(first.At, "One certificate for both ways to begin TLS", "Who sits between can join a session of the one kind to the other (Opossum, opossum-attack.com): %s. Give each its own names and certificate with certs, or write opossum = \"accepted\" in one of each two.", strings.Join(pairs, ", "))
	}
}

// offers reports whether a client in cleartext can ask for TLS.
func offers(g *gateway.Listener) bool {
	u, ok := g.Upgrader.(upgraders.Particular)
	return g.Mode != gateway.Implicit && g.Protocol.Keyword != "" && (!ok || u.Offers())
}

// alike reports whether a client could take a session of one protocol for one
// of the other: the gateway's own pages are HTTP, too.
func alike(p, q *upgraders.Protocol) bool {
	web := func(p *upgraders.Protocol) bool { return p.Name == "http" || p.Pages }
	return p == q || web(p) && web(q)
}

func (l *loader) shareCertificate(a, b *listenerBlock) bool {
	return slices.ContainsFunc(l.chosen(a), func(c *certificateBlock) bool { return slices.Contains(l.chosen(b), c) })
}
