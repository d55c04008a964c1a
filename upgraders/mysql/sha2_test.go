package mysql

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

var serverKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, _ := rsa.GenerateKey(rand.Reader, 2048)
	return key
})

func publicPEM(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

const nonce = "12345678abcdefghijkl"

// decrypted is what a server makes of a secret.
func decrypted(t *testing.T, secret []byte, nonce string) string {
	t.Helper()
	obscured, err := rsa.DecryptOAEP(sha1.New(), nil, serverKey(), secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range obscured {
		obscured[i] ^= nonce[i%len(nonce)]
	}
	return string(obscured)
}

// What a server sends as its public key is not believed, and bounded.
func TestEncrypt(t *testing.T) {
	elliptical, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	good := publicPEM(t, serverKey().Public())
	huge := &rsa.PublicKey{N: new(big.Int).Lsh(serverKey().N, 8*maxKey), E: 65537}
	for name, c := range map[string]struct {
		password string
		nonce    string
		key      []byte
		err      error
	}{
		"good":         {"secret\x00", nonce, good, nil},
		"long":         {strings.Repeat("s", 213) + "\x00", nonce, good, nil},
		"too long":     {strings.Repeat("s", 214) + "\x00", nonce, good, wire.ErrTooLong},
		"short nonce":  {"secret\x00", nonce[:19], good, upgraders.ErrBackend},
		"no PEM":       {"secret\x00", nonce, []byte("key"), upgraders.ErrBackend},
		"no key":       {"secret\x00", nonce, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("key")}), upgraders.ErrBackend},
		"another kind": {"secret\x00", nonce, publicPEM(t, elliptical.Public()), upgraders.ErrBackend},
		"huge":         {"secret\x00", nonce, publicPEM(t, huge), upgraders.ErrBackend},
	} {
		t.Run(name, func(t *testing.T) {
			secret, err := encrypt([]byte(c.password), []byte(c.nonce), c.key)
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Fatalf("%v", err)
			}
			if err == nil && decrypted(t, secret, c.nonce) != c.password {
				t.Errorf("it is %q", decrypted(t, secret, c.nonce))
			}
			if bytes.Contains(secret, []byte("secret")) {
				t.Error("the password is not encrypted")
			}
		})
	}
}

// A table of two ends: the test says what client and backend say and hear.
type table struct {
	t               *testing.T
	client, backend net.Conn
	ended           chan error
}

// sit runs a session of a client in TLS before a backend in cleartext, from
// the login on.
func sit(t *testing.T, login packet) *table {
	t.Helper()
	inner, client := net.Pipe()
	outer, backend := net.Pipe()
	for _, c := range []net.Conn{inner, client, outer, backend} {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { c.Close() })
	}
	tb := &table{t, client, backend, make(chan error, 1)}
	p := &passage{asked: true, toClient: 2, greeting: greeting{nonce: []byte(nonce)}}
	link := &upgraders.Link{Client: wire.NewConn(inner), Backend: wire.NewConn(outer)}
	go func() {
		err := p.join(context.Background(), link)
		if err == nil {
			err = p.converse(context.Background(), link)
		}
		if !bytes.Equal(p.password, make([]byte, len(p.password))) {
			err = errors.New("the password is kept")
		}
		tb.ended <- err
	}()
	tb.says(client, login)
	return tb
}

func (tb *table) says(who net.Conn, p packet) {
	tb.t.Helper()
	if _, err := who.Write(p); err != nil {
		tb.t.Fatal(err)
	}
}

func (tb *table) hears(who net.Conn, seq byte) []byte {
	tb.t.Helper()
	p := make(packet, header)
	if _, err := io.ReadFull(who, p); err != nil {
		tb.t.Fatal(err)
	}
	body := make([]byte, p.length())
	if _, err := io.ReadFull(who, body); err != nil {
		tb.t.Fatal(err)
	}
	if p.seq() != seq {
		tb.t.Fatalf("packet %d is %q; want %d", p.seq(), body, seq)
	}
	return body
}

func loginOf(plugin, proof string) packet {
	const own = clientProtocol41 | clientSecure | clientPluginAuth | clientSSL
	return newPacket(2, about(own), []byte("u1\x00"), []byte{byte(len(proof))}, []byte(proof), []byte(plugin+"\x00"))
}

