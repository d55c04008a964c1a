package certs_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/certs"
)

func TestFile(t *testing.T) {
	ca := newRoot(t).newAuthority("intermediate.example.org")
	l := ca.leaf(ecKey(), "MX.example.org", "*.Example.org", "2001:DB8::1")
	certFile, keyFile := pair(t, l)
	src, err := certs.File("mail", certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if src.Name() != "mail" {
		t.Errorf("name is %q", src.Name())
	}
	if got, want := strings.Join(src.Names(), " "), "mx.example.org *.example.org 2001:db8::1"; got != want {
		t.Errorf("names are %q, want %q", got, want)
	}
	cert, _ := src.Certificate()
	if cert.Leaf == nil || !cert.Leaf.Equal(l.cert) || len(cert.Certificate) != 2 {
		t.Errorf("leaf %v, chain of %d; want the leaf parsed and its issuer behind it", cert.Leaf, len(cert.Certificate))
	}
	if w := src.Warnings(); len(w) != 0 {
		t.Errorf("a good certificate is warned of: %q", w)
	}
}

// Every form of key that tools write is read, alone or in one file with the
// chain.
func TestKeyForms(t *testing.T) {
	ca := newRoot(t)
	ec, rs := ca.leaf(ecKey(), "mx.example.org"), ca.leaf(rsaKey(), "mx.example.org")
	sec1 := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(ec.key.(*ecdsa.PrivateKey)))})
	params := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}})
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rs.key.(*rsa.PrivateKey))})
	for what, tt := range map[string]struct {
		leaf leaf
		key  []byte
	}{
		"PKCS #8, ECDSA":       {ec, ec.keyPEM()},
		"PKCS #8, RSA":         {rs, rs.keyPEM()},
		"SEC 1":                {ec, sec1},
		"SEC 1 and parameters": {ec, append(params, sec1...)},
		"PKCS #1":              {rs, pkcs1},
		"text around it":       {ec, append([]byte("subject=CN = mx.example.org\n"), ec.keyPEM()...)},
	} {
		t.Run(what, func(t *testing.T) {
			certFile, keyFile := pair(t, tt.leaf)
			write(t, keyFile, tt.key)
			if _, err := certs.File("mail", certFile, keyFile); err != nil {
				t.Error(err)
			}
			write(t, certFile, append(tt.key, tt.leaf.certPEM()...))
			if _, err := certs.File("mail", certFile, certFile); err != nil {
				t.Errorf("one file for both: %v", err)
			}
		})
	}
}

// What cannot be served is an error that names the file and what to do.
func TestFileErrors(t *testing.T) {
	ca := newRoot(t).newAuthority("intermediate.example.org")
	l, other := ca.leaf(ecKey(), "mx.example.org"), ca.leaf(ecKey(), "imap.example.org")
	for _, tt := range []struct {
		what      string
		cert, key []byte // nil: no file
		file      string // that the error must name
		say       string
	}{
		{"no certificate file", nil, l.keyPEM(), "tls.crt", "put it there, or correct the path"},
		{"no key file", l.certPEM(), nil, "tls.key", "put it there, or correct the path"},
		{"empty certificate file", []byte{}, l.keyPEM(), "tls.crt", "no CERTIFICATE block in PEM form"},
		{"empty key file", l.certPEM(), []byte{}, "tls.key", "no PRIVATE KEY block in PEM form"},
		{"DER certificate", l.cert.Raw, l.keyPEM(), "tls.crt", "openssl x509 -inform DER"},
		{"DER key", l.certPEM(), must(x509.MarshalPKCS8PrivateKey(l.key)), "tls.key", "openssl pkey -inform DER"},
		{"swapped, seen in cert_file", l.keyPEM(), l.certPEM(), "tls.crt", "swapped?"},
		{"a certificate for a key", l.certPEM(), l.certPEM(), "tls.key", "swapped?"},
		{"key of another certificate", l.certPEM(), other.keyPEM(), "tls.key", "is not that of the certificate"},
		{"chain before leaf", certPEM(ca.cert, l.cert), l.keyPEM(), "tls.crt", "(mx.example.org) is number 2: put it first"},
		{"encrypted PKCS #8", l.certPEM(), pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("secret")}), "tls.key", "decrypt it with `openssl pkey"},
		{"encrypted the old way", l.certPEM(), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}, Bytes: []byte("secret")}), "tls.key", "decrypt it with `openssl pkey"},
		{"certificate that is none", certPEM(&x509.Certificate{Raw: []byte("0123456789")}), l.keyPEM(), "tls.crt", "certificate 1 cannot be read"},
		{"key that is none", l.certPEM(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("0123456789")}), "tls.key", "neither PKCS #8, PKCS #1 nor SEC 1"},
		{"chain cut off", l.certPEM()[:len(l.certPEM())-40], l.keyPEM(), "tls.crt", "cut off"},
		{"key cut off", l.certPEM(), l.keyPEM()[:60], "tls.key", "cut off"},
		{"huge file", bytes.Repeat([]byte("x"), 1<<20+1), l.keyPEM(), "tls.crt", "larger than 1 MiB"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			dir := t.TempDir()
			certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
			for file, data := range map[string][]byte{certFile: tt.cert, keyFile: tt.key} {
				if data != nil {
					write(t, file, data)
				}
			}
			_, err := certs.File("mail", certFile, keyFile)
			if err == nil {
				t.Fatal("was loaded")
			}
			for _, text := range []string{"certificate mail: ", filepath.Join(dir, tt.file), tt.say} {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error %q does not say %q", err, text)
				}
			}
			if bytes.Contains([]byte(err.Error()), []byte("secret")) {
				t.Errorf("error %q holds what was in the key file", err)
			}
		})
	}
}

