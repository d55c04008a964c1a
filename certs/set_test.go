package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/certs"
)

// fixed is a Source that never changes; without a certificate it has none.
type fixed struct {
	name  string
	names []string
	cert  *tls.Certificate
}

func (f fixed) Name() string    { return f.name }
func (f fixed) Names() []string { return f.names }
func (f fixed) Certificate() (*tls.Certificate, error) {
	if f.cert == nil {
		return nil, errors.New("not issued yet")
	}
	return f.cert, nil
}

// hello is what a current client sends.
func hello(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName:        name,
		SupportedVersions: []uint16{tls.VersionTLS13, tls.VersionTLS12},
		CipherSuites:      []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
		SupportedCurves:   []tls.CurveID{tls.X25519, tls.CurveP256},
		SupportedPoints:   []uint8{0},
		SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.PSSWithSHA256, tls.PKCS1WithSHA256},
	}
}

// Which certificate a hello gets depends on its server name, the order of the
// sources, the hostname, and the keys that the client can verify.
func TestSelection(t *testing.T) {
	root := newRoot(t)
	ec := func(label string, names ...string) certs.Source {
		return fixed{label, names, root.leaf(ecKey(), names...).tls()}
	}
	rsa := func(label string, names ...string) certs.Source {
		return fixed{label, names, root.leaf(rsaKey(), names...).tls()}
	}
	expired := func(label string, names ...string) certs.Source {
		template := &x509.Certificate{DNSNames: names, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour)}
		return fixed{label, names, root.leafFrom(ecKey(), template).tls()}
	}
	pending := func(label string, names ...string) certs.Source { return fixed{label, names, nil} }
	list := func(s ...certs.Source) []certs.Source { return s }

	exactAndWildcard := list(ec("wild", "*.example.org"), ec("exact", "mx.example.org"))
	both := list(rsa("rsa", "mx.example.org"), ec("ec", "mx.example.org"))
	three := list(ec("a", "a.example.org"), ec("b", "b.example.org"), ec("c", "*.c.example.org", "192.0.2.1"))

	for _, tt := range []struct {
		what      string
		sources   []certs.Source
		hostname  string
		explicit  bool
		sni       string
		only      tls.SignatureScheme // of TLS 1.3; 0: all
		want      string
		uncovered bool
	}{
		{what: "exact before wildcard", sources: exactAndWildcard, sni: "mx.example.org", want: "exact"},
		{what: "wildcard for another name", sources: exactAndWildcard, sni: "imap.example.org", want: "wild"},
		{what: "case does not matter", sources: exactAndWildcard, sni: "MX.Example.ORG", want: "exact"},
		{what: "wildcard in another case", sources: exactAndWildcard, sni: "IMAP.Example.ORG", want: "wild"},
		{what: "a wildcard is one label deep", sources: three, sni: "x.y.c.example.org", want: "a", uncovered: true},
		{what: "a wildcard does not cover its own domain", sources: three, sni: "c.example.org", want: "a", uncovered: true},
		{what: "a wildcard needs a label", sources: three, sni: ".c.example.org", want: "a", uncovered: true},
		{what: "a wildcard's text is no name", sources: three, sni: "c.example.org.c.example.org", want: "a", uncovered: true},
		{what: "a suffix is no match", sources: three, sni: "xb.example.org", want: "a", uncovered: true},
		{what: "a trailing dot is no match", sources: three, sni: "b.example.org.", want: "a", uncovered: true},
		{what: "unknown name", sources: three, sni: "example.net", want: "a", uncovered: true},
		{what: "unknown name, default by hostname", sources: three, hostname: "b.example.org", sni: "example.net", want: "b", uncovered: true},

		{what: "no name: the first", sources: three, want: "a"},
		{what: "no name: by hostname", sources: three, hostname: "B.example.org", want: "b"},
		{what: "no name: by hostname and wildcard", sources: three, hostname: "x.c.example.org", want: "c"},
		{what: "no name: by an address as hostname", sources: three, hostname: "192.0.2.1", want: "c"},
		{what: "no name: hostname not covered", sources: three, hostname: "example.net", want: "a"},
		{what: "no name: explicit before hostname", sources: three, hostname: "b.example.org", explicit: true, want: "a"},
		{what: "explicit does not change what a name gets", sources: three, explicit: true, sni: "b.example.org", want: "b"},

		{what: "ECDSA preferred", sources: both, sni: "mx.example.org", want: "ec"},
		{what: "RSA for whom cannot ECDSA", sources: both, sni: "mx.example.org", only: tls.PSSWithSHA256, want: "rsa"},
		{what: "ECDSA for whom cannot RSA", sources: both, sni: "mx.example.org", only: tls.ECDSAWithP256AndSHA256, want: "ec"},
		{what: "no name, RSA", sources: both, only: tls.PSSWithSHA256, want: "rsa"},
		{what: "no name, ECDSA preferred", sources: both, explicit: true, want: "ec"},
		{what: "unknown name, RSA", sources: both, sni: "example.net", only: tls.PSSWithSHA256, want: "rsa", uncovered: true},
		{what: "no common algorithm: the best there is", sources: both, sni: "mx.example.org", only: tls.Ed25519, want: "ec"},
		{what: "the default's sibling, not a stranger", explicit: true, only: tls.ECDSAWithP256AndSHA256, want: "ec",
			sources: list(rsa("rsa", "mx.example.org"), ec("stranger", "example.net"), ec("ec", "mx.example.org"))},
		{what: "a wildcard of the right kind behind an exact name of the wrong kind", sni: "mx.example.org", only: tls.PSSWithSHA256, want: "wild",
			sources: list(ec("exact", "mx.example.org"), rsa("wild", "*.example.org"))},

		{what: "expired ECDSA behind valid RSA", sources: list(expired("old", "mx.example.org"), rsa("rsa", "mx.example.org")), sni: "mx.example.org", want: "rsa"},
		{what: "an expired exact name behind a valid wildcard", sources: list(expired("old", "mx.example.org"), ec("wild", "*.example.org")), sni: "mx.example.org", want: "wild"},
		{what: "expired, but nothing else fits the client", sources: list(rsa("rsa", "mx.example.org"), expired("old", "mx.example.org")), sni: "mx.example.org",
			only: tls.ECDSAWithP256AndSHA256, want: "old"},
		{what: "all expired: the first", sources: list(expired("old", "mx.example.org"), expired("older", "mx.example.org")), sni: "mx.example.org", want: "old"},
		{what: "alone and expired", sources: list(expired("old", "mx.example.org"), three[0]), sni: "mx.example.org", want: "old"},

		{what: "a source without certificate is passed over", sources: list(pending("soon", "a.example.org"), three[1]), want: "b"},
		{what: "and its name is not covered", sources: list(pending("soon", "a.example.org"), three[1]), sni: "a.example.org", want: "b", uncovered: true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			h := hello(tt.sni)
			if tt.only != 0 {
				h.SignatureSchemes = []tls.SignatureScheme{tt.only}
			}
			cert, covered, err := certs.NewSet(tt.sources, tt.hostname, tt.explicit).Certificate(h)
			if err != nil {
				t.Fatal(err)
			}
			got := "a stranger"
			for _, s := range tt.sources {
				if c, _ := s.Certificate(); c == cert {
					got = s.Name()
				}
			}
			if got != tt.want || covered != !tt.uncovered {
				t.Errorf("got certificate %s, covered %v; want %s, %v", got, covered, tt.want, !tt.uncovered)
			}
			if h.ServerName != tt.sni {
				t.Errorf("the hello was changed: server name %q", h.ServerName)
			}
		})
	}
}

