package certs

import (
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// A Set chooses among the certificates of several sources for one listener.
// It is what the gateway knows of certificates.
type Set struct {
	sources  []Source
	hostname string
	explicit bool
	index    atomic.Pointer[index]
}

// NewSet returns a Set of sources, in the order of preference. hostname is
// what the listener calls itself; explicit says that the sources were named
// one by one for this listener, so that the first of them is its default
// whatever the hostname.
func NewSet(sources []Source, hostname string, explicit bool) *Set {
	return &Set{sources: slices.Clone(sources), hostname: fold(hostname), explicit: explicit}
}

// Sources returns what the Set chooses among. Nobody may change the slice.
func (s *Set) Sources() []Source { return s.sources }

// Certificate returns the certificate for a hello. A certificate that holds
// the server name itself goes before one that covers it with a wildcard; among
// equals, the first that the client can verify is taken, ECDSA before others,
// since it is cheaper for both sides, and one that has expired last.
//
// Without a server name it is the default: the first of an explicit set, else
// what covers the hostname, else the first. For a name that no certificate
// covers it is the default as well, and covered is false.
func (s *Set) Certificate(hello *tls.ClientHelloInfo) (cert *tls.Certificate, covered bool, err error) {
	ix := s.current()
	if len(ix.defaults) == 0 {
		return nil, false, s.Ready()
	}
	choice, covered := ix.defaults, true
	if hello.ServerName != "" {
		if choice = ix.lookup(fold(hello.ServerName)); choice == nil {
			choice, covered = ix.defaults, false
		}
	}
	if len(choice) == 1 {
		return choice[0], covered, nil
	}
	// SupportsCertificate would also compare the names, and refuse the
	// default certificate for that.
	nameless := *hello
	nameless.ServerName = ""
	now := time.Now()
	for _, c := range choice {
		if nameless.SupportsCertificate(c) != nil {
			continue
		}
		if now.Before(c.Leaf.NotAfter) {
			return c, covered, nil
		}
		if cert == nil {
			cert = c
		}
	}
	if cert == nil {
		cert = choice[0] // crypto/tls will say what doesn't fit
	}
	return cert, covered, nil
}

// Ready returns nil when there is a certificate to serve, else why not.
func (s *Set) Ready() error {
	if len(s.sources) == 0 {
		return errors.New("no certificate: add a certificate block")
	}
	var errs []error
	for _, src := range s.sources {
		if _, err := src.Certificate(); err == nil {
			return nil
		} else {
			errs = append(errs, fmt.Errorf("certificate %s: %w", src.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// current returns the index of what the sources hold now. It is built again
// when one of them has changed, by whichever handshakes come first: the work
// is small and the same, so that nobody needs a lock.
func (s *Set) current() *index {
	old := s.index.Load()
	if old != nil && old.fresh(s.sources) {
		return old
	}
	ix := s.build()
	s.index.Store(ix)
	return ix
}

// An index maps names to the certificates that cover them, best first.
type index struct {
	certs    []*tls.Certificate // what each source held, nil for none
	exact    map[string][]*tls.Certificate
	wildcard map[string][]*tls.Certificate // by what follows the *
	defaults []*tls.Certificate            // empty when there is none at all
}

func (ix *index) fresh(sources []Source) bool {
	for i, src := range sources {
		if c, _ := src.Certificate(); c != ix.certs[i] {
			return false
		}
	}
	return true
}

func (s *Set) build() *index {
	ix := &index{
		exact:    make(map[string][]*tls.Certificate),
		wildcard: make(map[string][]*tls.Certificate),
	}
	var first []string // the names of the first certificate there is
	for _, src := range s.sources {
		// A renewal between these two calls is seen by the next handshake,
		// because the pointer is taken first.
		c, _ := src.Certificate()
		ix.certs = append(ix.certs, c)
		if c == nil {
			continue
		}
		names := src.Names()
		if ix.defaults == nil {
			ix.defaults, first = []*tls.Certificate{c}, names
		}
		for _, name := range names {
			if suffix, ok := strings.CutPrefix(name, "*"); ok {
				ix.wildcard[suffix] = append(ix.wildcard[suffix], c)
			} else {
				ix.exact[name] = append(ix.exact[name], c)
			}
		}
	}
	for _, m := range []map[string][]*tls.Certificate{ix.exact, ix.wildcard} {
		for _, certs := range m {
			slices.SortStableFunc(certs, preferECDSA)
		}
	}
	// A default stands together with its siblings: the same name with another
	// kind of key.
	if len(first) > 0 {
		if siblings := ix.lookup(first[0]); siblings != nil {
			ix.defaults = siblings
		}
	}
	if !s.explicit {
		if covering := ix.lookup(s.hostname); covering != nil {
			ix.defaults = covering
		}
	}
	return ix
}

// lookup returns the certificates for a folded name, or nil. A wildcard stands
// for exactly one label (RFC 9525, 6.3).
func (ix *index) lookup(name string) []*tls.Certificate {
	exact := ix.exact[name]
	var wildcard []*tls.Certificate
	if dot := strings.IndexByte(name, '.'); dot > 0 {
		wildcard = ix.wildcard[name[dot:]]
	}
	switch {
	case wildcard == nil:
		return exact
	case exact == nil:
		return wildcard
	}
	return slices.Concat(exact, wildcard)
}

func preferECDSA(a, b *tls.Certificate) int {
	rank := func(c *tls.Certificate) int {
		if _, ok := c.Leaf.PublicKey.(*ecdsa.PublicKey); ok {
			return 0
		}
		return 1
	}
	return rank(a) - rank(b)
}