// Special files are refused before they are opened: a FIFO would block.
func TestNotARegularFile(t *testing.T) {
	_, err := certs.File("mail", t.TempDir(), os.DevNull)
	if err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("got %v", err)
	}
}

// What clients will refuse is served all the same, and said.
func TestWarnings(t *testing.T) {
	root := newRoot(t)
	ca := root.newAuthority("one.example.org").newAuthority("two.example.org")
	good := func() *x509.Certificate { return &x509.Certificate{DNSNames: []string{"mx.example.org"}} }
	for _, tt := range []struct {
		what string
		make func() leaf
		say  string
	}{
		{"expired", func() leaf {
			c := good()
			c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
			return ca.leafFrom(ecKey(), c)
		}, "expired on"},
		{"not yet valid", func() leaf {
			c := good()
			c.NotBefore = time.Now().Add(time.Hour)
			return ca.leafFrom(ecKey(), c)
		}, "check the clock"},
		{"no alternative names", func() leaf {
			return ca.leafFrom(ecKey(), &x509.Certificate{Subject: pkix.Name{CommonName: "mx.example.org"}})
		}, "no subject alternative names"},
		{"a client's certificate", func() leaf {
			c := good()
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
			return ca.leafFrom(ecKey(), c)
		}, "lacks serverAuth"},
		{"chain in disorder", func() leaf {
			l := ca.leafFrom(ecKey(), good())
			l.chain[0], l.chain[1] = l.chain[1], l.chain[0]
			return l
		}, "certificate 2 of the chain did not sign the one before it"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			certFile, keyFile := pair(t, tt.make())
			src, err := certs.File("mail", certFile, keyFile)
			if err != nil {
				t.Fatal(err)
			}
			w := src.Warnings()
			if len(w) != 1 || !strings.Contains(w[0], tt.say) || !strings.Contains(w[0], certFile) {
				t.Errorf("warnings are %q, want one that names the file and says %q", w, tt.say)
			}
			if got := src.Names(); len(got) != 1 || got[0] != "mx.example.org" {
				t.Errorf("names are %q", got)
			}
		})
	}
}

// logs collects what Watch says.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

