package integration

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	goldap "github.com/go-ldap/ldap/v3"
)

const slapdConf = `include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile %[1]s/pid
sizelimit unlimited
database mdb
maxsize 268435456
suffix "dc=example,dc=org"
rootdn "cn=admin,dc=example,dc=org"
rootpw %[2]s
directory %[1]s/data
dbnosync
`

const entries = 10_000

// theSlapd starts one directory with TLS off and ten thousand people in it.
var theSlapd = sync.OnceValues(func() (addr string, err error) {
	dir := filepath.Join(lab.dir, "slapd")
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		return "", err
	}
	conf := filepath.Join(dir, "slapd.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, slapdConf, dir, password), 0o600); err != nil {
		return "", err
	}
	addr = address()
	d, err := start("slapd", "-d", "0", "-f", conf, "-h", "ldap://"+addr+"/")
	if err != nil {
		return "", err
	}
	if err := keep(d); err != nil {
		return "", err
	}
	return addr, reachable(d, addr)
})

var filled sync.Once

func slapdServer(t *testing.T) string {
	t.Helper()
	root(t)
	need(t, "slapd", "ldapsearch")
	addr, err := theSlapd()
	if err != nil {
		t.Fatal(err)
	}
	filled.Do(func() {
		var ldif strings.Builder
		ldif.WriteString("dn: dc=example,dc=org\nobjectClass: dcObject\nobjectClass: organization\no: example\n\n")
		for i := range entries {
			fmt.Fprintf(&ldif, "dn: cn=u%d,dc=example,dc=org\nobjectClass: inetOrgPerson\nsn: u%d\nuserPassword: %s\n\n", i, i, password)
		}
		client(t, ldif.String(), "ldapadd", "-x", "-H", "ldap://"+addr, "-D", "cn=admin,dc=example,dc=org", "-w", password).ok(t)
	})
	return addr
}

// directory is a gateway before a directory, on both kinds of port.
func directory(t *testing.T, addr, more string) *gateway {
	t.Helper()
	return serve(t, fmt.Sprintf(`
listener "ldap" "ldap" {
  address = [{{listen "ldap"}}]
  mode    = "starttls"
  backend = backend.directory
  %s
}
listener "ldap" "ldaps" {
  address = [{{listen "ldaps"}}]
  mode    = "implicit"
  backend = backend.directory
}
backend "directory" { servers = [%q] }
`, more, addr))
}

// ldap runs a client of OpenLDAP's. It verifies the address, since libldap
// turns localhost into the machine's own name.
func ldap(t *testing.T, stdin, tool, url string, argv ...string) result {
	t.Helper()
	return client(t, stdin, append([]string{"env", "LDAPTLS_CACERT=" + lab.pki.ca, "LDAPTLS_REQCERT=demand", tool, "-x", "-H", url}, argv...)...)
}

// StartTLS and ldaps work with OpenLDAP's clients; the naming contexts that are
// told before TLS are the directory's. Control: a bind without TLS is refused
// with confidentialityRequired.
func TestDirectory(t *testing.T) {
	t.Parallel()
	g := directory(t, slapdServer(t), "")
	clear, tls := "ldap://"+g.addr("ldap"), "ldaps://"+g.addr("ldaps")
	admin := []string{"-D", "cn=admin,dc=example,dc=org", "-w", password}

	ldap(t, "", "ldapsearch", clear, "-LLL", "-b", "", "-s", "base", "namingContexts", "supportedExtension").ok(t).
		says(t, "namingContexts: dc=example,dc=org", "supportedExtension: 1.3.6.1.4.1.1466.20037")
	ldap(t, "", "ldapsearch", clear, "-LLL", "-ZZ", "-b", "", "-s", "base", "namingContexts", "supportedExtension").ok(t).
		says(t, "namingContexts: dc=example,dc=org").silentOf(t, "1.3.6.1.4.1.1466.20037")
	ldap(t, "", "ldapwhoami", clear, append(admin, "-ZZ")...).ok(t).says(t, "dn:cn=admin,dc=example,dc=org")
	ldap(t, "", "ldapwhoami", tls, admin...).ok(t).says(t, "dn:cn=admin,dc=example,dc=org")
	ldap(t, "", "ldapwhoami", clear, admin...).exited(t, 13).says(t, "TLS is required")
	// -Z is opportunistic, and an anonymous bind before StartTLS is nothing.
	ldap(t, "", "ldapwhoami", clear, "-Z").ok(t).says(t, "anonymous")
	g.session("ldaps").is(t, "security", "encrypted", "outcome", "ok")

	ldap(t, "dn: cn=u1,dc=example,dc=org\nchangetype: modify\nreplace: description\ndescription: "+strings.Repeat("x", 100_000)+"\n", "ldapmodify", clear, append(admin, "-ZZ")...).ok(t)
	ldap(t, "", "ldapsearch", clear, append(admin, "-ZZ", "-LLL", "-o", "ldif-wrap=no", "-b", "cn=u1,dc=example,dc=org", "description")...).ok(t).
		says(t, "description: "+strings.Repeat("x", 100_000))
}

