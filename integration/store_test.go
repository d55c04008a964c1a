package integration

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// A store is a Dovecot of POP3, IMAP and LMTP. It knows the users that user
// hands out, by the common password, and "broken", who cannot get mail.
type store struct {
	*daemon
	dir   string
	conf  string
	log   logFile
	addrs map[string]string // by the name of the inet_listener
	lmtp  string            // unix socket
	users atomic.Int32
}

// storeUsers is how many users a store has.
const storeUsers = 300

const storeConf = `protocols = imap pop3 lmtp
base_dir = %[1]s/run
log_path = %[1]s/log
state_dir = %[1]s/run
listen = %[2]s
login_greeting = %[3]s ready.
auth_mechanisms = plain login
auth_verbose = yes
haproxy_trusted_networks = %[4]s/32
haproxy_timeout = 5s
mail_location = maildir:%[1]s/mail/%%u
mail_max_userip_connections = 1000
first_valid_uid = 1
postmaster_address = postmaster@example.org
passdb {
  driver = static
  args = password=%[5]s
}
userdb {
  driver = passwd-file
  args = %[1]s/users
}
service lmtp {
  unix_listener lmtp {
    mode = 0600
  }
}
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service stats {
  unix_listener stats-writer {
    mode = 0666
  }
}
`

// inets are the sockets of a store: for each protocol plain, behind PROXY
// headers, and with TLS from the first byte.
var inets = []struct{ service, name, settings string }{
	{"imap-login", "imap", ""},
	{"imap-login", "imaps", "ssl = yes"},
	{"pop3-login", "pop3", ""},
	{"pop3-login", "pop3_proxied", "haproxy = yes"},
	{"pop3-login", "pop3s", "ssl = yes"},
	{"lmtp", "lmtp_inet", ""},
	{"lmtp", "lmtp_proxied", "haproxy = yes"},
}

var (
	// The open one has no TLS and believes what the gateway says of clients.
	openStore = sync.OnceValues(func() (*store, error) {
		return newStore("store", "127.0.0.1", "ssl = no\ndisable_plaintext_auth = no\nlogin_trusted_networks = "+gatewayAddr+"/32\n")
	})
	// The secure one has TLS of its own, with a certificate of a CA of its
	// own, and takes passwords inside it only. Dovecot calls a session secured
	// as well when its two ends have the same address: hence another one.
	secureStore = sync.OnceValues(func() (*store, error) {
		p, err := innerPKI()
		if err != nil {
			return nil, err
		}
		return newStore("secure", "127.0.0.10", fmt.Sprintf("ssl = required\nssl_cert = <%s\nssl_key = <%s\n",
			p.file("store.crt"), p.file("store.key")))
	})
	// innerPKI is the CA of the servers behind the gateway. Clients of the
	// gateway don't know it.
	innerPKI = sync.OnceValues(func() (*pki, error) {
		p, err := newPKI(filepath.Join(lab.dir, "inner"))
		if err != nil {
			return nil, err
		}
		return p, p.issue("store", innerName)
	})
)

// innerName is the one name of the servers that have TLS of their own.
const innerName = "store.example.org"

// theStore and theSecureStore are shared; they start when first asked for.
func theStore(t *testing.T) *store       { t.Helper(); return sharedStore(t, openStore) }
func theSecureStore(t *testing.T) *store { t.Helper(); return sharedStore(t, secureStore) }

func sharedStore(t *testing.T, start func() (*store, error)) *store {
	t.Helper()
	need(t, "dovecot")
	root(t)
	s, err := start()
	if errors.Is(err, errDovecot24) {
		lacking(t, "%v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// theInnerPKI is the CA of servers with TLS.
func theInnerPKI(t *testing.T) *pki {
	t.Helper()
	p, err := innerPKI()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newStore(name, ip, settings string) (*store, error) {
	if err := dovecot23(); err != nil {
		return nil, err
	}
	dir := filepath.Join(lab.dir, name)
	s := &store{
		dir:   dir,
		conf:  filepath.Join(dir, "dovecot.conf"),
		log:   logFile(filepath.Join(dir, "log")),
		lmtp:  filepath.Join(dir, "run", "lmtp"),
		addrs: map[string]string{},
	}
	nobody, nogroup, err := ids("nobody")
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf(storeConf, dir, ip, name, gatewayAddr, password) + settings
	for _, inet := range inets {
		port := freePort()
		s.addrs[inet.name] = net.JoinHostPort(ip, strconv.Itoa(port))
		text += fmt.Sprintf("service %s {\n  inet_listener %s {\n    port = %d\n    %s\n  }\n}\n", inet.service, inet.name, port, inet.settings)
	}
	var users strings.Builder
	for n := range storeUsers {
		fmt.Fprintf(&users, "u%d::%d:%d::%s/mail/u%d::\n", n, nobody, nogroup, dir, n)
	}
	fmt.Fprintf(&users, "broken::%d:%d::%s/mail/broken::userdb_mail=maildir:/dev/null/broken\n", nobody, nogroup, dir)
	if err := errors.Join(
		mkdirs(dir, 0, 0, "run"),
		mkdirs(dir, nobody, nogroup, "mail"),
		os.WriteFile(filepath.Join(dir, "users"), []byte(users.String()), 0o644),
		os.WriteFile(s.conf, []byte(text), 0o644),
	); err != nil {
		return nil, err
	}
	return s, s.start()
}

// start starts the store, or starts it again.
func (s *store) start() (err error) {
	if s.daemon, err = start("dovecot", "-F", "-c", s.conf); err != nil {
		return err
	}
	return errors.Join(keep(s.daemon), reachable(s.daemon, s.addr("pop3")))
}

// addr is where an inet_listener listens.
func (s *store) addr(name string) string {
	addr, ok := s.addrs[name]
	if !ok {
		panic("no listener of a store is named " + name)
	}
	return addr
}

// user returns one that nobody else has.
func (s *store) user() string {
	n := s.users.Add(1)
	if n >= storeUsers {
		panic("a store has too few users")
	}
	return fmt.Sprintf("u%d", n)
}

// deliver puts a message into a user's INBOX.
func (s *store) deliver(t *testing.T, user, subject string) {
	t.Helper()
	(&dovecot{lmtp: s.lmtp}).deliver(t, user, subject)
}

// received returns the messages in a user's INBOX.
func (s *store) received(user string) []string {
	var found []string
	for _, sub := range []string{"new", "cur"} {
		paths, _ := filepath.Glob(filepath.Join(s.dir, "mail", user, sub, "*"))
		for _, path := range paths {
			text, _ := os.ReadFile(path)
			found = append(found, string(text))
		}
	}
	return found
}

// pop reads the status line of a reply of POP3 and demands success or not.
func (p *peer) pop(ok bool, format string, args ...any) string {
	p.t.Helper()
	p.send(format, args...)
	line := p.line()
	if strings.HasPrefix(line, "+OK") != ok {
		p.t.Fatalf("%s was answered %q", strings.Fields(format)[0], line)
	}
	return line
}

// popLines is pop for a command whose answer has several lines (RFC 1939, 3).
func (p *peer) popLines(format string, args ...any) []string {
	p.t.Helper()
	p.pop(true, format, args...)
	var lines []string
	for {
		line := p.line()
		if line == "." {
			return lines
		}
		lines = append(lines, strings.TrimPrefix(line, "."))
	}
}
