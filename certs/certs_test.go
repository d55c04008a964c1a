package certs_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/certs"
)

// An authority signs what the tests need: a root, an intermediate, leaves.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
	up   *authority // who certified this one; nil for a root
}

var (
	rsaKey  = sync.OnceValue(func() crypto.Signer { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	serials = struct {
		sync.Mutex
		n int64
	}{}
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ecKey() crypto.Signer { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

func newRoot(t testing.TB) *authority { return (&authority{t: t}).newAuthority("root.example.org") }

func (a *authority) newAuthority(name string) *authority {
	sub := &authority{t: a.t, key: ecKey()}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	signer := sub
	if a.cert != nil {
		signer, sub.up = a, a
	}
	sub.cert = signer.sign(template, sub.key)
	return sub
}

func (a *authority) sign(template *x509.Certificate, key crypto.Signer) *x509.Certificate {
	serials.Lock()
	serials.n++
	template.SerialNumber = big.NewInt(serials.n)
	serials.Unlock()
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(24 * time.Hour)
	}
	parent := a.cert
	if parent == nil {
		parent = template
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key))))
}

func (a *authority) pool() *x509.CertPool {
	for a.up != nil {
		a = a.up
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// A leaf is a certificate with what belongs to it.
type leaf struct {
	cert  *x509.Certificate
	chain []*x509.Certificate // the authorities above it, without the root
	key   crypto.Signer
}

func (a *authority) leaf(key crypto.Signer, names ...string) leaf {
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	return a.leafFrom(key, template)
}

func (a *authority) leafFrom(key crypto.Signer, template *x509.Certificate) leaf {
	l := leaf{cert: a.sign(template, key), key: key}
	for ; a.up != nil; a = a.up {
		l.chain = append(l.chain, a.cert)
	}
	return l
}

func (l leaf) tls() *tls.Certificate {
	c := &tls.Certificate{Certificate: [][]byte{l.cert.Raw}, PrivateKey: l.key, Leaf: l.cert}
	for _, up := range l.chain {
		c.Certificate = append(c.Certificate, up.Raw)
	}
	return c
}

func (l leaf) certPEM() []byte { return certPEM(append([]*x509.Certificate{l.cert}, l.chain...)...) }

func (l leaf) keyPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(l.key))})
}

func certPEM(certs ...*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// write puts a file in place the way careful tools do, by a rename.
func write(t testing.TB, file string, data []byte) {
	t.Helper()
	tmp := file + ".new"
	if err := errors.Join(os.WriteFile(tmp, data, 0o600), os.Rename(tmp, file)); err != nil {
		t.Fatal(err)
	}
}

// pair writes a leaf into a directory of its own and returns the two files.
func pair(t testing.TB, l leaf) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	write(t, certFile, l.certPEM())
	write(t, keyFile, l.keyPEM())
	return certFile, keyFile
}

// serial identifies what a source serves.
func serial(t testing.TB, s certs.Source) int64 {
	t.Helper()
	c, err := s.Certificate()
	if err != nil {
		t.Fatalf("certificate %s: %v", s.Name(), err)
	}
	return c.Leaf.SerialNumber.Int64()
}