// watch looks at sources every few milliseconds until the test ends.
func watch(t *testing.T, sources ...certs.Source) *logs {
	t.Helper()
	out := &logs{}
	w := certs.NewWatcher(5*time.Millisecond, slog.New(slog.NewTextHandler(out, nil)))
	w.Apply(sources)
	t.Cleanup(func() {
		w.Close()
		if t.Failed() {
			t.Logf("log:\n%s", out.buf.String())
		}
	})
	return out
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// A replaced pair is served from the next look on, and logged once.
func TestReload(t *testing.T) {
	ca := newRoot(t)
	old, renewed := ca.leaf(ecKey(), "mx.example.org"), ca.leaf(ecKey(), "mx.example.org", "imap.example.org")
	certFile, keyFile := pair(t, old)
	src, err := certs.File("mail", certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	set := certs.NewSet([]certs.Source{src}, "", false)
	if _, covered, _ := set.Certificate(hello("imap.example.org")); covered {
		t.Fatal("the old certificate covers the new name")
	}
	out := watch(t, src)
	write(t, certFile, renewed.certPEM())
	write(t, keyFile, renewed.keyPEM())
	eventually(t, "the renewed certificate", func() bool { return serial(t, src) == renewed.cert.SerialNumber.Int64() })
	if _, covered, _ := set.Certificate(hello("imap.example.org")); !covered {
		t.Error("a name of the renewed certificate is not covered")
	}
	eventually(t, "the log line", func() bool { return out.count("certificate replaced") == 1 })
	if n := out.count("level=ERROR"); n > 0 {
		t.Errorf("a clean replacement is logged as %d errors", n)
	}
}

// A renewal in place, without a rename, within the same tick of the file
// system's clock and of the same size, is still seen.
func TestReloadSameSizeSameTime(t *testing.T) {
	ca := newRoot(t)
	key := ecKey()
	var leaves []leaf
	for len(leaves) < 2 { // signatures differ in length by chance
		l := ca.leaf(key, "mx.example.org")
		if len(leaves) == 0 || len(l.certPEM()) == len(leaves[0].certPEM()) {
			leaves = append(leaves, l)
		}
	}
	certFile, keyFile := pair(t, leaves[0])
	src, err := certs.File("mail", certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	info := must(os.Stat(certFile))
	if err := errors.Join(os.WriteFile(certFile, leaves[1].certPEM(), 0o600), os.Chtimes(certFile, info.ModTime(), info.ModTime())); err != nil {
		t.Fatal(err)
	}
	watch(t, src)
	eventually(t, "the renewed certificate", func() bool { return serial(t, src) == leaves[1].cert.SerialNumber.Int64() })
}

// kubernetes lays out a mounted secret: tls.crt and tls.key are links through
// ..data, which is a link to a directory of the moment.
type kubernetes struct {
	t   *testing.T
	dir string
	n   int
}

func (k *kubernetes) publish(l leaf) {
	k.t.Helper()
	k.n++
	moment := "..2024_01_01_00_00_00." + string(rune('0'+k.n))
	old, _ := os.Readlink(filepath.Join(k.dir, "..data"))
	dir := filepath.Join(k.dir, moment)
	tmp := filepath.Join(k.dir, "..data_tmp")
	err := errors.Join(
		os.Mkdir(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "tls.crt"), l.certPEM(), 0o644),
		os.WriteFile(filepath.Join(dir, "tls.key"), l.keyPEM(), 0o644),
		os.Symlink(moment, tmp),
		os.Rename(tmp, filepath.Join(k.dir, "..data")),
	)
	if old != "" {
		err = errors.Join(err, os.RemoveAll(filepath.Join(k.dir, old)))
	} else {
		for _, file := range []string{"tls.crt", "tls.key"} {
			err = errors.Join(err, os.Symlink("..data/"+file, filepath.Join(k.dir, file)))
		}
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// Kubernetes never touches tls.crt: it swaps the directory behind it.
func TestReloadKubernetes(t *testing.T) {
	ca := newRoot(t)
	k := &kubernetes{t: t, dir: t.TempDir()}
	k.publish(ca.leaf(ecKey(), "mx.example.org"))
	src, err := certs.File("mail", filepath.Join(k.dir, "tls.crt"), filepath.Join(k.dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	out := watch(t, src)
	for range 3 {
		renewed := ca.leaf(ecKey(), "mx.example.org")
		k.publish(renewed)
		eventually(t, "the renewed certificate", func() bool { return serial(t, src) == renewed.cert.SerialNumber.Int64() })
	}
	if n := out.count("level=ERROR"); n > 0 {
		t.Errorf("%d errors are logged for a swap that is atomic", n)
	}
}

// A replacement that cannot be served leaves the old certificate in use and
// says so once, with what to do; the next good one is taken.
func TestBrokenReplacement(t *testing.T) {
	ca := newRoot(t)
	old, renewed := ca.leaf(ecKey(), "mx.example.org"), ca.leaf(ecKey(), "mx.example.org")
	certFile, keyFile := pair(t, old)
	src, err := certs.File("mail", certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	out := watch(t, src)
	for _, broken := range []struct {
		replace func()
		say     string
	}{
		{func() { write(t, certFile, []byte("not a certificate\n")) }, "no CERTIFICATE block"},
		{func() { write(t, certFile, renewed.certPEM()) }, "is not that of the certificate"},
		{func() { os.Remove(certFile) }, "put it there, or correct the path"},
	} {
		broken.replace()
		eventually(t, "an error that says "+broken.say, func() bool { return out.count(broken.say) > 0 })
		time.Sleep(50 * time.Millisecond) // ten looks
		if n := out.count(broken.say); n != 1 {
			t.Errorf("%q is logged %d times", broken.say, n)
		}
		if serial(t, src) != old.cert.SerialNumber.Int64() {
			t.Errorf("%s: the old certificate is not in use any more", broken.say)
		}
	}
	write(t, keyFile, renewed.keyPEM())
	write(t, certFile, renewed.certPEM())
	eventually(t, "the good replacement", func() bool { return serial(t, src) == renewed.cert.SerialNumber.Int64() })
	write(t, certFile, []byte("not a certificate\n"))
	eventually(t, "the same fault said again after a success", func() bool { return out.count("no CERTIFICATE block") == 2 })
}

// A pair caught between its two writes is no fault: nothing is logged, and the
// next look takes the whole pair.
func TestHalfWrittenPair(t *testing.T) {
	ca := newRoot(t)
	old, renewed := ca.leaf(ecKey(), "mx.example.org"), ca.leaf(ecKey(), "mx.example.org")
	certFile, keyFile := pair(t, old)
	src, err := certs.File("mail", certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	look := certs.Looks(src)
	for _, step := range []func(){
		func() { write(t, certFile, renewed.certPEM()) },       // a new certificate, the old key
		func() { write(t, keyFile, renewed.keyPEM()[:80]) },    // half a key
		func() { write(t, keyFile, renewed.keyPEM()[:120]) },   // a little more of it
		func() { write(t, certFile, renewed.certPEM()[:300]) }, // half a certificate
	} {
		step()
		if log := look(); log != "" {
			t.Errorf("an unfinished pair is logged: %s", log)
		}
		if serial(t, src) != old.cert.SerialNumber.Int64() {
			t.Fatal("an unfinished pair is served")
		}
		write(t, certFile, old.certPEM())
		write(t, keyFile, old.keyPEM())
		if log := look(); log != "" {
			t.Errorf("the pair of before is logged: %s", log)
		}
		write(t, certFile, renewed.certPEM())
	}
	write(t, keyFile, renewed.keyPEM())
	if log := look(); !strings.Contains(log, "certificate replaced") {
		t.Errorf("the whole pair is not logged as replaced: %q", log)
	}
	if serial(t, src) != renewed.cert.SerialNumber.Int64() {
		t.Error("the whole pair is not served")
	}
}

// Expiry is said when it comes, not only when the files are read.
func TestExpiryIsLoggedOnce(t *testing.T) {
	certFile, keyFile := pair(t, newRoot(t).leafFrom(ecKey(), &x509.Certificate{
		DNSNames: []string{"mx.example.org"},
		NotAfter: time.Now().Add(2 * time.Second),
	}))
	src, err := certs.File("mail", certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	out := watch(t, src)
	eventually(t, "a warning", func() bool { return out.count("level=WARN") == 1 })
	time.Sleep(50 * time.Millisecond)
	if n := out.count("expired on"); n != 1 {
		t.Errorf("expiry is logged %d times", n)
	}
	if cert, err := src.Certificate(); cert == nil || err != nil {
		t.Errorf("an expired certificate is not served: %v", err)
	}
}

// Handshakes go on while the certificate is replaced again and again, each
// with a certificate that is whole. The race detector watches.
func TestReloadUnderHandshakes(t *testing.T) {
	root := newRoot(t)
	ca := root.newAuthority("intermediate.example.org")
	k := &kubernetes{t: t, dir: t.TempDir()}
	k.publish(ca.leaf(ecKey(), "mx.example.org"))
	src, err := certs.File("mail", filepath.Join(k.dir, "tls.crt"), filepath.Join(k.dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	set := certs.NewSet([]certs.Source{src}, "mx.example.org", true)
	watch(t, src)

	stop := make(chan struct{})
	var clients sync.WaitGroup
	seen := make([]map[string]bool, 4)
	for i := range seen {
		seen[i] = make(map[string]bool)
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				state, err := shake(set, &tls.Config{ServerName: "mx.example.org", RootCAs: root.pool()})
				if err != nil {
					t.Errorf("handshake: %v", err)
					return
				}
				seen[i][state.PeerCertificates[0].SerialNumber.String()] = true
			}
		})
	}
	for range 5 {
		renewed := ca.leaf(ecKey(), "mx.example.org")
		k.publish(renewed)
		eventually(t, "the renewed certificate", func() bool { return serial(t, src) == renewed.cert.SerialNumber.Int64() })
		time.Sleep(20 * time.Millisecond)
	}
	close(stop)
	clients.Wait()
	for i := range seen {
		if len(seen[i]) < 2 {
			t.Errorf("client %d saw %d certificates while 6 were served", i, len(seen[i]))
		}
	}
}
