package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// testCertificates returns a directory with mail, old, soon and other, each a
// .crt and a .key, and ca.pem.
func testCertificates(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	now := time.Now()
	pair := func(name string, notAfter time.Time) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1),
			Subject:      pkix.Name{CommonName: name},
			DNSNames:     []string{name + ".example.org"},
			NotBefore:    notAfter.Add(-90 * 24 * time.Hour),
			NotAfter:     notAfter,
			ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		writePEM(t, filepath.Join(dir, name+".crt"), "CERTIFICATE", cert)
		writePEM(t, filepath.Join(dir, name+".key"), "PRIVATE KEY", der)
	}
	pair("mail", now.Add(80*24*time.Hour))
	pair("other", now.Add(80*24*time.Hour))
	pair("soon", now.Add(3*24*time.Hour))
	pair("old", time.Date(2020, 1, 31, 0, 0, 0, 0, time.UTC))
	ca, err := os.ReadFile(filepath.Join(dir, "other.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