// a password that a client says in TLS reaches a backend in cleartext
// encrypted with the backend's key and the nonce that is in use, and both
// sides count as if there had been no step between. This is so wherever the
// plugins say a password.
func TestFullAuthentication(t *testing.T) {
	const other = "lkjihgfedcba87654321"
	for name, c := range map[string]struct {
		plugin, proof string
		switches      string // to this plugin, with another nonce
		asks          string // of the server, for the password
		request       byte   // for its key
	}{
		"caching_sha2":         {plugin: cachingSHA2, proof: "hash", asks: "\x01\x04", request: 2},
		"caching_sha2, switch": {plugin: "mysql_native_password", proof: "hash", switches: cachingSHA2, asks: "\x01\x04", request: 2},
		"sha256":               {plugin: sha256Password, proof: "secret\x00", request: 1},
		"sha256, switch":       {plugin: "mysql_native_password", proof: "hash", switches: sha256Password, request: 1},
	} {
		t.Run(name, func(t *testing.T) {
			tb := sit(t, loginOf(c.plugin, c.proof))
			client, backend := byte(3), byte(1) // the next numbers
			login := tb.hears(tb.backend, backend)
			backend++
			if bytes.Contains(login, []byte("secret")) || flags(login)&clientSSL != 0 {
				t.Fatalf("the backend hears %q", login)
			}
			nonce := nonce
			if c.switches != "" {
				nonce = other
				tb.says(tb.backend, newPacket(backend, []byte("\xfe"+c.switches+"\x00"+other+"\x00")))
				tb.hears(tb.client, client)
				backend, client = backend+1, client+1
				if c.switches == cachingSHA2 {
					tb.says(tb.client, newPacket(client, []byte("hash")))
					tb.hears(tb.backend, backend)
					backend, client = backend+1, client+1
				}
			}
			if c.asks != "" {
				tb.says(tb.backend, newPacket(backend, []byte(c.asks)))
				tb.hears(tb.client, client)
				backend, client = backend+1, client+1
			}
			if c.proof != "secret\x00" {
				tb.says(tb.client, newPacket(client, []byte("secret\x00")))
				request := tb.hears(tb.backend, backend)
				backend, client = backend+1, client+1
				if len(request) != 1 || request[0] != c.request {
					t.Fatalf("the backend is asked %q for its key", request)
				}
			} else if !bytes.Contains(login, []byte("u1\x00\x01\x01sha256_password\x00")) {
				t.Fatalf("the backend hears %q", login)
			}
			tb.says(tb.backend, newPacket(backend, []byte{isMore}, publicPEM(t, serverKey().Public())))
			backend++
			if got := decrypted(t, tb.hears(tb.backend, backend), nonce); got != "secret\x00" {
				t.Errorf("the password is %q", got)
			}
			backend++
			tb.says(tb.backend, newPacket(backend, []byte{isOK, 0, 0, 2, 0, 0, 0}))
			tb.hears(tb.client, client)
			if err := <-tb.ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// A client does not speak while its password is encrypted, and what it says
// does not reach the backend.
func TestSpeaksOutOfTurn(t *testing.T) {
	tb := sit(t, loginOf(cachingSHA2, "hash"))
	tb.hears(tb.backend, 1)
	tb.says(tb.backend, newPacket(2, fullAuthentication))
	tb.hears(tb.client, 3)
	tb.says(tb.client, newPacket(4, []byte("secret\x00")))
	tb.hears(tb.backend, 3)
	tb.says(tb.client, newPacket(5, []byte("more")))
	if words := tb.hears(tb.client, 6); words[0] != isError {
		t.Errorf("the client hears %q", words)
	}
	if err := <-tb.ended; !errors.Is(err, upgraders.ErrSyntax) {
		t.Error(err)
	}
}

// A client without TLS of its own would have its password encrypted, which a
// backend in TLS takes for the password: it is told to come in TLS, and the
// request does not reach the backend.
func TestBackendAloneInTLS(t *testing.T) {
	inner, client := net.Pipe()
	outer, backend := net.Pipe()
	for _, c := range []net.Conn{inner, client, outer, backend} {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		defer c.Close()
	}
	tb := &table{t, client, backend, make(chan error, 1)}
	p := &passage{secured: true, toClient: 2, toBackend: 3, plugin: cachingSHA2}
	link := &upgraders.Link{Client: wire.NewConn(inner), Backend: wire.NewConn(outer)}
	go func() { tb.ended <- p.converse(context.Background(), link) }()
	tb.says(backend, newPacket(3, fullAuthentication))
	tb.hears(client, 2)
	tb.says(client, newPacket(3, askCachingSHA2))
	if words := tb.hears(client, 4); packet(newPacket(4, words)).code() != 3159 {
		t.Errorf("the client hears %q", words)
	}
	if err := <-tb.ended; !errors.Is(err, upgraders.ErrNeedsTLS) {
		t.Error(err)
	}
}
