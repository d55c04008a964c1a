package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A postfix is one master that carries an smtpd on each of several ports, all
// with TLS off and none with a hand on /etc/postfix or the system's queue.
//
// Mail to ANYTHING@raw.example.org lands in a Maildir, byte for byte but for
// line ends; mail to user@example.org goes to Dovecot by LMTP;
// mail to anywhere else is relayed, which here means discarded.
type postfix struct {
	dir   string
	log   logFile
	ports map[string]int
}

// smtpds are the instances and what sets them apart.
var smtpds = map[string][]string{
	// An MX that trusts its own machine, as most do, and so the gateway.
	"mx": nil,
	// Two that can be told apart.
	"second": {"myhostname=second.example.org"},
	"third":  {"myhostname=third.example.org"},
	// Two that take the client's address from the gateway.
	"proxy":   {"smtpd_upstream_proxy_protocol=haproxy"},
	"xclient": {"smtpd_authorized_xclient_hosts=" + gatewayAddr, "smtpd_authorized_xforward_hosts=" + gatewayAddr, "smtpd_peername_lookup=yes"},
	// Submission: who logs in may relay, and nobody else.
	"submission": {
		"mynetworks=",
		"smtpd_sasl_auth_enable=yes",
		"smtpd_sasl_type=dovecot",
		"smtpd_sasl_security_options=noanonymous",
		"smtpd_recipient_restrictions=permit_sasl_authenticated,reject",
	},
	// Submission that takes no password from sessions in cleartext.
	"tlsonly": slices.Concat([]string{"mynetworks=", "smtpd_sasl_auth_enable=yes", "smtpd_sasl_type=dovecot", "smtpd_tls_security_level=may", "smtpd_tls_auth_only=yes"}, innerTLS),
	// Two with TLS of their own, by STARTTLS and from the first byte: theInnerPKI
	// has their certificate.
	"tls":     slices.Concat([]string{"smtpd_tls_security_level=encrypt"}, innerTLS),
	"wrapped": slices.Concat([]string{"smtpd_tls_security_level=encrypt", "smtpd_tls_wrappermode=yes"}, innerTLS),
}

var innerTLS = []string{
	"smtpd_tls_cert_file=$config_directory/../../inner/store.crt",
	"smtpd_tls_key_file=$config_directory/../../inner/store.key",
	"smtpd_tls_loglevel=1",
	"smtpd_tls_received_header=yes",
}

const mainCF = `compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
maillog_file = %[1]s/log
maillog_file_prefixes = %[1]s
myhostname = mx.example.org
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = %[2]s/32
mydestination =
alias_maps =
alias_database =
smtpd_tls_security_level = none
smtp_tls_security_level = none
smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination
smtpd_peername_lookup = no
smtpd_sasl_path = %[3]s
smtpd_error_sleep_time = 0
smtpd_client_connection_count_limit = 0
message_size_limit = 200000000
virtual_mailbox_limit = 0
queue_minfree = 0
in_flow_delay = 0
default_transport = discard
relay_transport = discard
virtual_mailbox_domains = example.org, raw.example.org
virtual_mailbox_base = %[1]s/mail
virtual_mailbox_maps = static:all/
virtual_minimum_uid = 1
virtual_uid_maps = static:%[4]d
virtual_gid_maps = static:%[5]d
transport_maps = inline:{ { example.org = lmtp:unix:%[6]s } }
`

const masterCF = `cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
lmtp unix - - n - - lmtp
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
`

var onePostfix = sync.OnceValues(func() (*postfix, error) {
	// Dovecot first: it has the passwords and the mailboxes.
	dove, err := oneDovecot()
	if err != nil {
		return nil, err
	}
	return newPostfix(filepath.Join(lab.dir, "postfix"), dove)
})

// thePostfix is the one that all tests share; it starts when first asked for.
func thePostfix(t *testing.T) *postfix {
	t.Helper()
	need(t, "postfix", "dovecot")
	root(t)
	p, err := onePostfix()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newPostfix(dir string, dove *dovecot) (*postfix, error) {
	p := &postfix{dir: dir, log: logFile(filepath.Join(dir, "log")), ports: map[string]int{}}
	uid, gid, err := ids("postfix")
	if err != nil {
		return nil, err
	}
	nobody, nogroup, err := ids("nobody")
	if err != nil {
		return nil, err
	}
	etc := filepath.Join(dir, "etc")
	master := masterCF
	for name, options := range smtpds {
		port := freePort()
		p.ports[name] = port
		master += fmt.Sprintf("127.0.0.1:%d inet n - n - - smtpd -o syslog_name=%s\n", port, name)
		for _, option := range options {
			master += fmt.Sprintf("  -o { %s }\n", strings.Replace(option, "=", " = ", 1))
		}
	}
	main := fmt.Sprintf(mainCF, dir, gatewayAddr, dove.auth, nobody, nogroup, dove.lmtp)
	if err := errors.Join(
		mkdirs(dir, 0, 0, "etc", "queue"),
		mkdirs(dir, uid, gid, "data"),
		mkdirs(dir, nobody, nogroup, "mail"),
		os.WriteFile(filepath.Join(etc, "main.cf"), []byte(main), 0o644),
		os.WriteFile(filepath.Join(etc, "master.cf"), []byte(master), 0o644),
	); err != nil {
		return nil, err
	}
	// check makes the directories of the queue.
	if out, err := exec.Command("postfix", "-c", etc, "check").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("postfix check: %w\n%s", err, out)
	}
	daemons, err := exec.Command("postconf", "-c", etc, "-h", "daemon_directory").Output()
	if err != nil {
		return nil, fmt.Errorf("postconf: %w", err)
	}
	// master -d stays in the foreground; it ends its children on SIGTERM.
	d, err := start(filepath.Join(strings.TrimSpace(string(daemons)), "master"), "-d", "-c", etc)
	if err != nil {
		return nil, err
	}
	return p, errors.Join(keep(d), reachable(d, p.addr("mx")))
}

// addr is where an smtpd listens.
func (p *postfix) addr(name string) string {
	port, ok := p.ports[name]
	if !ok {
		panic("no smtpd is named " + name)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// delivered waits for a message to NAME@raw.example.org and returns it as it
// lies in the Maildir: with Postfix's own header fields before it, and LF for
// every CRLF.
func (p *postfix) delivered(t *testing.T, name string) []byte {
	t.Helper()
	var path string
	if !eventually(30*time.Second, func() bool { path = p.find(name); return path != "" }) {
		t.Fatalf("no mail for %s was delivered; Postfix says:\n%s", name, strings.Join(p.log.lines(name), "\n"))
	}
	message, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

// find returns the file of the first message to NAME@raw.example.org, or "".
func (p *postfix) find(name string) string {
	paths, _ := filepath.Glob(filepath.Join(p.dir, "mail", "all", "new", "*"))
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		head := make([]byte, 512)
		n, _ := f.Read(head)
		f.Close()
		if bytes.Contains(head[:n], []byte("\nDelivered-To: "+name+"@raw.example.org\n")) {
			return path
		}
	}
	return ""
}

// ids looks up a user of the system.
func ids(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, err
	}
	uid, err = strconv.Atoi(u.Uid)
	if err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}
