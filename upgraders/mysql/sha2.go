package mysql

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// The plugins that say the password itself, where the connection is one that
// nobody listens to, and have it encrypted with the server's key elsewhere.
const (
	cachingSHA2    = "caching_sha2_password"
	sha256Password = "sha256_password"
)

var (
	fullAuthentication = []byte{isMore, 4} // the server's cache does not know the user
	askCachingSHA2     = []byte{2}         // for the public key
	askSHA256          = []byte{1}
)

const (
	nonceLength = 20
	maxKey      = 1024 // bytes of a modulus; more would cost time for nothing
)

// isPassword reports whether a proof is a password, and not an empty one: it
// ends in NUL.
func isPassword(proof []byte) bool {
	return len(proof) > 1 && bytes.IndexByte(proof, 0) == len(proof)-1
}

// encrypt makes of a password, with its NUL, what the server takes in the
// clear: obscured by the nonce of the login, so that it is good for this one
// only, and encrypted by RSAES-OAEP (RFC 8017, 7.1.1) with SHA-1, which is
// what servers know.
func encrypt(password, nonce, text []byte) ([]byte, error) {
	block, _ := pem.Decode(text)
	if block == nil || len(nonce) < nonceLength {
		return nil, fmt.Errorf("%w: no public key in PEM, or no nonce to use it with", upgraders.ErrBackend)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: its public key: %v", upgraders.ErrBackend, err)
	}
	public, ok := key.(*rsa.PublicKey)
	if !ok || public.Size() > maxKey {
		return nil, fmt.Errorf("%w: its public key is none of RSA, or of more than %d bytes", upgraders.ErrBackend, maxKey)
	}
	obscured := make([]byte, len(password))
	defer clear(obscured)
	for i, b := range password {
		obscured[i] = b ^ nonce[i%nonceLength]
	}
	secret, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, public, obscured, nil)
	switch {
	case errors.Is(err, rsa.ErrMessageTooLong):
		return nil, fmt.Errorf("%w: the password, for the backend's public key", wire.ErrTooLong)
	case err != nil:
		return nil, fmt.Errorf("%w: its public key: %v", upgraders.ErrBackend, err)
	}
	return secret, nil
}
