// Package certs is where certificates come from: files that others renew, and
// certificates the gateway signs itself. A Source keeps its certificate in
// memory, a Watcher keeps it current, and a Set chooses among several by what a
// ClientHello asks for (RFC 6066, 3: server_name; RFC 9525, 6.3: wildcards).
//
// No handshake ever waits for a file, a lock or a network.
package certs

import (
	"crypto/tls"
	"net/netip"
	"strings"
)

// A Source provides one certificate. Its methods may be called from any
// goroutine, answer from memory and never block.
type Source interface {
	// Name is the certificate's label in the configuration.
	Name() string

	// Names returns the DNS names and IP addresses that the current
	// certificate covers, in lower case. Nobody may change the slice.
	Names() []string

	// Certificate returns the current certificate, its Leaf parsed, or why
	// there is none. The pointer changes exactly when the certificate does;
	// what it points to never changes. Where a replacement fails, the old
	// certificate stays, expired or not: clients should be told that it
	// expired, not that nobody is there.
	Certificate() (*tls.Certificate, error)
}

// fold returns a DNS name or IP address in the one form in which names are
// compared (RFC 4343; RFC 5952 for IPv6).
func fold(name string) string {
	if ip, err := netip.ParseAddr(name); err == nil {
		return ip.String()
	}
	return strings.ToLower(name)
}
