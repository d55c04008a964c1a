package config

import (
	"errors"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/sallyport/sallyport/certs"
)

type certificateBlock struct {
	block
	Name       attr[ident]      `hcl:"name,label"`
	CertFile   attr[string]     `hcl:"cert_file,optional" doc:"PEM file with the chain, leaf first; read again when it changes"`
	KeyFile    attr[string]     `hcl:"key_file,optional" doc:"PEM file with the private key; may be the same file"`
	SelfSigned attr[bool]       `hcl:"self_signed,optional" default:"false" doc:"sign it ourselves, anew at each start: for tests, and for clients that do not look"`
	ACME       attr[*acmeBlock] `hcl:"acme,optional" doc:"have it issued and renewed by this authority"`
	Names      attr[[]string]   `hcl:"names,optional" doc:"host names, wildcards and addresses to certify; files say by themselves what they cover"`
	Bootstrap  attr[string]     `hcl:"bootstrap,optional" default:"refuse" enum:"refuse|self_signed" doc:"what is served until the first certificate is issued"`
	Key        attr[string]     `hcl:"key,optional" default:"reuse" enum:"reuse|rollover" doc:"whether a renewal keeps the key, as a TLSA record 3 1 1 needs it (RFC 7671, 5.1)"`
	KeyType    attr[string]     `hcl:"key_type,optional" default:"p256" enum:"p256|p384" doc:"elliptic curve of a key that is made for an authority to certify"`
}

func (b *certificateBlock) label() string { return string(b.Name.Value) }

// certificate returns the sources of a certificate.
func (l *loader) certificate(b *certificateBlock) []certs.Source {
	one := func(src certs.Source) []certs.Source {
		if src == nil {
			return nil
		}
		return []certs.Source{src}
	}
	files := b.CertFile.written || b.KeyFile.written
	origins := 0
	for _, written := range []bool{files, b.SelfSigned.bad || b.SelfSigned.Value, b.ACME.written} {
		if written {
			origins++
		}
	}
	if origins > 0 && !b.ACME.written {
		l.checkACMEOnly(b)
	}
	switch {
	case origins != 1:
		l.errorf(b.At, "Where does the certificate come from?", "Write cert_file and key_file, or self_signed = true, or acme = acme.name: one of them.")
	case files:
		return one(l.fileCertificate(b))
	case b.Names.bad:
	case !b.Names.written:
		l.errorf(b.At, "Missing names of the certificate", "Write what it is for: names = [\"mail.example.org\"].")
	case b.SelfSigned.good():
		return one(l.selfSigned(b))
	case b.ACME.good():
		return l.issued(b)
	}
	return nil
}

func (l *loader) fileCertificate(b *certificateBlock) certs.Source {
	if b.Names.written {
		l.errorf(b.Names.At, "Unsuitable names", "A certificate from files says by itself what it covers: leave names out.")
	}
	if !b.CertFile.written || !b.KeyFile.written {
		l.errorf(b.At, "Missing file of the certificate", "Write both cert_file and key_file; they may name the same file.")
		return nil
	}
	if b.CertFile.bad || b.KeyFile.bad {
		return nil
	}
	certFile, keyFile := l.path(b.CertFile.Value), l.path(b.KeyFile.Value)
	src, err := certs.File(b.label(), certFile, keyFile)
	if err != nil {
		at := b.CertFile.At
		if strings.Contains(err.Error(), keyFile) && !strings.Contains(err.Error(), certFile) {
			at = b.KeyFile.At
		}
		l.errorf(at, "The certificate cannot be used", "%s", b.sentence(err))
		return nil
	}
	for _, w := range src.Warnings() {
		l.warnf(b.CertFile.At, "Clients may refuse the certificate", "%s.", w)
	}
	l.warnExpiry(b.CertFile.At, src)
	return src
}

// warnExpiry warns of a certificate that someone should have renewed by now:
// in the last fourteen days, or of a short life in its last sixth.
func (l *loader) warnExpiry(at hcl.Range, src certs.Source) {
	cert, err := src.Certificate()
	if err != nil {
		return
	}
	leaf := cert.Leaf
	left := time.Until(leaf.NotAfter)
	if soon := min(14*24*time.Hour, leaf.NotAfter.Sub(leaf.NotBefore)/6); left > 0 && left < soon {
		l.warnf(at, "The certificate expires soon", "It expires on %s: see that it is renewed.", leaf.NotAfter.UTC().Format(time.DateTime+" MST"))
	}
}

func (l *loader) selfSigned(b *certificateBlock) certs.Source {
	if l.previous != nil {
		for _, src := range l.previous.Sources {
			if src, ok := src.(*certs.SelfSignedSource); ok && src.Made(b.label(), b.Names.Value) {
				return src
			}
		}
	}
	src, err := certs.SelfSigned(b.label(), b.Names.Value)
	if err != nil {
		l.errorf(b.Names.At, "The certificate cannot be made", "%s", b.sentence(err))
		return nil
	}
	return src
}

// sentence leaves out which certificate an error is about, where its block is
// shown.
func (b *certificateBlock) sentence(err error) string {
	return sentence(errors.New(strings.TrimPrefix(err.Error(), "certificate "+b.label()+": ")))
}
