package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/certs/acme/acmetest"
)

// These tests have names proved by records that real name servers hold, and
// that the authority asks.

// tsigSecret is that of the key "sallyport", which may write TXT records.
const tsigSecret = "c2FsbHlwb3J0IHRlc3RzIHNpZ24gd2l0aCB0aGlzISE="

// acmeZone has a name server that nobody can ask, beside the one that is there.
const acmeZone = `$TTL 60
@ SOA ns.example.net. hostmaster.example.org. 1 3600 600 86400 60
  NS  ns.example.net.
`

// zones are what the name servers hold: the domain, and the zone that is given
// over to challenges.
var zones = []string{"acme.example.org", "challenges.example.net"}

// startNameserver starts BIND or Knot on loopback.
func startNameserver(t *testing.T, kind string) (addr string) {
	t.Helper()
	addr = address()
	host, port, _ := net.SplitHostPort(addr)
	dir, err := os.MkdirTemp(lab.dir, kind+"-")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, zone := range zones {
		write(zone, acmeZone)
	}
	var argv []string
	switch kind {
	case "bind":
		need(t, "named")
		conf := fmt.Sprintf(`
options {
	directory %q; pid-file none; session-keyfile none; dnssec-validation no;
	listen-on port %s { %s; }; listen-on-v6 { none; };
	recursion no; notify no;
};
controls { };
key "sallyport" { algorithm hmac-sha256; secret %q; };
`, dir, port, host, tsigSecret)
		for _, zone := range zones {
			conf += fmt.Sprintf("zone %q { type primary; file %[1]q; update-policy { grant sallyport zonesub TXT; }; };\n", zone)
		}
		argv = []string{"named", "-g", "-n", "1", "-c", write("conf", conf)}
	case "knot":
		need(t, "knotd")
		conf := strings.NewReplacer("DIR", dir, "ADDRESS", host+"@"+port, "SECRET", tsigSecret).Replace(`
server:
  rundir: "DIR"
  listen: "ADDRESS"
database:
  storage: "DIR/db"
  journal-db-max-size: 10M
key:
  - id: sallyport
    algorithm: hmac-sha256
    secret: SECRET
acl:
  - id: update
    key: sallyport
    action: update
    update-type: TXT
template:
  - id: default
    storage: "DIR"
    file: "%s"
    acl: update
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
zone:
`)
		for _, zone := range zones {
			conf += "  - domain: " + zone + "\n"
		}
		argv = []string{"knotd", "-c", write("conf", conf)}
	}
	d, err := start(argv...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", kind, d.said())
		}
	})
	if !eventually(time.Minute, func() bool { return !d.running() || len(txt(t, addr, zones[0])) == 0 }) || !d.running() {
		t.Fatalf("%s does not run:\n%s", kind, d.said())
	}
	return addr
}

// txt asks a name server for TXT records with dig, and returns what it says if
// that gets no answer.
func txt(t *testing.T, addr, name string) []string {
	t.Helper()
	host, port, _ := net.SplitHostPort(addr)
	r := client(t, "", "dig", "@"+host, "-p", port, "+norecurse", "+tries=1", "+time=2", "+short", name, "TXT")
	if r.code != 0 {
		return []string{r.out}
	}
	return strings.Fields(r.out)
}

