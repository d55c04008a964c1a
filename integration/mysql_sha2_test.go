package integration

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// A sha2Server is what MySQL 8 is by default and MariaDB is not: a server
// whose accounts log in by caching_sha2_password, or sha256_password. It says
// of each login what it saw, and has one answer to every query: OK.
type sha2Server struct {
	*stub
	plugin  string // of its accounts
	greets  string // the plugin that its greeting names
	key     *rsa.PrivateKey
	public  []byte
	mu      sync.Mutex
	cached  map[string]bool
	clear   bytes.Buffer // all that was said to it
	account map[string]string
}

func newSHA2Server(t *testing.T, plugin, greets string) *sha2Server {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	s := &sha2Server{plugin: plugin, greets: greets, key: key, cached: map[string]bool{},
		public: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), account: map[string]string{"u1": password}}
	s.stub = serveStub(t, func(_ *stub, conn net.Conn) {
		conn.SetDeadline(time.Now().Add(patience))
		c := &sha2Session{sha2Server: s, conn: conn}
		if err := c.serve(); err != nil && !errors.Is(err, io.EOF) {
			s.note("broken: " + err.Error())
		}
	})
	return s
}

// hidden reports whether no password was said to the server in the clear.
func (s *sha2Server) hidden() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !bytes.Contains(s.clear.Bytes(), []byte(password))
}

func (s *sha2Server) notes() []string {
	s.stub.mu.Lock()
	defer s.stub.mu.Unlock()
	return slices.Clone(s.got)
}

type sha2Session struct {
	*sha2Server
	conn net.Conn
	seq  byte
}

// read takes a packet, whose number must be the one that is due.
func (c *sha2Session) read() ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(c.conn, head); err != nil {
		return nil, err
	}
	body := make([]byte, int(head[0])|int(head[1])<<8|int(head[2])<<16)
	if _, err := io.ReadFull(c.conn, body); err != nil {
		return nil, err
	}
	if head[3] != c.seq {
		return nil, fmt.Errorf("packet %d is not %d", head[3], c.seq)
	}
	c.seq++
	c.sha2Server.mu.Lock()
	defer c.sha2Server.mu.Unlock()
	c.clear.Write(body)
	return body, nil
}

func (c *sha2Session) write(parts ...string) error {
	body := strings.Join(parts, "")
	_, err := c.conn.Write(append([]byte{byte(len(body)), byte(len(body) >> 8), 0, c.seq}, body...))
	c.seq++
	return err
}

const sha2OK = "\x00\x00\x00\x02\x00\x00\x00"

func (c *sha2Session) serve() error {
	nonce := rand.Text()[:20]
	// Protocol 41, long password, secure connection, transactions; plugins,
	// length-encoded proofs, databases.
	if err := c.write("\x0a8.0.99-sha2\x00\x01\x00\x00\x00", nonce[:8], "\x00\x09\xa2\xff\x02\x00\x28\x00\x15", strings.Repeat("\x00", 10), nonce[8:], "\x00", c.greets, "\x00"); err != nil {
		return err
	}
	login, err := c.read()
	if err != nil {
		return err
	}
	if login[1]&0x08 != 0 {
		return errors.New("asked for TLS")
	}
	fields := bytes.SplitN(login[32:], []byte{0}, 2)
	user, rest := string(fields[0]), fields[1]
	proof, rest := rest[1:1+rest[0]], rest[1+rest[0]:]
	if by, _, _ := bytes.Cut(rest, []byte{0}); string(by) != c.plugin {
		c.note("switch from " + string(by))
		nonce = rand.Text()[:20]
		if err := c.write("\xfe", c.plugin, "\x00", nonce, "\x00"); err != nil {
			return err
		}
		if proof, err = c.read(); err != nil {
			return err
		}
	}
	ok, err := c.check(user, proof, nonce)
	if err != nil {
		return err
	}
	if !ok {
		c.note("denied")
		return c.write("\xff\x15\x04#28000Access denied for user '", user, "'")
	}
	if err := c.write(sha2OK); err != nil {
		return err
	}
	for {
		c.seq = 0
		command, err := c.read()
		if err != nil || command[0] == 1 {
			return err
		}
		c.note("command")
		if err := c.write(sha2OK); err != nil {
			return err
		}
	}
}

