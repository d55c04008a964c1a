package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/certs/store"
)

// ErrNoChallenge says that nothing is to be proved, or not to this question.
var ErrNoChallenge = errors.New("no challenge for that name")

// challengeLife is after how long an answer that was left behind is removed.
// Authorities ask within seconds.
const challengeLife = time.Hour

// challenges are the answers that an authority will come for. They are in the
// store as well, so that whichever replica it reaches can give them.
type challenges struct {
	store store.Store
	now   func() time.Time
	held  sync.Map // key in the store to *answer
}

// An answer proves a name.
type answer struct {
	Name  string    `json:"name"`
	Data  string    `json:"data"` // http-01: the response; tls-alpn-01: key and certificate, PEM
	Until time.Time `json:"until"`
}

func certificateKey(name string) string {
	return "challenges/" + TLSALPN01 + "/" + strings.ToLower(name)
}

// Tokens differ in case (RFC 8555, 8.3), keys of the store do not.
func responseKey(token string) string {
	sum := sha256.Sum256([]byte(token))
	return "challenges/" + HTTP01 + "/" + hex.EncodeToString(sum[:])
}

// presentCertificate has a certificate shown to who asks for a name with
// tls-alpn-01, until remove.
func (c *challenges) presentCertificate(ctx context.Context, name string, cert *tls.Certificate) (remove func(), err error) {
	data, err := encode(cert)
	if err != nil {
		return nil, err
	}
	return c.present(ctx, certificateKey(name), &answer{Name: name, Data: string(data)}), nil
}

// presentResponse has a key authorization returned to who asks for a token at
// a name with http-01, until remove.
func (c *challenges) presentResponse(ctx context.Context, name, token, response string) (remove func()) {
	return c.present(ctx, responseKey(token), &answer{Name: name, Data: response})
}

// present goes on without a store that cannot be written: the authority may
// come to this process.
func (c *challenges) present(ctx context.Context, key string, a *answer) (remove func()) {
	a.Until = c.now().Add(challengeLife)
	c.held.Store(key, a)
	if data, err := json.Marshal(a); err == nil {
		c.store.Put(ctx, key, data)
	}
	return func() {
		c.held.CompareAndDelete(key, a)
		c.store.Delete(context.WithoutCancel(ctx), key)
	}
}

// findTimeout is how long a store may take: authorities wait ten seconds.
const findTimeout = 5 * time.Second

func (c *challenges) find(ctx context.Context, key, name string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	a := new(answer)
	if held, ok := c.held.Load(key); ok {
		a = held.(*answer)
	} else {
		data, err := c.store.Get(ctx, key)
		if errors.Is(err, store.ErrNotFound) {
			return nil, ErrNoChallenge
		}
		if err != nil {
			return nil, err
		}
		if json.Unmarshal(data, a) != nil || c.now().After(a.Until) {
			return nil, ErrNoChallenge
		}
	}
	if !strings.EqualFold(a.Name, name) {
		return nil, ErrNoChallenge
	}
	return a, nil
}

// sweep removes what processes left that died in the middle of an order.
func (c *challenges) sweep(ctx context.Context) {
	keys, _ := c.store.List(ctx, "challenges/")
	for _, key := range keys {
		data, err := c.store.Get(ctx, key)
		if err != nil {
			continue
		}
		var a answer
		if json.Unmarshal(data, &a) != nil || c.now().After(a.Until) {
			c.store.Delete(ctx, key)
		}
	}
}

// ChallengeCertificate returns what a hello that offers acme-tls/1 alone is
// answered with (RFC 8737, 3), whichever replica ordered it, or
// ErrNoChallenge. The store is asked for configured names only.
func (a *Authority) ChallengeCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(hello.ServerName)
	if !a.serves(name) {
		return nil, ErrNoChallenge
	}
	ctx := hello.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	answer, err := a.challenges.find(ctx, certificateKey(name), name)
	if err != nil {
		return nil, err
	}
	return decode([]byte(answer.Data))
}

// maxToken bounds what is taken for a token.
const maxToken = 256

// ChallengeResponse returns the body that answers a request for
// /.well-known/acme-challenge/TOKEN at a host, which may have a port (RFC 8555,
// 8.3), whichever replica ordered it, or ErrNoChallenge. The store is asked for
// configured names only.
func (a *Authority) ChallengeResponse(ctx context.Context, host, token string) ([]byte, error) {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if token == "" || len(token) > maxToken || !a.serves(host) {
		return nil, ErrNoChallenge
	}
	answer, err := a.challenges.find(ctx, responseKey(token), host)
	if err != nil {
		return nil, err
	}
	return []byte(answer.Data), nil
}

// encode returns a certificate with its key as PEM, the key first.
func encode(cert *tls.Certificate) ([]byte, error) {
	key, err := encodeKey(cert.PrivateKey.(crypto.Signer))
	if err != nil {
		return nil, err
	}
	out := bytes.NewBuffer(key)
	for _, der := range cert.Certificate {
		pem.Encode(out, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return out.Bytes(), nil
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// decode is the reverse of encode. The key is that of the certificate.
func decode(data []byte) (*tls.Certificate, error) {
	cert, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "tls: "))
	}
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		return nil, err
	}
	return &cert, nil
}

func decodeKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("it holds no key in PEM form")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("its key cannot be read: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("its key, a %T, cannot sign", key)
	}
	return signer, nil
}
