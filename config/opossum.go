package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/gateway"
)

// warnOpossum warns, once for all, of a certificate that serves a protocol
// both by implicit TLS and by STARTTLS: someone in between can join the one
// kind of session to the other and shift the answers against the requests
// (Opossum, opossum-attack.com).
func (l *loader) warnOpossum(listeners map[*listenerBlock]*gateway.Listener) {
	var pairs []string
	var first *listenerBlock
	for i, a := range l.root.Listeners {
		if ga := listeners[a]; ga != nil && ga.Mode == gateway.Auto && !ga.Protocol.Pages && a.Opossum.Value != "accepted" {
			if first == nil {
				first = a
			}
			pairs = append(pairs, ga.Name+" in both modes")
		}
		for _, b := range l.root.Listeners[i+1:] {
			ga, gb := listeners[a], listeners[b]
			if ga == nil || gb == nil || ga.Protocol != gb.Protocol || ga.Protocol.Pages || !l.shareCertificate(a, b) {
				continue
			}
			if ga.Mode == gb.Mode || ga.Mode == "" || gb.Mode == "" {
				continue
			}
			if a.Opossum.Value == "accepted" || b.Opossum.Value == "accepted" {
				continue
			}
			if first == nil {
				first = a
			}
			pairs = append(pairs, fmt.Sprintf("%s and %s", ga.Name, gb.Name))
		}
	}
	if first != nil {
		l.warnf(first.At, "One certificate for both ways to begin TLS", "Who sits between can join a session of the one kind to the other (Opossum, opossum-attack.com): %s. Give each its own names and certificate with certs, or write opossum = \"accepted\" in one of each two.", strings.Join(pairs, ", "))
	}
}

func (l *loader) shareCertificate(a, b *listenerBlock) bool {
	return slices.ContainsFunc(l.chosen(a), func(c *certificateBlock) bool { return slices.Contains(l.chosen(b), c) })
}