// A wildcard and its domain are in one certificate, proved by records in the
// name server, which are gone afterwards; no connection has to reach the
// gateway for that. When the authority would have it renewed now, it is, with
// the key that a TLSA record pins. Control: with a wrong key for the updates
// nothing is issued, and the error says what to do.
func TestACMEWildcard(t *testing.T) {
	t.Parallel()
	need(t, "dig", "openssl")
	for _, kind := range []string{"bind", "knot"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			server := startNameserver(t, kind)
			ca := newIssuer(t, acmetest.Options{DNS: server, Profiles: map[string]time.Duration{"shortlived": 6 * 24 * time.Hour}})
			hcl := func(secret string) string {
				ca.more = fmt.Sprintf(`
  manager = "advanced"
  profile = "shortlived"
  dns "rfc2136" {
    server     = %q
    key_name   = "sallyport"
    key_secret = %q
  }
`, server, secret)
				return strings.NewReplacer(
					`names     = ["mx.acme.example.org"]`, "names = [\"acme.example.org\", \"*.acme.example.org\"]\n  key_type = \"p384\"",
					`listener "web" "front" { address = [WEB] }`, "",
					ca.web, quote(address()),
				).Replace(ca.hcl()) + fmt.Sprintf("resolver { address = %q }\n", server)
			}

			const wrong = "b3RoZXIgdGhhbiB0aGF0IG9mIHRoZSBzZXJ2ZXIuLi4="
			gw := launch(t, hcl(wrong))
			gw.notReady("key_secret is not that of the key sallyport")
			gw.certs("list").ok(t).says(t, "the record of dns-01 cannot be published", "key_secret is not that of the key sallyport").silentOf(t, wrong)
			if strings.Contains(gw.said(), wrong) || strings.Contains(gw.said(), "left behind") {
				t.Error("the secret is in the log, or a record that never was")
			}

			gw.configure(hcl(tsigSecret))
			gw.reload("ok")
			gw.certs("renew", "issued").ok(t) // and does not wait until it is tried again
			gw.ready()
			first := gw.leaf(ca.trust())
			for _, name := range []string{"acme.example.org", "mx.acme.example.org", "whatever.acme.example.org"} {
				if err := first.VerifyHostname(name); err != nil {
					t.Error(err)
				}
			}
			if first.PublicKey.(*ecdsa.PublicKey).Curve != elliptic.P384() {
				t.Error("the key is not P-384")
			}
			gw.certs("list").ok(t).says(t, "ECDSA P-384", " 5 ")
			if left := txt(t, server, "_acme-challenge.acme.example.org"); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			gw.stop()

			ca.SetRenewalInfo(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: first.Raw}), fmt.Sprintf(
				`{"suggestedWindow":{"start":%q,"end":%q},"explanationURL":"https://ca.example.org/why"}`,
				time.Now().Add(-2*time.Hour).Format(time.RFC3339), time.Now().Add(-time.Hour).Format(time.RFC3339)))
			gw = serve(t, hcl(tsigSecret))
			var second = gw.leaf(ca.trust())
			if !eventually(time.Minute, func() bool { second = gw.leaf(ca.trust()); return serial(second) != serial(first) }) {
				t.Fatal("not renewed, though the authority said so")
			}
			if pin(second) != pin(first) {
				t.Error("the key is another one")
			}
			gw.waitLog(`the authority suggests when to renew.*https://ca\.example\.org/why`)
		})
	}
}

// A program publishes, where an alias leads to. One that fails is told of with
// what it said; one that hangs is killed. With a new key each time, the next one
// is announced.
func TestACMEProgram(t *testing.T) {
	t.Parallel()
	need(t, "dig", "nsupdate")
	server := startNameserver(t, "knot")
	host, port, _ := net.SplitHostPort(server)
	ca := newIssuer(t, acmetest.Options{DNS: server})
	hook := filepath.Join(t.TempDir(), "hook")
	script := func(text string) {
		if err := os.WriteFile(hook, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ca.key = "rollover"
	ca.more = fmt.Sprintf(`
  manager = "advanced"
  dns "exec" {
    command = ["/bin/sh", %q]
    timeout = "8s"
  }
`, hook)
	hcl := strings.Replace(ca.hcl(), ca.web, quote(address()), 1) + fmt.Sprintf("resolver { address = %q }\n", server)

	script("echo the provider is out of order >&2; exit 75")
	gw := launch(t, hcl)
	gw.notReady("exit status 75; it said: the provider is out of order")
	script("echo asking the provider; exec sleep 100")
	gw.certs("renew", "issued").exited(t, 1).says(t, "present still ran after 8s and was killed; it had said: asking the provider")
	script(fmt.Sprintf(`
case $1 in present) what="add $2. 60 TXT $3" ;; cleanup) what="delete $2. TXT $3" ;; esac
nsupdate -y hmac-sha256:sallyport:%s <<END
server %s %s
update $what
send
END
`, tsigSecret, host, port))
	gw.certs("renew", "issued").ok(t)
	gw.ready()
	first := gw.leaf(ca.trust())
	if left := txt(t, server, "_acme-challenge.mx.acme.example.org"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}

	const next = "; of the next key: publish it beside the above before the next renewal\n"
	var shown result
	if !eventually(time.Minute, func() bool { shown = gw.certs("show", "issued").ok(t); return strings.Contains(shown.out, next) }) {
		t.Fatalf("the next key is not announced:\n%s", shown.out)
	}
	gw.certs("renew", "issued").ok(t)
	second := gw.leaf(ca.trust())
	if pin(second) == pin(first) {
		t.Error("the key is the old one")
	}
	shown.says(t, "TLSA 3 1 1 "+pin(first)+"\n"+next, "TLSA 3 1 1 "+pin(second)+"\n")
}
