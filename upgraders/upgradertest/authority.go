package upgradertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"time"

	"github.com/sallyport/sallyport/gateway"
)

// serverName is what the gateway is called and what clients verify.
const serverName = "gw.example.org"

// An authority is a CA that lives as long as the test, and the one certificate
// it issued.
type authority struct {
	roots *x509.CertPool
	leaf  tls.Certificate
}

func newAuthority() (*authority, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "upgradertest CA"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	if ca, err = x509.ParseCertificate(caDER); err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: serverName},
		DNSNames:     []string{serverName},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return &authority{roots, tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key}}, nil
}

// certificates is what a listener of the test serves.
type certificates struct{ leaf *tls.Certificate }

var _ gateway.Certificates = certificates{}

var errNoCertificate = errors.New("the script wants no certificate")

// Certificate implements gateway.Certificates.
func (c certificates) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, bool, error) {
	if c.leaf == nil {
		return nil, false, errNoCertificate
	}
	return c.leaf, hello.ServerName == serverName, nil
}

// Ready implements gateway.Certificates.
func (c certificates) Ready() error {
	if c.leaf == nil {
		return errNoCertificate
	}
	return nil
}
