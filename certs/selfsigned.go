package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	selfSignedLife  = 90 * 24 * time.Hour
	selfSignedRenew = selfSignedLife / 3 // what is left when it is renewed
	clockSkew       = time.Hour          // clients whose clock is late
)

// A SelfSignedSource signs its own certificate, for machines nobody else can
// reach and for trying things out. The key is made anew with each certificate
// and never leaves memory.
type SelfSignedSource struct {
	name    string
	names   []string
	current atomic.Pointer[tls.Certificate]
}

var (
	_ Source    = (*SelfSignedSource)(nil)
	_ refresher = (*SelfSignedSource)(nil)
)

// SelfSigned returns a source that certifies itself for names: DNS names, with
// one wildcard label or none, and IP addresses.
func SelfSigned(name string, names []string) (*SelfSignedSource, error) {
	s := &SelfSignedSource{name: name}
	if len(names) == 0 {
		return nil, fmt.Errorf("certificate %s: no names: list at least one, such as \"localhost\"", name)
	}
	for _, n := range names {
		if err := checkName(n); err != nil {
			return nil, fmt.Errorf("certificate %s: name %q: %w", name, n, err)
		}
	}
	s.names = foldAll(names)
	if err := s.renew(); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", name, err)
	}
	return s, nil
}

// foldAll folds names and keeps each once, in order.
func foldAll(names []string) (folded []string) {
	for _, n := range names {
		if n = fold(n); !slices.Contains(folded, n) {
			folded = append(folded, n)
		}
	}
	return folded
}

// Made reports whether SelfSigned, given these, made a source like this one.
func (s *SelfSignedSource) Made(name string, names []string) bool {
	return s.name == name && slices.Equal(s.names, foldAll(names))
}

// Name returns the label of the certificate.
func (s *SelfSignedSource) Name() string { return s.name }

// Names returns the names it was made for.
func (s *SelfSignedSource) Names() []string { return s.names }

// Certificate returns the certificate in memory; it never returns an error.
func (s *SelfSignedSource) Certificate() (*tls.Certificate, error) { return s.current.Load(), nil }

// Renewal returns when the certificate is renewed, in the last third of its
// life.
func (s *SelfSignedSource) Renewal() time.Time {
	return s.current.Load().Leaf.NotAfter.Add(-selfSignedRenew)
}

func (s *SelfSignedSource) refresh() (changed bool, err error) {
	if time.Now().Before(s.Renewal()) {
		return false, nil
	}
	err = s.renew()
	return err == nil, err
}

func (s *SelfSignedSource) renew() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"sallyport, self-signed"}},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(selfSignedLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, n := range s.names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	s.current.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf})
	return nil
}

// checkName says what is wrong with a name for a certificate.
func checkName(name string) error {
	if net.ParseIP(name) != nil {
		return nil
	}
	if strings.HasSuffix(name, ".") {
		return errors.New("ends with a dot: leave it out")
	}
	if len(name) > 253 {
		return errors.New("longer than 253 characters (RFC 1035, 2.3.4)")
	}
	for label := range strings.SplitSeq(strings.TrimPrefix(name, "*."), ".") {
		switch {
		case label == "":
			return errors.New("has an empty label: write a DNS name or an IP address")
		case len(label) > 63:
			return errors.New("has a label of more than 63 characters (RFC 1035, 2.3.4)")
		case strings.HasPrefix(label, "-"), strings.HasSuffix(label, "-"):
			return errors.New("has a label that begins or ends with a hyphen")
		}
		for _, c := range []byte(label) {
			if c != '-' && c != '_' && !('a' <= c|0x20 && c|0x20 <= 'z') && !('0' <= c && c <= '9') {
				return errors.New("may hold letters, digits, hyphens and a leading \"*.\" only; write international names in their xn-- form")
			}
		}
	}
	return nil
}
