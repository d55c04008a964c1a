package certs

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A FileSource reads a certificate chain and its key from PEM files, and reads
// them again when they change.
type FileSource struct {
	name              string
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]

	mu   sync.Mutex // held by refresh
	seen [2]os.FileInfo
}

var (
	_ Source    = (*FileSource)(nil)
	_ refresher = (*FileSource)(nil)
	_ warner    = (*FileSource)(nil)
)

// File returns the source of the certificate in certFile, leaf first, whose
// key is in keyFile. They may be the same file. What cannot be served is an
// error; what clients will refuse is a warning, see Warnings.
func File(name, certFile, keyFile string) (*FileSource, error) {
	s := &FileSource{name: name, certFile: certFile, keyFile: keyFile}
	if _, err := s.refresh(); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", name, err)
	}
	return s, nil
}

// Name returns the label of the certificate.
func (s *FileSource) Name() string { return s.name }

// Names returns what the certificate in memory covers.
func (s *FileSource) Names() []string { return leafNames(s.current.Load().Leaf) }

// Certificate returns the certificate in memory; it never returns an error.
func (s *FileSource) Certificate() (*tls.Certificate, error) { return s.current.Load(), nil }

// Warnings says why clients may refuse the current certificate, although it
// can be served.
func (s *FileSource) Warnings() []string {
	c := s.current.Load()
	leaf := c.Leaf
	var w []string
	warn := func(format string, args ...any) {
		w = append(w, s.certFile+": "+fmt.Sprintf(format, args...))
	}
	now := time.Now()
	if now.After(leaf.NotAfter) {
		warn("the certificate expired on %s: renew it", leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	if now.Before(leaf.NotBefore) {
		warn("the certificate is not valid before %s: check the clock of this machine", leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses) == 0 {
		warn("the certificate has no subject alternative names, and clients ignore its common name (RFC 9525, 2): have it issued with them")
	}
	if !forServers(leaf) {
		warn("the certificate is not meant for servers (its extended key usage lacks serverAuth): have it issued for TLS servers")
	}
	if i := disorder(c); i > 0 {
		warn("certificate %d of the chain did not sign the one before it (RFC 5246, 7.4.2): put the leaf first, then each issuer in turn", i+1)
	}
	return w
}

// refresh reads the files when they are not those of the last time. Whatever
// goes wrong is tried again at the next look, since the files may be
// half-written. What it remembers was looked up before it read, so that a
// change in between shows at the next look too.
func (s *FileSource) refresh() (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.stat()
	if err != nil {
		return false, err
	}
	if same(s.seen, found) {
		return false, nil
	}
	fresh, err := load(s.certFile, s.keyFile)
	if err != nil {
		return false, err
	}
	if settled(found) {
		s.seen = found
	}
	if old := s.current.Load(); old != nil && slices.EqualFunc(old.Certificate, fresh.Certificate, bytes.Equal) {
		return false, nil
	}
	s.current.Store(fresh)
	return true, nil
}

// stat follows symlinks, so that it sees the swap of `..data` by which
// Kubernetes updates a mounted secret.
func (s *FileSource) stat() (infos [2]os.FileInfo, err error) {
	for i, file := range []string{s.certFile, s.keyFile} {
		if infos[i], err = os.Stat(file); err != nil {
			return infos, explain(err)
		}
		if !infos[i].Mode().IsRegular() {
			return infos, fmt.Errorf("%s is not a regular file: name the file itself", file)
		}
	}
	return infos, nil
}

// same reports whether two looks found the same files, unchanged.
func same(a, b [2]os.FileInfo) bool {
	for i := range a {
		if a[i] == nil || b[i] == nil || !os.SameFile(a[i], b[i]) ||
			a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime()) {
			return false
		}
	}
	return true
}

// settled reports whether the files are old enough that another write would
// show in their time, which some file systems keep in steps of two seconds.
func settled(infos [2]os.FileInfo) bool {
	for _, info := range infos {
		if time.Since(info.ModTime()) < 3*time.Second {
			return false
		}
	}
	return true
}

// load reads and checks a pair of files.
func load(certFile, keyFile string) (*tls.Certificate, error) {
	certPEM, err := read(certFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := read(keyFile)
	if err != nil {
		return nil, err
	}
	chain, err := parseChain(certFile, certPEM)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(keyFile, keyPEM)
	if err != nil {
		return nil, err
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return nil, fmt.Errorf("%s: keys of type %T are not supported: use ECDSA P-256 or RSA", keyFile, key)
	}
	belongs := func(c *x509.Certificate) bool { return public.Equal(c.PublicKey) }
	switch i := slices.IndexFunc(chain, belongs); {
	case i < 0:
		return nil, fmt.Errorf("the key in %s is not that of the certificate in %s (%s): were both files replaced?", keyFile, certFile, title(chain[0]))
	case i > 0:
		return nil, fmt.Errorf("%s: wrong order: the certificate of the key (%s) is number %d: put it first, then each issuer in turn", certFile, title(chain[i]), i+1)
	}
	// X509KeyPair once more decides what crypto/tls can serve.
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %s", certFile, keyFile, strings.TrimPrefix(err.Error(), "tls: "))
	}
	cert.Leaf = chain[0]
	return &cert, nil
}

func parseChain(file string, data []byte) (chain []*x509.Certificate, err error) {
	var other []string
	blocks, err := parsePEM(file, data)
	if err != nil {
		return nil, err
	}
	for _, block := range blocks {
		if block.Type != "CERTIFICATE" {
			other = append(other, block.Type)
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d cannot be read: %s", file, len(chain)+1, strings.TrimPrefix(err.Error(), "x509: "))
		}
		chain = append(chain, c)
	}
	switch {
	case len(chain) > 0:
		return chain, nil
	case slices.ContainsFunc(other, isKey):
		return nil, fmt.Errorf("%s holds a key and no certificate: are cert_file and key_file swapped?", file)
	case isDER(data):
		return nil, fmt.Errorf("%s is DER, not PEM: convert it with `openssl x509 -inform DER -in %s -out FILE.pem`", file, file)
	}
	return nil, fmt.Errorf("%s: no CERTIFICATE block in PEM form: write the chain there, leaf first", file)
}

func parseKey(file string, data []byte) (crypto.Signer, error) {
	var other []string
	blocks, err := parsePEM(file, data)
	if err != nil {
		return nil, err
	}
	for _, block := range blocks {
		if !isKey(block.Type) {
			other = append(other, block.Type)
			continue
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return nil, fmt.Errorf("%s: the key is encrypted, and nobody is there to type its passphrase: decrypt it with `openssl pkey -in %s -out FILE.key` and let only the gateway read it", file, file)
		}
		key, err := parsePrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: the key cannot be read: %w", file, err)
		}
		return key, nil
	}
	switch {
	case slices.Contains(other, "CERTIFICATE"):
		return nil, fmt.Errorf("%s holds a certificate and no key: are cert_file and key_file swapped?", file)
	case isDER(data):
		return nil, fmt.Errorf("%s is DER, not PEM: convert it with `openssl pkey -inform DER -in %s -out FILE.key`", file, file)
	}
	return nil, fmt.Errorf("%s: no PRIVATE KEY block in PEM form: write the key of the certificate there", file)
}

// parsePrivateKey takes the three encodings there are: PKCS #8, PKCS #1 and
// SEC 1.
func parsePrivateKey(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
		return nil, fmt.Errorf("keys of type %T cannot sign: use ECDSA P-256 or RSA", key)
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	return nil, errors.New("it is neither PKCS #8, PKCS #1 nor SEC 1, or of a kind that TLS does not use: make it with `openssl genpkey`")
}

// maxFile bounds what is read of a file: a long chain is a few kilobytes.
const maxFile = 1 << 20

func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, explain(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, explain(err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than 1 MiB, which no certificate chain is", file)
	}
	return data, nil
}

// explain adds to an error of the file system what to do about it.
func explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: let user id %d read it, and enter the directories above it", err, os.Geteuid())
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: put it there, or correct the path", err)
	}
	return err
}

