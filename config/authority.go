package config

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/certs"
	"github.com/sallyport/sallyport/certs/acme"
	"github.com/sallyport/sallyport/certs/store"
	"github.com/sallyport/sallyport/gateway"
)

// acmeStore returns where an acme block keeps things. Nothing is looked at.
func (l *loader) acmeStore(b *acmeBlock) store.Store {
	if b.Store != nil && b.Store.Path.good() {
		return store.Open(l.path(b.Store.Path.Value))
	}
	return store.Open(filepath.Join(l.path(l.root.State.Path.Value), "acme"))
}

// authority returns what an acme block stands for: that of the configuration in
// use, where this one would make the same, with all that is going on there.
func (l *loader) authority(b *acmeBlock) *acme.Authority {
	cfg := acme.Config{
		Name:       b.label(),
		Directory:  b.Directory.Value,
		Email:      b.Email.Value,
		AcceptTOS:  b.AcceptTOS.Value,
		Challenges: l.answered(b),
		Advanced:   b.advanced(),
		Profile:    b.Profile.Value,
		DNS:        l.dns(b),
		Store:      l.acmeStore(b),
	}
	if b.CAFile.good() {
		cfg.CAs, _ = l.authorities(b.CAFile.Value, b.CAFile.At)
	}
	if e := b.ExternalAccount; e != nil {
		key, _ := e.key() // checkACME has looked at it
		cfg.ExternalAccount = &acme.ExternalAccount{KeyID: e.KeyID.Value, HMAC: key}
	}
	if l.previous != nil {
		for _, a := range l.previous.issuers {
			if a.Made(cfg) {
				return a
			}
		}
	}
	return acme.New(cfg)
}

// loadTimeout is how long a store may take to say what it holds.
const loadTimeout = 10 * time.Second

// issued returns the sources of a certificate that an authority issues: one,
// or with manager autocert, which knows one name a certificate, one a name.
func (l *loader) issued(b *certificateBlock) (sources []certs.Source) {
	if !l.checkCertified(b) {
		return nil
	}
	l.checkIssued(b)
	if l.diags.HasErrors() {
		return nil // nothing may be made of what may be wrong
	}
	a := l.issuer(b.ACME.Value)
	order := acme.Order{
		Label:     b.label(),
		Names:     b.Names.Value,
		Bootstrap: b.Bootstrap.Value == "self_signed",
		Rollover:  b.Key.Value == "rollover",
		KeyType:   b.KeyType.Value,
	}
	if b.ACME.Value.advanced() || len(order.Names) == 1 {
		return []certs.Source{l.source(b, a, order)}
	}
	for _, name := range b.Names.Value {
		name = strings.ToLower(name)
		order.Label, order.Names = b.label()+"/"+name, []string{name}
		sources = append(sources, l.source(b, a, order))
	}
	return sources
}

// issuer returns the one authority of an acme block.
func (l *loader) issuer(b *acmeBlock) *acme.Authority {
	if l.issuers[b] == nil {
		l.issuers[b] = l.authority(b)
	}
	return l.issuers[b]
}

// source returns the source of one certificate, with what the store holds: it
// is served from the first connection on, and from the first one after a
// reload.
func (l *loader) source(b *certificateBlock, a *acme.Authority, o acme.Order) certs.Source {
	if l.previous != nil {
		for _, src := range l.previous.Sources {
			if src, ok := src.(*acme.Source); ok && src.Made(a, o) {
				return src
			}
		}
	}
	src := a.Source(o)
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	if err := src.Load(ctx); err != nil {
		l.warnf(b.At, "What the store holds cannot be used", "%s", sentence(err))
	}
	l.warnExpiry(b.At, src)
	return src
}

// checkCertified reports names that no authority would take, and whether there
// are none.
func (l *loader) checkCertified(b *certificateBlock) bool {
	for i, name := range b.Names.Value {
		_, notAddress := netip.ParseAddr(name)
		if err := checkName(strings.TrimPrefix(name, "*.")); err != nil && notAddress != nil {
			l.errorf(b.Names.At, "Unsuitable names of a certificate", "%q cannot be certified: %v.", name, err)
			return false
		}
		if slices.ContainsFunc(b.Names.Value[:i], func(n string) bool { return strings.EqualFold(n, name) }) {
			l.errorf(b.Names.At, "Unsuitable names of a certificate", "%s is there twice: write it once.", name)
			return false
		}
	}
	return true
}

// checkACMEOnly refuses what is about certificates that an authority issues.
func (l *loader) checkACMEOnly(b *certificateBlock) {
	for _, a := range []struct {
		name string
		attr attr[string]
	}{{"bootstrap", b.Bootstrap}, {"key", b.Key}, {"key_type", b.KeyType}} {
		if a.attr.written {
			l.errorf(a.attr.At, "Unsuitable "+a.name, "It is about certificates that an authority issues: leave it out, or write acme = acme.name.")
		}
	}
}

