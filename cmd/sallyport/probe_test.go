package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/upgraders/all"
)

// What a target leaves out is known by the protocol or by the port; what
// cannot be known is asked for.
func TestProbeTarget(t *testing.T) {
	for arg, want := range map[string]string{
		"mail.example.org:587":           "smtp asks mail.example.org:587",
		"mail.example.org:465":           "smtp begins mail.example.org:465",
		"smtp://mail.example.org":        "smtp asks mail.example.org:25",
		"smtp://mail.example.org:465":    "smtp begins mail.example.org:465",
		"smtps://mail.example.org:2465/": "smtp begins mail.example.org:2465",
		"imaps://mail.example.org":       "imap begins mail.example.org:993",
		"IMAP://mail.example.org:2143":   "imap asks mail.example.org:2143",
		"[2001:db8::1]:143":              "imap asks [2001:db8::1]:143",
		"pop3://[2001:db8::1]":           "pop3 asks [2001:db8::1]:110",
		"pop3://2001:db8::1":             "pop3 asks [2001:db8::1]:110",
		"tls://mail.example.org:8443":    "tcp begins mail.example.org:8443",
		"lmtp://mail.example.org":        "lmtp asks mail.example.org:24",
	} {
		target, err := parseProbeTarget(arg, all.Protocols())
		if err != nil {
			t.Errorf("%s: %v", arg, err)
			continue
		}
		how := " asks "
		if target.implicit {
			how = " begins "
		}
		if got := target.protocol.Name + how + target.address(); got != want {
			t.Errorf("%s: %s, want %s", arg, got, want)
		}
	}
	for arg, want := range map[string]string{
		"mail.example.org":              "say which port or protocol",
		"mail.example.org:4":            "say which, as in smtp://mail.example.org:4",
		"mail.example.org:x":            "is no port",
		"mail.example.org:70000":        "is no port",
		"smpt://mail.example.org":       "unknown protocol",
		"tls://mail.example.org":        "write tcp://HOST:PORT",
		"lmtps://mail.example.org":      "write lmtps://HOST:PORT",
		"smtp://":                       "names no host",
		"smtp://mail.example.org:25:26": "is no HOST:PORT",
	} {
		if target, err := parseProbeTarget(arg, all.Protocols()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v, want %q", arg, target, err, want)
		}
	}
}

// Why a certificate is not trusted is said in words that help.
func TestProbeVerify(t *testing.T) {
	now := time.Now()
	roots := x509.NewCertPool()
	make := func(name string, from, to time.Time, parent *x509.Certificate, parentKey *ecdsa.PrivateKey, isCA bool) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
			IsCA: isCA, BasicConstraintsValid: true}
		if !isCA {
			template.DNSNames, template.IPAddresses = []string{name}, []net.IP{net.IPv4(192, 0, 2, 7)}
		}
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	hour := time.Hour
	root, rootKey := make("root", now.Add(-hour), now.Add(hour), nil, nil, true)
	roots.AddCert(root)
	middle, middleKey := make("middle", now.Add(-hour), now.Add(hour), root, rootKey, true)
	good, _ := make("mail.example.org", now.Add(-hour), now.Add(hour), middle, middleKey, false)
	old, _ := make("mail.example.org", now.Add(-2*hour), now.Add(-hour), root, rootKey, false)
	early, _ := make("mail.example.org", now.Add(hour), now.Add(2*hour), root, rootKey, false)
	self, _ := make("mail.example.org", now.Add(-hour), now.Add(hour), nil, nil, false)
	other, otherKey := make("other root", now.Add(-hour), now.Add(hour), nil, nil, true)
	otherMiddle, otherMiddleKey := make("other middle", now.Add(-hour), now.Add(hour), other, otherKey, true)
	stranger, _ := make("mail.example.org", now.Add(-hour), now.Add(hour), otherMiddle, otherMiddleKey, false)

	for name, c := range map[string]struct {
		chain []*x509.Certificate
		host  string
		want  string
	}{
		"good":            {[]*x509.Certificate{good, middle}, "mail.example.org", ""},
		"by address":      {[]*x509.Certificate{good, middle}, "192.0.2.7", ""},
		"wrong name":      {[]*x509.Certificate{good, middle}, "imap.example.org", "not for imap.example.org, but for mail.example.org, 192.0.2.7"},
		"no intermediate": {[]*x509.Certificate{good}, "mail.example.org", "middle has signed it, which is not trusted: if that is an intermediate"},
		"expired":         {[]*x509.Certificate{old}, "mail.example.org", "expired on"},
		"too early":       {[]*x509.Certificate{early}, "mail.example.org", "not valid before"},
		"self-signed":     {[]*x509.Certificate{self}, "mail.example.org", "self-signed"},
		"another root":    {[]*x509.Certificate{stranger, otherMiddle}, "mail.example.org", "the chain ends at other root, which is not trusted"},
		"none":            {nil, "mail.example.org", "no certificate"},
	} {
		err := verify(c.chain, c.host, roots)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestIsMangled(t *testing.T) {
	for word, want := range map[string]bool{"XXXXXXXA": true, "XXXXXXXX": true, "xxxxxxxb": true, "XCLIENT": false, "X-EXPS": false, "STARTTLS": false, "XFORWARD": false, "XXXXAB": false} {
		if isMangled(word) != want {
			t.Errorf("%s: %v", word, !want)
		}
	}
}
