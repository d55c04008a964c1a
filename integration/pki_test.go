package integration

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
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The names the gateway has certificates for, beside localhost and 127.0.0.1.
const (
	mailName = "mail.example.org"
	corpName = "imap.corp.example"
)

// A pki is a CA of this run and the certificates it has issued, in files.
type pki struct {
	dir   string
	ca    string // file
	roots *x509.CertPool
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
}

// newPKI makes the CA and the server certificates localhost, mail and corp.
func newPKI(dir string) (*pki, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "sallyport integration CA"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	p := &pki{dir: dir, ca: filepath.Join(dir, "ca.pem"), roots: x509.NewCertPool(), key: key}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	p.roots.AddCert(p.cert)
	if err := writePEM(p.ca, "CERTIFICATE", der); err != nil {
		return nil, err
	}
	for name, dns := range map[string][]string{
		"localhost": {"localhost"},
		"mail":      {mailName},
		"corp":      {corpName},
	} {
		if err := p.issue(name, dns...); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// issue writes NAME.crt and NAME.key. The certificate of localhost is good for
// 127.0.0.1, too.
func (p *pki) issue(name string, dns ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return p.issueFor(key, name, dns...)
}

// issueRSA is issue for an RSA key.
func (p *pki) issueRSA(name string, dns ...string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	return p.issueFor(key, name, dns...)
}

func (p *pki) issueFor(key crypto.Signer, name string, dns ...string) error {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: dns[0]},
		DNSNames:     dns,
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(12 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if dns[0] == "localhost" {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.cert, key.Public(), p.key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(p.file(name+".key"), "PRIVATE KEY", keyDER); err != nil {
		return err
	}
	return writePEM(p.file(name+".crt"), "CERTIFICATE", der)
}

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

// notAfter is when a certificate expires.
func (p *pki) notAfter(t *testing.T, name string) time.Time {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(p.file(name+".crt"), p.file(name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf.NotAfter
}

// hcl is a certificate block for what issue(name) wrote.
func (p *pki) hcl(name string) string {
	return fmt.Sprintf("certificate %q {\n  cert_file = %q\n  key_file  = %q\n}\n", name, p.file(name+".crt"), p.file(name+".key"))
}

// client is the TLS configuration of a client that verifies.
func (p *pki) client(serverName string) *tls.Config {
	return &tls.Config{RootCAs: p.roots, ServerName: serverName}
}

// server is the TLS configuration of a stub that stands in for the gateway.
func (p *pki) server(name string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(p.file(name+".crt"), p.file(name+".key"))
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}, nil
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
