package certs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/certs"
)

// A self-signed certificate is one a client can be told to trust: it covers
// its names and addresses and nothing else, and cannot sign others.
func TestSelfSigned(t *testing.T) {
	src, err := certs.SelfSigned("dev", []string{"Localhost", "*.example.org", "127.0.0.1", "::1", "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(src.Names(), " "), "localhost *.example.org 127.0.0.1 ::1"; src.Name() != "dev" || got != want {
		t.Errorf("%s has names %q, want %q", src.Name(), got, want)
	}
	cert, err := src.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	set := certs.NewSet([]certs.Source{src}, "localhost", false)
	for _, name := range []string{"localhost", "mx.example.org", "127.0.0.1", "::1"} {
		if _, err := shake(set, &tls.Config{ServerName: name, RootCAs: pool}); err != nil {
			t.Errorf("a client that trusts it refuses it for %s: %v", name, err)
		}
	}
	if _, err := shake(set, &tls.Config{ServerName: "example.org", RootCAs: pool}); err == nil {
		t.Error("it was accepted for example.org, which is not its name")
	}
	key, ok := cert.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		t.Errorf("key is %T, want ECDSA P-256", cert.PrivateKey)
	}
	if cert.Leaf.IsCA || cert.Leaf.KeyUsage&x509.KeyUsageCertSign != 0 {
		t.Error("it can sign others: whoever trusts it would trust those")
	}
	if life := cert.Leaf.NotAfter.Sub(time.Now()); life < 89*24*time.Hour || life > 90*24*time.Hour {
		t.Errorf("it is good for %v, want 90 days", life)
	}
}

func TestSelfSignedBadNames(t *testing.T) {
	for name, say := range map[string]string{
		"mx.example.org.":                   "ends with a dot",
		"":                                  "empty label",
		"mx..example.org":                   "empty label",
		"*":                                 "letters, digits, hyphens",
		"a.*.example.org":                   "letters, digits, hyphens",
		"mx example.org":                    "letters, digits, hyphens",
		"bücher.example.org":                "xn--",
		"-mx.example.org":                   "hyphen",
		strings.Repeat("a", 64) + ".org":    "63 characters",
		strings.Repeat("a.", 127) + "a.org": "253 characters",
	} {
		if _, err := certs.SelfSigned("dev", []string{"localhost", name}); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("name %q: got %v, want an error that says %q", name, err, say)
		}
	}
	if _, err := certs.SelfSigned("dev", nil); err == nil || !strings.Contains(err.Error(), "list at least one") {
		t.Errorf("no names: got %v", err)
	}
}

// A gateway that runs for years always serves a certificate that is good for
// another month, under a new key.
func TestSelfSignedRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, err := certs.SelfSigned("dev", []string{"localhost"})
		if err != nil {
			t.Fatal(err)
		}
		first, _ := src.Certificate()
		w := certs.NewWatcher(time.Hour, slog.New(slog.DiscardHandler))
		w.Apply([]certs.Source{src})
		defer w.Close()

		renewals, last := 0, first
		for range 365 {
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			cert, _ := src.Certificate()
			if left := time.Until(cert.Leaf.NotAfter); left < 29*24*time.Hour {
				t.Fatalf("on %s the certificate is good for %v only", time.Now().Format(time.DateOnly), left)
			}
			if cert != last {
				renewals++
				if cert.PrivateKey.(*ecdsa.PrivateKey).Equal(last.PrivateKey) {
					t.Error("renewed with the old key")
				}
				last = cert
			}
		}
		if renewals != 6 { // every 60 days
			t.Errorf("renewed %d times in a year, want 6", renewals)
		}
	})
}