// check is the server's part of either plugin.
func (c *sha2Session) check(user string, proof []byte, nonce string) (bool, error) {
	want := c.account[user]
	if c.plugin == "caching_sha2_password" {
		c.sha2Server.mu.Lock()
		cached := c.cached[user]
		c.sha2Server.mu.Unlock()
		if cached {
			if !bytes.Equal(proof, scrambled(want, nonce)) {
				return false, nil
			}
			c.note("fast")
			return true, c.write("\x01\x03")
		}
		if err := c.write("\x01\x04"); err != nil {
			return false, err
		}
		var err error
		if proof, err = c.read(); err != nil {
			return false, err
		}
	}
	if len(proof) != 1 || proof[0] > 2 {
		return false, fmt.Errorf("a proof of %d bytes where the key is asked for", len(proof))
	}
	c.note("key")
	if err := c.write("\x01", string(c.public)); err != nil {
		return false, err
	}
	secret, err := c.read()
	if err != nil {
		return false, err
	}
	got, err := rsa.DecryptOAEP(sha1.New(), nil, c.key, secret, nil)
	if err != nil {
		return false, err
	}
	for i := range got {
		got[i] ^= nonce[i%len(nonce)]
	}
	ok := string(got) == want+"\x00"
	c.sha2Server.mu.Lock()
	defer c.sha2Server.mu.Unlock()
	c.cached[user] = c.cached[user] || ok
	return ok, nil
}

// scrambled is what a client proves itself with that is in the cache.
func scrambled(password, nonce string) []byte {
	first := sha256.Sum256([]byte(password))
	second := sha256.Sum256(first[:])
	third := sha256.Sum256(append(second[:], nonce...))
	for i := range first {
		first[i] ^= third[i]
	}
	return first[:]
}

// an account of MySQL's default plugin logs in through TLS before a
// server in cleartext. The first time its password is asked for, which a client
// in TLS says as it is: it reaches the server encrypted. After that the
// server's cache knows it. A wrong one is refused as ever. Control: the same
// client without a gateway, and without TLS, in which it asks for the key
// itself.
func TestMySQLSHA2(t *testing.T) {
	t.Parallel()
	for _, plugin := range []string{"caching_sha2_password", "sha256_password"} {
		for _, greets := range []string{plugin, "mysql_native_password"} {
			t.Run(plugin+" after "+greets, func(t *testing.T) {
				t.Parallel()
				for _, listener := range []string{"db", "open", "begins", "none"} {
					s := newSHA2Server(t, plugin, greets)
					g := sqlGateway(t, s.addr, "")
					d := driver{addr: s.addr, user: "u1", password: "wrong"}
					if listener != "none" {
						d.addr = g.addr(listener)
					}
					if listener == "db" || listener == "begins" {
						d.tls, d.implicit = lab.pki.client("localhost"), listener == "begins"
					}
					var refused *mysql.MySQLError
					if err := d.open(t).Ping(); !errors.As(err, &refused) || refused.Number != 1045 {
						t.Errorf("%s: a wrong password: %v", listener, err)
					}
					d.password = password
					for range 2 {
						db := d.open(t)
						if _, err := db.Exec("do 1"); err != nil {
							t.Errorf("%s: %v; the server says %q", listener, err, s.notes())
						}
						db.Close()
					}
					want := []string{"key", "denied", "key", "command", "key", "command"}
					if plugin == "caching_sha2_password" {
						want[4] = "fast"
					}
					got := slices.DeleteFunc(s.notes(), func(note string) bool { return strings.HasPrefix(note, "switch") })
					if !slices.Equal(got, want) {
						t.Errorf("%s: the server says %q, want %q", listener, got, want)
					}
					if !s.hidden() {
						t.Errorf("%s: the password was said in the clear", listener)
					}
				}
			})
		}
	}
}
