package config

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"

	"github.com/hashicorp/hcl/v2"

	"github.com/sallyport/sallyport/gateway"
)

type tlsBlock struct {
	block
	Name       attr[ident]      `hcl:"name,label"`
	MinVersion attr[string]     `hcl:"min_version,optional" default:"1.2" enum:"1.0|1.1|1.2|1.3" doc:"the lowest version of TLS"`
	Tickets    attr[string]     `hcl:"tickets,optional" default:"memory" enum:"memory|shared" doc:"where the keys of session tickets are: in memory, or, for TLS 1.3, in the store of the acme block, where they survive a restart and replicas share them"`
	Records    attr[string]     `hcl:"records,optional" default:"standard" enum:"standard|compact" doc:"what carries TLS records after the handshake: crypto/tls, or an implementation that holds less memory"`
	ClientAuth *clientAuthBlock `hcl:"client_auth,block" doc:"Asks clients for a certificate. A session whose certificate we verified is labelled authenticated."`
}

type clientAuthBlock struct {
	block
	Mode   attr[string] `hcl:"mode" enum:"request|require" doc:"whether a client may come without one"`
	CAFile attr[string] `hcl:"ca_file" doc:"PEM file with the authorities to trust for clients"`
}

func (b *tlsBlock) label() string { return string(b.Name.Value) }

func (l *loader) tlsSettings(b *tlsBlock) *gateway.TLS {
	versions := map[string]uint16{
		"1.0": tls.VersionTLS10,
		"1.1": tls.VersionTLS11,
		"1.2": tls.VersionTLS12,
		"1.3": tls.VersionTLS13,
	}
	settings := &gateway.TLS{Name: b.label(), MinVersion: versions[b.MinVersion.Value]}
	if b.MinVersion.good() && settings.MinVersion < tls.VersionTLS12 {
		l.warnf(b.MinVersion.At, "Old versions of TLS", "TLS %s is broken (RFC 8996). It is better than nothing only where cleartext is the alternative (RFC 7435, 3), so only a listener with cleartext = \"allow\" may use tls.%s. The metric sallyport_handshakes_total counts who still needs it.", b.MinVersion.Value, b.label())
	}
	if b.Tickets.good() && b.Tickets.Value == "shared" {
		if ring := l.ticketRing(b); ring != nil {
			settings.Tickets = ring
		}
	}
	if b.ClientAuth != nil {
		settings.ClientAuth = l.clientAuth(b.ClientAuth)
	}
	return settings
}

// checkOldTLS refuses versions that are broken where TLS is required: who
// cannot do better is turned away there, and loses nothing that was safe. Where
// cleartext is allowed the refusal would send the same data in the clear
// (RFC 7435, 3).
func (l *loader) checkOldTLS(b *listenerBlock, g *gateway.Listener) {
	if g.Cleartext || b.Cleartext.bad {
		return
	}
	check := func(ref attr[*tlsBlock]) {
		if !ref.good() {
			return
		}
		if t := l.tls[ref.Value]; t.MinVersion != 0 && t.MinVersion < tls.VersionTLS12 {
			l.errorf(ref.At, "Old versions of TLS where TLS is required", "tls.%s lets TLS %s in, which is broken (RFC 8996) and better than nothing only where cleartext is the alternative (RFC 7435, 3): use it where cleartext = \"allow\", or write min_version = \"1.2\".", ref.Value.label(), ref.Value.MinVersion.Value)
		}
	}
	check(b.TLS)
	for _, r := range b.Routes {
		check(r.TLS)
	}
}

// checkClearRoute refuses cleartext that leads nowhere: a session without TLS
// has no SNI to be routed by, unless it names its host, and no certificate to
// show.
func (l *loader) checkClearRoute(b *listenerBlock, g *gateway.Listener) {
	if !g.Cleartext || g.Mode == gateway.Implicit || len(g.Routes) == 0 {
		return
	}
	for _, r := range g.Routes {
		if (len(r.SNI) > 0 || len(r.Host) > 0) && !g.Protocol.Hosts {
			continue
		}
		settings := r.TLS
		if settings == nil {
			settings = g.TLS
		}
		if settings != nil && settings.ClientAuth != nil && settings.ClientAuth.Require {
			l.errorf(b.Cleartext.At, "Cleartext where a client certificate is required", "A session without TLS has none to show, and is refused: leave cleartext out, or write client_auth with mode = \"request\" in tls.%s.", settings.Name)
		}
		return
	}
	l.errorf(b.Cleartext.At, "Cleartext without a route", "A session without TLS has no name, and every route wants one: add a route without sni at the end, or leave cleartext out.")
}

func (l *loader) clientAuth(b *clientAuthBlock) *gateway.ClientAuth {
	auth := &gateway.ClientAuth{Require: b.Mode.Value == "require"}
	if !b.CAFile.good() {
		return auth
	}
	pool, digest := l.authorities(b.CAFile.Value, b.CAFile.At)
	auth.CAs = pool
	auth.Identity = b.Mode.Value + ":" + digest
	return auth
}

// authorities reads a file of certificates to trust. The digest changes
// whenever they do.
func (l *loader) authorities(path string, at hcl.Range) (*x509.CertPool, string) {
	pool, n, sum := x509.NewCertPool(), 0, sha256.New()
	text, err := l.readText(path)
	for rest := []byte(text); err == nil; {
		var p *pem.Block
		if p, rest = pem.Decode(rest); p == nil {
			break
		}
		if p.Type != "CERTIFICATE" {
			continue
		}
		var cert *x509.Certificate
		if cert, err = x509.ParseCertificate(p.Bytes); err == nil {
			pool.AddCert(cert)
			sum.Write(cert.Raw)
			n++
		}
	}
	if err == nil && n == 0 {
		err = fmt.Errorf("%s: no CERTIFICATE block in PEM form: write the authorities' certificates there", l.path(path))
	}
	if err != nil {
		l.errorf(at, "The authorities cannot be read", "%s", sentence(err))
	}
	return pool, hex.EncodeToString(sum.Sum(nil))
}
