package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/certs"
	"github.com/sallyport/sallyport/certs/store"
)

// A Source is a certificate that an authority issues. Keep has it issued and
// renewed.
type Source struct {
	authority *Authority
	order     Order
	slot      slot

	current atomic.Pointer[tls.Certificate] // nil until the first one is there
	standIn atomic.Pointer[certs.SelfSignedSource]

	busy chan struct{} // holds a value while somebody works on the certificate
	wake chan struct{} // the schedule has changed

	seen []byte // what the store held last; for those who work

	mu       sync.Mutex // guards what follows
	log      *slog.Logger
	stopgap  bool             // current is another order's, until ours is issued
	unsaved  []byte           // a certificate that the store did not take
	advice   time.Time        // when the authority would have current renewed
	upcoming crypto.PublicKey // of the next certificate, where it is known
	past     history
	err      error // of the last try
	unread   error // why the store cannot be read
	tries    map[string]uint64
}

// Name returns the label of the certificate.
func (s *Source) Name() string { return s.order.Label }

// Made reports whether an authority, given this order, made a source like this
// one.
func (s *Source) Made(a *Authority, o Order) bool {
	mine, other := s.order, o.normal()
	return s.authority == a && slices.Equal(mine.Names, other.Names) && mine.Label == other.Label &&
		mine.Bootstrap == other.Bootstrap && mine.Rollover == other.Rollover && mine.KeyType == other.KeyType
}

// Names returns what the certificate covers, which is what was ordered, save
// where an older one is served until that is issued.
func (s *Source) Names() []string {
	if cert := s.current.Load(); cert != nil {
		return covered(cert.Leaf)
	}
	return s.order.Names
}

