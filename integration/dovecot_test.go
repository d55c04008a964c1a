package integration

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// password is that of every user of Dovecot.
const password = "correct-horse"

// A dovecot is one instance with TLS off that knows every user by one
// password. It listens for IMAP, once plainly and once behind PROXY headers.
type dovecot struct {
	dir     string
	log     logFile
	imap    string // address
	proxied string // address that demands a PROXY header
	lmtp    string // unix socket
	auth    string // unix socket for Postfix's SASL
}

const dovecotConf = `protocols = imap lmtp
base_dir = %[1]s/run
log_path = %[1]s/log
state_dir = %[1]s/run
listen = %[2]s
login_greeting = %[3]s ready.
ssl = no
auth_mechanisms = plain login
auth_verbose = yes
haproxy_trusted_networks = %[6]s/32
haproxy_timeout = 5s
mail_location = maildir:%[1]s/mail/%%u
mail_max_userip_connections = 1000
imap_id_log = *
imap_idle_notify_interval = 29 mins
mail_plugins = zlib
protocol imap {
  mail_plugins = zlib imap_zlib
}
first_valid_uid = 1
postmaster_address = postmaster@example.org
passdb {
  driver = static
  args = password=%[7]s
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=%[1]s/mail/%%u allow_all_users=yes
}
service imap-login {
  inet_listener imap {
    port = %[4]d
  }
  inet_listener imap_proxied {
    port = %[5]d
    haproxy = yes
  }
  inet_listener imaps {
    port = 0
  }
  process_min_avail = 2
}
service lmtp {
  unix_listener lmtp {
    user = postfix
    mode = 0600
  }
}
service auth {
  unix_listener %[1]s/auth {
    user = postfix
    mode = 0600
  }
}
# A failed login would slow down those that follow from its address.
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
%[8]s
`

var (
	// The common one believes what the gateway says of clients (ID), and lets
	// them log in as they like.
	oneDovecot = sync.OnceValues(func() (*dovecot, error) {
		return newDovecot("dovecot", "127.0.0.1",
			"disable_plaintext_auth = no\nlogin_trusted_networks = "+gatewayAddr+"/32")
	})
	// The strict one wants secured sessions. It lives on an address that is
	// not the gateway's, because Dovecot calls every session secured whose two
	// ends have the same address.
	strictDovecot = sync.OnceValues(func() (*dovecot, error) {
		return newDovecot("strict", "127.0.0.9", "disable_plaintext_auth = yes")
	})
)

// theDovecot is the one that all tests share; it starts when first asked for.
func theDovecot(t *testing.T) *dovecot { return shared(t, oneDovecot) }

// theStrictDovecot is the same with disable_plaintext_auth.
func theStrictDovecot(t *testing.T) *dovecot { return shared(t, strictDovecot) }

func shared(t *testing.T, start func() (*dovecot, error)) *dovecot {
	t.Helper()
	need(t, "dovecot")
	root(t)
	d, err := start()
	if errors.Is(err, errDovecot24) {
		lacking(t, "%v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var errDovecot24 = errors.New("these tests configure Dovecot 2.3 (Debian 12, Ubuntu 22.04 and 24.04); 2.4 has another language")

// dovecot23 demands a version that reads our configuration.
func dovecot23() error {
	version, err := exec.Command("dovecot", "--version").Output()
	if err != nil {
		return fmt.Errorf("dovecot --version: %w", err)
	}
	if !strings.HasPrefix(string(version), "2.3.") {
		return fmt.Errorf("%w, and this is %q", errDovecot24, version)
	}
	return nil
}

func newDovecot(name, ip, settings string) (*dovecot, error) {
	if err := dovecot23(); err != nil {
		return nil, err
	}
	dir := filepath.Join(lab.dir, name)
	port, proxied := freePort(), freePort()
	d := &dovecot{
		dir:     dir,
		log:     logFile(filepath.Join(dir, "log")),
		imap:    net.JoinHostPort(ip, strconv.Itoa(port)),
		proxied: net.JoinHostPort(ip, strconv.Itoa(proxied)),
		lmtp:    filepath.Join(dir, "run", "lmtp"),
		auth:    filepath.Join(dir, "auth"),
	}
	nobody, nogroup, err := ids("nobody")
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "dovecot.conf")
	text := fmt.Sprintf(dovecotConf, dir, ip, name, port, proxied, gatewayAddr, password, settings)
	if err := errors.Join(
		mkdirs(dir, 0, 0, "run"),
		mkdirs(dir, nobody, nogroup, "mail"),
		os.WriteFile(conf, []byte(text), 0o644),
	); err != nil {
		return nil, err
	}
	proc, err := start("dovecot", "-F", "-c", conf)
	if err != nil {
		return nil, err
	}
	return d, errors.Join(keep(proc), reachable(proc, d.imap))
}