// Ten thousand entries come through, before and after the bind that ends the
// filter. Control: as many as the directory itself gives.
func TestDirectorySearch(t *testing.T) {
	t.Parallel()
	addr := slapdServer(t)
	g := directory(t, addr, "")
	count := func(r result) int { return strings.Count(r.ok(t).out, "dn: cn=u") }
	args := []string{"-LLL", "-b", "dc=example,dc=org", "(cn=u*)", "cn"}
	if n := count(ldap(t, "", "ldapsearch", "ldap://"+addr, args...)); n != entries {
		t.Fatalf("the directory has %d entries", n)
	}
	for _, argv := range [][]string{{"-ZZ"}, {"-ZZ", "-D", "cn=u7,dc=example,dc=org", "-w", password}} {
		if n := count(ldap(t, "", "ldapsearch", "ldap://"+g.addr("ldap"), append(argv, args...)...)); n != entries {
			t.Errorf("%v: %d entries came", argv, n)
		}
	}
}

// A session that goes on in cleartext works, and is not upgraded any more.
func TestDirectoryCleartext(t *testing.T) {
	t.Parallel()
	g := directory(t, slapdServer(t), `cleartext = "allow"`)
	ldap(t, "", "ldapwhoami", "ldap://"+g.addr("ldap"), "-D", "cn=u1,dc=example,dc=org", "-w", password).ok(t).says(t, "dn:cn=u1")
	g.session("ldap").is(t, "security", "cleartext", "outcome", "ok")
	need(t, "python3")
	client(t, "", "/usr/bin/python3", "-c", `
import sys, ssl, ldap3
host, port, password, ca = sys.argv[1:]
tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=ca, version=ssl.PROTOCOL_TLS_CLIENT, valid_names=["localhost", "127.0.0.1"])
c = ldap3.Connection(ldap3.Server(host, int(port), tls=tls, get_info=ldap3.NONE), "cn=u2,dc=example,dc=org", password)
assert c.bind(), c.result
try:
    upgraded = c.start_tls(read_server_info=False)
except ldap3.core.exceptions.LDAPException as e:
    upgraded = False
assert not upgraded
c = ldap3.Connection(ldap3.Server(host, int(port), tls=tls, get_info=ldap3.NONE), "cn=u2,dc=example,dc=org", password)
c.open(); assert c.start_tls(read_server_info=False), c.result
assert c.bind(), c.result
assert c.search("dc=example,dc=org", "(cn=u3)") and len(c.entries) == 1
c.unbind()
`, "127.0.0.1", g.port("ldap"), password, lab.pki.ca).ok(t)
}

// openssl and gnutls ask as clients do.
func TestDirectoryTools(t *testing.T) {
	t.Parallel()
	g := directory(t, slapdServer(t), "")
	client(t, "", "openssl", "s_client", "-starttls", "ldap", "-connect", g.addr("ldap"), "-CAfile", lab.pki.ca, "-verify_return_error", "-brief").ok(t).says(t, "CONNECTION ESTABLISHED")
	_, port, _ := net.SplitHostPort(g.addr("ldap"))
	client(t, "", "gnutls-cli", "--x509cafile="+lab.pki.ca, "-p", port, "--starttls-proto=ldap", "localhost").ok(t).says(t, "Handshake was completed")
}

// A directory that is down is 52 to the first operation, without its address.
func TestDirectoryDown(t *testing.T) {
	t.Parallel()
	need(t, "ldapwhoami")
	nowhere := address()
	g := directory(t, nowhere, "")
	for _, url := range []string{"ldap://" + g.addr("ldap"), "ldaps://" + g.addr("ldaps")} {
		argv := []string{"-D", "cn=u1,dc=example,dc=org", "-w", password}
		if strings.HasPrefix(url, "ldap:") {
			argv = append(argv, "-ZZ")
		}
		ldap(t, "", "ldapwhoami", url, argv...).exited(t, 52).says(t, "not available; try again later").silentOf(t, nowhere)
	}
}

// go-ldap asks by StartTLS and begins with ldaps, binds, searches in pages and
// modifies. Control: a bind without TLS is refused with its own code.
func TestDirectoryGo(t *testing.T) {
	t.Parallel()
	g := directory(t, slapdServer(t), "")
	config := lab.pki.client("localhost")
	for _, how := range []string{"StartTLS", "ldaps"} {
		var c *goldap.Conn
		var err error
		if how == "ldaps" {
			c, err = goldap.DialURL("ldaps://"+g.addr("ldaps"), goldap.DialWithTLSConfig(config))
		} else if c, err = goldap.DialURL("ldap://" + g.addr("ldap")); err == nil {
			err = c.StartTLS(config)
		}
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		defer c.Close()
		if cs, ok := c.TLSConnectionState(); !ok || cs.Version != tls.VersionTLS13 {
			t.Errorf("%s: %t, %s", how, ok, tls.VersionName(cs.Version))
		}
		if err := c.Bind("cn=admin,dc=example,dc=org", password); err != nil {
			t.Fatalf("%s: bind: %v", how, err)
		}
		found, err := c.SearchWithPaging(goldap.NewSearchRequest("dc=example,dc=org", goldap.ScopeWholeSubtree, goldap.NeverDerefAliases, 0, 0, false, "(cn=u*)", []string{"cn"}, nil), 500)
		if err != nil || len(found.Entries) != entries {
			t.Errorf("%s: search: %v", how, err)
		}
		change := goldap.NewModifyRequest("cn=u9,dc=example,dc=org", nil)
		change.Replace("description", []string{how})
		if err := c.Modify(change); err != nil {
			t.Errorf("%s: modify: %v", how, err)
		}
	}
	c, err := goldap.DialURL("ldap://" + g.addr("ldap"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Bind("cn=admin,dc=example,dc=org", password); !goldap.IsErrorWithCode(err, goldap.LDAPResultConfidentialityRequired) {
		t.Errorf("a bind without TLS: %v", err)
	}
}