// parsePEM returns the PEM blocks of a file. package pem skips a block that it
// cannot decode, which would make a short chain of a file cut in the middle.
func parsePEM(file string, data []byte) (blocks []*pem.Block, err error) {
	begun := bytes.Count(data, []byte("-----BEGIN "))
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		blocks = append(blocks, block)
	}
	if len(blocks) < begun {
		return nil, fmt.Errorf("%s: one of its %d PEM blocks is damaged or cut off: write the file again, whole", file, begun)
	}
	return blocks, nil
}

func isKey(blockType string) bool {
	return blockType == "PRIVATE KEY" || strings.HasSuffix(blockType, " PRIVATE KEY")
}

// isDER reports whether a file begins as an ASN.1 SEQUENCE of some length does.
func isDER(data []byte) bool { return len(data) > 4 && data[0] == 0x30 && data[1]&0x80 != 0 }

// title names a certificate for people.
func title(c *x509.Certificate) string {
	if names := leafNames(c); len(names) > 0 {
		return names[0]
	}
	return c.Subject.String()
}

// leafNames returns what a certificate covers. The common name counts only
// where nothing else is there, as a name to choose the certificate by.
func leafNames(leaf *x509.Certificate) []string {
	names := make([]string, 0, len(leaf.DNSNames)+len(leaf.IPAddresses)+1)
	for _, name := range leaf.DNSNames {
		names = append(names, fold(name))
	}
	for _, ip := range leaf.IPAddresses {
		names = append(names, fold(ip.String()))
	}
	if len(names) == 0 && leaf.Subject.CommonName != "" {
		names = append(names, fold(leaf.Subject.CommonName))
	}
	return names
}

func forServers(leaf *x509.Certificate) bool {
	return len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0 ||
		slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) ||
		slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// disorder returns the position of the first certificate in the chain that is
// not the issuer of the one before it, or 0.
func disorder(c *tls.Certificate) int {
	child := c.Leaf
	for i, der := range c.Certificate[1:] {
		issuer, err := x509.ParseCertificate(der)
		if err != nil || !bytes.Equal(child.RawIssuer, issuer.RawSubject) {
			return i + 1
		}
		child = issuer
	}
	return 0
}