// How well the listeners answer a challenge.
type reach int

const (
	nowhere   reach = iota
	elsewhere       // on a port that no authority comes to, if nothing leads there
	there
)

// answers returns how well the listeners answer a kind of challenge, by what is
// written of them.
func (l *loader) answers(challenge string) (best reach) {
	if challenge == acme.DNS01 {
		return there
	}
	for _, b := range l.root.Listeners {
		for _, address := range b.Address.Value {
			var port uint16
			switch {
			case challenge == acme.HTTP01 && l.showsPages(b):
				port = 80 // RFC 8555, 8.3
			case challenge == acme.TLSALPN01 && l.beginsWithTLS(b, address.port()):
				port = 443 // RFC 8737, 3
			default:
				continue
			}
			if address.port() == port {
				return there
			}
			best = elsewhere
		}
	}
	return best
}

func (l *loader) showsPages(b *listenerBlock) bool {
	p := l.lookup(b.Protocol.Value)
	return p != nil && p.Pages
}

// beginsWithTLS reports whether connections to a port of a listener may begin
// with TLS.
func (l *loader) beginsWithTLS(b *listenerBlock, port uint16) bool {
	p := l.lookup(b.Protocol.Value)
	switch {
	case p == nil:
		return false
	case p.Keyword == "":
		return true
	case b.Mode.written:
		return b.Mode.Value != string(gateway.StartTLS)
	}
	return usualMode(p, port) == gateway.Implicit
}

// answered returns by which challenges names are proved to an authority: by
// those that are written, or else by those that the listeners answer best.
func (l *loader) answered(b *acmeBlock) (kinds []string) {
	best := nowhere
	for _, kind := range b.challenges() {
		best = max(best, l.answers(kind))
	}
	for _, kind := range b.challenges() {
		if b.Challenges.written || l.answers(kind) == best {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// checkAnswers reports challenges of an authority in use that no listener
// answers.
func (l *loader) checkAnswers(b *acmeBlock) {
	if b.Challenges.bad {
		return
	}
	at := b.At
	if b.Challenges.written {
		at = b.Challenges.At
	}
	const example = "listener \"web\" \"front\" { address = [\":443\", \":80\"] }"
	kinds := l.answered(b)
	if !slices.ContainsFunc(kinds, func(kind string) bool { return l.answers(kind) != nowhere }) {
		l.errorf(at, "No listener answers the authority", "It proves names by %s, and nobody would answer: write %s, or prove them by dns-01.", strings.Join(kinds, " and "), example)
		return
	}
	var mapped []string
	for _, kind := range kinds {
		port, who := "443", "listener that begins with TLS"
		if kind == acme.HTTP01 {
			port, who = "80", "listener \"web\""
		}
		switch l.answers(kind) {
		case nowhere:
			l.warnf(at, "No listener answers "+kind, "Each proof by it would fail, and there is no %s: write %s, or leave %s out of challenges.", who, example, kind)
		case elsewhere:
			mapped = append(mapped, fmt.Sprintf("port %s for %s, where no %s is", port, kind, who))
		}
	}
	if len(mapped) > 0 {
		l.warnf(at, "No listener where the authority comes to", "It comes to %s: see that a port mapping or a load balancer leads from there to a listener, or write %s.", strings.Join(mapped, ", and to "), example)
	}
}

// warnTwoAuthorities warns of a name that two authorities are asked for.
func (l *loader) warnTwoAuthorities() {
	first := make(map[string]*certificateBlock)
	for _, b := range l.root.Certificates {
		if !b.ACME.good() {
			continue
		}
		for _, name := range b.Names.Value {
			name = strings.ToLower(name)
			if other := first[name]; other == nil {
				first[name] = b
			} else if other.ACME.Value != b.ACME.Value {
				l.warnf(b.Names.At, "One name from two authorities", "Certificate %q has %s from acme %q. When both come for proof at the same time, one of them can get the answer that is meant for the other, and counts a failure: have it from one.", other.label(), name, other.ACME.Value.label())
				return
			}
		}
	}
}

// issuers are all authorities that may come and ask whether a name leads here.
type issuers []*acme.Authority

var _ gateway.Challenger = issuers(nil)

// ChallengeCertificate implements gateway.Challenger.
func (all issuers) ChallengeCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	err := acme.ErrNoChallenge
	for _, a := range all {
		cert, failure := a.ChallengeCertificate(hello)
		if failure == nil {
			return cert, nil
		}
		if !errors.Is(failure, acme.ErrNoChallenge) {
			err = failure
		}
	}
	return nil, err
}

// response returns what answers http-01.
func (all issuers) response(ctx context.Context, host, token string) ([]byte, error) {
	err := acme.ErrNoChallenge
	for _, a := range all {
		body, failure := a.ChallengeResponse(ctx, host, token)
		if failure == nil {
			return body, nil
		}
		if !errors.Is(failure, acme.ErrNoChallenge) {
			err = failure
		}
	}
	return nil, err
}