// Certificate returns the last good certificate, until there is one the
// stand-in, and where that is not wanted, why there is none.
func (s *Source) Certificate() (*tls.Certificate, error) {
	if cert := s.current.Load(); cert != nil {
		return cert, nil
	}
	if standIn := s.standIn.Load(); standIn != nil {
		return standIn.Certificate()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.reason(); err != nil {
		return nil, fmt.Errorf("not issued yet: %w", err)
	}
	return nil, fmt.Errorf("not issued yet: %s is being asked for it", s.authority.cfg.Directory)
}

// reason returns why there is no certificate, or no newer one. Its caller holds
// mu.
func (s *Source) reason() error {
	if s.unread != nil {
		return s.unread
	}
	return s.err
}

// Status is what can be told of a certificate.
type Status struct {
	Label     string
	Names     []string // that are to be in it
	Authority string   // label
	Directory string
	KeyType   string

	Certificate *tls.Certificate  // the one that is served; nil: none
	StandIn     bool              // it is self-signed, until the first one is issued
	Renew       time.Time         // when it is renewed
	Next        time.Time         // when it is tried next, if the last try failed
	Last        time.Time         // when it was tried last
	Failed      int               // tries in a row
	Err         error             // of the last one
	Tries       map[string]uint64 // by result, of this process
	NextKey     []byte            // SubjectPublicKeyInfo of the next certificate, where it is known to be another; nil: not
}

// Status returns what can be told of the certificate now.
func (s *Source) Status() Status {
	st := Status{
		Label:     s.order.Label,
		Names:     s.order.Names,
		Authority: s.authority.cfg.Name,
		Directory: s.authority.cfg.Directory,
		KeyType:   s.order.KeyType,
	}
	st.Certificate, _ = s.Certificate()
	st.StandIn = st.Certificate != nil && s.current.Load() == nil
	st.Renew = s.due()
	st.NextKey = s.nextKey()
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Last, st.Failed, st.Err, st.Tries = s.past.Last, s.past.Failed, s.reason(), maps.Clone(s.tries)
	if s.err != nil {
		st.Next = s.past.Next
	}
	return st
}

// acquire waits until nobody else works on the certificate in this process.
func (s *Source) acquire(ctx context.Context) (release func(), err error) {
	select {
	case s.busy <- struct{}{}:
		return func() { <-s.busy }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Load takes what the store holds, without asking the authority.
func (s *Source) Load(ctx context.Context) error {
	release, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.remember(s.history(ctx))
	s.peek(ctx)
	err = s.look(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unread = err
	return err
}

// remember takes what came of the last tries of other replicas, or of those
// before a restart.
func (s *Source) remember(h history) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !h.Last.After(s.past.Last) && !s.past.ahead(s.authority.now()) {
		return
	}
	s.past, s.err = h, nil
	if h.Error != "" {
		s.err = errors.New(h.Error)
	}
}

// look takes from the store what is newer than what is in memory.
func (s *Source) look(ctx context.Context) error {
	data, err := s.authority.cfg.Store.Get(ctx, s.slot.certificate())
	if errors.Is(err, store.ErrNotFound) {
		if s.current.Load() == nil {
			return s.lookAround(ctx)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if bytes.Equal(data, s.seen) {
		return nil
	}
	s.seen = data
	cert, err := decode(data)
	if err == nil {
		err = s.fits(cert)
	}
	if err != nil {
		return fmt.Errorf("%s: %s cannot be used: %w: another one will be ordered", s.authority.cfg.Store, s.slot.certificate(), err)
	}
	s.mu.Lock()
	stopgap := s.stopgap
	s.mu.Unlock()
	old := s.current.Load()
	if old == nil || stopgap || !cert.Leaf.NotBefore.Before(old.Leaf.NotBefore) {
		s.take(cert, false)
		if old == nil || !bytes.Equal(old.Leaf.Raw, cert.Leaf.Raw) {
			s.logger().Info("certificate taken from the store", about(cert)...)
		}
	}
	return nil
}

// lookAround takes the best certificate of the same label: that of the names,
// the key or the authority before a change of the configuration.
func (s *Source) lookAround(ctx context.Context) error {
	st := s.authority.cfg.Store
	keys, err := st.List(ctx, s.slot.siblings())
	if err != nil {
		return err
	}
	var best *tls.Certificate
	var bestCovered int
	for _, key := range keys {
		data, err := st.Get(ctx, key)
		if err != nil {
			continue
		}
		cert, err := decode(data)
		if err != nil {
			continue
		}
		covered := 0
		for _, name := range s.order.Names {
			if covers(cert.Leaf, name) {
				covered++
			}
		}
		if covered > bestCovered || covered == bestCovered && best != nil && cert.Leaf.NotAfter.After(best.Leaf.NotAfter) {
			best, bestCovered = cert, covered
		}
	}
	if best != nil {
		s.take(best, true)
		s.logger().Info("certificate of an earlier configuration in use", about(best)...)
	}
	return nil
}

// take begins to serve a certificate. A stopgap is served until there is what
// was ordered.
func (s *Source) take(cert *tls.Certificate, stopgap bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopgap, s.advice = stopgap, time.Time{}
	if old := s.current.Load(); old == nil || !bytes.Equal(old.Leaf.Raw, cert.Leaf.Raw) {
		s.current.Store(cert)
	}
}

func (s *Source) logger() *slog.Logger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log
}

// about describes a certificate in the log.
func about(cert *tls.Certificate) []any {
	return []any{"names", covered(cert.Leaf), "issuer", clean(cert.Leaf.Issuer.String()), "not_after", cert.Leaf.NotAfter.UTC()}
}

// fits says why a certificate is not what was ordered.
func (s *Source) fits(cert *tls.Certificate) error {
	for _, name := range s.order.Names {
		if !covers(cert.Leaf, name) {
			return fmt.Errorf("it is for %s and not for %s", clean(strings.Join(covered(cert.Leaf), ", ")), name)
		}
	}
	if kind := kindOf(cert.Leaf.PublicKey); kind != s.order.KeyType {
		return fmt.Errorf("its key is not %s", s.order.KeyType)
	}
	return nil
}

// covered returns the names and addresses of a certificate.
func covered(leaf *x509.Certificate) []string {
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

func covers(leaf *x509.Certificate, name string) bool {
	return slices.ContainsFunc(leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, name) }) ||
		!strings.HasPrefix(name, "*.") && leaf.VerifyHostname(name) == nil
}

// clockSkew is how far our clock may be behind the authority's.
const clockSkew = 5 * time.Minute

// maxChain bounds a certificate with its chain, which goes out in each
// handshake. Clients take little more (OpenSSL: 100 KiB); usual ones have 4 KiB.
const maxChain = 64 << 10

// issued makes a certificate of what an authority answered, if it can be
// served.
func (s *Source) issued(chain [][]byte, key crypto.Signer) (*tls.Certificate, error) {
	unusable := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w: the old one stays; ask the authority, or take another one", ErrUnusable, fmt.Errorf(format, args...))
	}
	if len(chain) == 0 {
		return nil, unusable("there is no certificate in the answer")
	}
	if size := len(slices.Concat(chain...)); size > maxChain {
		return nil, unusable("with its chain it has %d bytes, and clients take no more than %d", size, maxChain)
	}
	var parsed []*x509.Certificate
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, unusable("certificate %d of the chain: %w", i+1, err)
		}
		parsed = append(parsed, c)
	}
	leaf := parsed[0]
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return nil, unusable("it is for another key")
	}
	cert := &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}
	if err := s.fits(cert); err != nil {
		return nil, unusable("%w", err)
	}
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		return nil, unusable("it is not for servers (its extended key usage lacks serverAuth)")
	}
	if leaf.IsCA {
		return nil, unusable("it is an authority's own (its basic constraints say CA), which clients refuse")
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, unusable("its key may not sign handshakes (its key usage lacks digitalSignature)")
	}
	for i, issuer := range parsed[1:] {
		if err := parsed[i].CheckSignatureFrom(issuer); err != nil {
			return nil, unusable("certificate %d of the chain did not sign the one before it: %w", i+2, err)
		}
	}
	now := s.authority.now()
	format := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case now.After(leaf.NotAfter):
		return nil, fmt.Errorf("%w: it expired on %s, and here it is %s: see that the clock of this machine is right", ErrUnusable, format(leaf.NotAfter), format(now))
	case now.Add(clockSkew).Before(leaf.NotBefore):
		return nil, fmt.Errorf("%w: it is not valid before %s, and here it is %s: see that the clock of this machine is right", ErrUnusable, format(leaf.NotBefore), format(now))
	}
	return cert, nil
}

// renewStandIn makes the certificate that is served until one is issued, anew
// in the last third of its life.
func (s *Source) renewStandIn() {
	if !s.order.Bootstrap || s.current.Load() != nil {
		return
	}
	if old := s.standIn.Load(); old != nil {
		if cert, _ := old.Certificate(); s.authority.now().Before(schedule(cert.Leaf)) {
			return
		}
	}
	if fresh, err := certs.SelfSigned(s.order.Label, s.order.Names); err == nil {
		s.standIn.Store(fresh)
	}
}