// Without any certificate the reason of each source is told.
func TestNothingToServe(t *testing.T) {
	for _, tt := range []struct {
		sources []certs.Source
		want    []string
	}{
		{nil, []string{"add a certificate block"}},
		{[]certs.Source{fixed{name: "mail"}, fixed{name: "web"}}, []string{"certificate mail: not issued yet", "certificate web: not issued yet"}},
	} {
		set := certs.NewSet(tt.sources, "mx.example.org", false)
		cert, covered, err := set.Certificate(hello("mx.example.org"))
		if cert != nil || covered || err == nil {
			t.Fatalf("got %v, %v, %v; want an error alone", cert, covered, err)
		}
		for _, text := range tt.want {
			if !strings.Contains(err.Error(), text) || !strings.Contains(set.Ready().Error(), text) {
				t.Errorf("errors %q, %q do not say %q", err, set.Ready(), text)
			}
		}
	}
	one := fixed{"mail", []string{"mx.example.org"}, newRoot(t).leaf(ecKey(), "mx.example.org").tls()}
	if err := certs.NewSet([]certs.Source{fixed{name: "soon"}, one}, "", false).Ready(); err != nil {
		t.Errorf("one certificate of two is there, yet not ready: %v", err)
	}
}

// Real TLS clients that know only ECDSA or only RSA each get the certificate
// they can verify, for a name and without one.
func TestClientsOfOneKind(t *testing.T) {
	root := newRoot(t).newAuthority("intermediate.example.org")
	var sources []certs.Source
	for label, l := range map[string]leaf{"rsa": root.leaf(rsaKey(), "mx.example.org"), "ec": root.leaf(ecKey(), "mx.example.org")} {
		certFile, keyFile := pair(t, l)
		src, err := certs.File(label, certFile, keyFile)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, src)
	}
	set := certs.NewSet(sources, "mx.example.org", false)
	for suite, want := range map[uint16]string{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: "ECDSA",
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:   "RSA",
	} {
		for _, sni := range []string{"mx.example.org", "192.0.2.1"} { // Go's client sends no server name for an address
			state, err := shake(set, &tls.Config{
				ServerName:             sni,
				RootCAs:                root.pool(),
				InsecureSkipVerify:     sni == "192.0.2.1",
				MaxVersion:             tls.VersionTLS12,
				CipherSuites:           []uint16{suite},
				SessionTicketsDisabled: true,
			})
			if err != nil {
				t.Errorf("%s client, name %s: %v", want, sni, err)
				continue
			}
			if got := state.PeerCertificates[0].PublicKeyAlgorithm.String(); got != want {
				t.Errorf("%s client, name %s: got a certificate of kind %s", want, sni, got)
			}
		}
	}
}

// shake makes one handshake against a set and returns what the client saw.
func shake(set *certs.Set, config *tls.Config) (tls.ConnectionState, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		done <- tls.Server(c, &tls.Config{
			SessionTicketsDisabled: true,
			GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
				cert, _, err := set.Certificate(h)
				return cert, err
			},
		}).Handshake()
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return tls.ConnectionState{}, err
	}
	client := tls.Client(c, config)
	err = client.Handshake()
	c.Close()
	if serverErr := <-done; err == nil {
		err = serverErr
	}
	return client.ConnectionState(), err
}
